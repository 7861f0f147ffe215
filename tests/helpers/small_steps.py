"""Steps of a few milliseconds that run inside real nodes: for tests of the runner."""

import os
import time
from pathlib import Path

from latefuse import progress
from latefuse.cluster.node import run_step
from latefuse.sections import Section


class Settings(Section):
    """What the small step does."""

    text: str
    wait_s: float = 0
    fail: bool = False


def write(config: str, out: str, node: str, step: str = "finetune") -> str:
    settings = Settings.model_validate_json(config)

    def call(folder: Path, tracker) -> dict:
        (folder / "made.json").write_text(settings.text)
        tracker.metrics({"train/loss": 0.5}, step=1)
        for _ in progress.bar(range(3), desc=f"work of {node}"):
            time.sleep(0.01)
        if mark := os.environ.get("SMALL_STEPS_PIDS"):
            Path(mark, f"{node}.pid").write_text(str(os.getpid()))
        time.sleep(settings.wait_s)
        if settings.fail:
            raise ValueError(f"{node} was told to fail")
        if step == "evaluate":
            (folder / "table.txt").write_text("arm metric\n")
            (folder / "report.html").write_text("<html>a report</html>")
            (folder / "metrics.json").write_text('{"image": {"dish_top1": 0.5}}')
        print(f"{node}: wrote {settings.text}")
        return {"text": settings.text}

    return run_step(step, node, settings, Path(out), call)
