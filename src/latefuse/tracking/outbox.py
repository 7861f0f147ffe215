"""The spool beside the outputs and the thread that empties it: write first, send later, exactly once.

Each record has a number. The run on the server carries the number of the last record it holds (written in the same
request as the records), and each metric its own time stamp, which the server takes only once: a record whose answer
was lost is not counted twice.
"""

from __future__ import annotations

import fcntl
import json
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latefuse.tracking import words
from latefuse.tracking.door import LIMITS, Away, Door, Record, Refused

log = logging.getLogger("latefuse.tracking")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
DAMAGED_SUFFIX = ".damaged"
IMPORT_S = 120.0  # importing mlflow on a machine that is busy; two seconds on one that is not


class Outbox:
    """The records of one run. Implements `Tracker`; `close` ends the run and gives the server a bounded last chance."""

    def __init__(self, door: Door, header: Record, spool: Path, patience_s: float | None = None) -> None:
        """header: what `Door.open` needs. spool: the file, made new; what an earlier attempt left in it
        unsent is set aside for `replay`. patience_s: the longest wait of any call.

        Raises BlockingIOError where a living process writes to the same spool.

        A database on this disk answers for certain, if late on a busy machine, so it is given longer than a server.
        """
        self._door, self._spool = door, spool
        self._patience = patience_s or (120.0 if door.uri.startswith("sqlite:") else 12.0)
        self._header = {"t": _now(), "spool": uuid.uuid4().hex[:12], **header}
        self._waiting: list[Record] = []
        self._count = 0
        self._lock = threading.Lock()
        self._wake, self._opened, self._idle = (
            threading.Event(),
            threading.Event(),
            threading.Event(),
        )
        self._closing = False
        self._run_id: str | None = None
        self._seen: set[str] = set()
        spool.parent.mkdir(parents=True, exist_ok=True)
        _set_aside(spool)
        self._file = spool.open("x", encoding="utf-8")
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._write(self._header)
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """The id of the run; waits until the server has answered once, or has failed to."""
        self._door.ready.wait(IMPORT_S)
        self._opened.wait(self._patience)
        return self._run_id

    def params(self, values: Mapping[str, Any]) -> None:
        """See `Tracker`. A key that was logged before is left alone."""
        new = {key: text for key, text in words.flatten(values) if key not in self._seen}
        self._seen |= set(new)
        self._add_all("params", new)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """See `Tracker`."""
        self._add_all("metrics", words.numbers(values), step=step)

    def tags(self, values: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        self._add_all("tags", dict(words.flatten(values)))

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """See `Tracker`. The file is read when it is sent: leave it where it is."""
        self._add(
            {
                "kind": "artifact",
                "path": str(Path(path).absolute()),
                "folder": folder or "",
            }
        )

    def dataset(self, name: str, digest: str, source: str) -> None:
        """See `Tracker`."""
        self._add(
            {
                "kind": "dataset",
                "name": name,
                "digest": digest,
                "source": words.scrub(source),
            }
        )

    def close(self, status: str | None, patience_s: float | None = None) -> bool:
        """End the run with `status` (None: leave its end to its owner); whether everything has arrived."""
        if status:
            self._add({"kind": "end", "status": status})
        self._closing = True
        self._wake.set()
        self._door.ready.wait(IMPORT_S)
        self._thread.join(self._patience if patience_s is None else patience_s)
        with self._lock:
            kept = len(self._waiting)
            self._file.close()
            if not kept and self._run_id:
                self._spool.unlink(missing_ok=True)
                return True
        log.warning(
            "%d record(s) kept in %s; send them with `latefuse replay %s`",
            kept,
            self._spool,
            self._spool.parent,
        )
        return False

    def _add_all(self, kind: str, values: Mapping[str, Any], **more: Any) -> None:
        items = list(values.items())
        size = LIMITS[kind]
        for start in range(0, len(items), size):
            self._add({"kind": kind, "values": dict(items[start : start + size]), **more})

    def _add(self, record: Record) -> None:
        with self._lock:
            if self._file.closed:
                return
            self._count += 1
            record = {"n": self._count, "t": _now(), **record}
            self._write(record)
            self._waiting.append(record)
        self._wake.set()

    def _write(self, record: Record) -> None:
        self._file.write(json.dumps(record, separators=(",", ":")) + "\n")
        self._file.flush()

    def _work(self) -> None:
        pause = 0.0
        while True:
            if pause and not self._closing:
                self._wake_for_close(pause)
            last_try = self._closing
            try:
                self._deliver()
                pause = 0.0
            except Away as error:
                if not pause:
                    log.warning(
                        "MLflow at %s is away, records are kept: %s",
                        words.scrub(self._door.uri),
                        error,
                    )
                pause = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * pause))
                self._opened.set()
            if last_try and (pause or not self._waiting):
                return
            if not pause and not self._closing:
                self._wake.wait()
                self._wake.clear()
                if not self._closing:
                    time.sleep(0.2)  # let a few more records come into the same batch

    def _wake_for_close(self, pause: float) -> None:
        end = time.monotonic() + pause
        while not self._closing and time.monotonic() < end:
            self._wake.wait(min(0.5, max(0.01, end - time.monotonic())))
            self._wake.clear()

    def _deliver(self) -> None:
        if self._run_id is None:
            try:
                self._run_id = self._door.open(self._header)
            except Refused as error:
                raise Away(str(error)) from None
            self._opened.set()
        with self._lock:
            batch = list(self._waiting)
        if batch:
            deliver(self._door, self._run_id, self._header["spool"], batch)
            with self._lock:
                del self._waiting[: len(batch)]


def deliver(door: Door, run_id: str, spool: str, records: list[Record]) -> None:
    """Send what the run does not hold yet. A record that is refused is named and left out, the others go on."""
    done = door.sent(run_id, spool)
    records = [record for record in records if record["n"] > done]
    try:
        door.send(run_id, spool, records)
    except Refused:
        done = door.sent(run_id, spool)
        for record in records:
            if record["n"] > done:
                try:
                    door.send(run_id, spool, [record])
                except Refused as error:
                    log.warning(
                        "MLflow refuses %s record %d: %s",
                        record["kind"],
                        record["n"],
                        error,
                    )


def replay_file(door: Door, path: Path, unfinished: str = "FAILED") -> int | None:
    """Send a spool file that an earlier process left; the number of records still kept, 0 when the file is gone.

    A file whose process still runs is left to it: None. A run that its process could not end is ended as `unfinished`.
    Lines that can't be read are skipped and counted; their file is kept under another name, to be looked into.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        header, records, unread = _read(file.read())
        if header is not None:
            if not header.get("run_id") and not any(record["kind"] == "end" for record in records):
                records.append(
                    {
                        "n": records[-1]["n"] + 1 if records else 1,
                        "t": _now(),
                        "kind": "end",
                        "status": unfinished,
                    }
                )
            try:
                deliver(door, door.open(header), header["spool"], records)
            except (Away, Refused) as error:
                log.warning("%s is kept: %s", path, error)
                return max(1, len(records)) + unread
        if unread:
            aside = path.rename(path.with_name(f"{path.name}.{time.time_ns()}{DAMAGED_SUFFIX}"))
            log.warning("%s: %d line(s) can't be read and were not sent; kept as %s", path, unread, aside.name)
        else:
            path.unlink(missing_ok=True)
    return unread


def _set_aside(spool: Path) -> None:
    """Give what an earlier attempt could not send a name of its own, unless its process still writes there."""
    if spool.exists():
        with spool.open(encoding="utf-8") as earlier:
            fcntl.flock(earlier, fcntl.LOCK_EX | fcntl.LOCK_NB)
            spool.rename(spool.with_name(f"{time.time_ns()}.{spool.name}"))


def _read(text: str) -> tuple[Record | None, list[Record], int]:
    """The header and the records of a spool, and how many lines can't be read: damaged, or cut off by a dying process.

    Without its header a spool has no run to send to, so none of its lines can be used.
    """
    lines = text.splitlines()
    header, *records = [_parsed(line) for line in lines] or [None]
    if header is None or "spool" not in header:
        return None, [], len(lines)
    whole = [record for record in records if record and {"n", "kind"} <= record.keys()]
    return header, whole, len(records) - len(whole)


def _parsed(line: str) -> Record | None:
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _now() -> int:
    return int(time.time() * 1000)
