"""An identity provider with device logins (RFC 8628), as a real HTTP server on a free loopback port."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

DEVICE_CODE = "device-code-0123456789"


@dataclass
class DeviceProvider:
    """What it answers, and what it was asked.

    Attributes:
        polls: answers to the polls of a device login, in turn: an error, or a status; then it is confirmed.
        lifetime: of access tokens, seconds.
        rotates: whether a refresh token is good once.
        refreshes: whether it gives refresh tokens at all.
        replace: members by path, in place of or beside the usual ones; None takes one away.
        status: by path, in place of 200.
        raw: bodies by path, in place of all else.
        forms: path and form of each POST.
        issued: access tokens, in order.
        valid: refresh tokens that are good.
        stolen: whether a refresh token came a second time.
    """

    port: int = 0
    polls: list[str | int] = field(default_factory=list)
    lifetime: object = 300
    rotates: bool = True
    refreshes: bool = True
    replace: dict[str, dict[str, Any]] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    raw: dict[str, bytes] = field(default_factory=dict)
    forms: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    issued: list[str] = field(default_factory=list)
    valid: set[str] = field(default_factory=set)
    stolen: bool = False
    _challenge: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}/realms/campus"

    def asked(self, path: str) -> list[dict[str, str]]:
        """The forms that were posted to a path."""
        return [form for place, form in self.forms if place == path]

    def configuration(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "device_authorization_endpoint": f"{self.issuer}/device",
            "token_endpoint": f"{self.issuer}/token",
            "revocation_endpoint": f"{self.issuer}/revoke",
        }

    def answer(self, path: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.forms.append((path, form))
            match path:
                case "device":
                    self._challenge = form.get("code_challenge", "")  # not every client proves that it is the same
                    return 200, {
                        "device_code": DEVICE_CODE,
                        "user_code": "WDJB-MJHT",
                        "verification_uri": f"{self.issuer}/confirm",
                        "verification_uri_complete": f"{self.issuer}/confirm?code=WDJB-MJHT",
                        "expires_in": 600,
                        "interval": 5,
                    }
                case "token" if form["grant_type"] == "refresh_token":
                    return self._refresh(form["refresh_token"])
                case "token":
                    return self._poll(form)
                case "revoke":
                    self.valid.discard(form["token"])
                    return 200, {}
            return 404, {}

    def _poll(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        proof = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        is_same = not self._challenge or proof.rstrip(b"=").decode() == self._challenge
        if form["device_code"] != DEVICE_CODE or not is_same:
            return 400, {"error": "invalid_grant"}
        if self.polls:
            said = self.polls.pop(0)
            return (400, {"error": said}) if isinstance(said, str) else (said, {})
        return 200, self.tokens()

    def _refresh(self, token: str) -> tuple[int, dict[str, Any]]:
        if token not in self.valid:
            self.stolen = True
            self.valid.clear()
            return 400, {"error": "invalid_grant", "error_description": "Token is not active"}
        if self.rotates:
            self.valid.discard(token)
        reply = self.tokens()
        if not self.rotates:
            del reply["refresh_token"]
        return 200, reply

    def tokens(self) -> dict[str, Any]:
        """New ones."""
        number = len(self.issued) + 1
        self.issued.append(f"access{number}")
        reply = {"access_token": f"access{number}", "token_type": "Bearer", "expires_in": self.lifetime}
        if self.refreshes:
            self.valid.add(f"refresh{number}")
            reply["refresh_token"] = f"refresh{number}"
        return reply


@contextmanager
def serving(provider: DeviceProvider) -> Iterator[DeviceProvider]:
    """Run it for the block."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.rpartition("/")[2]
            if path == "userinfo":
                known = self.headers.get("Authorization", "").removeprefix("Bearer ") in provider.issued
                self.reply(path, 200 if known else 401, {"sub": "f00", "email": "joe@example.org"} if known else {})
            else:
                self.reply("configuration", 200, provider.configuration())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            path = self.path.rpartition("/")[2]
            self.reply(path, *provider.answer(path, form))

        def reply(self, path: str, status: int, members: dict[str, Any]) -> None:
            members = members | provider.replace.get(path, {})
            kept = {name: value for name, value in members.items() if value is not None}
            content = provider.raw.get(path, json.dumps(kept).encode())
            self.send_response(provider.status.get(path, status))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- as in the base class
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        provider.port = running.server_address[1]
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield provider
        finally:
            running.shutdown()
            thread.join()
