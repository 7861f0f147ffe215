"""Workers end with the process that started them."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

PARENT = """
import time
from latefuse.evaluation.workers import _pool

class Nothing:
    pass

if __name__ == "__main__":
    with _pool(Nothing, 2) as pool:
        pool.submit(int)
        pool.submit(int)
        print("ready", flush=True)
        time.sleep(600)
"""


def test_workers_do_not_outlive_a_parent_that_was_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline().strip() == "ready"
    for _ in range(600):
        workers = [one for one in psutil.Process(parent.pid).children() if "spawn_main" in " ".join(one.cmdline())]
        if len(workers) == 2 and all(one.num_threads() > 1 for one in workers):
            break
        time.sleep(0.2)
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
