"""`uftp get-share`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from uftp.cli.runner import one_line, run_async
from uftp.cli.settings import Settings, ask_secret, common_options, first_line
from uftp.client.url import is_url
from uftp.errors import AuthenticationFailed, NetworkError, NotFound, Refused, UsageError

if TYPE_CHECKING:
    import httpx2

    from uftp.client.share_link import Entry, Facts, ShareClient, ShareLink
    from uftp.transfer.results import CopyState, CopySummary
    from uftp.transfer.share_download import ShareDownload


@click.command()
@click.argument("link", metavar="LINK")
@click.argument("target", metavar="[TARGET]", default="")
@click.option("--http", "only_http", is_flag=True, help="By HTTP alone, even where UFTP could be used.")
@click.option("-t", "--threads", type=click.IntRange(1, 64), help="Sessions or connections at once.")
@click.option("--retries", type=click.IntRange(0, 100), default=5, show_default=True, help="Further tries of a part.")
@click.option("--no-resume", is_flag=True, help="Begin anew, whatever an interrupted run has left.")
@click.option("--link-password", is_flag=True, help="Ask for the password that goes with the link.")
@click.option("--link-password-file", metavar="FILE", help="Take that password from the first line of FILE.")
@common_options
def command(settings: Settings, link: str, target: str, **values: Any) -> None:
    """Fetch a shared file or directory by its link, of this software's servers or of older ones.

    By UFTP where the server offers it and can be reached, else by HTTP with several connections for a large file. The
    name is the shared one's, or TARGET's; a directory comes with all that is in it. Nothing has its name before it is
    whole, and the same command goes on with what was interrupted.

    Without -u, -i, -A or -O one is nobody in particular, which is enough for links that are for anybody.

    \b
    Examples:
      uftp get-share https://auth.example.org:9000/rest/access/CLUSTER/G9H5R3UE6MTxxxxxxxxxxxxx
      uftp get-share -u jane https://auth.example.org:9000/rest/access/CLUSTER/G9H5R3UE6MTxxxxxxxxxxxxx runs/
    """
    from uftp.cli.copy_reports import Reports
    from uftp.cli.progress import showing_progress
    from uftp.client.share_link import parse_link

    if target == "-":
        raise UsageError("standard output is no place for a share; use curl, or uftp cat LINK:NAME")
    if is_url(target):
        raise UsageError(f"{target}: the target is a place on this machine")
    found = parse_link(link)
    reports = Reports(settings)
    job = _Job(settings, found, target, reports.state, **values)

    async def run() -> CopySummary:
        async with showing_progress(settings, reports.state):
            await job.run()
        return reports.state.summary()

    summary = run_async(settings, run, when_interrupted=reports.interrupted)
    reports.finish(summary, show=sys.stderr.isatty() and not settings.quiet)


class _Job:
    """One run of the command."""

    def __init__(
        self,
        settings: Settings,
        link: ShareLink,
        target: str,
        state: CopyState,
        *,
        only_http: bool,
        threads: int | None,
        retries: int,
        no_resume: bool,
        link_password: bool,
        link_password_file: str | None,
    ) -> None:
        self._settings = settings
        self._link = link
        self._target = target
        self._state = state
        self._only_http = only_http
        self._threads = threads
        self._retries = retries
        self._resume = not no_resume
        self._ask = link_password
        self._password_file = link_password_file
        # A person who names no credential is asked for none.
        self._named = any((settings.user, settings.token, settings.identity, settings.oidc_agent))

    async def run(self) -> None:
        from uftp.client.share_link import ShareClient

        password = await self._password()
        place = self._link.place(None)
        access = self._settings.access(place) if self._named else None
        http = access.http if access is not None else self._http_options()
        credential = access.credential if access is not None else None
        async with (
            ShareClient(credential, http, password) as client,
            client.look(self._link) as (facts, answer),
        ):
            by_uftp = facts.ours and not facts.entry.counted and not password and not self._only_http
            if not by_uftp or not await self._by_uftp(facts.entry):
                await self._by_http(client, facts, answer)

    def _http_options(self) -> Any:
        from uftp.client.auth import HttpOptions

        place = self._link.place(None)
        settings = self._settings
        return HttpOptions(ca=settings.ca_file(place), insecure=settings.insecure, family=settings.family)

    async def _password(self) -> str:
        if self._ask:
            return await ask_secret("Password of the link: ")
        return first_line(self._password_file) if self._password_file is not None else ""

    # -- UFTP -------------------------------------------------------------------------------------------------------

    async def _by_uftp(self, entry: Entry) -> bool:
        """Copy by UFTP; False if that is not to be had here, and nothing has been done."""
        from uftp.client.credentials import Anonymous
        from uftp.transfer.copy import Access, copy_files
        from uftp.transfer.options import CopyOptions

        place = self._link.place(None if entry.directory else entry.name)
        settings = self._settings
        access = settings.access(place) if self._named else Access(credential=Anonymous(), http=self._http_options())
        target = self._directory_target(entry) if entry.directory else self._file_target(entry)
        options = CopyOptions(
            recursive=entry.directory,
            threads=self._threads,
            resume=None if self._resume else False,
            retries=self._retries,
        )
        try:
            await copy_files([place.display()], target, access=access, options=options, state=self._state)
        except (NetworkError, NotFound, Refused, AuthenticationFailed) as error:
            if self._state.files_found:
                raise
            if settings.verbose:
                click.echo(one_line(f"uftp: not by UFTP: {error}; going on by HTTP"), err=True)
            return False
        return True

    def _directory_target(self, entry: Entry) -> str:
        """Where the content of a directory goes: into TARGET/NAME if TARGET is there, else into TARGET."""
        if not self._target:
            return os.fsdecode(entry.name)
        if os.path.isdir(self._target) or self._target.endswith("/"):
            return os.path.join(self._target, os.fsdecode(entry.name))
        return self._target

    def _file_target(self, entry: Entry) -> str:
        target = self._target or os.fsdecode(entry.name)
        if target.endswith("/") or os.path.isdir(target):
            return os.path.join(target, os.fsdecode(entry.name))
        return target

    # -- HTTP -------------------------------------------------------------------------------------------------------

    async def _by_http(self, client: ShareClient, facts: Facts, answer: httpx2.Response | None) -> None:
        from uftp.transfer.share_download import CONNECTIONS, FetchOptions, ShareDownload

        options = FetchOptions(connections=self._threads or CONNECTIONS, resume=self._resume, retries=self._retries)
        download = ShareDownload(client, self._state, options)
        self._state.sessions = 1  # the display waits for one
        if facts.entry.directory:
            await self._tree(download, facts)
        else:
            self._state.planned = True
            await self._file(download, facts.entry, answer)

    async def _file(self, download: ShareDownload, entry: Entry, answer: httpx2.Response | None) -> None:
        from uftp.transfer.share_download import open_target

        target = self._file_target(entry)
        above, name = os.path.split(os.fsencode(target))
        directory = open_target(above or b".", make=self._target.endswith("/"))
        try:
            await download.file(entry, directory, name, shown=target, open_answer=answer)
        finally:
            os.close(directory)

    async def _tree(self, download: ShareDownload, facts: Facts) -> None:
        from uftp.transfer.share_download import TREE_CONNECTIONS, open_target

        if facts.entry.counted:
            raise Refused(
                f"{self._link.url}: each file that is fetched counts as a use of this share, which has few; "
                "name one, as LINK/NAME"
            )
        target = self._directory_target(facts.entry)
        directory = open_target(os.fsencode(target.rstrip("/")), make=True)
        try:
            at_once = self._threads or TREE_CONNECTIONS
            await download.tree(facts.entry, facts.entries, directory, shown=target, at_once=at_once)
        finally:
            os.close(directory)
