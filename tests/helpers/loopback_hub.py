"""A hub on the loopback interface that speaks the paths which `snapshot_download` asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "c" * 40


@contextmanager
def hub(name: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve `folder` as the model repository `name` at revision `main`; gives the address and the paths asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            asked.append(path)
            if path in (f"/api/models/{name}/revision/main", f"/api/models/{name}/revision/{COMMIT}"):
                self.answer(json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
            elif path == f"/api/models/{name}/tree/{COMMIT}":
                files = [
                    {
                        "type": "file",
                        "path": f.name,
                        "size": f.stat().st_size,
                        "oid": hashlib.sha1(f.read_bytes()).hexdigest(),
                    }
                    for f in sorted(folder.iterdir())
                ]
                self.answer(json.dumps(files).encode())
            elif path.startswith(f"/{name}/resolve/{COMMIT}/"):
                self.answer((folder / path.rsplit("/", 1)[1]).read_bytes())
            elif path.startswith(f"/api/models/{name}/"):
                self.answer(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
            else:
                self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET

        def answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            named = {
                "Content-Type": "application/json",
                "X-Repo-Commit": COMMIT,
                "ETag": f'"{hashlib.sha1(body).hexdigest()}"',
            }
            for key, value in {**named, **(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
