"""An HTTP server for tests that answers what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

BROKEN: tuple[int, object] = (0, {})
"""No answer at all: the connection is closed."""


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


@dataclass
class Scripted:
    """Answers each request with the next of `answers`, a status and a document, or with what `answer` makes of it."""

    port: int = 0
    answers: list[tuple[int, object]] = field(default_factory=list)
    answer: Callable[[Asked], tuple[int, object]] | None = None
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def scripted() -> Iterator[Scripted]:
    """Serve while the block runs."""
    script = Scripted()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = Asked(
                self.command,
                parts.path,
                dict(parse_qsl(parts.query)),
                json.loads(content) if content else None,
                {name.lower(): value for name, value in self.headers.items()},
            )
            script.asked.append(asked)
            status, document = script.answer(asked) if script.answer is not None else script.answers.pop(0)
            if not status:
                self.close_connection = True
                return
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- as in the base class
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        script.port = running.server_address[1]
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield script
        running.shutdown()
        thread.join()
