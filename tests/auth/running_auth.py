"""An auth server on a free loopback port, with real TLS towards clients and nodes."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import trio
import trustme
from fake_node import FakeNode, serving

from uftpd.auth.identity.password_file import password_line
from uftpd.auth.reload import InForce
from uftpd.auth.server import open_server, serve
from uftpd.config.auth import AuthConfig, checked
from uftpd.config.toml import load

DEMO = "CN=Demo User, O=UNICORE, C=EU"
MAP: dict[str, Any] = {
    "CN=Demo User,O=UNICORE,C=EU": {
        "role": "user",
        "xlogin": ["user1", "user2"],
        "group": ["users", "hpc1"],
        "supplementaryGroups": "project1",
    },
    "CN=No Account,O=x": {"role": "user"},
    "CN=Banned,O=x": {"role": "banned"},
    "CN=Admin,O=x": {"role": "admin", "xlogin": "user1"},
}


@dataclass(frozen=True)
class Pki:
    """A throw-away CA and certificates in files."""

    ca: trustme.CA
    directory: Path

    @property
    def ca_path(self) -> Path:
        return self.directory / "ca.pem"

    def node_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert("127.0.0.1", common_name="UFTPD").configure_cert(context)
        self.ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def make_pki(directory: Path) -> Pki:
    """A CA and a certificate for the auth server."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(directory / "ca.pem"))
    cert = ca.issue_cert("127.0.0.1", "localhost", common_name="AUTH")
    cert.cert_chain_pems[0].write_to_path(str(directory / "auth.pem"))
    cert.private_key_pem.write_to_path(str(directory / "auth.key"))
    return Pki(ca, directory)


def make_password_lines() -> str:
    """A password file: Argon2id and MD5 lines, people with and without account."""
    lines = [
        password_line("demouser", "test123", DEMO),
        password_line("üser", "pässwörd", DEMO),
        "legacy:7a066bbc4c14cd9d7fb869f8cb3ecee2:09e9ba795983c2862d1fa83ad9b28959:" + DEMO,
        "noaccount:7a066bbc4c14cd9d7fb869f8cb3ecee2:09e9ba795983c2862d1fa83ad9b28959:CN=No Account,O=x",
        "banned:7a066bbc4c14cd9d7fb869f8cb3ecee2:09e9ba795983c2862d1fa83ad9b28959:CN=Banned,O=x",
        "unmapped:7a066bbc4c14cd9d7fb869f8cb3ecee2:09e9ba795983c2862d1fa83ad9b28959:CN=Unmapped,O=x",
    ]
    lines.append("admin:7a066bbc4c14cd9d7fb869f8cb3ecee2:09e9ba795983c2862d1fa83ad9b28959:CN=Admin,O=x")
    return "\n".join(lines) + "\n"


@dataclass
class Running:
    """A running auth server, its nodes and a client for it."""

    url: str
    client: httpx2.AsyncClient
    nodes: list[FakeNode]
    directory: Path
    config: AuthConfig
    pki: Pki
    running: InForce
    monitoring: str = ""

    @property
    def node(self) -> FakeNode:
        return self.nodes[0]

    async def post(self, server: str = "TEST", body: object = None, **options: Any) -> httpx2.Response:
        options.setdefault("auth", ("demouser", "test123"))
        return await self.client.post(
            f"{self.url}/rest/auth/{server}", json=body if body is not None else {"serverPath": ""}, **options
        )

    async def info(self, **options: Any) -> httpx2.Response:
        options.setdefault("auth", ("demouser", "test123"))
        return await self.client.get(f"{self.url}/rest/auth", **options)


StartAuth = Callable[..., AbstractAsyncContextManager[Running]]


def starter(tmp_path: Path, pki: Pki, password_lines: str) -> StartAuth:
    """Start an auth server with fake nodes; `extra` is TOML put behind the rest."""

    @asynccontextmanager
    async def start(
        *nodes: FakeNode,
        extra: str = "",
        server: str = "",
        login: str = "",
        command_port: str = "",
        node: str = "",
        mapping: object = None,
        tls: bool = True,
    ) -> AsyncIterator[Running]:
        (tmp_path / "passwords").write_text(password_lines)
        (tmp_path / "map.json").write_text(json.dumps(MAP if mapping is None else mapping))
        fakes = list(nodes) or [FakeNode()]
        async with trio.open_nursery() as nursery:
            for fake in fakes:
                await nursery.start(_serve_node, fake, pki.node_context() if tls else None)
            text = _toml(pki, fakes, (server, login, command_port, node, extra), plain=not tls)
            (tmp_path / "auth.toml").write_text(text)
            config = checked(load(tmp_path / "auth.toml", AuthConfig), "auth.toml")
            opened = open_server(config)
            port = opened.listeners[0].getsockname()[1]
            shutdown = trio.Event()

            async def run(*, task_status: trio.TaskStatus[InForce]) -> None:
                await serve(config, opened, shutdown=shutdown, task_status=task_status)

            running: InForce = await nursery.start(run)
            trust = ssl.create_default_context(cafile=pki.ca_path)
            async with httpx2.AsyncClient(verify=trust, timeout=30) as client:
                started = Running(f"https://127.0.0.1:{port}", client, fakes, tmp_path, config, pki, running)
                if opened.monitoring:
                    started.monitoring = f"http://127.0.0.1:{opened.monitoring[0].getsockname()[1]}"
                yield started
            shutdown.set()
            nursery.cancel_scope.deadline = trio.current_time() + 5
            nursery.cancel_scope.cancel()

    return start


async def _serve_node(fake: FakeNode, tls: ssl.SSLContext | None, *, task_status: trio.TaskStatus[None]) -> None:
    async with serving(fake, tls):
        task_status.started()
        await trio.sleep_forever()


def _toml(pki: Pki, fakes: list[FakeNode], more: tuple[str, str, str, str, str], *, plain: bool) -> str:
    server, login, command_port, node, extra = more
    instances = "".join(
        f'[[nodes.TEST.instances]]\nhost = "127.0.0.1"\ncommand = "{fake.address}"\nplain = {str(plain).lower()}\n'
        for fake in fakes
    )
    return f"""
[server]
listen = ["127.0.0.1:0"]
certificate = "{pki.directory}/auth.pem"
key = "{pki.directory}/auth.key"
{server}
[login]
password_file = "passwords"
{login}
[attributes]
map_file = "map.json"
[command_port]
ca = "{pki.ca_path}"
{command_port}
[nodes.TEST]
description = "Test storage"
{node}
{instances}
{extra}
"""
