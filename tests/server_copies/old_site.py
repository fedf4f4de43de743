"""An upstream site for clients: a node as upstream's behind the least of an auth server, which speaks plain HTTP."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upstream_layers import Layers
from upstream_node import UpstreamNode, upstream_node


@dataclass
class OldSite:
    """A running one.

    Attributes:
        node: its data node.
        auth: URL of the auth server; `--insecure` is needed for it.
        requests: bodies of the session requests so far.
        users: who asked, one for each request.
        refuses: member of a request to what is said to it; for requests that have it.
    """

    node: UpstreamNode
    auth: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    refuses: dict[str, str] = field(default_factory=dict)

    def url(self, path: Path | str) -> str:
        """URL of a file or directory on the node."""
        return f"{self.auth}/OLD:{path}"

    def grant(self, body: dict[str, Any]) -> dict[str, Any]:
        """The reply to a session request."""
        self.requests.append(body)
        refusal = next((text for name, text in self.refuses.items() if body.get(name)), None)
        if refusal is not None:
            return {"success": "false", "reason": refusal}
        key = base64.b64decode(body.get("encryptionKey") or "")
        cipher = str(body.get("encryptionAlgorithm") or "") if key else ""
        layers = Layers(compress=str(body.get("compress")).lower() == "true", cipher=cipher, key=key)
        persistent = str(body.get("persistent")).lower() == "true"
        secret = self.node.expect(layers=layers, streams=int(body.get("streamCount") or 1), persistent=persistent)
        return {"success": "true", "serverHost": self.node.host, "serverPort": self.node.port, "secret": secret}


@contextlib.contextmanager
def old_site(root: Path, host: str = "127.0.0.1") -> Iterator[OldSite]:
    """One for the block, with its files in `root`."""
    with upstream_node(root, host) as node:
        site = OldSite(node)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                _, _, login = self.headers.get("Authorization", "").partition(" ")
                site.users.append(base64.b64decode(login).decode().partition(":")[0])
                content = json.dumps(site.grant(body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- as in the base class
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            site.auth = f"http://127.0.0.1:{server.server_address[1]}/rest/auth"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield site
            finally:
                server.shutdown()
                thread.join()
