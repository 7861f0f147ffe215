"""The endpoint against a server on the loopback interface: what is sent, what is repeated, what stops a run."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback_chat import Chat, chat, said
from PIL import Image

from latefuse.config_data import MediaLimits
from latefuse.config_rank import Reader
from latefuse.data.errors import DataError
from latefuse.data.readings import endpoint
from latefuse.data.readings.cache import Answers, answered
from latefuse.data.readings.endpoint import Endpoint
from latefuse.data.readings.mask import Mask
from latefuse.data.readings.request import Request

pytest.importorskip("openai")
TOKEN = "sk-very-secret-4711"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "WAIT_S", 0.01)
    monkeypatch.delenv("LATEFUSE_LLM_TOKEN", raising=False)


def maker(server: Chat, mask: Callable[[str], str] = str, words: int = 10, **options: Any) -> Endpoint:
    reader = Reader(by="endpoint", model="some-model", url=server.url, **{"timeout_s": 5, **options})
    return Endpoint(reader, words, "data.readings.reviews", MediaLimits(), mask)


def test_what_is_sent_and_what_comes_back(
    reviews: Callable[..., list[Request]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATEFUSE_LLM_TOKEN", TOKEN)
    monkeypatch.setenv("OPENAI_ORG_ID", "another-provider")
    with chat(lambda number, body: said("  Good\ncrust. ")) as server:
        one = maker(server)
        assert list(one.make(reviews("The crust was good."))) == [(0, "Good crust.")]
    (body,) = server.bodies
    assert server.paths == ["/v1/chat/completions"]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("some-model", 0, 80)
    assert "<review>\nThe crust was good.\n</review>" in server.prompts()[0]
    assert server.headers[0]["authorization"] == f"Bearer {TOKEN}"
    assert "another-provider" not in json.dumps(server.headers)
    assert (one.calls, one.spent(), one.notes()) == (1, "1 calls, 20 tokens", [])


def test_without_a_token_and_without_usage(reviews: Callable[..., list[Request]]) -> None:
    with chat(lambda number, body: said("Good.", tokens=None)) as server:
        one = maker(server, price=2.0)
        assert list(one.make(reviews("a"))) == [(0, "Good.")]
    assert "1 calls guessed" in one.spent()
    assert "in money" in one.spent()


def test_texts_are_masked_before_they_leave(reviews: Callable[..., list[Request]]) -> None:
    request = reviews("I'm Bob Miller, call 0170 1234567 or b@x.de, says foodie_82.")
    with chat(lambda number, body: said("Good.")) as server:
        list(maker(server, Mask(["foodie_82"])).make(request))
        list(maker(server).make(request))
    masked, open_ = server.prompts()
    assert "I'm [name], call [phone] or [email], says [name]." in masked
    assert "Bob Miller" in open_, "the test could not fail otherwise"


def test_pictures_go_small_and_without_their_file(pictures: list[Request]) -> None:
    with chat(lambda number, body: said("A red thing.")) as server:
        assert [text for _, text in maker(server).make(pictures[:1])] == ["A red thing."]
    content = server.bodies[0]["messages"][0]["content"]
    head, packed = content[0]["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    sent = Image.open(io.BytesIO(base64.b64decode(packed)))
    assert (max(sent.size), sent.format) == (768, "JPEG")
    assert "Describe in at most 10 words" in content[1]["text"]


FAILURES: dict[str, tuple[int, bytes]] = {
    "500": (500, b"{}"),
    "429": (429, b'{"error": {"message": "slow down"}}'),
    "empty": said("  "),
    "no choices": (200, b'{"choices": []}'),
    "null": said(None),
    "not a mapping": (200, b"[1]"),
    "not JSON": (200, b"<html>gateway</html>"),
    "no body": (200, b""),
    "absurdly long": said("word " * 41),
    "cut off": said("The crust is", ended="length"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_what_is_no_answer_is_asked_again(kind: str, reviews: Callable[..., list[Request]]) -> None:
    with chat(lambda number, body: FAILURES[kind] if number < 2 else said("Good.")) as server:
        one = maker(server, retries=2)
        assert list(one.make(reviews("a"))) == [(0, "Good.")]
        assert one.calls == len(server.bodies) == 3


@pytest.mark.parametrize("kind", FAILURES)
def test_in_the_end_the_error_says_who_and_where(kind: str, reviews: Callable[..., list[Request]]) -> None:
    with chat(lambda number, body: FAILURES[kind]) as server, pytest.raises(DataError) as caught:
        list(maker(server, retries=1).make(reviews("a")))
    assert f"data.readings.reviews: {server.url} gave no usable answer for item 'i0' in 2 tries" in str(caught.value)
    assert len(server.bodies) == 2


def test_a_server_that_hangs_and_one_that_is_not_there(reviews: Callable[..., list[Request]]) -> None:
    def slow(number: int, body: Any) -> tuple[int, bytes]:
        time.sleep(0.6 if number == 0 else 0)
        return said("Good.")

    with chat(slow) as server:
        assert list(maker(server, timeout_s=0.3).make(reviews("a"))) == [(0, "Good.")]
        assert len(server.bodies) == 2
    with pytest.raises(DataError, match="the last: no connection"):
        list(maker(server, retries=1).make(reviews("a")))
    with chat(slow) as server, pytest.raises(DataError, match=r"no answer within 0\.3 s"):
        list(maker(server, timeout_s=0.3, retries=0).make(reviews("a")))


@pytest.mark.parametrize(("status", "hint"), [(400, "status 400"), (401, "LATEFUSE_LLM_TOKEN"), (307, "status 307")])
def test_another_refusal_is_told_at_once_without_the_token(
    status: int, hint: str, reviews: Callable[..., list[Request]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATEFUSE_LLM_TOKEN", TOKEN)
    with (
        chat(lambda number, body: (status, f"no {TOKEN}".encode())) as server,
        pytest.raises(DataError, match=hint) as caught,
    ):
        list(maker(server).make(reviews("a")))
    assert TOKEN not in str(caught.value)
    assert "[token]" in str(caught.value)
    assert len(server.bodies) == 1, "neither repeated nor sent elsewhere"


def test_finished_answers_are_kept_and_a_second_run_goes_on(
    tmp_path: Path, reviews: Callable[..., list[Request]]
) -> None:
    requests = reviews(*(f"review {number}" for number in range(6)))
    down = [True]

    def reply(number: int, body: Any) -> tuple[int, bytes]:
        if down[0] and "review 4" in body["messages"][0]["content"]:
            time.sleep(0.3)
            return 500, b""
        return said(f"Said {number}.")

    with chat(reply) as server:
        store = Answers(tmp_path)
        with pytest.raises(DataError, match="item 'i4'"):
            list(answered(maker(server, retries=0, side_by_side=2), requests, store))
        store.close()
        kept, down[0] = len(server.bodies) - 1, False
        assert kept >= 4
        store = Answers(tmp_path)
        again = maker(server)
        assert len(list(answered(again, requests, store))) == 6
        assert again.calls == 6 - kept
        third = maker(server)
        assert len(list(answered(third, requests, store))) == 6
        assert third.calls == 0
        assert third.spent() == "0 calls, 0 tokens"


@pytest.mark.parametrize(
    ("cap", "calls"),
    [({"max_calls": 3}, 3), ({"max_tokens": 500}, 2), ({"max_cost": 0.5, "price": 1_000.0}, 2), ({"max_calls": 0}, 0)],
)
def test_a_cap_is_never_passed(
    cap: dict[str, Any], calls: int, tmp_path: Path, reviews: Callable[..., list[Request]]
) -> None:
    """Each call may take about 230 tokens and takes 190."""
    requests = reviews(*(f"review {number}" for number in range(9)))
    with chat(lambda number, body: said("Good.", tokens=190)) as server:
        store = Answers(tmp_path)
        one = maker(server, side_by_side=1, **cap)
        with pytest.raises(DataError, match=rf"data\.readings\.reviews\.{next(iter(cap))}: .* would be passed"):
            list(answered(one, requests, store))
        assert len(server.bodies) == one.calls == calls
        rest = maker(server)
        assert len(list(answered(rest, requests, store))) == 9
        assert rest.calls == 9 - calls


def test_calls_go_side_by_side_and_caps_hold_then_too(reviews: Callable[..., list[Request]]) -> None:
    def reply(number: int, body: Any) -> tuple[int, bytes]:
        time.sleep(0.1)
        return said("Good.", tokens=190)

    requests = reviews(*(f"review {number}" for number in range(12)))
    with chat(reply) as server:
        assert len(list(maker(server, side_by_side=3).make(requests))) == 12
        assert server.at_once == 3
    with chat(reply) as server:
        one = maker(server, side_by_side=4, max_tokens=500)
        found = []
        with pytest.raises(DataError, match="max_tokens"):
            found.extend(one.make(requests))
        assert len(server.bodies) == len(found) <= 2


def test_long_prompts_lose_their_oldest_reviews(reviews: Callable[..., list[Request]]) -> None:
    with chat(lambda number, body: said("Good.")) as server:
        one = maker(server)
        (request,) = reviews(("oldest " * 2_000, "middle " * 1_500, "newest " * 1_400))
        assert one.reads(request) == 2
        (alone,) = reviews("start " + "word " * 4_000 + "end")
        assert one.reads(alone) == 1
        list(one.make([alone]))
    assert one.notes() == ["1 prompts hold the beginning of one long review"]
    sent = server.prompts()[0]
    assert "start" in sent
    assert "end\n</review>" not in sent
    assert sent.split("<review>\n")[1].count("word ") == 2_999 - 1


def test_without_the_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, reviews: Callable[..., list[Request]]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(DataError, match=r"pip install 'latefuse\[llm\]'"):
        list(maker(Chat("http://127.0.0.1:1/v1")).make(reviews("a")))
