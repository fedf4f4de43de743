"""What an auth server gets to log in at another one in somebody's name: a token if it can be, or else a password."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import pytest
from scripted_rest import Asked, Scripted, scripted

from uftp.cli.settings import Settings
from uftp.cli.side_options import SideOptions
from uftp.cli.transfer_sides import Logins, Manager, credential_for
from uftp.client.url import parse_url
from uftp.errors import AuthenticationFailed, NetworkError, Refused

MANAGER = Manager(parse_url("https://manager.example/rest/auth/X:/"))
WEEK = str(7 * 86400)


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted() as running:
        yield running


def answering(token: tuple[int, object], info: tuple[int, object] = (200, {})) -> object:
    return lambda asked: token if asked.path.endswith("/token") else info


async def get(server: Scripted, *, lifetime: str | None = None, store: bool = False, **options: object) -> object:
    """The credential for the source, of somebody who gives these options of the side."""
    given = {name.name: None for name in fields(Settings) if not name.name.startswith("_")}
    flags = dict.fromkeys(("ask_password", "ipv4", "ipv6", "verbose", "quiet", "json", "debug"), False)
    settings = Settings(**{**given, **flags, "insecure": True, "user": "manager:other"})  # type: ignore[arg-type]
    side = SideOptions(**(options or {"user": "jo:pass:word"}))  # type: ignore[arg-type]
    logins = Logins(source=side, target=SideOptions(), lifetime=lifetime, store_password=store)
    url = parse_url(f"http://127.0.0.1:{server.port}/rest/auth/TEST:/x")
    return await credential_for(settings, MANAGER, url, "source", logins)


def lifetimes(server: Scripted) -> list[str]:
    return [asked.query.get("lifetime", "") for asked in server.asked if asked.path.endswith("/token")]


async def test_a_token_is_good_there_only_and_for_a_week(server: Scripted) -> None:
    server.answers = [(200, b"a.b.c")]
    assert await get(server) == {"token": "a.b.c"}
    [asked] = server.asked
    assert asked.query == {"lifetime": WEEK, "renewable": "true", "limited": "true"}
    assert asked.headers["authorization"] == "Basic am86cGFzczp3b3Jk"  # jo, not who one is at the manager


async def test_a_server_that_grants_less_is_asked_for_less(server: Scripted) -> None:
    def answer(asked: Asked) -> tuple[int, object]:
        long = int(asked.query.get("lifetime", "0")) > 7200
        return (400, {"errorMessage": "lifetime: 1 to 7200 seconds"}) if long else (200, b"a.b.c")

    server.answer = answer
    assert await get(server) == {"token": "a.b.c"}
    assert lifetimes(server) == [WEEK, "86400", "3600"]
    server.asked.clear()
    with pytest.raises(Refused, match="1 to 7200"):
        await get(server, lifetime="12h")
    assert lifetimes(server) == ["43200"]


NO_TOKENS = (403, {"errorMessage": "This server issues no tokens"})


@pytest.mark.parametrize("refusal", [NO_TOKENS, (404, {"errorMessage": "no such thing"})])
async def test_a_password_is_left_only_if_somebody_says_so(server: Scripted, refusal: tuple[int, object]) -> None:
    server.answer = answering(refusal)  # type: ignore[assignment]
    with pytest.raises(Refused, match="--store-password") as caught:
        await get(server)
    assert "pass:word" not in str(caught.value)
    assert await get(server, store=True) == {"username": "jo", "password": "pass:word"}


async def test_a_token_that_was_given_is_used_itself_where_there_is_no_other(server: Scripted) -> None:
    server.answer = answering(NO_TOKENS)  # type: ignore[assignment]
    assert await get(server, token="x.y.z") == {"token": "x.y.z"}


async def test_wrong_credentials_are_not_left_anywhere(server: Scripted) -> None:
    wrong = (403, {"errorMessage": "Authentication failed: wrong or missing credentials"})
    server.answer = answering(wrong, wrong)  # type: ignore[assignment]
    with pytest.raises(AuthenticationFailed, match="wrong or missing"):
        await get(server, store=True)


@pytest.mark.parametrize(("status", "error"), [(503, NetworkError), (500, Refused)])
async def test_a_server_that_fails_is_no_reason_to_leave_a_password(
    server: Scripted, status: int, error: type[Exception]
) -> None:
    server.answer = answering((status, {"errorMessage": "later"}))  # type: ignore[assignment]
    with pytest.raises(error, match="later"):
        await get(server, store=True)
