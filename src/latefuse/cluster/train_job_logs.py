"""The log of a training's first node, line by line; a connection that drops is taken up where it was lost."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from datetime import datetime

from latefuse.cluster.kubernetes_api import Cluster

AGAIN_S = 1.0
SLACK_S = 5.0


class Follower:
    """Follows one pod at a time in a thread of its own; `see` tells it which, `close` waits for the rest of the log."""

    def __init__(self, cluster: Cluster, show: Callable[[str], None]) -> None:
        self._cluster, self._show = cluster, show
        self._thread: threading.Thread | None = None
        self._pod = ""
        self._over = threading.Event()

    def see(self, pod: str, over: bool) -> None:
        """Follow `pod` from now on; over: it has ended, so its log will too."""
        if pod != self._pod:
            self.close(patience_s=1.0)
            self._pod, self._over = pod, threading.Event()
            self._thread = threading.Thread(target=self._follow, args=(pod, self._over), name="log", daemon=True)
            self._thread.start()
        if over:
            self._over.set()

    def close(self, patience_s: float = 10.0) -> None:
        """Nothing new is shown after this, or `patience_s` later."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(patience_s)

    def _follow(self, pod: str, over: threading.Event) -> None:
        shown: tuple[str, int] = ("", 0)  # the newest time, and how many lines of that very time were shown
        lost = False
        while True:
            ending, mark, again = over.is_set(), shown, 0
            try:
                for line in self._cluster.log(pod, _seconds_since(shown[0])):
                    stamp, _, text = line.partition(" ")
                    again += stamp == mark[0]
                    if stamp > mark[0] or (stamp == mark[0] and again > mark[1]):
                        shown = (stamp, shown[1] + 1 if stamp == shown[0] else 1)
                        self._show(text)
                lost = False
            except Exception as error:  # noqa: BLE001 - whatever it is, the job goes on and so does its log
                if not lost:
                    self._show(f"latefuse: the log of {pod} was lost ({type(error).__name__}), looking for it again")
                lost = True
            if ending:
                return
            over.wait(AGAIN_S)


def _seconds_since(stamp: str) -> int | None:
    """How far back to ask for, so that nothing is missed; what comes twice is older than the last line."""
    if not stamp:
        return None
    then = datetime.fromisoformat(stamp[:19] + "+00:00").timestamp()
    return max(1, math.ceil(time.time() - then + SLACK_S))
