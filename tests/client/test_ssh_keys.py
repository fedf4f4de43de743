"""SSH keys as ssh-keygen makes them, and a real ssh-agent: tokens that our auth server believes."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from running_auth import Pki, Running, StartAuth, make_password_lines, make_pki, starter
from ssh_programs import Agent, make_key, needs_openssh, public_line, running_agent

from uftp.client import ssh_agent, ssh_keys
from uftp.client.auth import AuthServer, HttpOptions
from uftp.client.choosing import Wishes, choose_credential
from uftp.client.credentials import Credential, UsernamePassword
from uftp.client.ssh_agent import AgentError, AgentKey
from uftp.client.ssh_keys import PassphraseNeeded
from uftp.client.ssh_login import TOKEN_SECONDS, AgentSigner, SshIdentity, SshKeyCredential, load_signer
from uftp.errors import AuthenticationFailed, LocalFileError, UsageError

pytestmark = needs_openssh

KINDS = {
    "ed25519": ["-t", "ed25519"],
    "ecdsa256": ["-t", "ecdsa", "-b", "256"],
    "ecdsa384": ["-t", "ecdsa", "-b", "384"],
    "ecdsa521": ["-t", "ecdsa", "-b", "521"],
    "rsa": ["-t", "rsa", "-b", "2048"],
}
FORMS = {"openssh": [], "pem": ["-m", "PEM"], "pkcs8": ["-m", "PKCS8"]}
ALGORITHMS = {"ed25519": "EdDSA", "ecdsa256": "ES256", "ecdsa384": "ES384", "ecdsa521": "ES512", "rsa": "RS256"}
PASSPHRASE = "correct hörse"
MAKEABLE = [(kind, form) for kind in KINDS for form in FORMS if not (kind == "ed25519" and form == "pem")]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A key of each kind in OpenSSH's form, without passphrase."""
    directory = tmp_path_factory.mktemp("keys")
    return {kind: make_key(directory / f"id_{kind}", *options) for kind, options in KINDS.items()}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, and no agent."""
    for name in ("XDG_STATE_HOME", "SSH_AUTH_SOCK", "UFTP_NO_AGENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def start_auth(tmp_path: Path, pki: Pki) -> StartAuth:
    (tmp_path / "auth").mkdir()
    return starter(tmp_path / "auth", pki, make_password_lines())


@asynccontextmanager
async def knowing(start_auth: StartAuth, tmp_path: Path, *keys: Path) -> AsyncIterator[Running]:
    """An auth server that knows these keys as those of `demouser`."""
    lines = [f"demouser:{public_line(key)}:CN=Demo User, O=UNICORE, C=EU\n" for key in keys]
    (tmp_path / "auth" / "ssh-keys").write_text("".join(lines))
    async with start_auth(extra='[login.ssh]\nkey_file = "ssh-keys"\nnode_keys = "off"\n') as auth:
        yield auth


async def who(auth: Running, credential: Credential) -> str:
    async with AuthServer(credential, HttpOptions(ca=str(auth.pki.ca_path))) as server:
        reply = await server.info(f"{auth.url}/rest/auth")
    return f"{reply['client']['dn']} {reply['client']['authenticationMethod']}"


DEMO = "CN=Demo User, O=UNICORE, C=EU"


@pytest.mark.slow
async def test_every_kind_and_form_logs_in(start_auth: StartAuth, tmp_path: Path) -> None:
    made = {
        (kind, form, passphrase): make_key(
            tmp_path / f"{kind}-{form}-{bool(passphrase)}", *KINDS[kind], *FORMS[form], passphrase=passphrase
        )
        for kind, form in MAKEABLE
        for passphrase in ("", PASSPHRASE)
    }
    async with knowing(start_auth, tmp_path, *made.values()) as auth:
        for (kind, form, passphrase), path in made.items():
            credential = SshIdentity("demouser", str(path), passphrase=passphrase or None)
            assert await who(auth, credential) == f"{DEMO} SSHKEY", (kind, form, passphrase)
            header = (await credential.authorization()).removeprefix("Bearer ").split(".")[0]
            assert json.loads(base64.urlsafe_b64decode(header + "=="))["alg"] == ALGORITHMS[kind]
            if passphrase:
                with pytest.raises(PassphraseNeeded, match="not the passphrase"):
                    await SshIdentity("demouser", str(path), passphrase="wrong").authorization()
                with pytest.raises(PassphraseNeeded, match="ssh-add it"):
                    await SshIdentity("demouser", str(path)).authorization()


@pytest.mark.slow
async def test_every_kind_logs_in_by_the_agent(
    start_auth: StartAuth, tmp_path: Path, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_agent(tmp_path) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.socket))
        for key in keys.values():
            agent.add(key)
        async with knowing(start_auth, tmp_path, *keys.values()) as auth:
            for kind, key in keys.items():
                signer = await load_signer(f"{key}.pub")
                assert isinstance(signer, AgentSigner)
                assert signer.algorithm == ALGORITHMS[kind]
                # Numbers of a signature have leading zeros now and then: their length must stay.
                for _ in range(20):
                    assert await who(auth, SshKeyCredential("demouser", signer)) == f"{DEMO} SSHKEY"


async def test_an_encrypted_key_that_the_agent_has_needs_no_passphrase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_key(tmp_path / "plain", "-t", "ed25519")
    with running_agent(tmp_path) as agent:
        agent.add(plain)
        encrypted = tmp_path / "id"
        encrypted.write_bytes(plain.read_bytes())
        encrypted.chmod(0o600)
        _set_passphrase(encrypted)
        with pytest.raises(PassphraseNeeded):
            await load_signer(str(encrypted))
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.socket))
        assert isinstance(await load_signer(str(encrypted)), AgentSigner)
        monkeypatch.setenv("UFTP_NO_AGENT", "true")
        with pytest.raises(PassphraseNeeded):
            await load_signer(str(encrypted))
        with pytest.raises(AgentError, match="public half"):
            await load_signer(f"{plain}.pub")


def _set_passphrase(path: Path) -> None:
    import subprocess

    subprocess.run(["ssh-keygen", "-q", "-p", "-a", "1", "-P", "", "-N", PASSPHRASE, "-f", path], check=True)


async def test_the_passphrase_is_asked_for_three_times(tmp_path: Path) -> None:
    path = make_key(tmp_path / "id", "-t", "ed25519", passphrase=PASSPHRASE)
    typed = ["wrong", "wronger", PASSPHRASE]

    async def ask(prompt: str) -> str:
        assert prompt == f"Passphrase for {path}: "
        return typed.pop(0)

    identity = SshIdentity("me", str(path), ask=ask)
    async with trio.open_nursery() as nursery:  # several sessions at once: one question
        for _ in range(3):
            nursery.start_soon(identity.authorization)
    assert typed == []
    for answers in (["a", "b", "c"], [""]):
        typed[:] = answers
        with pytest.raises(PassphraseNeeded):
            await SshIdentity("me", str(path), ask=ask).authorization()
        assert typed == []


@pytest.mark.slow
async def test_keys_found_are_tried_in_turn(
    start_auth: StartAuth, tmp_path: Path, keys: dict[str, Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the agent's, then those in ~/.uftp, then ~/.ssh, then the password; the one let in is kept."""
    (home / ".uftp").mkdir()
    make_key(home / ".uftp" / "id_stranger", "-t", "ed25519")
    (home / ".ssh" / "id_rsa").write_bytes(keys["rsa"].read_bytes())
    (home / ".ssh" / "id_rsa").chmod(0o600)
    asked: list[str] = []

    async def ask(prompt: str) -> str:
        asked.append(prompt)
        return "test123"

    def fresh() -> Credential:
        return choose_credential(Wishes(user="demouser"), ask=ask)

    with running_agent(tmp_path) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.socket))
        agent.add(keys["ecdsa256"])
        async with knowing(start_auth, tmp_path, keys["rsa"]) as auth:
            credential = fresh()
            assert await who(auth, credential) == f"{DEMO} SSHKEY"
            assert await who(auth, credential) == f"{DEMO} SSHKEY"
            assert asked == []
            said = getattr(credential, "description", "")
            assert [said.index(word) for word in ("in ssh-agent", "id_stranger", "id_rsa")] == sorted(
                said.index(word) for word in ("in ssh-agent", "id_stranger", "id_rsa")
            )
        (home / ".ssh" / "id_rsa").unlink()
        async with knowing(start_auth, tmp_path, keys["rsa"]) as auth:
            assert await who(auth, fresh()) == f"{DEMO} PASSWORD_FILE"
            assert asked == ["Password for demouser: "]
            nobody = choose_credential(Wishes(user="demouser"))
            with pytest.raises(AuthenticationFailed) as caught:
                await who(auth, nobody)
            text = str(caught.value)
            assert "tried: the key id_ecdsa256 in ssh-agent as 'demouser', the key " in text
            assert text.endswith("id_stranger as 'demouser'")


async def test_tokens_are_made_afresh_before_they_end(keys: dict[str, Path]) -> None:
    now = 1_000_000.0
    signer = await load_signer(str(keys["ed25519"]))
    credential = SshKeyCredential("me", signer, clock=lambda: now, audience="CN=AUTH")
    first = await credential.authorization()
    claims = _claims(first)
    assert claims == {
        "sub": "me",
        "iss": "me",
        "iat": 1_000_000,
        "exp": 1_000_000 + TOKEN_SECONDS,
        "etd": "false",
        "aud": "CN=AUTH",
    }
    now += TOKEN_SECONDS - 61
    assert await credential.authorization() == first
    now += 2
    second = await credential.authorization()
    assert _claims(second)["exp"] == int(now) + TOKEN_SECONDS
    assert await credential.renew(first), "the one in use is another already"
    assert await credential.authorization() == second
    assert not await credential.renew(second), "just made: the key itself is refused"
    now += 40
    assert await credential.renew(second)
    assert await credential.authorization() != second
    now -= 500  # the clock is set back
    assert _claims(await credential.authorization())["iat"] == int(now)


def _claims(header: str) -> dict[str, object]:
    segment = header.removeprefix("Bearer ").split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(segment + "=="))
    assert isinstance(claims, dict)
    return claims


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not an SSH private key"),
        (b"hello", "not an SSH private key"),
        (b"PuTTY-User-Key-File-3: ssh-ed25519\n", "puttygen"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "broken"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\n\xff\n-----END OPENSSH PRIVATE KEY-----\n", "broken"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "cannot be read"),
        (b"-----BEGIN RSA PRIVATE KEY-----\n", "cannot be read"),
    ],
)
async def test_files_that_are_no_keys(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "id"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(LocalFileError, match=says):
        await load_signer(str(path))


async def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    weak = make_key(tmp_path / "weak", "-t", "rsa", "-b", "1024")
    with pytest.raises(LocalFileError, match="1024 bits is too weak"):
        await load_signer(str(weak))
    open_key = make_key(tmp_path / "open", "-t", "ed25519")
    for mode in (0o640, 0o604, 0o620):
        open_key.chmod(mode)
        with pytest.raises(LocalFileError, match=f"others may read this private key .mode {mode:04o}.; chmod 600"):
            await load_signer(str(open_key))
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(LocalFileError, match="cannot read the key file"):
            await load_signer(str(path))
    certificate = AgentKey(ssh_agent.pack(b"ssh-ed25519-cert-v01@openssh.com"), "cert")
    with pytest.raises(UsageError, match="cannot be used"):
        SshKeyCredential("me", AgentSigner("/none", certificate))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a file of somebody else's")
async def test_a_key_of_another_account_may_be_shared_with_a_group(tmp_path: Path) -> None:
    path = make_key(tmp_path / "shared", "-t", "ed25519")
    os.chown(path, 4242, 4242)
    path.chmod(0o640)
    assert (await load_signer(str(path))).algorithm == "EdDSA"


def test_the_public_half_needs_no_passphrase(tmp_path: Path) -> None:
    for form, options in FORMS.items():
        path = make_key(tmp_path / form, "-t", "rsa", "-b", "2048", *options, passphrase=PASSPHRASE)
        line = public_line(path).split()
        found = ssh_keys.read_key_file(str(path))
        assert found.public_blob == base64.b64decode(line[1])
        assert ssh_keys.is_encrypted(found.content)
        assert ssh_keys.public_blob(ssh_keys.decrypt(found, PASSPHRASE)) == found.public_blob
        Path(f"{path}.pub").unlink()
        assert (ssh_keys.read_key_file(str(path)).public_blob is not None) == (form == "openssh")


def test_default_files(home: Path) -> None:
    (home / ".uftp").mkdir()
    for name in (".ssh/id_rsa", ".ssh/id_ed25519", ".ssh/id_rsa.pub", ".ssh/known_hosts", ".uftp/id_z", ".ssh/id_x_sk"):
        (home / name).write_text("")
    (home / ".ssh" / "id_directory").mkdir()
    assert [str(Path(path).relative_to(home)) for path in ssh_keys.default_key_files()] == [
        ".uftp/id_z",
        ".ssh/id_ed25519",
        ".ssh/id_rsa",
    ]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\1",
        b"\0\0\0\1\5",  # failure
        b"\0\0\0\5\x0c\0\0\0\1",  # one key, and none follows
        b"\0\0\0\5\x0c\xff\xff\xff\xff",
        b"\0\0\0\x0d\x0c\0\0\0\1\xff\xff\xff\xff\0\0\0\0",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
@pytest.mark.parametrize("cut", [False, True])
async def test_agents_that_are_none(tmp_path: Path, answer: bytes, cut: bool) -> None:
    """Whatever is at the other end of the socket, it is one clear error."""
    path = str(tmp_path / "socket")
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(path)
        listener.listen()

        async def serve() -> None:
            for _ in range(2):
                stream = trio.SocketStream((await listener.accept())[0])
                async with stream:
                    with contextlib.suppress(trio.BrokenResourceError):
                        await answer_to(stream)

        async def answer_to(stream: trio.SocketStream) -> None:
            await stream.receive_some(65536)
            for piece in [answer[i : i + 1] for i in range(len(answer))] if cut else [answer]:
                if piece:
                    await stream.send_all(piece)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with pytest.raises(AgentError):
                await ssh_agent.list_keys(path)
            with pytest.raises(AgentError):
                await ssh_agent.sign(path, b"key", b"data")
    with pytest.raises(AgentError, match="No such file"):
        await ssh_agent.list_keys(f"{path}x")


async def test_an_agent_that_is_broken_does_not_keep_one_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Path], home: Path
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
    (home / ".ssh" / "id_ed25519").write_bytes(keys["ed25519"].read_bytes())
    (home / ".ssh" / "id_ed25519").chmod(0o600)
    notes: list[str] = []
    credential = choose_credential(Wishes(user="me"), note=notes.append)
    assert (await credential.authorization() or "").startswith("Bearer ey")
    assert notes == [f"ssh-agent at {tmp_path / 'gone'}: No such file or directory"]
    assert not isinstance(credential, UsernamePassword)


def test_nothing_secret_is_shown(keys: dict[str, Path]) -> None:
    found = ssh_keys.read_key_file(str(keys["ed25519"]))
    assert "PRIVATE" not in repr(found)
    assert PASSPHRASE not in repr(SshIdentity("me", "x", passphrase=PASSPHRASE))


def test_the_agent_itself(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        assert isinstance(agent, Agent)
        assert trio.run(ssh_agent.list_keys, str(agent.socket)) == []
