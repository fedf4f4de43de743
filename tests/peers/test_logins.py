"""pyuftp and pyunicore with every way to log in: through our auth server to a data node that serves their files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from data_node import Node
from made_tokens import b64
from oidc_provider import FakeProvider, providing
from running_auth import Running, make_password_lines, make_pki, starter

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="key files of other accounts need root")]

_KEYS: list[Any] = [
    ed25519.Ed25519PrivateKey.generate(),
    rsa.generate_private_key(65537, 2048),
    ec.generate_private_key(ec.SECP256R1()),
]
_BIN = Path(sys.executable).parent

_PYUNICORE = """
import json, sys
from pyunicore.credentials import OIDCToken, create_credential
from pyunicore.uftp.uftp import UFTP, AuthServer
url, directory, name, password, key, token = sys.argv[1:]
by_key = create_credential(name, identity=key)
issued = AuthServer(by_key, url).issue_auth_token(lifetime=60, renewable=True)
found = {}
for way, credential in {
    "password": create_credential(name, password),
    "key": by_key,
    "token": create_credential(token=token),
    "issued": OIDCToken(issued),
}.items():
    session = UFTP()
    session.connect(credential, url, directory)
    found[way] = session.listdir(".")
    session.close()
print(json.dumps(found))
"""


@dataclass
class Place:
    """A person at a client, an auth server, an identity provider and a data node with the person's files."""

    auth: Running
    node: Node
    provider: FakeProvider
    here: Path
    files: Path

    @property
    def url(self) -> str:
        return f"{self.auth.url}/rest/auth/REAL:{self.files}/"

    @property
    def name(self) -> str:
        return self.node.person.name

    def key_file(self, key: Any, passphrase: str = "") -> Path:
        path = self.here / f"id{len(list(self.here.iterdir()))}"
        encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, encryption))
        path.chmod(0o600)
        return path

    async def run(self, *command: str | Path) -> subprocess.CompletedProcess[bytes]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.here), "PYTHONWARNINGS": "ignore", "TZ": "UTC"}
        return await trio.run_process(
            [str(word) for word in command],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment,
            cwd=self.here,
        )

    async def lists(self, *login: str | Path) -> bool:
        """Whether pyuftp lists the directory when it is told to log in so."""
        done = await self.run(_BIN / "pyuftp", "ls", *login, self.url)
        if done.returncode == 0 and b"ERROR" not in done.stdout:
            assert b"results" in done.stdout, done.stdout
            return True
        assert b"403" in done.stdout + done.stderr, (done.stdout, done.stderr)
        return False


@asynccontextmanager
async def _place(node: Node, directory: Path) -> AsyncIterator[Place]:
    files = node.directory()
    node.file(files / "results", b"123")
    ssh = node.person.home / ".ssh"
    ssh.mkdir(exist_ok=True)
    lines = [key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() for key in _KEYS]
    (ssh / "authorized_keys").write_text("# keys\n" + "".join(f"{line} a comment\n" for line in lines))
    for path in (ssh, ssh / "authorized_keys"):
        os.chown(path, node.person.uid, node.person.gid)
    here = directory / "here"
    here.mkdir()
    host, port = node.command
    real = f'[nodes.REAL]\n[[nodes.REAL.instances]]\nhost = "127.0.0.1"\ncommand = "{host}:{port}"\nplain = true\n'
    mapping = {"CN=Demo User,O=UNICORE,C=EU": {"role": "user", "xlogin": node.person.name}}
    (directory / "pki").mkdir()
    start = starter(directory, make_pki(directory / "pki"), make_password_lines())
    async with providing() as provider:
        login = "[login.ssh]\n" + provider.toml(uid='"{account}"', role='"user"')
        async with start(login=login, extra=real, mapping=mapping) as auth:
            yield Place(auth, node, provider, here, files)


async def test_pyuftp(peer_node: Node, tmp_path: Path) -> None:
    async with _place(peer_node, tmp_path) as place:
        assert await place.lists("-u", "demouser:test123")
        assert not await place.lists("-u", "demouser:wrong")
        assert not await place.lists("-u", "demouser")  # it sends the word None
        for key in _KEYS:
            assert await place.lists("-u", place.name, "-i", place.key_file(key))
        assert await place.lists("-u", f"{place.name}:pass phrase", "-i", place.key_file(_KEYS[0], "pass phrase"))
        assert not await place.lists("-u", place.name, "-i", place.key_file(ed25519.Ed25519PrivateKey.generate()))
        assert not await place.lists("-u", "nobody", "-i", place.key_file(_KEYS[0]))
        assert await place.lists("-A", place.provider.token(account=place.name))
        assert not await place.lists("-A", place.provider.token(account=place.name, aud="another"))


async def test_pyuftp_hands_a_token_on(peer_node: Node, tmp_path: Path) -> None:
    async with _place(peer_node, tmp_path) as place:
        key = place.key_file(_KEYS[0])
        endpoint = f"{place.auth.url}/rest/auth"
        for login in (["-u", "demouser:test123"], ["-u", place.name, "-i", key]):
            done = await place.run(_BIN / "pyuftp", "issue-token", *login, "-l", "60", "-R", "-L", endpoint)
            assert done.returncode == 0, (done.stdout, done.stderr)
            token = done.stdout.decode().split()[-1]
            assert await place.lists("-A", token)
            again = await place.run(_BIN / "pyuftp", "issue-token", "-A", token, endpoint)
            assert await place.lists("-A", again.stdout.decode().split()[-1])
            header, payload, _ = token.split(".")
            assert not await place.lists("-A", f"{header}.{payload}.{b64(bytes(64))}")


async def test_pyuftp_says_who_one_is(peer_node: Node, tmp_path: Path) -> None:
    async with _place(peer_node, tmp_path) as place:
        login = ["-u", place.name, "-i", str(place.key_file(_KEYS[1]))]
        done = await place.run(_BIN / "pyuftp", "info", *login, f"{place.auth.url}/rest/auth")
        text = done.stdout.decode()
        assert f"Client identity:    CN={place.name},OU=ssh-local-users" in text
        assert f"uid={place.name}" in text


async def test_pyunicore(peer_node: Node, tmp_path: Path) -> None:
    async with _place(peer_node, tmp_path) as place:
        # One name for both: the account, with a password of its own.
        passwords = place.auth.directory / "passwords"
        line = next(line for line in passwords.read_text().splitlines() if line.startswith("demouser:"))
        passwords.write_text(f"{passwords.read_text()}{place.name}:{line.partition(':')[2]}\n")
        done = await place.run(
            sys.executable,
            "-c",
            _PYUNICORE,
            f"{place.auth.url}/rest/auth/REAL",
            f"{place.files}/",
            place.name,
            "test123",
            place.key_file(_KEYS[0]),
            place.provider.token(account=place.name),
        )
        assert done.returncode == 0, done.stderr.decode()
        assert json.loads(done.stdout) == {way: ["results"] for way in ("password", "key", "token", "issued")}
