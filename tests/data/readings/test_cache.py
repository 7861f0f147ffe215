"""What was answered is never asked again, and is on disk at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from latefuse.data.errors import DataError
from latefuse.data.readings import cache
from latefuse.data.readings.cache import Answers, answered
from latefuse.data.readings.request import Request


class Echo:
    """Says the first document, last request first; notes what it was asked."""

    name, method = "echo", ""

    def __init__(self, version: str = "v1") -> None:
        self.version = version
        self.asked: list[str] = []

    @property
    def calls(self) -> int:
        return len(self.asked)

    def reads(self, request: Request) -> int:
        return len(request.documents)

    def key(self, request: Request) -> str:
        return request.digest("echo")

    def make(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        for place, request in reversed(list(enumerate(requests))):
            if request.documents[0] == "stop":
                raise DataError("stopped")
            self.asked.append(request.documents[0])
            yield place, request.documents[0].upper()

    def notes(self) -> list[str]:
        return []

    def spent(self) -> str:
        return ""


@pytest.mark.parametrize("batch", [2, 256])
@pytest.mark.parametrize("stored", [True, False])
def test_answers_come_in_order_and_equal_requests_are_asked_once(
    batch: int, stored: bool, tmp_path: Path, reviews: Callable[..., list[Request]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "BATCH", batch)
    requests, echo = reviews("a", "a", "c", "d", "d"), Echo()
    store = Answers(tmp_path) if stored else None
    found = list(answered(echo, requests, store))
    assert [(request.id, text) for request, text in found] == [
        ("i0", "A"), ("i1", "A"), ("i2", "C"), ("i3", "D"), ("i4", "D"),
    ]  # fmt: skip
    assert sorted(echo.asked) == (["a", "c", "d"] if stored or batch == 256 else ["a", "c", "d", "d"])
    assert list(answered(echo, [], store)) == []


def test_a_second_run_asks_nothing_and_another_version_all(
    tmp_path: Path, reviews: Callable[..., list[Request]]
) -> None:
    requests = reviews("a", "b")
    first = list(answered(Echo(), requests, Answers(tmp_path / "deep" / "folder")))
    again, newer = Echo(), Echo("v2")
    assert list(answered(again, requests, Answers(tmp_path / "deep" / "folder"))) == first
    assert again.calls == 0
    list(answered(newer, requests, Answers(tmp_path / "deep" / "folder")))
    assert newer.calls == 2


def test_each_answer_is_on_disk_before_the_next_is_asked(tmp_path: Path, reviews: Callable[..., list[Request]]) -> None:
    requests = reviews("stop", "b", "c")
    with pytest.raises(DataError, match="stopped"):
        list(answered(Echo(), requests, Answers(tmp_path)))
    with sqlite3.connect(tmp_path / cache.FILE) as base:
        assert sorted(text for (text,) in base.execute("SELECT text FROM answers")) == ["B", "C"]


def test_the_first_answer_stays(tmp_path: Path) -> None:
    store, echo = Answers(tmp_path), Echo()
    store.keep(echo, "k", "one")
    store.keep(echo, "k", "two")
    assert store.find(echo, ["k", "l"]) == {"k": "one"}


def test_a_torn_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / cache.FILE).write_bytes(b"nonsense" * 1_000)
    with pytest.raises(DataError, match="delete it"):
        Answers(tmp_path)
