"""Processes of a run end with it, those that lost their parent too."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from latefuse.cluster import processes

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)",
]


def gone(pid, within=10.0):
    end = time.monotonic() + within
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_nothing_outlives_the_block():
    with processes.owned():
        child = subprocess.Popen(SLEEP)
        line = subprocess.run(["sh", "-c", f"{sys.executable} -c 'import time; time.sleep(60)' >/dev/null & echo $!"],
                              capture_output=True, text=True, check=True).stdout  # fmt: skip
        orphan = int(line)
        time.sleep(0.3)
    assert gone(child.pid)
    assert gone(orphan)
    assert processes.MARK not in os.environ


def test_others_are_left_alone():
    other = subprocess.Popen(SLEEP)
    try:
        with processes.owned():
            pass
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_who_does_not_listen_is_killed(monkeypatch):
    monkeypatch.setattr(processes, "GRACE_S", 0.3)
    monkeypatch.setattr(processes.end_all, "__defaults__", (0.3,))
    with processes.owned():
        child = subprocess.Popen(DEAF, stdout=subprocess.PIPE)
        child.stdout.readline()
    assert gone(child.pid)


def test_a_signal_unwinds_and_is_named():
    def body():
        with processes.owned():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        body()
    assert signal.getsignal(signal.SIGTERM) == before
