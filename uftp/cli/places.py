"""Commands that act on places: parse the URLs, open one session a server, expand wildcards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from uftp.cli.runner import print_error
from uftp.client.url import RemoteUrl, parse_url, session_directory
from uftp.errors import SomeFailed, UFTPError

if TYPE_CHECKING:
    from uftp.cli.settings import Settings
    from uftp.client.remote import RemoteEntry
    from uftp.client.session import FTPSession

Action = Callable[["FTPSession", RemoteUrl], Awaitable[None]]


async def for_each(
    settings: Settings,
    texts: Sequence[str],
    action: Action,
    *,
    directory: bytes | None = None,
    writes: bool = False,
) -> None:
    """Call `action` for each URL, with a session on its server. A failure does not stop the others.

    Args:
        settings: common options.
        texts: places as typed.
        action: what to do.
        directory: base directory of the sessions; None for the deepest one that holds all paths.
        writes: whether files will be changed; matters for shares.

    Raises:
        UFTPError: the failure, if there was only one place.
        SomeFailed: failures among several, each of them printed.
    """
    urls = [parse_url(settings.expand(text)) for text in texts]
    failed = 0
    by_server: dict[tuple[str, str | None, str | None], list[RemoteUrl]] = {}
    for url in urls:
        by_server.setdefault((url.service, url.user, url.password), []).append(url)
    for group in by_server.values():
        base = session_directory(group) if directory is None else directory
        try:
            async with session_on(settings, group[0], base, writes=writes) as session:
                for url in group:
                    try:
                        await action(session, url)
                    except UFTPError as error:
                        if len(urls) == 1 or not session.usable:
                            raise
                        failed += 1
                        print_error(settings, error)
        except UFTPError as error:
            if len(by_server) == 1:
                raise
            failed += len(group)
            print_error(settings, error)
    if failed:
        raise SomeFailed(f"{failed} of {len(urls)} failed")


@asynccontextmanager
async def session_on(
    settings: Settings, url: RemoteUrl, directory: bytes | None = None, *, writes: bool = False
) -> AsyncIterator[FTPSession]:
    """A session on the server of `url`, for the block.

    Raises:
        UFTPError: no session.
    """
    connector = settings.access(url).connector(url, directory, writes=writes)
    async with connector, await connector.open() as session:
        yield session


async def matching(session: FTPSession, url: RemoteUrl) -> list[RemoteEntry]:
    """What a URL names: the one file, or all that its pattern matches.

    Raises:
        NotFound: nothing.
    """
    from uftp.client.remote import RemoteEntry, expand

    if url.pattern is not None:
        return await expand(session, url.pattern, url.path)
    return [RemoteEntry(url.path, url.path, await session.stat(url.path))]
