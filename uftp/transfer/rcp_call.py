"""Copy from one server to another with one call, for scripts and notebooks: blocking, or to be awaited.

uftp.rcp("https://a:9000/rest/auth/A:/data/runs", "https://b:9000/rest/auth/B:/in/", user="alice", password=secret)
uftp.rcp(..., source_login=uftp.Login(user="alice", ...), target_login=uftp.Login(credential=...), recursive=True)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from uftp.client.credentials import Credential
from uftp.client.login import SessionOptions
from uftp.errors import UsageError
from uftp.transfer.between import copy_between
from uftp.transfer.between_places import BetweenOptions, read_place, read_source
from uftp.transfer.calling import Login, OnProgress, anywhere, block, telling
from uftp.transfer.copy import Access
from uftp.transfer.results import CopyState, CopySummary


async def rcp_async(
    sources: str | Sequence[str],
    target: str,
    *,
    user: str | None = None,
    password: str | None = None,
    credential: Credential | None = None,
    ca: str | None = None,
    insecure: bool = False,
    session: SessionOptions | None = None,
    source_login: Login | None = None,
    target_login: Login | None = None,
    recursive: bool = False,
    preserve: bool = False,
    options: BetweenOptions | None = None,
    state: CopyState | None = None,
    progress: OnProgress | None = None,
) -> CopySummary:
    """Copy files and trees from servers to a server, as `uftp rcp` does. To be awaited under trio or asyncio.

    Cancelled, it ends the copy on the server, too.

    Args:
        sources: URLs of places on servers, with wildcards; or any https URL, which the target's server then fetches.
        target: URL of a place on a server.
        user, password, credential, ca, insecure: as for `connect`, on both sides.
        session: how data travels between the servers: `encrypt`, `compress`, `legacy_cipher`.
        source_login, target_login: instead of all these, who one is on that side.
        recursive: copy directories with all that is in them.
        preserve: keep times and permission bits.
        options: instead of the two before: everything `uftp rcp` can do.
        state: totals to watch while it runs, and who is told of failed files.
        progress: called with how far it is, every half second and at the end; under asyncio, and in the blocking form,
            from another thread.

    Raises:
        SomeFailed: some files failed; the others are there.
        UFTPError: see there.
    """
    both = Login(user=user, password=password, credential=credential, ca=ca, insecure=insecure, session=session)
    here, there = _access(source_login or both, session), _access(target_login or both, session)
    if options is None:
        options = BetweenOptions(recursive=recursive, preserve=preserve)
    elif recursive or preserve:
        raise UsageError("give options, or the single ones, but not both")
    names = [sources] if isinstance(sources, str) else list(sources)
    origins = [read_source(name, lambda url: here) for name in names]
    goal = read_place(target, lambda url: there)
    chosen, watched = options, state or CopyState()

    async def run() -> CopySummary:
        return await copy_between(origins, goal, options=chosen, state=watched)

    summary = await anywhere(lambda: telling(run, watched, progress))
    summary.raise_for_failures()
    return summary


def _access(login: Login, session: SessionOptions | None) -> Access:
    if login.session is None and session is not None:
        login = replace(login, session=session)
    return login.access()


def rcp(
    sources: str | Sequence[str],
    target: str,
    *,
    user: str | None = None,
    password: str | None = None,
    credential: Credential | None = None,
    ca: str | None = None,
    insecure: bool = False,
    session: SessionOptions | None = None,
    source_login: Login | None = None,
    target_login: Login | None = None,
    recursive: bool = False,
    preserve: bool = False,
    options: BetweenOptions | None = None,
    state: CopyState | None = None,
    progress: OnProgress | None = None,
) -> CopySummary:
    """`rcp_async` for callers that are not async; see there."""
    return block(
        lambda: rcp_async(
            sources,
            target,
            user=user,
            password=password,
            credential=credential,
            ca=ca,
            insecure=insecure,
            session=session,
            source_login=source_login,
            target_login=target_login,
            recursive=recursive,
            preserve=preserve,
            options=options,
            state=state,
            progress=progress,
        )
    )
