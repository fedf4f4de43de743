"""What the commands of `uftp transfer` do: wait for transfers, steer them, get logins for them anew."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import click

from uftp.cli.runner import one_line, print_error, run_async
from uftp.cli.settings import Settings
from uftp.cli.side_options import Side
from uftp.cli.transfer_sides import Logins, Manager, Place, credential_for, find_transfer, read_place
from uftp.client.url import is_url
from uftp.errors import Refused, SomeFailed, UFTPError, UsageError

if TYPE_CHECKING:
    from uftp.client.managed import ManagedTransfers, Transfer, TransferError

ERRORS_AT_ONCE = 20
_BAD_REQUEST = 400


class Servers:
    """Connections to auth servers, each opened once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: dict[str, ManagedTransfers] = {}
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._exits.aclose()

    async def at(self, manager: Manager) -> ManagedTransfers:
        """The transfers of one."""
        from uftp.client.auth import AuthServer
        from uftp.client.managed import ManagedTransfers

        key = manager.place.service
        if key not in self._open:
            access = self._settings.access(manager.place)
            auth = await self._exits.enter_async_context(AuthServer(access.credential, access.http))
            self._open[key] = ManagedTransfers(auth, manager.place)
        return self._open[key]


def wait_for(settings: Settings, references: Sequence[str], at: str | None, interval: int) -> None:
    from uftp.cli.transfer_reports import Watching

    found = dict.fromkeys(find_transfer(settings, reference, at) for reference in references)
    watching = Watching(settings)
    ended: list[tuple[str, Transfer]] = []
    failures: list[UFTPError] = []

    async def run() -> None:
        import trio

        async with Servers(settings) as servers:
            known = [(await servers.at(manager), manager, transfer_id) for manager, transfer_id in found]

            async def one(transfers: ManagedTransfers, manager: Manager, transfer_id: str) -> None:
                reference = manager.reference(transfer_id)
                try:
                    last = await transfers.wait(
                        transfer_id,
                        on_change=lambda transfer: watching.changed(reference, transfer),
                        on_silence=lambda error: watching.note(f"{error}; waiting for it"),
                    )
                    await _report_end(settings, transfers, last, reference)
                except UFTPError as error:
                    failures.append(error)
                else:
                    ended.append((reference, last))

            async with watching.shown(interval), trio.open_nursery() as nursery:
                for job in known:
                    nursery.start_soon(one, *job)

    def advice() -> str:
        left = [manager.reference(number) for manager, number in found]
        left = [reference for reference in left if reference not in {name for name, _ in ended}]
        return f"what is not done goes on; to come back: uftp transfer wait {' '.join(left)}"

    run_async(settings, run, when_interrupted=advice)
    _raise_for(settings, ended, failures)


async def _report_end(settings: Settings, transfers: ManagedTransfers, last: Transfer, reference: str) -> None:
    from uftp.cli.transfer_reports import describe_end, print_failures, print_record

    errors: list[TransferError] = []
    more = False
    if last.files_failed:
        errors, more = await transfers.errors(last.id, most=0 if settings.json else ERRORS_AT_ONCE)
    if settings.json:
        print_record(last, reference, errors)
    else:
        print_failures(errors, more=more, reference=reference)
    if last.is_final and sys.stderr.isatty() and not (settings.json or settings.quiet):
        click.echo(one_line(f"{reference} {describe_end(last)}"), err=True)


def _raise_for(settings: Settings, ended: Sequence[tuple[str, Transfer]], failures: list[UFTPError]) -> None:
    """Raise what waiting has come to, if not all is well; with several errors the last, and the others printed."""
    from uftp.cli.transfer_reports import failure_of

    errors = [*failures, *(error for name, last in ended if (error := failure_of(last, name)) is not None)]
    for error in errors[:-1]:
        print_error(settings, error)
    if errors:
        codes = {error.exit_code for error in errors}
        if len(codes) > 1:
            print_error(settings, errors[-1])
            raise SomeFailed(f"{len(errors)} of {len(ended) + len(failures)} transfers have not succeeded")
        raise errors[-1]


def act(
    settings: Settings,
    action: str,
    references: Sequence[str],
    at: str | None,
    logins: Logins | None = None,
    *,
    login: bool = False,
) -> None:
    from uftp.cli.transfer_reports import describe_state, print_record

    found = list(dict.fromkeys(find_transfer(settings, reference, at) for reference in references))
    login = login or (logins is not None and (logins.source.has_any or logins.target.has_any))

    async def one(transfers: ManagedTransfers, manager: Manager, transfer_id: str) -> None:
        credentials = None
        if login and logins is not None:
            credentials = await _new_logins(settings, manager, await transfers.get(transfer_id), logins)
        try:
            transfer = await transfers.act(transfer_id, action, credentials)
        except Refused as error:
            if error.code == _BAD_REQUEST and "credentials" in str(error) and not login:
                raise Refused(f"{error}; log in there anew with --login", code=error.code) from error
            raise
        reference = manager.reference(transfer_id)
        if settings.json:
            print_record(transfer, reference)
        elif settings.verbose:
            click.echo(one_line(f"uftp: {reference} is {describe_state(transfer)}"), err=True)

    async def run() -> None:
        failed = 0
        async with Servers(settings) as servers:
            for manager, transfer_id in found:
                try:
                    await one(await servers.at(manager), manager, transfer_id)
                except UFTPError as error:
                    if len(found) == 1:
                        raise
                    failed += 1
                    print_error(settings, error)
        if failed:
            raise SomeFailed(f"{failed} of {len(found)} failed")

    run_async(settings, run, when_interrupted=lambda: f"perhaps not all were told to {action}; see uftp transfer list")


async def _new_logins(
    settings: Settings, manager: Manager, transfer: Transfer, logins: Logins
) -> dict[str, dict[str, str]]:
    """Logins at the servers of a transfer that are elsewhere, as they were got when it was submitted."""
    found: dict[str, dict[str, str]] = {}
    sides: tuple[tuple[Side, Sequence[str]], ...] = (("source", transfer.sources[:1]), ("target", [transfer.target]))
    for side, texts in sides:
        # Those of one side are all on the same server.
        place = next((read_place(settings, text, "source") for text in texts if is_url(text)), None)
        if place is not None and place.url is not None and place.server and not place.is_own(manager):
            _use_endpoint(settings, place)
            if not settings.quiet:
                click.echo(one_line(f"uftp: logging in at {place.server} for the {side}"), err=True)
            found[side] = await credential_for(settings, manager, place.url, side, logins)
        elif logins.of(side).has_any:
            raise UsageError(f"--{side}-...: the {side} of {transfer.id} needs no login of its own")
    if not found:
        raise UsageError(f"--login: {transfer.id} needs no login elsewhere")
    return found


def _use_endpoint(settings: Settings, place: Place) -> None:
    """Let the settings of an endpoint hold that is the same server: the transfer knows it by its URL."""
    from uftp.client.endpoints import load_endpoints

    for name, endpoint in load_endpoints().items():
        if place.url is not None and endpoint.place.service == place.url.service:
            settings.expand(f"{name}:")
            return
