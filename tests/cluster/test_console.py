"""What a local run shows, from the records and lines that `kfp.local` gives."""

import io
import json
import logging
import threading

import pytest

from latefuse.cluster.console import Console


@pytest.fixture
def console(tmp_path):
    return Console(io.StringIO(), tmp_path / "runs", tmp_path / "cache", link="http://server/{run_id}")


def text(console):
    return console._stream.getvalue()


def made(tmp_path, node, run_id):
    out = tmp_path / "runs" / "latefuse-x-2026" / node / "out"
    out.mkdir(parents=True)
    (out / "result.json").write_text(json.dumps({"run_id": run_id}))
    return out


def test_a_node_has_one_line_with_its_time_and_summary(console, tmp_path):
    out = made(tmp_path, "finetune-image", "r1")
    with console.listening():
        logging.info("Executing task \x1b[96m'finetune-image'\x1b[0m")
        print("[KFP Executor 2026-11-21 10:00:00,000 INFO]: Got executor_input:")
        print("{")
        print('    "secret-looking": "input"')
        print("    }")
        print("}")
        print("[KFP Executor 2026-11-21 10:00:00,000 INFO]: Looking for component `x`")
        print("[KFP Executor 2026-11-21 10:00:00,000 WARNING]: mind the gap")
        print("trained 20 steps, loss 0.5")
        logging.info("Task 'finetune-image' finished with status SUCCESS")
        logging.info("Task 'finetune-image' outputs:\n many lines")
    lines = text(console).splitlines()
    assert lines[0] == "> finetune-image"
    assert lines[-1].startswith("< finetune-image")
    assert lines[-1].endswith("trained 20 steps, loss 0.5")
    assert "mind the gap" in text(console)
    assert "secret-looking" not in text(console)
    assert "Looking for" not in text(console)
    assert "many lines" not in text(console)
    assert (console.nodes["finetune-image"].out, console.nodes["finetune-image"].run_id) == (out, "r1")


def test_a_cached_node_links_the_run_that_made_it(console, tmp_path):
    out = made(tmp_path, "prepare", "r7")
    (out.parent / "summary.txt").write_text("600 items")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "abcdef012345ff.json").write_text(json.dumps({"out": {"uri": str(out)}}))
    with console.listening():
        logging.info("Task prepare cache hit (key=abcdef012345); skipping execution.")
    assert "600 items  [made by run http://server/r7]" in text(console)
    assert console.nodes["prepare"].status == "cached"


def test_a_failed_node_says_so(console):
    with console.listening():
        logging.info("Executing task 'fuse'")
        print("ValueError: no")
        logging.info("Task 'fuse' finished with status FAILURE")
    assert console.nodes["fuse"].status == "failed"
    assert text(console).splitlines()[-1].endswith("FAILED")


def test_progress_bars_come_through_now_and_then(console):
    with console.listening():
        logging.info("Executing task 'fuse'")
        for done in range(100):
            print(f"train:  {done}%|####      | {done}/100 [00:01<00:02, 3.2it/s]")
        print("train: 100%|##########| 100/100 [00:03<00:00, 3.2it/s]")
        print("train: 100%|##########| 100/100 [00:04<00:00, 3.1it/s]")  # as tqdm does when it is closed
    bars = [line for line in text(console).splitlines() if "%|" in line]
    assert len(bars) == 1
    assert "100%|" in bars[-1]


def test_on_a_terminal_a_bar_stays_on_its_line(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    console = Console(Terminal(), tmp_path, tmp_path)
    with console.listening():
        print("5%|# | 1/20 [00:01<00:19, 1.0it/s]")
        print("50%|##| 10/20 [00:10<00:10, 1.0it/s]")
        print("done")
    assert text(console).count("\n") == 1
    assert text(console).endswith("\r\x1b[2K    done\n")


def test_the_logger_is_given_back(console):
    root = logging.getLogger()
    level = root.level
    with console.listening():
        pass
    assert root.level == level
    assert console not in root.filters


def test_two_nodes_at_work_have_their_own_lines_and_summaries(console):
    first, second = threading.Barrier(2), threading.Barrier(2)

    def run(name, ok):
        logging.info("Executing task '%s'", name)
        first.wait()
        print(f"half of {name} ", end="")
        print("is done")
        print(f"all of {name}")
        second.wait()
        logging.info("Task '%s' finished with status %s", name, "SUCCESS" if ok else "FAILURE")

    with console.listening():
        threads = [threading.Thread(target=run, args=one) for one in (("image", True), ("video", False))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = text(console).splitlines()
    assert {"    image: half of image is done", "    video: half of video is done"} <= set(lines)
    assert next(line for line in lines if line.startswith("< image")).endswith("all of image")
    assert next(line for line in lines if line.startswith("< video")).endswith("FAILED")
    assert {name: node.status for name, node in console.nodes.items()} == {"image": "done", "video": "failed"}


def test_an_interrupt_closes_every_node_at_work(console):
    with console.listening():
        threads = [threading.Thread(target=logging.info, args=(f"Executing task '{name}'",)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
            thread.join()
        console.interrupted()
    assert {node.status for node in console.nodes.values()} == {"failed"}
