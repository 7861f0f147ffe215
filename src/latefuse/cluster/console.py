"""What a local run shows: one line per node with its time and its summary, the steps' own lines and progress bars.

`kfp.local` prints each node's whole input and its own log lines. Its records are read here (they say when a node
starts, ends or is taken from the cache) and only what a person wants to see is written.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_STARTS = re.compile(r"^Executing task '([^']+)'")
_ENDS = re.compile(r"^Task '([^']+)' finished with status (\w+)")
_CACHED = re.compile(r"^Task (\S+) cache hit \(key=([0-9a-f]+)\)")
_AGAIN = re.compile(r"^Task (\S+) failed \(attempt (\d+)/(\d+)\)\. Retrying in ([\d.]+)s")
_PROGRESS = re.compile(r"\d+%\|.*\||\d+(?:\.\d+)?\w*(?:/\d+\w*)? \[\d+:\d+")
_KFP = "[KFP Executor "
_KFP_LINE = re.compile(r"^\[KFP Executor [^\]]*?(?P<level>[A-Z]+)\]: ?(?P<text>.*)$")
PROGRESS_EVERY_S = 20.0


@dataclass
class Node:
    """What became of one node: `done`, `cached`, `failed` or still `running`."""

    name: str
    status: str = "running"
    seconds: float = 0.0
    summary: str = ""
    out: Path | None = None
    run_id: str | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def result(self) -> dict[str, Any]:
        """The step's result.json; empty where it wrote none."""
        path = self.out / "result.json" if self.out else None
        return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else {}


class _Here(threading.local):
    """The node that this thread runs: nodes may run side by side, each in a thread."""

    node: Node | None = None


class Console(logging.Filter):
    """Listens to the records of `kfp.local` and to what the steps print; `nodes` holds what became of each."""

    def __init__(self, stream: TextIO, outputs: Path, cache: Path, link: str = "") -> None:
        """outputs: pipeline_root of kfp.local. cache: its cache_root. link: text with {run_id} for a run's address."""
        super().__init__()
        self.nodes: dict[str, Node] = {}
        self._stream, self._outputs, self._cache, self._link = stream, outputs, cache, link
        self._here = _Here()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over the root logger's records and everything that is printed."""
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.INFO)
        root.addFilter(self)
        try:
            with redirect_stdout(_StepLines(self)):
                yield
        finally:
            root.removeFilter(self)
            root.setLevel(level)

    def filter(self, record: logging.LogRecord) -> bool:
        """Read a record; only warnings that are not kfp's own chatter go on."""
        text = COLOUR.sub("", record.getMessage())
        if match := _STARTS.match(text):
            self._start(match[1])
        elif match := _ENDS.match(text):
            self._end(self._here.node, match[2] == "SUCCESS")
        elif match := _CACHED.match(text):
            self._hit(match[1], match[2])
        elif match := _AGAIN.match(text):
            self.line(f"  {match[1]}: attempt {match[2]} of {match[3]} has failed, the next in {float(match[4]):g} s")
        elif record.levelno >= logging.WARNING:
            self.line(f"  {text}")
        return False

    def line(self, text: str) -> None:
        """Write one line."""
        self._stream.write(text + "\n")
        self._stream.flush()

    def progress(self, text: str) -> None:
        """Show a progress bar: in place on a terminal, now and then in a log."""
        if self._stream.isatty():
            self._stream.write(f"\r\x1b[2K{self._prefix()}{text}")
            self._stream.flush()
        else:
            self.line(f"{self._prefix()}{text}")

    def clear(self) -> None:
        """Wipe a bar that stands on the terminal's last line."""
        if self._stream.isatty():
            self._stream.write("\r\x1b[2K")

    def said(self, text: str) -> None:
        """A line that the running step printed; the last one is its summary and is shown with its time."""
        node = self._here.node
        if node is None:
            self.line(f"    {text}")
            return
        self._release(node)
        node.summary = text

    def _release(self, node: Node) -> None:
        if node.summary:
            self.line(f"{self._prefix(node)}{node.summary}")

    def _prefix(self, node: Node | None = None) -> str:
        """Who speaks, where several nodes are at work."""
        node = node or self._here.node
        alone = node is None or sum(one.status == "running" for one in self.nodes.values()) < 2
        return "    " if alone or node is None else f"    {node.name}: "

    def interrupted(self) -> None:
        """Close the books on the nodes that were running when the run was ended from outside."""
        for node in list(self.nodes.values()):
            if node.status == "running":
                self._end(node, ok=False)

    def _start(self, name: str) -> None:
        self._here.node = self.nodes[name] = Node(name)
        self.clear()
        self.line(f"> {name}")

    def _end(self, node: Node | None, ok: bool) -> None:
        if node is None or node.status != "running":
            return
        if not ok:
            self._release(node)
        self._here.node = None
        node.seconds = time.monotonic() - node.started
        node.status = "done" if ok else "failed"
        roots = [path for path in self._outputs.glob(f"*/{node.name}/out") if path.exists()]
        node.out = max(roots, key=lambda path: path.stat().st_mtime, default=None)
        if ok and node.out:
            node.run_id = node.result.get("run_id")
            (node.out.parent / "summary.txt").write_text(node.summary, encoding="utf-8")
        self.clear()
        self.line(f"< {node.name:<24} {node.seconds:7.1f} s  {node.summary if ok else 'FAILED'}")

    def _hit(self, name: str, key: str) -> None:
        node = self.nodes[name] = Node(name, status="cached")
        entry = next(self._cache.glob(f"{key}*.json"), None)
        outputs = json.loads(entry.read_text(encoding="utf-8")) if entry else {}
        if isinstance(outputs.get("out"), dict):
            node.out = Path(outputs["out"]["uri"])
            summary = node.out.parent / "summary.txt"
            node.summary = summary.read_text(encoding="utf-8") if summary.exists() else ""
            node.run_id = node.result.get("run_id")
        made = f"  [made by run {self._link.format(run_id=node.run_id)}]" if node.run_id else ""
        self.line(f"= {name:<24}  cached    {node.summary}{made}")


class _StepLines(threading.local):
    """The stream that `kfp.local` prints the steps' output to; every thread has half-read lines of its own."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rest = ""
        self._inside_inputs = False
        self._shown = time.monotonic()
        self._done = ""

    def write(self, text: str) -> int:
        self._rest += text
        *lines, self._rest = self._rest.split("\n")
        for line in lines:
            self._line(line.rstrip())
        return len(text)

    def flush(self) -> None:
        """Nothing is held back but half a line."""

    def isatty(self) -> bool:
        return False

    @property
    def encoding(self) -> str:
        return sys.__stdout__.encoding if sys.__stdout__ else "utf-8"

    def _line(self, text: str) -> None:
        if (start := text.find(_KFP)) > 0:  # a bar had not ended its line
            self._line(text[:start])
            text = text[start:]
        if self._inside_inputs:
            self._inside_inputs = text != "}"
            return
        match = _KFP_LINE.match(text)
        if match:
            self._inside_inputs = match["text"].startswith("Got executor_input")
            if match["level"] in ("WARNING", "ERROR", "CRITICAL"):
                self._console.line(f"    {match['text']}")
        elif _PROGRESS.search(text):
            self._bar(text)
        elif text.strip() and set(text) != {"-"}:
            self._console.clear()
            self._console.said(text)

    def _bar(self, text: str) -> None:
        now, tty = time.monotonic(), self._console._stream.isatty()
        ended = re.sub(r"\[.*", "", text) if "100%" in text else ""
        if tty or (ended and ended != self._done) or now - self._shown > PROGRESS_EVERY_S:
            self._shown, self._done = now, ended
            self._console.progress(text)
