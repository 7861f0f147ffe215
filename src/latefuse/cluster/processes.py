"""No process is left behind: what a run has started is found by a mark in its environment, and ended."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

MARK = "LATEFUSE_RUN_MARK"
GRACE_S = 12.0


@contextmanager
def owned() -> Iterator[None]:
    """Every process started inside is gone when the block is left, however it is left.

    SIGINT and SIGTERM are passed to all of them, so that each can close its run, and then unwind the block as
    KeyboardInterrupt; a second signal kills at once. Processes that lost their parent are found too.
    """
    mark = uuid.uuid4().hex
    os.environ[MARK] = mark
    signals = 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            _send(mark, signal.SIGKILL)
            return
        _send(mark, signal.SIGTERM)
        threading.Timer(GRACE_S, _send, (mark, signal.SIGKILL)).start()
        raise KeyboardInterrupt(signal.Signals(number).name)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield
    finally:
        end_all(mark)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.environ.pop(MARK, None)


def end_all(mark: str, grace_s: float = GRACE_S) -> None:
    """Ask the marked processes to end, wait, and kill those that have not."""
    _send(mark, signal.SIGTERM)
    end = time.monotonic() + grace_s
    while marked(mark) and time.monotonic() < end:
        time.sleep(0.1)
    _send(mark, signal.SIGKILL)


def marked(mark: str) -> list[psutil.Process]:
    """Processes of this user, other than this one, whose environment carries the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            alive = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _send(mark: str, number: signal.Signals) -> None:
    for process in marked(mark):
        try:
            process.send_signal(number)
        except psutil.Error:
            continue
