"""An identity provider for tests: a real HTTP server with discovery, keys, userinfo and introspection."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import h11
import trio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from made_tokens import made

from uftpd.config.login import OidcProvider


@dataclass
class FakeProvider:
    """What the provider answers, and what it was asked.

    Attributes:
        keys: private keys by key id; their public halves are published.
        people: userinfo by opaque token.
        active: introspection by token.
        raw: answers by path: status, headers, body; in place of all else.
        silent: take connections and say nothing.
        requests: method, path, Authorization header and body of each request.
    """

    keys: dict[str, Any] = field(default_factory=lambda: {"k1": rsa.generate_private_key(65537, 2048)})
    people: dict[str, dict[str, Any]] = field(default_factory=dict)
    active: dict[str, dict[str, Any]] = field(default_factory=dict)
    raw: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    silent: bool = False
    requests: list[tuple[str, str, str, str]] = field(default_factory=list)
    url: str = ""

    def paths(self) -> list[str]:
        return [path for _, path, _, _ in self.requests]

    def token(self, key_id: str = "k1", **claims: Any) -> str:
        """A token of this issuer for the audience `uftp`."""
        claims = {"iss": self.url, "aud": "uftp", "sub": "f00", "email": "joe@example.org", **claims}
        return made(self.keys[key_id], headers={"kid": key_id}, **claims)

    def settings(self, **more: Any) -> OidcProvider:
        """Settings that check its signatures."""
        usual: dict[str, Any] = {"issuers": (self.url,), "audiences": ("uftp",), "identity": "UID={email},O=IdP"}
        return OidcProvider(**(usual | more))

    def toml(self, **more: str) -> str:
        """The same as text."""
        usual = {"issuers": f'["{self.url}"]', "audiences": '["uftp"]', "identity": '"UID={email},O=IdP"'}
        return "[login.oidc.IDP]\n" + "".join(f"{name} = {value}\n" for name, value in (usual | more).items())

    async def handle(self, stream: trio.abc.Stream) -> None:
        async with stream:
            try:
                await self._serve(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
                return

    async def _serve(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.SERVER)
        request: h11.Request | None = None
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(65536)))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return
        assert request is not None
        authorization = next((value.decode() for name, value in request.headers if name == b"authorization"), "")
        path = request.target.decode()
        self.requests.append((request.method.decode(), path, authorization, body.decode()))
        if self.silent:
            await trio.sleep_forever()
        status, headers, content = self.raw.get(path) or self._answer(path, authorization, body.decode())
        headers = {"Content-Length": str(len(content)), "Connection": "close", **headers}
        reply = h11.Response(status_code=status, headers=list(headers.items()))
        for part in (reply, h11.Data(data=content), h11.EndOfMessage()):
            await stream.send_all(connection.send(part) or b"")

    def _answer(self, path: str, authorization: str, body: str) -> tuple[int, dict[str, str], bytes]:
        if path == "/.well-known/openid-configuration":
            return 200, {}, json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/keys"}).encode()
        if path == "/keys":
            return 200, {}, json.dumps({"keys": [_public(key_id, key) for key_id, key in self.keys.items()]}).encode()
        if path == "/userinfo":
            person = self.people.get(authorization.removeprefix("Bearer "))
            return (200, {}, json.dumps(person).encode()) if person is not None else (401, {}, b"{}")
        if path == "/introspect":
            form = {name: values[0] for name, values in parse_qs(body).items()}
            if (form.get("client_id"), form.get("client_secret")) != ("uftp", "s3cret & more"):
                return 401, {}, b"{}"
            return 200, {}, json.dumps(self.active.get(form.get("token", ""), {"active": False})).encode()
        return 404, {}, b"{}"


def _public(key_id: str, key: Any) -> dict[str, Any]:
    public = key.public_key()
    if isinstance(key, rsa.RSAPrivateKey):
        found = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        found = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        assert isinstance(key, ed25519.Ed25519PrivateKey)
        found = OKPAlgorithm.to_jwk(public, as_dict=True)
    return {**found, "kid": key_id, "use": "sig"}


@asynccontextmanager
async def providing(
    provider: FakeProvider | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[FakeProvider]:
    """Serve a provider on a free loopback port, stated in its `url`."""
    provider = provider or FakeProvider()
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        provider.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        handlers: list[trio.abc.Listener[trio.abc.Stream]] = list(listeners)
        if tls is not None:
            handlers = [trio.SSLListener(listener, tls) for listener in listeners]
        nursery.start_soon(trio.serve_listeners, provider.handle, handlers)
        yield provider
        nursery.cancel_scope.cancel()
