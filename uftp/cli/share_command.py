"""`uftp share`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from uftp.cli.lifetimes import parse_lifetime, show_lifetime
from uftp.cli.output import print_json, print_name
from uftp.cli.runner import one_line, run_async
from uftp.cli.settings import Settings, ask_secret, common_options, first_line
from uftp.client.url import RemoteUrl, is_url, parse_url
from uftp.errors import NotFound, PeerBrokeProtocol, UsageError

if TYPE_CHECKING:
    from uftp.client.session import FTPSession
    from uftp.client.sharing import Wish

SERVER_VARIABLE: Final = "UFTP_SHARE_URL"

_ANYBODY: Final = ("anybody", "anonymous")
_NEVER: Final = ("never", "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command's own options as given."""

    server: str | None
    grantee: str | None
    list: bool
    raw: bool
    update: str | None
    delete: bool
    revoke: str | None
    stop: bool
    write: bool
    one_time: bool
    lifetime: str | None
    downloads: int | None
    link_password: bool
    link_password_file: str | None
    qr: bool


@click.command()
@click.argument("place", metavar="[PLACE]", required=False)
@click.option("-s", "--server", metavar="URL", help=f"The server, if PLACE is a path alone; else {SERVER_VARIABLE}.")
@click.option("-a", "--access", "grantee", metavar="DN", help="Share with this person, not with all who have the link.")
@click.option("-w", "--write", is_flag=True, help="Allow to write, too. Needs -a; `-a anybody` if you mean it.")
@click.option("-1", "--one-time", is_flag=True, help="The share ends once it was fetched.")
@click.option("-L", "--lifetime", metavar="TIME", help="How long it lasts: 3600, 90m, 12h, 7d, or never.")
@click.option("-N", "--downloads", metavar="N", type=click.IntRange(min=1), help="How many downloads there may be.")
@click.option("--link-password", is_flag=True, help="Ask for a password that is needed with the link.")
@click.option("--link-password-file", metavar="FILE", help="Take that password from the first line of FILE.")
@click.option("--qr", is_flag=True, help="Show the link as a QR code, too.")
@click.option("-l", "--list", is_flag=True, help="List what you share, and what is shared with you.")
@click.option("-R", "--raw", is_flag=True, help="With -l: JSON as the server sends it.")
@click.option("-U", "--update", metavar="ID", help="Change path, lifetime, password or downloads of a share.")
@click.option("-d", "--delete", is_flag=True, help="Withdraw all shares of PLACE.")
@click.option("-r", "--revoke", metavar="ID", help="Withdraw one share.")
@click.option("--stop", is_flag=True, help="With -r: end what is being fetched by it, too.")
@common_options
def command(settings: Settings, place: str | None, **values: Any) -> None:
    """Share a file or directory by a link: for browsers, curl, wget and uftp get-share.

    Whoever has the link can fetch it, with your rights, until the share ends; with -a only that person, logged in.
    PLACE is like in other commands, or an absolute path on the server of -s.

    \b
    Examples:
      uftp share https://auth.example.org:9000/rest/auth/CLUSTER:/data/results.tar
      uftp share -L 7d --qr juelich:runs/
      uftp share -a "CN=Jane,O=Example" -w juelich:exchange/
      uftp share -l juelich:
      uftp share -r G9H5R3UE6MTxxxxxxxxxxxxx --stop juelich:
    """
    options = Options(**values)
    _check(options, place)
    url = _find_place(settings, options, place)
    run_async(settings, lambda: _run(settings, options, url, named=place is not None))


def _check(options: Options, place: str | None) -> None:
    doing = [
        word
        for word, given in (
            ("--list", options.list),
            ("--update", options.update is not None),
            ("--delete", options.delete),
            ("--revoke", options.revoke is not None),
        )
        if given
    ]
    if len(doing) > 1:
        raise UsageError(f"{' and '.join(doing)} are different things; give one of them")
    if options.write and options.delete:
        raise UsageError("--write and --delete exclude each other")
    if options.write and not doing and options.grantee is None:
        raise UsageError("--write needs --access; if everybody with the link is to write there: --access anybody")
    if options.raw and not options.list:
        raise UsageError("--raw is for --list; --json works everywhere")
    if options.stop and options.revoke is None:
        raise UsageError("--stop is for --revoke")
    if options.link_password and options.link_password_file is not None:
        raise UsageError("--link-password and --link-password-file exclude each other")
    if not doing and place is None:
        raise UsageError("what is to be shared? Name a place, or see what you share with --list")
    if options.delete and place is None:
        raise UsageError("--delete: the shares of which place? --revoke ID withdraws a single one")


def _find_place(settings: Settings, options: Options, place: str | None) -> RemoteUrl:
    """The server, and the path on it.

    Raises:
        UsageError: no server is named, or this is none that can share.
    """
    server = options.server or os.environ.get(SERVER_VARIABLE)
    if place is not None:
        text = settings.expand_server(place) if place.endswith(":") else settings.expand(place, or_path=True)
        if is_url(text):
            return _of_auth_server(text)
        if server is None:
            raise UsageError(f"{place}: on which server? Give a URL, ENDPOINT:path, or the server with -s")
        found = _of_auth_server(settings.expand_server(server))
        return found.with_path(os.fsencode(text))
    if server is None:
        raise UsageError(f"which server? Name one, as ENDPOINT: or a URL, or with -s or {SERVER_VARIABLE}")
    return _of_auth_server(settings.expand_server(server))


def _of_auth_server(text: str) -> RemoteUrl:
    # Other clients are given the URL of the service for shares.
    url = parse_url(re.sub(r"^(https?://[^:]*(?::[0-9]+)?[^:]*)/rest/share/", r"\1/rest/auth/", text, count=1))
    if url.kind != "auth":
        raise UsageError(f"{url.service}: this is no server of one's own; use https://HOST:PORT/rest/auth/NAME")
    return url


async def _run(settings: Settings, options: Options, url: RemoteUrl, *, named: bool) -> None:
    from uftp.client.auth import AuthServer
    from uftp.client.sharing import Sharing

    access = settings.access(url)
    async with AuthServer(access.credential, access.http) as auth:
        sharing = Sharing(auth, url)
        if options.list:
            _print_list(settings, await sharing.list(), raw=options.raw)
        elif options.revoke is not None:
            # Servers answer the same whether or not there was one, and somebody must learn that they mistyped it.
            await sharing.show(options.revoke)
            await sharing.remove(options.revoke, stop=options.stop)
        elif options.delete:
            before = _ids(await sharing.list())
            await sharing.end_all(await _absolute(settings, url))
            if not before - _ids(await sharing.list()):
                raise NotFound(f"{url.display()}: you do not share it; `uftp share --list` shows what you share")
        elif options.update is not None:
            changes = await _changes(settings, options, url, named=named)
            _print_share(settings, options, await sharing.update(options.update, changes))
        else:
            share = await sharing.make(await _wish(settings, options, url))
            _print_share(settings, options, share)


def _ids(listed: Mapping[str, Any]) -> set[str]:
    return {str(entry.get("id")) for entry in _entries(listed, "shares")}


async def _wish(settings: Settings, options: Options, url: RemoteUrl) -> Wish:
    from uftp.client.sharing import ANYBODY, Wish

    user = options.grantee or ANYBODY
    never = options.lifetime is None or options.lifetime.lower() in _NEVER
    return Wish(
        path=await _absolute(settings, url),
        user=ANYBODY if user.lower() in _ANYBODY else user,
        write=options.write,
        one_time=options.one_time,
        lifetime=None if never else parse_lifetime(str(options.lifetime)),
        group=settings.group,
        password=await _link_password(options),
        downloads=options.downloads,
    )


async def _changes(settings: Settings, options: Options, url: RemoteUrl, *, named: bool) -> dict[str, object]:
    for word, given in (("--access", options.grantee), ("--write", options.write), ("--one-time", options.one_time)):
        if given:
            raise UsageError(f"{word} cannot be changed; make another share, and withdraw this one")
    changes: dict[str, object] = {}
    if named and url.path:
        changes["path"] = await _absolute(settings, url)
    if options.lifetime is not None:
        changes["lifetime"] = 0 if options.lifetime.lower() in _NEVER else parse_lifetime(options.lifetime)
    if options.downloads is not None:
        changes["maxDownloads"] = options.downloads
    password = await _link_password(options)
    if password is not None:
        changes["password"] = password
    if not changes:
        raise UsageError("--update: what is to change? Name a new place, or give --lifetime, --downloads, a password")
    return changes


async def _link_password(options: Options) -> str | None:
    if options.link_password:
        password = await ask_secret("Password for the link: ")
    elif options.link_password_file is not None:
        password = first_line(options.link_password_file)
    else:
        return None
    if not password and options.update is None:
        # To the server it means that there is none.
        raise UsageError("the password for the link is empty; leave the option out if there is to be none")
    return password


async def _absolute(settings: Settings, url: RemoteUrl) -> str:
    """The path as the server needs it: from the root, not from the home directory."""
    path = url.path
    if url.pattern is not None:
        raise UsageError(f"{url.display()}: wildcards do not work here; share the directory, or each file")
    if not path.startswith(b"/"):
        from uftp.client.connect import Connector

        access = settings.access(url)
        connector = Connector(
            url,
            access.credential,
            directory=b"",
            http=access.http,
            options=access.session,
            client=access.client,
            group=access.group,
        )
        async with connector, await connector.open() as session:
            home = await _working_directory(session)
        path = home.rstrip(b"/") + b"/" + path
    try:
        return path.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{url.display()}: a name that is not UTF-8 cannot be shared") from None


async def _working_directory(session: FTPSession) -> bytes:
    from uftp.protocol.names import pct_decode, unquote

    async with session.control.dialogue():
        reply = await session.control.command(b"PWD")
    found = unquote(reply.lines[-1]) if reply.code == 257 else None
    if found and session.dialect.kind == "ours":
        found = pct_decode(found)
    if not found or not found.startswith(b"/"):
        raise PeerBrokeProtocol(f"{session.name}: it does not say where the home directory is; use an absolute path")
    return found


# -- output -------------------------------------------------------------------------------------------------------


def _print_share(settings: Settings, options: Options, share: Mapping[str, Any]) -> None:
    link = share.get("http")
    if not isinstance(link, str) or not link.isprintable():
        raise PeerBrokeProtocol("the server's reply has no link")
    if settings.json:
        print_json({"type": "share", **share})
    else:
        click.echo(link)
    if options.qr:
        _print_qr(link)
    if settings.verbose:
        click.echo(one_line(f"uftp: {_in_words(share)}"), err=True)


def _print_qr(link: str) -> None:
    import sys

    import segno

    segno.make(link, error="m", micro=False).terminal(out=sys.stdout, compact=True)


def _in_words(share: Mapping[str, Any]) -> str:
    ends = share.get("lifetime")
    words = [
        f"{share.get('path')} for {_grantee(share.get('user'))}",
        str(share.get("access", "")).lower(),
        f"ends in {show_lifetime(ends)}" if isinstance(ends, int) else "never ends",
    ]
    words += ["one time only"] if share.get("onetime") else []
    words += [f"{share['maxDownloads']} downloads"] if share.get("maxDownloads") else []
    words += ["with a password"] if share.get("password") else []
    return ", ".join(words)


def _grantee(user: object) -> str:
    from uftp.client.sharing import ANYBODY

    text = str(user or "")
    return "anybody" if text.lower().replace(" ", "") == ANYBODY.lower() else text


def _print_list(settings: Settings, reply: Mapping[str, Any], *, raw: bool) -> None:
    if raw:
        click.echo(json.dumps(reply, indent=2))
        return
    mine, for_me = _entries(reply, "shares"), _entries(reply, "accessible")
    if settings.json:
        for kind, entries in (("share", mine), ("accessible", for_me)):
            for entry in entries:
                print_json({"type": kind, **entry})
        return
    rows = [("ID", "ACCESS", "USED", "ENDS", "FOR", "PATH")]
    rows += [
        (
            str(entry.get("id", "")),
            str(entry.get("access", "")).lower() + ("!" if entry.get("onetime") in (True, "true") else ""),
            str(entry.get("accessCount", "")),
            show_lifetime(entry["lifetime"]) if isinstance(entry.get("lifetime"), int) else "never",
            _grantee(entry.get("user")),
            str(entry.get("path", "")),
        )
        for entry in mine
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows if mine else []:
        print_name("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]]))
    for entry in for_me:
        print_name(f"{entry.get('http', '')}  from {entry.get('owner', '')}: {entry.get('path', '')}")
    if not mine and not for_me and not settings.quiet:
        click.echo("uftp: nothing is shared", err=True)


def _entries(reply: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = reply.get(name, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise PeerBrokeProtocol(f"the server's reply has no list of {name}")
    return found
