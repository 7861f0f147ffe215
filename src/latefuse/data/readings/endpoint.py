"""Readings by a server that speaks OpenAI's chat completions: vLLM, llama.cpp, a provider.

Only the common denominator is used: messages, `max_tokens`, temperature 0. Texts are masked before they leave, pictures
go as JPEG of at most 768 pixels a side, made anew, so without what their files tell. Nothing follows a redirect.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from latefuse.config_data import MediaLimits
from latefuse.config_rank import Reader
from latefuse.data.errors import DataError
from latefuse.data.media import open_image
from latefuse.data.readings.asked import Asked
from latefuse.data.readings.caps import Caps, guessed
from latefuse.data.readings.request import Request, digest_of

SIDE, PICTURE_TOKENS = 768, 1_500
TOKENS_A_WORD, TOO_LONG = 8, 4
WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
AGAIN = (408, 409, 425, 429)


class Nonsense(Exception):
    """An answer that is none; asked again."""


class Endpoint:
    """Answers of `reader.model` at `reader.url`, several side by side.

    A call that times out, is refused with 429 or 5xx, or answers nonsense (no JSON, no words, cut off, more than four
    times the wanted words) is repeated `reader.retries` times, each time after twice the wait. mask: what is done to
    every review. Raises DataError where that does not help, for any other refusal at once, and before a cap is passed;
    then calls under way are awaited and their answers given.
    """

    def __init__(
        self, reader: Reader, words: int, where: str, limits: MediaLimits, mask: Callable[[str], str] = str
    ) -> None:
        self.name = f"endpoint {reader.model}"
        self._reader, self._words, self._where, self._limits = reader, words, where, limits
        self._asked, self._caps = Asked(words, mask), Caps(reader, where)
        self._most = max(64, TOKENS_A_WORD * words)
        self.version, self.method = self._asked.version, self._asked.method
        self._token = os.environ.get(reader.token_env, "")
        address = urlsplit(str(reader.url))
        self._shown = f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"

    @property
    def calls(self) -> int:
        """Those that were tried, whatever came of them."""
        return self._caps.calls

    def reads(self, request: Request) -> int:
        """How many of the newest reviews fit."""
        return self._asked.reads(request)

    def key(self, request: Request) -> str:
        """All that is sent, with the picture by content."""
        picture = f"{request.id} {SIDE}" if request.picture else ""
        return digest_of(f"{picture}\n{self._most}\n{self._asked.text(request)}")

    def make(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """(place, text) as answers come. After the first failure nothing new is asked."""
        failed: DataError | None = None
        _ = self._client  # made once, before threads ask for it
        with ThreadPoolExecutor(self._reader.side_by_side) as pool:
            asked = {pool.submit(self._answer, request): place for place, request in enumerate(requests)}
            try:
                for done in as_completed(asked):
                    try:
                        text = done.result()
                    except CancelledError:
                        continue
                    except DataError as error:
                        failed = failed or error
                        for other in asked:
                            other.cancel()
                        continue
                    yield asked[done], text
            finally:
                for other in asked:
                    other.cancel()
        if failed is not None:
            raise failed

    def notes(self) -> list[str]:
        """What did not fit."""
        return self._asked.notes()

    def spent(self) -> str:
        """Calls, tokens, money."""
        return str(self._caps)

    def _answer(self, request: Request) -> str:
        prompt, tries = self._asked.text(request), 1 + self._reader.retries
        content: Any = prompt
        if request.picture is not None:
            url = {"url": self._packed(request)}
            content = [{"type": "image_url", "image_url": url}, {"type": "text", "text": prompt}]
        question = guessed(prompt) + (PICTURE_TOKENS if request.picture else 0)
        why = ""
        for attempt in range(tries):
            if attempt:
                time.sleep(min(LONGEST_WAIT_S, WAIT_S * 2 ** (attempt - 1)))
            try:
                return self._call(content, question, request)
            except Nonsense as error:
                why = self._scrubbed(str(error))
        raise DataError(
            f"{self._where}: {self._shown} gave no usable answer for {request} in {tries} tries; the last: {why}. What "
            "was answered is kept: see to the server and run prepare again, which goes on from there"
        )

    def _call(self, content: Any, question: int, request: Request) -> str:
        """One try, within the caps. Raises Nonsense for what a repetition may mend, else DataError."""
        import openai

        most = question + self._most
        self._caps.begin(most)
        used = None
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model=str(self._reader.model), messages=[{"role": "user", "content": content}], temperature=0,
                max_tokens=self._most,
            )  # fmt: skip
            answer = _parsed(raw.text)
            used = _used(answer)
            return self._said(answer)
        except openai.APIStatusError as error:
            told = f"status {error.status_code}: {error.response.text[:200]!r}"
            if error.status_code in AGAIN or error.status_code >= 500:
                raise Nonsense(told) from None
            hint = f"; is the token in ${self._reader.token_env} right?" if error.status_code in (401, 403) else ""
            raise DataError(self._scrubbed(f"{self._where}: {self._shown}, {request}: {told}{hint}")) from None
        except openai.APITimeoutError:
            raise Nonsense(f"no answer within {self._reader.timeout_s:g} s") from None
        except openai.APIConnectionError as error:
            raise Nonsense(f"no connection: {error.__cause__ or error}") from None
        finally:
            self._caps.end(most, question if used is None else used, used is None)

    def _said(self, answer: Any) -> str:
        """The words of an answer. Raises Nonsense."""
        try:
            choice = answer["choices"][0]
            text, ended = choice["message"]["content"], choice.get("finish_reason")
        except (LookupError, TypeError, AttributeError):
            raise Nonsense(f"no choices: {json.dumps(answer)[:200]}") from None
        if not isinstance(text, str) or not text.strip():
            raise Nonsense("an empty answer")
        words = text.split()
        if len(words) > TOO_LONG * self._words:
            raise Nonsense(f"{len(words):,} words where {self._words} were wanted")
        if ended == "length":
            raise Nonsense(f"cut off after {self._most:,} tokens: {' '.join(words)[:100]!r}")
        return " ".join(words)

    def _packed(self, request: Request) -> str:
        """A picture as the URL that holds it."""
        assert request.picture is not None
        picture = open_image(request.picture, self._limits)
        picture.thumbnail((SIDE, SIDE))
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=90)
        return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()

    def _scrubbed(self, text: str) -> str:
        """What a server says without the token that it may repeat."""
        return text.replace(self._token, "[token]") if self._token else text

    @cached_property
    def _client(self) -> Any:
        try:
            import openai
        except ImportError:
            raise DataError(
                f"{self._where}.by: endpoint needs the package openai: pip install 'latefuse[llm]'"
            ) from None
        client = openai.OpenAI(
            api_key=self._token or "none", base_url=self._reader.url, timeout=self._reader.timeout_s, max_retries=0,
            http_client=openai.DefaultHttpxClient(follow_redirects=False),
        )  # fmt: skip
        client.organization = client.project = None  # of another provider, out of the environment
        return client


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise Nonsense(f"not JSON: {text[:200]!r}") from None


def _used(answer: Any) -> int | None:
    """All tokens of a call as the server tells them."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    found = usage.get("total_tokens") if isinstance(usage, dict) else None
    return found if isinstance(found, int) and found >= 0 else None
