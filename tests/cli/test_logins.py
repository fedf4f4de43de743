"""Logging in as a person does it at a shell: keys, agents, identity providers, tokens, and names for servers."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import stat
import subprocess
import termios
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from device_provider import DeviceProvider, serving
from running_auth import Pki, Running, StartAuth, make_password_lines, make_pki, starter
from running_uftp import UFTP, Outcome, environment, uftp
from ssh_programs import make_key, needs_openssh, public_line, running_agent

pytestmark = pytest.mark.slow

DEMO = "CN=Demo User, O=UNICORE, C=EU"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def start_auth(tmp_path: Path, pki: Pki) -> StartAuth:
    (tmp_path / "auth").mkdir()
    return starter(tmp_path / "auth", pki, make_password_lines())


class Shell:
    """Runs `uftp` in a home of its own, while servers run in this process."""

    def __init__(self, home: Path, auth: Running) -> None:
        self.home = home
        self.auth = auth
        self.url = f"{auth.url}/rest/auth"
        self.ca = str(auth.pki.ca_path)

    async def __call__(self, *arguments: str | Path, **variables: str) -> Outcome:
        env = {"HOME": str(self.home), "USER": "demouser", **variables}
        command, *rest = arguments
        return await trio.to_thread.run_sync(partial(uftp, command, "--ca", self.ca, *rest, env=env))


@asynccontextmanager
async def shell_with_keys(start_auth: StartAuth, tmp_path: Path, *keys: Path) -> AsyncIterator[Shell]:
    """A server that knows these keys as those of `demouser`."""
    lines = [f"demouser:{public_line(key)}:{DEMO}\n" for key in keys]
    (tmp_path / "auth" / "ssh-keys").write_text("".join(lines))
    (tmp_path / "home" / ".ssh").mkdir(parents=True, exist_ok=True)
    async with start_auth(extra='[login.ssh]\nkey_file = "ssh-keys"\nnode_keys = "off"\n') as auth:
        yield Shell(tmp_path / "home", auth)


def method_of(outcome: Outcome) -> str:
    assert outcome.code == 0, outcome.err
    return str(outcome.records[0]["client"]["authenticationMethod"])


@needs_openssh
async def test_keys(start_auth: StartAuth, tmp_path: Path) -> None:
    plain = make_key(tmp_path / "plain", "-t", "ed25519")
    locked = make_key(tmp_path / "locked", "-t", "ecdsa", passphrase="secret phrase")
    async with shell_with_keys(start_auth, tmp_path, plain, locked) as run:
        assert method_of(await run("info", "--json", "-i", plain, run.url)) == "SSHKEY"
        told = {"UFTP_KEY_PASSPHRASE": "secret phrase"}
        assert method_of(await run("info", "--json", "-i", locked, run.url, **told)) == "SSHKEY"
        assert method_of(await run("info", "--json", "-i", locked, "-u", "demouser:secret phrase", run.url)) == "SSHKEY"
        # As existing clients have it: the variable of the password serves for the passphrase, too.
        assert method_of(await run("info", "--json", "-i", locked, run.url, UFTP_PASSWORD="secret phrase")) == "SSHKEY"
        grant = await run("auth", "--json", "-i", plain, f"{run.url}/TEST:/work/")
        assert grant.records[0]["password"] == run.auth.node.transfers[-1].secret
        refusals: list[tuple[list[str | Path], dict[str, str], int, str]] = [
            (["-i", locked], {}, 3, "the key is encrypted"),
            (["-i", locked], {"UFTP_KEY_PASSPHRASE": "wrong"}, 3, "not the passphrase"),
            (["-i", plain, "-u", "somebody"], {}, 3, f"tried: the key {plain} as 'somebody'"),
            (["-i", f"{plain}.none"], {}, 7, "cannot read the key file"),
            (["-i", plain, "-A", "x"], {}, 2, "-A and -i are two ways"),
        ]
        for arguments, variables, code, says in refusals:
            failed = await run("info", *arguments, run.url, **variables)
            assert (failed.code, len(failed.error_lines)) == (code, 1), failed.err
            assert says in failed.err
        plain.chmod(0o644)
        failed = await run("info", "-i", plain, run.url)
        assert (failed.code, "chmod 600" in failed.err) == (7, True)


@needs_openssh
async def test_the_key_one_has_is_found(start_auth: StartAuth, tmp_path: Path) -> None:
    known = make_key(tmp_path / "known", "-t", "ed25519")
    async with shell_with_keys(start_auth, tmp_path, known) as run:
        nothing = await run("info", run.url)
        assert (nothing.code, nothing.error_lines) == (
            3,
            [
                (
                    "uftp: nothing to log in with as demouser: no key and no password; use -i, -P, --password-file "
                    "or the variable UFTP_PASSWORD, or -u anonymous"
                )
            ],
        )
        for name in ("known", "known.pub"):
            shutil.copy2(tmp_path / name, run.home / ".ssh" / name.replace("known", "id_ed25519"))
        assert method_of(await run("info", "--json", run.url)) == "SSHKEY"
        assert method_of(await run("info", "--json", run.url, UFTP_PASSWORD="test123")) == "PASSWORD_FILE"
        (run.home / ".ssh" / "id_ed25519").chmod(0o644)
        refused = await run("info", run.url)
        assert refused.code == 3
        assert "others may read this private key" in refused.err
        with running_agent(tmp_path) as agent:
            agent.add(known)
            variables = {"SSH_AUTH_SOCK": str(agent.socket)}
            assert method_of(await run("info", "--json", run.url, **variables)) == "SSHKEY"
            assert (await run("info", run.url, **variables, UFTP_NO_AGENT="true")).code == 3


async def test_tokens(start_auth: StartAuth, tmp_path: Path) -> None:
    async with shell_with_keys(start_auth, tmp_path) as run:
        login: list[str | Path] = ["--password-file", tmp_path / "pw"]
        (tmp_path / "pw").write_text("test123\n")
        issued = await run("issue-token", *login, "-l", "2h", "-R", "-L", "-I", run.url)
        (token,) = issued.lines
        assert token.count(".") == 2
        assert issued.error_lines[:2] == [f"Subject:      {DEMO}", "Lifetime (s): 7200"]
        assert issued.error_lines[-1] == "Renewable:    true"
        assert "<unlimited>" not in issued.err
        (tmp_path / "token").write_text(f"{token}\n")
        for arguments, variables in (
            (["-A", token], {}),
            (["-A", f"@{tmp_path / 'token'}"], {}),
            ([], {"UFTP_TOKEN": token}),
            ([], {"UFTP_TOKEN": f"@{tmp_path / 'token'}"}),
        ):
            assert method_of(await run("info", "--json", *arguments, run.url, **variables)) == "ETD"
        again = await run("issue-token", "--json", "-A", token, run.url)
        assert again.records[0]["claims"]["aud"]
        for arguments, code in ((["-l", "soon"], 2), (["-l", "0"], 2), (["-l", "900d"], 5), (["ftp://x/"], 2)):
            failed = await run("issue-token", *login, *arguments, *([run.url] if "ftp" not in arguments[0] else []))
            assert (failed.code, len(failed.error_lines), failed.out) == (code, 1, b""), failed.err


# -- the identity provider ------------------------------------------------------------------------------------------


@pytest.fixture
def provider() -> Iterator[DeviceProvider]:
    fake = DeviceProvider()
    fake.replace["device"] = {"interval": 0}
    with serving(fake) as running:
        yield running


@asynccontextmanager
async def shell_with_provider(
    start_auth: StartAuth, tmp_path: Path, provider: DeviceProvider, *, told: bool = True
) -> AsyncIterator[Shell]:
    """A server that believes this provider, and tells clients of it."""
    (tmp_path / "home").mkdir(exist_ok=True)
    extra = f"""
[login.oidc.CAMPUS]
verify = "userinfo"
address = "{provider.issuer}/userinfo"
issuers = ["{provider.issuer}"]
identity = "UID={{email}}"
uid = ["joe"]
role = ["user"]
{'login_client = "uftp-cli"' if told else ""}
login_scopes = ["openid", "email"]
"""
    async with start_auth(extra=extra) as auth:
        yield Shell(tmp_path / "home", auth)


async def test_login_and_logout(start_auth: StartAuth, tmp_path: Path, provider: DeviceProvider) -> None:
    async with shell_with_provider(start_auth, tmp_path, provider) as run:
        base = run.auth.url
        done = await run("login", run.url)
        assert (done.code, done.lines) == (0, [f"Logged in at {base} as UID=joe@example.org"])
        assert done.error_lines == [
            f"Open   {provider.issuer}/confirm",
            "Code   WDJB-MJHT",
            f"or     {provider.issuer}/confirm?code=WDJB-MJHT",
            "Waiting for you to confirm, 10 min at most (Ctrl-C gives up) ...",
        ]
        assert provider.asked("device")[0]["scope"] == "openid email"
        for file in (run.home / ".local" / "state" / "uftp" / "logins").iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert method_of(await run("info", "--json", f"{run.url}/TEST:/data")) == "OAUTH"
        await run("auth", f"{run.url}/TEST:/data/")
        assert run.auth.node.transfers[-1].user == "joe"
        # Whoever says who they are, or how, means that.
        assert method_of(await run("info", "--json", run.url, UFTP_PASSWORD="test123")) == "PASSWORD_FILE"
        assert (await run("info", "-u", "demouser", run.url)).code == 3
        shown = await run("login", "--show")
        assert shown.lines == [f"{base}: UID=joe@example.org, by {provider.issuer}, refreshed by itself"]
        (record,) = (await run("login", "--show", "--json", run.url)).records
        assert (record["server"], record["client_id"], record["refreshed"]) == (base, "uftp-cli", True)
        assert "access1" not in shown.out.decode() + json.dumps(record)
        assert provider.valid == {"refresh1"}
        assert (await run("logout", run.url)).lines == [f"Logged out at {base}"]
        assert provider.valid == set()
        assert (await run("logout", run.url)).code == 3
        assert (await run("login", "--show")).out == b""
        assert (await run("login", "--show", run.url)).code == 3
        assert (await run("logout")).code == 2
        assert (await run("logout", "--all")).code == 0


async def test_a_login_is_refreshed_by_the_next_command(
    start_auth: StartAuth, tmp_path: Path, provider: DeviceProvider
) -> None:
    async with shell_with_provider(start_auth, tmp_path, provider) as run:
        provider.lifetime = 30
        assert (await run("login", run.url)).code == 0
        for number in (2, 3):
            assert method_of(await run("info", "--json", run.url)) == "OAUTH"
            assert provider.issued[-1] == f"access{number}"
        provider.valid.clear()
        ended = await run("info", run.url)
        assert ended.code == 3
        assert f"Token is not active; `uftp login {run.auth.url}/rest/auth`" in ended.err
        assert len(ended.error_lines) == 1
        provider.refreshes, provider.lifetime = False, 3600
        done = await run("login", run.url)
        assert "does not refresh this login; it ends 2" in done.err
        assert "ends 2" in (await run("login", "--show")).out.decode()


async def test_logins_that_cannot_be(start_auth: StartAuth, tmp_path: Path, provider: DeviceProvider) -> None:
    async with shell_with_provider(start_auth, tmp_path, provider, told=False) as run:
        for arguments, code, says in (
            ([run.url], 2, "does not say where to log in; give --issuer and --client-id"),
            ([], 2, "log in where?"),
            (["ftp://localhost/"], 2, "no logins of this kind"),
            ([run.url, "--issuer", "idp.example.org", "--client-id", "x"], 2, "not an issuer"),
            ([run.url, "--issuer", "http://127.0.0.1:1/", "--client-id", "x"], 6, "cannot be reached"),
            ([run.url, "--issuer", provider.issuer, "--client-id", "x", "--client-secret-file", "/none"], 7, "secret"),
        ):
            failed = await run("login", *arguments)
            assert (failed.code, len(failed.error_lines)) == (code, 1), failed.err
            assert says in failed.err
        asked = [run.url, "--issuer", provider.issuer, "--client-id", "mine", "--scope", "a", "--scope", "b"]
        provider.polls = ["access_denied"]
        denied = await run("login", *asked)
        assert (denied.code, denied.error_lines[-1]) == (
            3,
            f"uftp: {provider.issuer}: the login was refused in the browser",
        )
        assert (await run("login", *asked)).code == 0
        assert provider.asked("device")[-1]["scope"] == "a b"
        assert provider.asked("device")[-1]["client_id"] == "mine"
        # A token the server does not take is of no use, and is not kept.
        await run("logout", "--all")
        provider.replace["token"] = {"access_token": "unknown"}
        refused = await run("login", *asked)
        assert (refused.code, "tried: the token given" in refused.err) == (3, True), refused.err
        assert (await run("login", "--show")).out == b""


# -- names for servers ----------------------------------------------------------------------------------------------


@needs_openssh
async def test_endpoints(start_auth: StartAuth, tmp_path: Path) -> None:
    known = make_key(tmp_path / "known", "-t", "ed25519")
    async with shell_with_keys(start_auth, tmp_path, known) as run:
        config = run.home / ".config" / "uftp" / "config.toml"
        empty = await run("endpoints")
        assert (empty.code, empty.out) == (0, b"")
        assert str(config) in empty.err
        config.parent.mkdir(parents=True)
        (tmp_path / "pw").write_text("test123\n")
        config.write_text(
            f"""
[endpoints.here]
url = "{run.url}/TEST"
user = "demouser"
identity = "{known}"
ca = "{run.ca}"
group = "hpc1"
client = "192.0.2.7"

[endpoints.bypassword]
url = "{run.url}/TEST"
user = "demouser"
password_file = "{tmp_path / "pw"}"
ca = "{run.ca}"

[endpoints.server]
url = "{run.url}"
user = "demouser"
password_file = "{tmp_path / "pw"}"
ca = "{run.ca}"
"""
        )
        listed = await run("endpoints")
        assert listed.lines[1] == f"here        {run.url}/TEST, as demouser, identity"
        assert [record["name"] for record in (await run("endpoints", "--json")).records] == [
            "bypassword",
            "here",
            "server",
        ]

        async def plainly(*arguments: str) -> Outcome:
            env = {"HOME": str(run.home), "USER": "nobody-here"}
            return await trio.to_thread.run_sync(partial(uftp, *arguments, env=env))

        for name, method in (("here", "SSHKEY"), ("here:", "SSHKEY"), ("server", "PASSWORD_FILE")):
            assert method_of(await plainly("info", "--json", name)) == method
        assert (await plainly("auth", "here:work/")).code == 0
        request = run.auth.node.transfers[-1]
        assert (request.file, request.user, request.groups) == ("work/", "user1", ("hpc1",))
        assert [str(address) for address in request.client_ip] == ["192.0.2.7"]
        assert (await plainly("issue-token", "bypassword")).code == 0
        for arguments, code, says in (
            (["ls", "hree:data"], 4, "did you mean here?"),
            (["info", "hree"], 4, "did you mean here?"),
            (["ls", "server:data"], 2, "names no server"),
            (["ls", "here:a", "bypassword:b"], 2, "are the same server"),
            (["cp", "a:b", "here:c"], 4, "a local file of that name is ./a:..."),
            (["cp", "./a:b", "here:c"], 7, "a:b"),
        ):
            failed = await plainly(*arguments)
            assert (failed.code, len(failed.error_lines)) == (code, 1), failed.err
            assert says in failed.err
        config.write_text("[endpoints.here]\nurll = 1\n")
        failed = await plainly("ls", "here:")
        assert (failed.code, failed.error_lines) == (
            2,
            [f"uftp: {config}: endpoints.here: no such setting: urll; did you mean url?"],
        )
        # URLs and local files need no such file.
        assert (await run("info", "-u", "demouser:test123", run.url)).code == 0


# -- at a terminal --------------------------------------------------------------------------------------------------


class Terminal:
    """`uftp` on a terminal of its own."""

    def __init__(self, *arguments: str | Path, env: dict[str, str]) -> None:
        self.screen = b""
        pid, self.descriptor = pty.fork()
        if pid == 0:
            os.execve(UFTP, [str(UFTP), *map(str, arguments)], environment(env))
        self.pid = pid

    def wait_for(self, text: bytes) -> None:
        limit = time.monotonic() + 60
        while text not in self.screen:
            assert time.monotonic() < limit, self.screen
            if not self._read():
                raise AssertionError(self.screen)

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    @property
    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.descriptor)[3] & termios.ECHO)

    def end(self) -> int:
        while self._read():
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(status)

    def _read(self) -> bool:
        ready, _, _ = select.select([self.descriptor], [], [], 60)
        assert ready, self.screen
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:
            return False
        self.screen += data
        return bool(data)


@needs_openssh
async def test_a_person_at_a_terminal(start_auth: StartAuth, tmp_path: Path) -> None:
    """The key's passphrase first, then the password; neither is shown; Ctrl-C leaves the terminal as it was."""
    locked = make_key(tmp_path / "id_locked", "-t", "ed25519", passphrase="secret phrase")
    async with shell_with_keys(start_auth, tmp_path) as run:
        shutil.copy2(locked, run.home / ".ssh" / "id_locked")
        env = {"HOME": str(run.home), "USER": "demouser", "TERM": "dumb"}
        arguments = ("info", "--ca", run.ca, run.url)

        def log_in() -> Terminal:
            terminal = Terminal(*arguments, env=env)
            terminal.wait_for(b"id_locked: ")
            assert not terminal.echoes
            terminal.type("wrong phrase\n")
            terminal.wait_for(b"id_locked: \r\nPassphrase")
            terminal.wait_for(b"id_locked: ")
            terminal.type("secret phrase\n")
            terminal.wait_for(b"Password for demouser: ")  # this key is not the server's
            terminal.type("test123\n")
            assert terminal.end() == 0, terminal.screen
            return terminal

        terminal = await trio.to_thread.run_sync(log_in)
        assert b"PASSWORD_FILE" in terminal.screen
        for secret in (b"secret phrase", b"wrong phrase", b"test123"):
            assert secret not in terminal.screen

        def interrupt() -> None:
            terminal = Terminal(*arguments, env=env)
            terminal.wait_for(b"id_locked: ")
            assert not terminal.echoes
            keeper = os.dup(terminal.descriptor)
            terminal.type("\x03")
            assert terminal.end() == 128 + signal.SIGINT, terminal.screen
            assert termios.tcgetattr(keeper)[3] & termios.ECHO
            os.close(keeper)

        await trio.to_thread.run_sync(interrupt)


def test_the_start_loads_nothing_of_this() -> None:
    """Help and completion come at once: no HTTP, no keys, no configuration."""
    script = (
        "import sys; from uftp.cli.main import run; run(['--help']); run(['ls', '--help']);"
        "slow = {'cryptography', 'httpx2', 'tomllib', 'uftp.client.oidc', 'uftp.client.ssh_login',"
        "'uftp.client.endpoints', 'uftp.client.choosing'} & set(sys.modules); sys.exit(str(slow) if slow else 0)"
    )
    done = subprocess.run([UFTP.parent / "python", "-c", script], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
