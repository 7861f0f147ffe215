"""A server on the loopback interface that speaks OpenAI's chat completions, as its test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[int, dict[str, Any]], tuple[int, bytes]]


@dataclass
class Chat:
    """url: up to /v1. bodies, headers (names in lower case), paths: of every call, in the order in which they came.
    at_once: the most calls that were under way together.
    """

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    at_once: int = 0

    def prompts(self) -> list[str]:
        """The text of every question."""
        contents = [body["messages"][0]["content"] for body in self.bodies]
        return [content if isinstance(content, str) else content[-1]["text"] for content in contents]


def said(text: Any, tokens: int | None = 20, ended: str = "stop") -> tuple[int, bytes]:
    """A sound answer, or one with a content of another kind."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": ended}
    usage = {} if tokens is None else {"usage": {"total_tokens": tokens}}
    return 200, json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], **usage}).encode()


@contextmanager
def chat(reply: Reply) -> Iterator[Chat]:
    """Serve; reply: (how many calls came before, the body of this one) -> (status, body)."""
    told, lock, busy = Chat(), threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(told.bodies)
                told.bodies.append(body)
                told.headers.append({name.lower(): value for name, value in self.headers.items()})
                told.paths.append(self.path)
                busy[0] += 1
                told.at_once = max(told.at_once, busy[0])
            status, answer = reply(number, body)
            with lock:
                busy[0] -= 1
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                if status == 307:
                    self.send_header("Location", f"{told.url}/elsewhere")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
            except OSError:
                """The caller did not wait."""

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
