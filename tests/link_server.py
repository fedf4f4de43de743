"""An HTTP server with shares for tests: as older servers answer, or one that breaks off and changes its mind."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

ROOT = "/SITE/rest/access/TEST/G9H5R3UE6MT"


@dataclass
class Shelf:
    """What is served.

    Attributes:
        files: by path below the share, empty for a shared file.
        ours: tells programs what there is, and knows ranges and versions; else as an older server.
        etag: of every file.
        cut: so many answers break off after half of their bytes.
        once: a GET of a file uses the share up.
        asked: request lines, each with its Range header.
    """

    files: dict[str, bytes]
    name: str = "x.nc"
    ours: bool = True
    etag: str = '"v1"'
    cut: int = 0
    once: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def link(self) -> str:
        return self.url + ROOT


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    shelf: Shelf

    def log_message(self, *arguments: object) -> None:
        pass

    def do_POST(self) -> None:
        self._say(404, b'{"errorMessage": "no UFTP here", "status": 404}', {"Content-Type": "application/json"})

    def do_GET(self) -> None:
        shelf = self.shelf
        parts = urlsplit(self.path)
        with shelf.lock:
            shelf.asked.append((self.path, self.headers.get("Range", "")))
        below = re.sub("/+", "/", unquote(parts.path.removeprefix(ROOT))).lstrip("/")
        if not parts.path.startswith(ROOT):
            self._say(404, b"", {})
        elif below in shelf.files:
            self._file(below, facts=shelf.ours and "format=json" in parts.query)
        elif shelf.files and (not below or below.endswith("/")):
            self._directory(below)
        else:
            self._say(404, b'{"errorMessage": "No such file", "status": 404}', {"Content-Type": "application/json"})

    def _file(self, below: str, *, facts: bool) -> None:
        shelf = self.shelf
        content, name = shelf.files[below], below.rpartition("/")[2] or shelf.name
        if facts:
            found = f'{{"name": "{name}", "directory": false, "type": "file", "size": {len(content)}, "href": ""}}'
            self._say(200, found.encode(), {"Content-Type": "application/json"})
            return
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        match = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", self.headers.get("Range", ""))
        status = 200
        if shelf.ours:
            headers["ETag"] = shelf.etag
            if self.headers.get("If-Match", shelf.etag) != shelf.etag:
                self._say(412, b"", {})
                return
        if shelf.ours and match:
            begin, end = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
            content, status = content[begin : end + 1], 206
        if shelf.once:
            shelf.files.pop(below)
        with shelf.lock:
            cut = shelf.cut > 0
            shelf.cut -= cut
        self._say(status, content, headers, cut=cut)

    def _directory(self, below: str) -> None:
        """A page of the old form: names and links not encoded, and a slash too many."""
        names = sorted({re.sub("(?<=/).*", "", path.removeprefix(below)) for path in self.shelf.files
                        if path.startswith(below)})  # fmt: skip
        rows = "".join(f'<tr><td><a href="{self.shelf.link}/{below}/{name}">{name}</a></td></tr>' for name in names)
        page = f'<html><a href="https://example.org/">help</a><a href="../">up</a><table>{rows}</table></html>'
        self._say(200, page.encode(), {"Content-Type": "text/html"})

    def _say(self, status: int, content: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients go away in the middle of answers: that is what they are for


@contextmanager
def serving_links(shelf: Shelf) -> Iterator[Shelf]:
    """Serve the shelf on loopback."""
    handler = type("Handler", (_Handler,), {"shelf": shelf})
    with _Server(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        shelf.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield shelf
        finally:
            server.shutdown()
            thread.join()
