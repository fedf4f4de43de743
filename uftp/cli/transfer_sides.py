"""Which auth server looks after a transfer, and what it needs to log in at that of the other side.

The places of the server that looks after it need nothing but one's own login there. Elsewhere it has to show something
in one's name, perhaps hours later: a token of that server, got here with one's own credentials and good there only, so
that neither key nor password leaves this machine. A password is left there only if somebody says so.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from uftp.cli.runner import one_line
from uftp.cli.settings import Settings
from uftp.cli.side_options import Side, SideOptions, click_options, take
from uftp.client.managed import checked_id
from uftp.client.url import RemoteUrl, is_url, parse_url
from uftp.errors import AuthenticationFailed, NotFound, Refused, UsageError

if TYPE_CHECKING:
    from uftp.client.auth import AuthServer

F = TypeVar("F", bound=Callable[..., Any])

SERVER_VARIABLE: Final = "UFTP_TRANSFER_URL"

_REFERENCE = re.compile(r"(?P<site>https?://.+)/rest/transfers/(?P<id>[^/:]*)/?", re.IGNORECASE)
_HTTPS = re.compile(r"https://[^/]+(/.*)?", re.IGNORECASE | re.DOTALL)
_LINK = re.compile(r"https://[^/]+(/[^:]*)?/rest/access/[^/:]+/[\w-]+([/:].*)?", re.IGNORECASE | re.DOTALL)
# A transfer may wait for days; None is what the server thinks best, which may be minutes.
_LIFETIMES: Final = (7 * 86400, 86400, 3600, None)
_BAD_REQUEST: Final = 400
_SERVER_FAILED: Final = 500
_SIGNED: Final = ("SSHKEY",)  # logins by a token made for one request


@dataclass(frozen=True, slots=True, kw_only=True)
class Logins:
    """The options of both sides as given.

    Attributes:
        source, target: of each.
        lifetime: how long tokens got for the transfer are to be good, as typed; None for a week or what there is.
        store_password: whether a password may be left with the server that looks after the transfer.
    """

    source: SideOptions
    target: SideOptions
    lifetime: str | None
    store_password: bool

    def of(self, side: Side) -> SideOptions:
        """Those of one."""
        return self.source if side == "source" else self.target


_OPTIONS = [
    *click_options("source"),
    *click_options("target"),
    click.option(
        "--login-lifetime", metavar="TIME", help="How long tokens got for the transfer are good, unless they are "
        "renewed: 12h, 7d; up to a week if not given."
    ),
    click.option(
        "--store-password", is_flag=True, help="Where there are no tokens, leave the password with the server."
    ),
]  # fmt: skip


def login_options(function: F) -> F:
    """Give a command these options; it gets them as `logins`, a `Logins`."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **values: Any) -> Any:
        logins = Logins(
            source=take("source", values),
            target=take("target", values),
            lifetime=values.pop("login_lifetime"),
            store_password=values.pop("store_password"),
        )
        return function(*arguments, logins=logins, **values)

    decorated: Any = wrapped
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


# -- which server ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Manager:
    """An auth server that looks after transfers.

    Attributes:
        place: there; its path does not matter.
        endpoint: name it was reached by; empty if by a URL.
    """

    place: RemoteUrl
    endpoint: str = ""

    @classmethod
    def named(cls, settings: Settings, text: str) -> Manager:
        """From an endpoint's name or a URL as typed.

        Raises:
            UsageError: it is no auth server.
        """
        place = parse_url(_of_auth_server(settings.expand_server(text)), need_server=False)
        if place.kind == "ftp":
            raise UsageError(f"{place.service}: an FTP server runs no transfers; name an auth server")
        return cls(place, "" if is_url(text) else text.partition(":")[0])

    def reference(self, transfer_id: str) -> str:
        """What names a transfer there in other commands."""
        if self.endpoint:
            return f"{self.endpoint}:{transfer_id}"
        return f"{self.place.info_url.removesuffix('/auth')}/transfers/{transfer_id}"


def _of_auth_server(text: str) -> str:
    # People paste what they have: the resource of the transfers is a name of the server, too.
    return re.sub(r"^(https?://[^:]+(?::[0-9]+)?[^:]*)/rest/transfers(/[\w-]*)?/?$", r"\1/rest/auth", text)


def find_manager(settings: Settings, at: str | None) -> Manager:
    """The server that was named, or that of the variable.

    Raises:
        UsageError: none was.
    """
    text = at or os.environ.get(SERVER_VARIABLE)
    if text is None:
        raise UsageError(f"at which auth server? Name it, as ENDPOINT or a URL, with --at or in {SERVER_VARIABLE}")
    return Manager.named(settings, text)


def find_transfer(settings: Settings, text: str, at: str | None) -> tuple[Manager, str]:
    """The server and the id a transfer is meant by: its URL, `ENDPOINT:ID`, or an id alone.

    Raises:
        UsageError: it is none of these, or no server is known.
    """
    match = _REFERENCE.fullmatch(text)
    if match is not None:
        return Manager.named(settings, f"{match['site']}/rest/auth"), checked_id(match["id"])
    if is_url(text):
        raise UsageError(f"{text}: not the URL of a transfer; they look like https://HOST:PORT/rest/transfers/ID")
    endpoint, colon, rest = text.rpartition(":")
    if colon:
        return Manager.named(settings, endpoint), checked_id(rest)
    return find_manager(settings, at), checked_id(text)


# -- places ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where files come from, or go to.

    Attributes:
        text: as typed, an endpoint's name replaced by its URL.
        url: on a server; None for any other https URL.
        endpoint: name it was reached by; empty if by a URL.
    """

    text: str
    url: RemoteUrl | None
    endpoint: str = ""

    @property
    def server(self) -> str:
        """The auth server one has to log in at; empty where a link is enough."""
        return self.url.info_url if self.url is not None and self.url.kind == "auth" else ""

    def said_to(self, manager: Manager) -> str:
        """How it is named to the server that looks after the transfer."""
        if self.url is None or self.url.kind != "auth":
            return self.text
        shown = self.url.display()
        return shown[len(self.url.service) - len(self.url.server) :] if self.is_own(manager) else shown

    def is_own(self, manager: Manager) -> bool:
        """Whether it is a place of that server."""
        return self.server == manager.place.info_url


def read_place(settings: Settings, text: str, side: Side) -> Place:
    """A source or target as typed.

    Raises:
        UsageError: a managed transfer cannot copy from or to there.
    """
    expanded = settings.expand(text)
    name = "" if expanded == text else text.partition(":")[0]
    if expanded.lower().startswith("http:"):
        raise UsageError(f"{text}: http is not protected on the way; only https URLs can be transferred")
    if expanded.lower().startswith("ftp:"):
        raise UsageError(f"{text}: an FTP server has no auth server; `uftp cp` copies from and to it")
    if not is_url(expanded):
        raise UsageError(f"{text}: a file here; `uftp cp` copies it. A transfer goes from one server to another")
    if _LINK.fullmatch(expanded) is not None:
        if side == "target":
            raise UsageError(f"{text}: a transfer cannot copy to a share; name a place on a server you log in at")
    else:
        try:
            return Place(expanded, parse_url(expanded), name)
        except UsageError:
            if side == "target" or "/rest/auth" in expanded or not _HTTPS.fullmatch(expanded):
                raise
            return Place(expanded, None, name)
    return Place(expanded, None, name)


def choose_manager(settings: Settings, sources: Sequence[Place], target: Place, at: str | None) -> Manager:
    """The server that is to look after a transfer: the one named, else that of the target, else that of a source.

    Raises:
        UsageError: no auth server is among them.
    """
    if at is not None or SERVER_VARIABLE in os.environ:
        return find_manager(settings, at)
    for place in (target, *sources):
        if place.url is not None and place.server:
            return Manager(place.url, place.endpoint)
    raise UsageError("neither target nor source is a server one logs in at; name an auth server with --at")


# -- credentials ----------------------------------------------------------------------------------------------------


async def gather_credentials(
    settings: Settings, manager: Manager, sources: Sequence[Place], target: Place, logins: Logins
) -> dict[str, dict[str, str]]:
    """What the server needs to log in elsewhere, got from there.

    Returns:
        By side; nothing for sides that need nothing.

    Raises:
        UsageError: an option for a side that needs no login, or sources of several other auth servers.
        UFTPError: no token can be had.
    """
    found: dict[str, dict[str, str]] = {}
    groups: tuple[tuple[Side, Sequence[Place]], ...] = (("source", sources), ("target", [target]))
    for side, places in groups:
        options = logins.of(side)
        # A link may be for certain people; only somebody who names a login needs one for it.
        foreign = [place for place in places if place.url is not None and place.server and not place.is_own(manager)]
        servers = {place.server for place in foreign}
        if len(servers) > 1:
            raise UsageError(f"sources of {len(servers)} other auth servers; submit a transfer for each")
        if foreign:
            assert foreign[0].url is not None  # noqa: S101 -- for the type checker
            found[side] = await credential_for(settings, manager, foreign[0].url, side, logins)
        elif options.has_any and not any(place.is_own(manager) for place in places):
            raise UsageError(f"--{side}-...: the {side} is no place one logs in at")
    return found


def manager_settings(
    settings: Settings, manager: Manager, sources: Sequence[Place], target: Place, logins: Logins
) -> Settings:
    """The settings for logins at the server that looks after a transfer: a side that belongs to it says who one is.

    Raises:
        UsageError: both sides do, and do not say the same.
    """
    sides: tuple[tuple[Side, Sequence[Place]], ...] = (("source", sources), ("target", [target]))
    own = [logins.of(side) for side, places in sides if any(place.is_own(manager) for place in places)]
    said = {options for options in own if options.has_any}
    if len(said) > 1:
        raise UsageError(
            f"--source-... and --target-...: both sides are at {manager.place.info_url}, where one login is for both"
        )
    return said.pop().over(settings) if said else settings


async def credential_for(
    settings: Settings, manager: Manager, url: RemoteUrl, side: Side, logins: Logins
) -> dict[str, str]:
    """What the server `manager` can show at the auth server of `url`: a token of that one, if it gives any.

    Raises:
        UFTPError: there is none, and nothing else that may be shown.
    """
    from uftp.cli.lifetimes import parse_lifetime
    from uftp.client.auth import AuthServer

    lifetimes = _LIFETIMES if logins.lifetime is None else (parse_lifetime(logins.lifetime),)
    access = logins.of(side).over(settings).access(url)
    async with AuthServer(access.credential, access.http) as auth:
        try:
            token = await _longest_token(auth, url, lifetimes)
        except (AuthenticationFailed, NotFound, Refused) as error:
            code = getattr(error, "code", None) or 0
            if code == _BAD_REQUEST or code >= _SERVER_FAILED:
                raise  # it gives tokens, but not this one, or not now
            # It may let one in all the same: an older server, or one that cannot sign, or a token that gives no other.
            try:
                await auth.info(url.info_url)
            except AuthenticationFailed:
                raise error from None
            header = await access.credential.authorization()
            return await _shown_itself(header, access.credential.method, manager, url, logins, error)
    return {"token": token}


async def _longest_token(auth: AuthServer, url: RemoteUrl, lifetimes: Sequence[int | None]) -> str:
    """A token with the first of the lifetimes that its server grants."""
    for lifetime in lifetimes[:-1]:
        try:
            return await auth.issue_token(url.info_url, lifetime=lifetime, renewable=True, limited=True)
        except Refused as error:
            if error.code != _BAD_REQUEST:
                raise
    return await auth.issue_token(url.info_url, lifetime=lifetimes[-1], renewable=True, limited=True)


async def _shown_itself(
    header: str | None, method: str, manager: Manager, url: RemoteUrl, logins: Logins, error: Exception
) -> dict[str, str]:
    """The credential itself, where there is no token to be had for it."""
    import base64

    scheme, _, value = (header or "").partition(" ")
    match scheme.lower():
        case "bearer" if method not in _SIGNED:
            return {"token": value}
        case "bearer":
            raise Refused(
                f"{url.info_url} gives no tokens, and what is signed with a key is good for some minutes only; "
                "log in there in another way"
            ) from error
        case "basic":
            user, _, password = base64.b64decode(value).decode("utf-8", "surrogateescape").partition(":")
            if not logins.store_password:
                await _ask_to_store(user, manager, url)
            return {"username": user, "password": password}
        case _:
            raise error


async def _ask_to_store(user: str, manager: Manager, url: RemoteUrl) -> None:
    """Have somebody say that a password may be left with a server.

    Raises:
        Refused: nobody does.
    """
    why = f"{url.info_url} gives no tokens, so the transfer would need the password of {user} itself"
    if sys.stdin.isatty():
        import trio

        question = one_line(f"{why}. Leave it, encrypted, with {manager.place.info_url} until the transfer ends?")
        if await trio.to_thread.run_sync(lambda: click.confirm(question, err=True), abandon_on_cancel=True):
            return
        raise Refused(f"{why}; it is not left there")
    raise Refused(f"{why}; allow that with --store-password")


def mentioned(credentials: Mapping[str, Mapping[str, str]]) -> str:
    """Which sides have got a login of their own, for a note; empty if none has."""
    kinds = {side: "password" if "password" in given else "token" for side, given in credentials.items()}
    return ", ".join(f"a {kind} for the {side}" for side, kind in kinds.items())
