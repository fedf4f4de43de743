"""Fetches an https URL, or what the link of a share leads to, for a server that somebody has told to.

Connects only where it may (`uftp.client.vetted_http`). A directory of a share comes as a tree.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from uftp.client.auth import HttpOptions
from uftp.client.share_link import Facts, ShareClient, ShareLink, name_in, parse_link, safe_name
from uftp.client.vetted_http import Admit, open_vetted_client
from uftp.client.wording import printable
from uftp.errors import LocalFileError, Refused, UFTPError, UsageError
from uftp.transfer.http_part import Place
from uftp.transfer.local import local_error
from uftp.transfer.options import CopyOptions
from uftp.transfer.plan import join
from uftp.transfer.results import CopyState, FileResult
from uftp.transfer.share_download import (
    CONNECTIONS,
    TREE_CONNECTIONS,
    FetchOptions,
    HttpFile,
    ShareDownload,
    open_target,
)

if TYPE_CHECKING:
    import httpx2

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_DESCRIPTOR: Final = re.compile(rb"/proc/self/fd/([0-9]{1,9})/([^/]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """What is fetched.

    Attributes:
        url: where from.
        local, exact, local_name, options, resume: as of `uftp.transfer.server_copy.ServerCopy`.
        keep: asked when it ends early: whether what a later one can go on with stays.
    """

    url: str
    local: bytes
    exact: bool
    local_name: bytes | None
    options: CopyOptions
    resume: bool
    keep: Callable[[], bool]

    @property
    def shown(self) -> str:
        """The URL for messages: what stands behind `?` may be secret."""
        return printable(self.url.partition("?")[0].partition("#")[0])

    @property
    def local_shown(self) -> str:
        """The target for messages."""
        return os.fsdecode(self.local_name or self.local)


async def fetch(wanted: Fetch, state: CopyState, admit: Admit, tls: ssl.SSLContext | None) -> None:
    """Fetch it.

    Args:
        wanted: what.
        state: totals to watch, and who is told of results.
        admit: which addresses may be connected to.
        tls: whom to trust; None for the system's authorities.

    Raises:
        UFTPError: nothing could be fetched.
    """
    _check(wanted)
    options = wanted.options
    connections = options.threads or CONNECTIONS
    how = FetchOptions(
        connections=connections,
        resume=wanted.resume,
        retries=options.retries,
        keep=wanted.keep,
        verify=options.verify,
        preserve=options.preserve,
        limit_rate=options.limit_rate,
    )
    http = open_vetted_client(admit, tls=tls)
    async with ShareClient(None, HttpOptions(), http=http) as client:
        download = ShareDownload(client, state, how)
        try:
            link = parse_link(wanted.url)
        except UsageError:
            await _fetch_file(wanted, client, download, state)
            return
        async with client.look(link) as (facts, answer):
            state.sessions += 1
            if facts.entry.directory:
                await _fetch_tree(wanted, link, facts, download, state)
            else:
                await _fetch_shared(wanted, facts, answer, download, state)


def _check(wanted: Fetch) -> None:
    if wanted.options.byte_range is not None:
        raise UsageError(f"{wanted.shown}: of a URL all is fetched, not a part")
    if not wanted.url.lower().startswith("https://"):
        raise UsageError(f"{wanted.shown}: not an https URL")
    if "@" in urllib.parse.urlsplit(wanted.url).netloc:
        host = urllib.parse.urlsplit(wanted.url).hostname
        raise UsageError(f"https://{host}: a URL with a user or password in it is not fetched")


async def _fetch_file(wanted: Fetch, client: ShareClient, download: ShareDownload, state: CopyState) -> None:
    url = wanted.url.partition("#")[0]
    name = b""
    if not wanted.exact and await trio.to_thread.run_sync(_takes_files, wanted.local):
        name = await _ask_name(client, url)
    await _fetch_one(wanted, HttpFile(url=url, shown=wanted.shown), name, None, download, state)


async def _fetch_one(
    wanted: Fetch,
    file: HttpFile,
    name: bytes,
    answer: httpx2.Response | None,
    download: ShareDownload,
    state: CopyState,
) -> None:
    """Fetch a file; `name` and `answer` as of `_open_place` and `ShareDownload.file`."""
    state.sessions = max(1, state.sessions)
    state.planned = True
    place = await trio.to_thread.run_sync(_open_place, wanted, name)
    try:
        compared = await download.fetch(file, place, answer)
    except UFTPError as error:
        state.record(FileResult(source=file.shown or file.url, target=place.shown, error=error))
        return
    finally:
        os.close(place.directory)
    if wanted.options.verify and not compared:
        state.unverified += 1
        state.on_note(f"{file.shown or file.url}: the server names no digest; only the length is compared")


async def _ask_name(client: ShareClient, url: str) -> bytes:
    """What a file is called that goes into a directory: as the server says, else by its URL."""
    async with client.get(url, {"Range": "bytes=0-0"}, accepted=(200, 206, 416)) as response:
        name = name_in(response)
    if name is not None:
        return name
    last = urllib.parse.unquote_to_bytes(urllib.parse.urlsplit(url).path).rpartition(b"/")[2]
    if not last:
        raise UsageError(f"{url.partition('?')[0]}: neither the URL nor the server names the file; give it a name")
    return safe_name(last)


async def _fetch_shared(
    wanted: Fetch, facts: Facts, answer: httpx2.Response | None, download: ShareDownload, state: CopyState
) -> None:
    entry = facts.entry
    takes_files = not wanted.exact and await trio.to_thread.run_sync(_takes_files, wanted.local)
    file = HttpFile(url=entry.link.url, size=entry.size, ranged=bool(entry.size))
    await _fetch_one(wanted, file, entry.name if takes_files else b"", answer, download, state)


async def _fetch_tree(wanted: Fetch, link: ShareLink, facts: Facts, download: ShareDownload, state: CopyState) -> None:
    if wanted.exact or not wanted.options.recursive:
        raise UsageError(f"{link.url}: is a directory; use -r to copy it with all that is in it")
    if facts.entry.counted:
        raise Refused(f"{link.url}: each file that is fetched counts as a use of this share, which has few; name one")
    path, shown = wanted.local.rstrip(b"/"), wanted.local_shown.rstrip("/")
    if await trio.to_thread.run_sync(_takes_files, wanted.local):
        path, shown = join(path, facts.entry.name), f"{shown}/{os.fsdecode(facts.entry.name)}"
    directory = await trio.to_thread.run_sync(lambda: open_target(path, make=True))
    try:
        at_once = wanted.options.threads or TREE_CONNECTIONS
        await download.tree(facts.entry, facts.entries, directory, shown=shown, at_once=at_once)
    finally:
        os.close(directory)


def _takes_files(path: bytes) -> bool:
    """Whether what is fetched goes into it, and does not become it."""
    return path.endswith(b"/") or os.path.isdir(path)


def _open_place(wanted: Fetch, name: bytes) -> Place:
    """Where the file goes.

    Args:
        wanted: what is fetched.
        name: of the file in the target, if that takes files; else empty.

    Raises:
        UFTPError: it cannot go there.
    """
    given = _DESCRIPTOR.fullmatch(wanted.local)
    try:
        if given is not None:
            # Of a session that is confined: nothing but this directory, and no link in it, is looked at.
            above = os.readlink(b"/proc/self/fd/" + given[1])
            directory = os.open(b".", _DIRECTORY, dir_fd=int(given[1]))
            return Place(directory=directory, name=given[2], shown=wanted.local_shown, key=join(above, given[2]))
        if name:
            shown = f"{wanted.local_shown.rstrip('/')}/{os.fsdecode(name)}"
            directory = open_target(wanted.local.rstrip(b"/") or b"/", make=wanted.local.endswith(b"/"))
            return Place(directory=directory, name=name, shown=shown, key=join(wanted.local, name))
        path = os.path.realpath(wanted.local)  # a link that the person has named is followed
        if os.path.lexists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            raise LocalFileError(f"{printable(wanted.local_shown)}: is no regular file, and cannot be replaced by one")
        above, last = os.path.split(path)
        return Place(directory=os.open(above, _DIRECTORY), name=last, shown=wanted.local_shown, key=path)
    except OSError as error:
        raise local_error(error, wanted.local_shown, "write there") from error
