"""`uftp transfer`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from uftp.cli.output import print_json
from uftp.cli.runner import run_async
from uftp.cli.settings import Settings, common_options
from uftp.cli.transfer_sides import (
    SERVER_VARIABLE,
    Logins,
    choose_manager,
    find_manager,
    find_transfer,
    gather_credentials,
    login_options,
    manager_settings,
    mentioned,
    read_place,
)
from uftp.cli.transfer_work import ERRORS_AT_ONCE, Servers, act, wait_for
from uftp.errors import UsageError

if TYPE_CHECKING:
    from uftp.client.managed import Transfer

_STATES = ("queued", "active", "paused", "succeeded", "failed", "cancelled")
_LISTED = 50

_at_option = click.option(
    "--at", metavar="SERVER", help=f"The auth server, as ENDPOINT or a URL; else {SERVER_VARIABLE}."
)
_interval_option = click.option(
    "--progress-interval",
    type=click.IntRange(0, 86_400),
    default=60,
    metavar="SECONDS",
    help="Where there is no terminal, a line of progress each SECONDS; 60 if not given, 0 for none.",
)


class _InOrder(click.Group):
    """Lists its commands as they stand here: in the order of a transfer's life."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_InOrder,
    epilog="""
\b
Examples:
  uftp transfer submit -r juelich:runs/ paris:/data/runs/
  uftp transfer list paris:
  uftp transfer wait paris:7f3c0a9e
`uftp transfer COMMAND --help` explains each command.
""",
)
def command() -> None:
    """Copies between servers that an auth server looks after, while you are away.

    They wait in its queue, run between the data nodes, and are tried again after failures; no program of yours need
    run. TRANSFER is what `submit` prints: a URL, ENDPOINT:ID, or an ID alone with --at.
    """


# -- submit ---------------------------------------------------------------------------------------------------------


@command.command(short_help="Have files copied from servers to a server.")
@click.argument("remotes", metavar="SOURCE...", nargs=-1)
@click.argument("target", metavar="TARGET")
@click.option("-r", "--recursive", is_flag=True, help="Directories with all that is in them.")
@click.option("-p", "--preserve", is_flag=True, help="Keep times and permission bits.")
@click.option("-E", "--encrypt", is_flag=True, help="Encrypt the data between the nodes, or fail.")
@click.option("-C", "--compress", is_flag=True, help="Compress the data on the way.")
@click.option("--no-verify", is_flag=True, help="Do not compare files by checksum; sizes are compared all the same.")
@click.option("--no-resume", is_flag=True, help="A further try begins anew, whatever the last one has left.")
@click.option("--retries", type=click.IntRange(0, 1000), metavar="N", help="Try a transfer that failed N times more.")
@click.option("--limit-rate", metavar="RATE", help="Bytes per second at most, as 10m.")
@click.option("--name", metavar="TEXT", help="What you call it.")
@click.option("--callback", metavar="URL", help="URL that the server tells when the transfer has ended.")
@click.option("--once", "key", metavar="KEY", help="Submitting again with the same KEY makes no second transfer.")
@click.option("-w", "--wait", "wait", is_flag=True, help="Wait for its end; Ctrl-C leaves it running.")
@_interval_option
@click.option(
    "--at",
    metavar="SERVER",
    help="The auth server that looks after it; that of TARGET, or else of SOURCE, if not given.",
)
@login_options
@common_options
def submit(
    settings: Settings, remotes: Sequence[str], target: str, at: str | None, logins: Logins, **values: Any
) -> None:
    """Have files copied from servers to a server; print what names the transfer.

    Places are as in `uftp cp`, URLs or ENDPOINT:path, all of them on servers. A source may also be the link of a share
    or any https URL. The common options say who you are on both sides, and at the auth server that looks after the
    transfer, unless options of a side, or its endpoint, say otherwise.

    Where source and target belong to different auth servers, the one that looks after the transfer gets a token of the
    other, good there only: your key or password stays here.

    \b
    Examples:
      uftp transfer submit juelich:runs/a.nc paris:/data/
      uftp transfer submit -r -w --source-user jane 'juelich:runs/*' paris:/data/runs/
      uftp transfer submit https://zenodo.org/records/1/files/data.zip paris:/data/
    """
    from uftp.cli.lifetimes import parse_lifetime

    if not remotes:
        raise UsageError("only one place is named; name what to copy, and then where to")
    if logins.lifetime is not None:
        parse_lifetime(logins.lifetime)  # an error now rather than after a login
    found = [read_place(settings, source, "source") for source in remotes]
    end = read_place(settings, target, "target")
    manager = choose_manager(settings, found, end, at)
    there = manager_settings(settings, manager, found, end, logins)
    options = _options(values)
    interval, wait = values["progress_interval"], values["wait"]

    async def run() -> str:
        from uftp.client.managed import TransferRequest

        async with Servers(there) as servers:
            transfers = await servers.at(manager)
            credentials = await gather_credentials(settings, manager, found, end, logins)
            if credentials and settings.verbose:
                click.echo(f"uftp: the server gets {mentioned(credentials)}", err=True)
            transfer = await transfers.submit(
                TransferRequest(
                    sources=[source.said_to(manager) for source in found],
                    target=end.said_to(manager),
                    options=options,
                    credentials=credentials,
                    name=values["name"] or "",
                    callback=values["callback"] or "",
                ),
                key=values["key"] or "",
            )
        reference = manager.reference(transfer.id)
        _print_submitted(settings, transfer, reference, wait=wait)
        return reference

    reference = run_async(settings, run, when_interrupted=lambda: "perhaps it was submitted: see uftp transfer list")
    if wait:
        wait_for(there, [reference], None, interval)


def _options(values: dict[str, Any]) -> dict[str, object]:
    """As JSON has them; what was not asked for is left to the server."""
    from uftp.transfer.options import parse_size

    options: dict[str, object] = {
        name: True for name in ("recursive", "preserve", "encrypt", "compress") if values[name]
    }
    options |= {name: False for name, given in (("verify", "no_verify"), ("resume", "no_resume")) if values[given]}
    if values["retries"] is not None:
        options["retries"] = values["retries"]
    if values["limit_rate"] is not None:
        rate = parse_size(values["limit_rate"])
        if rate <= 0:
            raise UsageError("--limit-rate 0: nothing would ever move; leave it out for no limit")
        options["limitRate"] = rate
    return options


def _print_submitted(settings: Settings, transfer: Transfer, reference: str, *, wait: bool) -> None:
    from uftp.cli.transfer_reports import record

    if settings.json:
        print_json(record(transfer, reference))
        return
    click.echo(reference)
    if sys.stderr.isatty() and not settings.quiet and not wait:
        click.echo(f"uftp: submitted; to see how it goes: uftp transfer wait {reference}", err=True)


# -- look -----------------------------------------------------------------------------------------------------------


@command.command("list", short_help="List your transfers at an auth server.")
@click.argument("server", metavar="[SERVER]", required=False)
@click.option("-s", "--state", "states", type=click.Choice(_STATES), multiple=True, help="Only such; repeatable.")
@click.option("-n", "--number", type=click.IntRange(1), metavar="N", help=f"N at most; {_LISTED} if not given.")
@click.option("-a", "--all", "everything", is_flag=True, help="All of them.")
@_at_option
@common_options
def list_command(
    settings: Settings,
    server: str | None,
    states: Sequence[str],
    number: int | None,
    everything: bool,
    at: str | None,
) -> None:
    """List your transfers at an auth server, the newest first.

    \b
    Examples:
      uftp transfer list paris:
      uftp transfer list -s active -s paused https://auth.example.org:9000/rest/auth
    """
    if server is not None and at is not None:
        raise UsageError("the server is named twice; give it once")
    if number is not None and everything:
        raise UsageError("--number and --all exclude each other")
    manager = find_manager(settings, server or at)
    most = 0 if everything else number or _LISTED

    async def run() -> None:
        from uftp.cli.transfer_reports import print_record, print_table

        async with Servers(settings) as servers:
            transfers, more = await (await servers.at(manager)).overview(states=states, most=most)
        if settings.json:
            for transfer in transfers:
                print_record(transfer, manager.reference(transfer.id))
        elif transfers:
            print_table(transfers)
        elif not settings.quiet:
            click.echo("uftp: no transfers" + (" in that state" if states else ""), err=True)
        if more and number is None and not settings.quiet:
            click.echo(f"uftp: the newest {most}; --all lists all of them", err=True)

    run_async(settings, run, when_interrupted=_nothing_changed)


@command.command(short_help="Show all that is known of a transfer.")
@click.argument("transfer", metavar="TRANSFER")
@click.option("-a", "--all", "everything", is_flag=True, help=f"All failed files, not only {ERRORS_AT_ONCE}.")
@_at_option
@common_options
def show(settings: Settings, transfer: str, everything: bool, at: str | None) -> None:
    """Show all that is known of a transfer, with the files that could not be copied.

    \b
    Examples:
      uftp transfer show paris:7f3c0a9e
      uftp transfer show --all --json https://auth.example.org:9000/rest/transfers/7f3c0a9e
    """
    manager, transfer_id = find_transfer(settings, transfer, at)

    async def run() -> None:
        from uftp.cli.transfer_reports import print_one, print_record

        async with Servers(settings) as servers:
            transfers = await servers.at(manager)
            found = await transfers.get(transfer_id)
            errors, more = await transfers.errors(transfer_id, most=0 if everything else ERRORS_AT_ONCE)
        reference = manager.reference(transfer_id)
        if settings.json:
            print_record(found, reference, errors)
        else:
            print_one(found, reference, errors, more=more)

    run_async(settings, run, when_interrupted=_nothing_changed)


# -- wait -----------------------------------------------------------------------------------------------------------


@command.command(short_help="Wait until transfers have ended.")
@click.argument("transfers", metavar="TRANSFER...", nargs=-1, required=True)
@_interval_option
@_at_option
@common_options
def wait(settings: Settings, transfers: Sequence[str], progress_interval: int, at: str | None) -> None:
    """Wait until transfers have ended, and show how far they are.

    Ends with 0 if all of them have succeeded, 10 if files of one failed and others were copied, 9 if one failed as a
    whole, 1 if one was cancelled, or is paused: the line that says so says why. Ctrl-C leaves them running.

    \b
    Examples:
      uftp transfer wait paris:7f3c0a9e
      uftp transfer wait $(uftp transfer submit -r juelich:runs/ paris:/data/runs/)
    """
    wait_for(settings, transfers, at, progress_interval)


# -- steer ----------------------------------------------------------------------------------------------------------


@command.command(short_help="End transfers.")
@click.argument("transfers", metavar="TRANSFER...", nargs=-1, required=True)
@_at_option
@common_options
def cancel(settings: Settings, transfers: Sequence[str], at: str | None) -> None:
    """End transfers, whatever they are doing. What is under way is removed, what is copied stays.

    \b
    Example:
      uftp transfer cancel paris:7f3c0a9e
    """
    act(settings, "cancel", transfers, at)


@command.command(short_help="Stop transfers until they are resumed.")
@click.argument("transfers", metavar="TRANSFER...", nargs=-1, required=True)
@_at_option
@common_options
def pause(settings: Settings, transfers: Sequence[str], at: str | None) -> None:
    """Stop transfers until they are resumed; what they have done so far is kept.

    \b
    Example:
      uftp transfer pause paris:7f3c0a9e
    """
    act(settings, "pause", transfers, at)


_login_option = click.option(
    "--login",
    is_flag=True,
    help="Log in anew at the other side's auth server; options of a side mean that, too.",
)


@command.command(short_help="Have paused transfers go on.")
@click.argument("transfers", metavar="TRANSFER...", nargs=-1, required=True)
@_login_option
@_at_option
@login_options
@common_options
def resume(settings: Settings, transfers: Sequence[str], login: bool, at: str | None, logins: Logins) -> None:
    """Have paused transfers go on where they were.

    One that was paused because a login elsewhere has ended needs a new one: with --login, or options of the side.

    \b
    Examples:
      uftp transfer resume paris:7f3c0a9e
      uftp transfer resume --source-user jane paris:7f3c0a9e
    """
    act(settings, "resume", transfers, at, logins, login=login)


@command.command(short_help="Try transfers again that have failed or were cancelled.")
@click.argument("transfers", metavar="TRANSFER...", nargs=-1, required=True)
@_login_option
@_at_option
@login_options
@common_options
def retry(settings: Settings, transfers: Sequence[str], login: bool, at: str | None, logins: Logins) -> None:
    """Try transfers again that have failed or were cancelled; only what is missing is copied.

    The server has forgotten the logins of one that has ended: if it needs one, give --login or options of the side.

    \b
    Example:
      uftp transfer retry paris:7f3c0a9e
    """
    act(settings, "retry", transfers, at, logins, login=login)


def _nothing_changed() -> str:
    return "nothing was changed"
