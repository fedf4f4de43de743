"""Device logins, refreshing, and what is kept of them, with a provider that is a real HTTP server."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from device_provider import DEVICE_CODE, DeviceProvider, serving

from uftp.client.login_store import LoginStore, StoredLogin
from uftp.client.oidc import DEVICE_GRANT, LoginEnded, OidcClient, Provider, Tokens, is_safe_url
from uftp.client.oidc_login import OidcLogin
from uftp.errors import (
    AuthenticationFailed,
    LocalFileError,
    NetworkError,
    PeerBrokeProtocol,
    TimedOut,
    UFTPError,
    UsageError,
)

SERVER = "https://auth.example.org:9000/SITE"


@pytest.fixture
def provider() -> Iterator[DeviceProvider]:
    with serving(DeviceProvider()) as running:
        yield running


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the login waited between polls, without waiting."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        if seconds:  # the HTTP library sleeps for no time at all
            waited.append(seconds)
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(trio, "sleep", sleep)
    return waited


def client(provider: DeviceProvider, **more: Any) -> OidcClient:
    return OidcClient(**{"issuer": provider.issuer, "client_id": "uftp-cli", "scopes": ("openid", "x"), **more})


async def log_in(provider: DeviceProvider, clock: Callable[[], float], **more: Any) -> Tokens:
    async with Provider(client(provider, **more)) as talking:
        return await talking.wait_confirmed(await talking.begin_device_login(), clock)


async def test_a_device_login(provider: DeviceProvider, clock: Clock, naps: list[float]) -> None:
    provider.polls = ["authorization_pending", "slow_down", "authorization_pending", 503, "authorization_pending"]
    async with Provider(client(provider, client_secret="s3cret")) as talking:
        code = await talking.begin_device_login()
        assert (code.user_code, code.address) == ("WDJB-MJHT", f"{provider.issuer}/confirm")
        assert code.address_with_code == f"{provider.issuer}/confirm?code=WDJB-MJHT"
        assert DEVICE_CODE not in repr(code)
        tokens = await talking.wait_confirmed(code, clock)
    assert tokens == Tokens(access_token="access1", expires=clock.now + 300, refresh_token="refresh1")
    assert "access1" not in repr(tokens)
    assert "refresh1" not in repr(tokens)
    assert naps == [5, 5, 10, 10, 20, 20]
    assert provider.asked("device")[0]["scope"] == "openid x"
    for form in provider.asked("device") + provider.asked("token"):
        assert (form["client_id"], form["client_secret"]) == ("uftp-cli", "s3cret")
    assert provider.asked("token")[0]["grant_type"] == DEVICE_GRANT


@pytest.mark.parametrize(
    ("polls", "says"),
    [
        (["authorization_pending", "access_denied"], "refused in the browser"),
        (["expired_token"], "not confirmed in time"),
        (["invalid_client"], "login failed: invalid_client"),
        ([400], "status 400"),
    ],
)
async def test_device_logins_that_fail(
    provider: DeviceProvider, clock: Clock, naps: list[float], polls: list[str | int], says: str
) -> None:
    provider.polls = polls
    with pytest.raises(AuthenticationFailed, match=says):
        await log_in(provider, clock)


@pytest.mark.slow
async def test_nobody_confirms(provider: DeviceProvider, clock: Clock) -> None:
    """The deadline is the provider's, whatever it answers."""
    provider.replace["device"] = {"expires_in": 1.2, "interval": 1}
    provider.polls = ["authorization_pending"] * 100
    with pytest.raises(AuthenticationFailed, match="not confirmed in time"):
        await log_in(provider, clock)
    assert len(provider.asked("token")) == 1


@pytest.mark.parametrize(
    ("path", "members", "error", "says"),
    [
        ("configuration", {"issuer": "https://other.example.org"}, PeerBrokeProtocol, "https://other.example.org"),
        ("configuration", {"issuer": None}, PeerBrokeProtocol, "None"),
        ("configuration", {"device_authorization_endpoint": None}, UsageError, "no logins by device code"),
        ("configuration", {"device_authorization_endpoint": "http://idp.example.org/"}, PeerBrokeProtocol, "no safe"),
        ("configuration", {"device_authorization_endpoint": 7}, PeerBrokeProtocol, "no safe"),
        ("configuration", {"token_endpoint": "file:///etc/passwd"}, PeerBrokeProtocol, "no safe"),
        ("device", {"device_code": None}, PeerBrokeProtocol, "lacks the code"),
        ("device", {"user_code": 7}, PeerBrokeProtocol, "lacks the code"),
        ("token", {"token_type": "mac"}, PeerBrokeProtocol, "no bearer token"),
        ("token", {"access_token": None}, PeerBrokeProtocol, "no bearer token"),
        ("token", {"access_token": "a\r\nX: y"}, PeerBrokeProtocol, "characters no token can have"),
    ],
)
async def test_replies_that_make_no_sense(
    provider: DeviceProvider,
    clock: Clock,
    naps: list[float],
    path: str,
    members: dict[str, Any],
    error: type[UFTPError],
    says: str,
) -> None:
    provider.replace[path] = members
    with pytest.raises(error, match=says) as caught:
        await log_in(provider, clock)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("path", ["configuration", "device", "token"])
@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b"\xff", b"[" * 100_000, b" " * 1_100_000, b'{"error": "\x1b[31m"}']
)
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the HTTP library's own generators
async def test_junk(
    provider: DeviceProvider, clock: Clock, naps: list[float], path: str, body: bytes, status: int
) -> None:
    provider.raw[path] = body
    provider.status[path] = status
    with pytest.raises(UFTPError) as caught:
        await log_in(provider, clock)
    assert str(caught.value).isprintable()


async def test_a_code_is_fit_for_a_terminal(provider: DeviceProvider) -> None:
    provider.replace["device"] = {"user_code": "A\x1b[2J", "verification_uri": "https://x/\r\n\x07"}
    async with Provider(client(provider)) as talking:
        code = await talking.begin_device_login()
    assert (code.user_code + code.address).isprintable()


@pytest.mark.parametrize(("lifetime", "seconds"), [("3600", 3600), (None, 300), ("soon", 300), (-1, 300), (0, 0)])
async def test_lifetimes(
    provider: DeviceProvider, clock: Clock, naps: list[float], lifetime: object, seconds: float
) -> None:
    provider.lifetime = lifetime
    assert (await log_in(provider, clock)).expires == clock.now + seconds


async def test_a_provider_that_is_not_there(provider: DeviceProvider, clock: Clock) -> None:
    wrong = OidcClient(issuer="http://127.0.0.1:1", client_id="x")
    async with Provider(wrong) as talking:
        with pytest.raises(NetworkError, match="cannot be reached"):
            await talking.begin_device_login()
    provider.status["configuration"] = 404
    with pytest.raises(UsageError, match=r"no identity provider there .404.; check the issuer"):
        await log_in(provider, clock)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://idp.example.org/realms/x", True),
        ("http://127.0.0.1:8080/", True),
        ("http://[::1]/", True),
        ("http://localhost", True),
        ("http://idp.example.org", False),
        ("http://localhost.example.org", False),
        ("ftp://localhost", False),
        ("https://user@idp.example.org", False),
        ("https://", False),
        ("https://idp.example.org/#x", False),
        ("https://idp.example.org:port/", False),
        ("https://[", False),
        ("https://idp.example.org/\n", False),
        ("", False),
    ],
)
def test_where_tokens_may_go(url: str, safe: bool) -> None:
    assert is_safe_url(url) is safe
    if not safe:
        with pytest.raises(UsageError, match="issuer"):
            OidcClient(issuer=url, client_id="x")


async def test_revoking(provider: DeviceProvider) -> None:
    provider.valid = {"r"}
    async with Provider(client(provider)) as talking:
        provider.raw["revoke"] = b""
        assert await talking.revoke("r")
        assert provider.valid == set()
        provider.status["revoke"] = 503
        with pytest.raises(NetworkError, match="not revoked"):
            await talking.revoke("r")
    provider.replace["configuration"] = {"revocation_endpoint": None}
    async with Provider(client(provider)) as talking:
        assert not await talking.revoke("r")


# -- what is kept ---------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> LoginStore:
    return LoginStore(str(tmp_path / "state" / "logins"))


def stored(provider: DeviceProvider, clock: Clock, *, seconds: float = 300, refreshed: bool = True) -> StoredLogin:
    """A login to SERVER as the provider gave it."""
    reply = provider.tokens()
    tokens = Tokens(
        access_token=reply["access_token"],
        expires=clock.now + seconds,
        refresh_token=reply["refresh_token"] if refreshed else None,
    )
    return StoredLogin(server=SERVER, client=client(provider), tokens=tokens, name="UID=me")


def test_a_login_is_kept_for_its_owner_alone(provider: DeviceProvider, clock: Clock, store: LoginStore) -> None:
    assert store.load(SERVER) is None
    assert store.all() == []
    login = stored(provider, clock)
    previous = os.umask(0)
    try:
        store.save(login)
    finally:
        os.umask(previous)
    assert store.load(SERVER) == login
    assert store.load(SERVER + "x") is None
    directory = Path(store._directory)
    (file,) = directory.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    other = replace(login, server="https://b.example.org", client=client(provider, client_secret="s", ca="/ca.pem"))
    store.save(other)
    assert store.all() == [login, other]
    file.chmod(0o640)
    with pytest.raises(LocalFileError, match="others may read"):
        store.load(SERVER)
    assert store.all() == [other]
    assert store.forget(SERVER)
    assert not store.forget(SERVER)


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"server": 1}', "[" * 100_000, "\xff", None])
def test_files_that_are_no_logins(
    provider: DeviceProvider, clock: Clock, store: LoginStore, tmp_path: Path, content: str | None
) -> None:
    store.save(stored(provider, clock))
    (file,) = Path(store._directory).iterdir()
    if content is None:
        document = json.loads(file.read_text())
        content = json.dumps(document | {"refresh_token": 7})
    file.write_text(content, "latin-1")
    with pytest.raises(LocalFileError, match="remove it and log in again"):
        store.load(SERVER)
    target = tmp_path / "elsewhere"
    file.rename(target)
    file.symlink_to(target)
    with pytest.raises(LocalFileError, match="cannot read"):
        store.load(SERVER)


def test_a_login_that_cannot_be_written_leaves_the_old_one(
    provider: DeviceProvider, clock: Clock, store: LoginStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = stored(provider, clock)
    store.save(old)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LocalFileError, match="No space left"):
        store.save(stored(provider, clock))
    monkeypatch.undo()
    assert store.load(SERVER) == old
    assert len(list(Path(store._directory).iterdir())) == 1


async def test_a_token_is_refreshed_before_it_ends(provider: DeviceProvider, clock: Clock, store: LoginStore) -> None:
    store.save(stored(provider, clock))
    login = OidcLogin(SERVER, store, clock=clock)
    assert await login.authorization() == "Bearer access1"
    clock.now += 241
    assert await login.authorization() == "Bearer access2"
    assert await login.authorization() == "Bearer access2"
    kept = store.load(SERVER)
    assert kept is not None
    assert (kept.tokens.access_token, kept.tokens.refresh_token) == ("access2", "refresh2")
    assert kept.name == "UID=me"
    assert provider.asked("token") == [
        {"client_id": "uftp-cli", "grant_type": "refresh_token", "refresh_token": "refresh1"}
    ]
    assert await login.renew("Bearer access1"), "another is in use already"
    assert await login.renew("Bearer access2")
    assert await login.authorization() == "Bearer access3"


async def test_a_provider_that_keeps_the_refresh_token(
    provider: DeviceProvider, clock: Clock, store: LoginStore
) -> None:
    provider.rotates = False
    store.save(stored(provider, clock, seconds=0))
    for number in (2, 3):
        assert await OidcLogin(SERVER, store, clock=clock).authorization() == f"Bearer access{number}"
        clock.now += 300
    assert not provider.stolen


async def test_logins_that_have_ended(provider: DeviceProvider, clock: Clock, store: LoginStore) -> None:
    with pytest.raises(AuthenticationFailed, match=f"not logged in at {SERVER}; `uftp login {SERVER}/rest/auth`"):
        await OidcLogin(SERVER, store, clock=clock).authorization()
    store.save(stored(provider, clock, refreshed=False))
    login = OidcLogin(SERVER, store, clock=clock)
    clock.now += 299
    assert await login.authorization() == "Bearer access1"
    assert not await login.renew("Bearer access1")
    clock.now += 2
    with pytest.raises(LoginEnded, match="has ended; `uftp login"):
        await login.authorization()
    store.save(stored(provider, clock, seconds=0))
    provider.valid.clear()
    with pytest.raises(LoginEnded, match="Token is not active; `uftp login"):
        await OidcLogin(SERVER, store, clock=clock).authorization()


async def test_a_provider_that_is_away(provider: DeviceProvider, clock: Clock, store: LoginStore) -> None:
    """A token that is still good is used; one that is not gives an error to try again, and the login stays."""
    store.save(stored(provider, clock, seconds=30))
    provider.status["token"] = 503
    login = OidcLogin(SERVER, store, clock=clock)
    assert await login.authorization() == "Bearer access1"
    assert not await login.renew("Bearer access1")
    clock.now += 31
    with pytest.raises(NetworkError, match="no fresh token just now"):
        await login.authorization()
    provider.status.clear()
    provider.valid.add("refresh1")  # what it answered was 503, not that the token is used up
    assert (await login.authorization()).startswith("Bearer access")


async def test_a_full_disk_does_not_end_a_copy(
    provider: DeviceProvider,
    clock: Clock,
    store: LoginStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store.save(stored(provider, clock, seconds=0))
    login = OidcLogin(SERVER, store, clock=clock)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for number in (2, 3):
        assert await login.authorization() == f"Bearer access{number}"
        clock.now += 300
    assert "No space left on device; log in again after this command" in caplog.text
    monkeypatch.undo()
    assert await login.authorization() == "Bearer access4"
    kept = store.load(SERVER)
    assert kept is not None
    assert kept.tokens.refresh_token == "refresh4"
    assert not provider.stolen


_PROCESS = """
import sys, trio
from uftp.client.login_store import LoginStore
from uftp.client.oidc_login import OidcLogin
login = OidcLogin(sys.argv[1], LoginStore(sys.argv[2]))
sys.stdin.readline()
print(trio.run(login.authorization))
"""


@pytest.mark.slow
def test_processes_do_not_refresh_at_once(provider: DeviceProvider, store: LoginStore) -> None:
    """A provider that rotates takes a second use of the same refresh token for theft."""
    store.save(stored(provider, Clock(), seconds=0))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, SERVER, store._directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = {process.communicate(timeout=60)[0].strip() for process in processes}
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert said == {"Bearer access2"}
    assert not provider.stolen
    assert len(provider.asked("token")) == 1


async def test_a_lock_that_is_never_given_up(store: LoginStore, autojump_clock: trio.testing.MockClock) -> None:
    async with store.locked(SERVER):
        with pytest.raises(TimedOut, match="another uftp"):
            async with LoginStore(store._directory).locked(SERVER):
                raise AssertionError("two have the lock")
    async with store.locked(SERVER):
        pass
