"""`uftp rcp`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from uftp.cli.data_options import DataOptions
from uftp.cli.runner import Interrupted, one_line, run_async
from uftp.cli.settings import Settings, common_options, first_line
from uftp.cli.side_options import Side, SideOptions, side_options
from uftp.client.url import is_url
from uftp.errors import UsageError

if TYPE_CHECKING:
    from uftp.client.url import RemoteUrl
    from uftp.transfer.between_places import BetweenOptions, Copy, Place, Source, Target
    from uftp.transfer.copy import Access
    from uftp.transfer.results import CopySummary

SEND_FILE_VARIABLE: Final = "UFTP_RCP_USE_SEND_FILE"


@click.command()
@click.argument("remote_places", metavar="SOURCE... TARGET", nargs=-1)
@click.option("-r", "--recurse", "--recursive", "recursive", is_flag=True, help="Directories with all that is in them.")
@click.option("--preserve", is_flag=True, help="Keep times and permission bits.")
@click.option("-t", "--threads", type=click.IntRange(1, 64), help="Sessions at once; automatic if not given.")
@click.option("-B", "--bytes", "byte_range", metavar="FIRST-LAST", help="Only these bytes, to the same place there.")
@click.option("-E", "--encrypt", is_flag=True, help="Encrypt the data between the servers, or fail.")
@click.option("-C", "--compress", is_flag=True, help="Compress the data on the way.")
@click.option(
    "-n",
    "--streams",
    type=click.IntRange(1, 64),
    default=1,
    help="Connections a session and transfer, on servers without MODE U.",
)
@click.option("--legacy-cipher", metavar="CIPHER", help="What -E may use without MODE U: aes or blowfish.")
@click.option("--no-verify", is_flag=True, help="Do not compare files by checksum; sizes are compared all the same.")
@click.option("--no-resume", is_flag=True, help="Begin anew, whatever a last run has left, and leave nothing.")
@click.option("--limit-rate", metavar="RATE", help="Bytes per second at most, as 10m.")
@click.option("-s", "--server", metavar="HOST:PORT", help="Server of the side that is no URL.")
@click.option("-p", "--one-time-password", metavar="PASSWORD", help="For that server, or @FILE that holds it.")
@click.option(
    "--peer-address",
    "peer_addresses",
    metavar="ADDRESS",
    multiple=True,
    help="Address from which the server that copies reaches the other one, if none it has here. Repeatable.",
)
@click.option("--no-wait", is_flag=True, help="Start the copy, print its id, and leave it to itself.")
@click.option("--status", "status_of", metavar="ID", help="Show how a copy stands; name its server instead of places.")
@click.option("--wait", "wait_for", metavar="ID", help="Wait for a copy that was started with --no-wait.")
@click.option("--abort", "abort_of", metavar="ID", help="End a copy. What it has not finished is removed.")
@click.option("--keep", is_flag=True, help="With --abort: leave what the same copy, started again, can go on with.")
@click.option(
    "--progress-interval",
    type=click.IntRange(0, 86_400),
    default=60,
    metavar="SECONDS",
    help="Where there is no terminal, a line of progress each SECONDS; 60 if not given, 0 for none.",
)
@side_options
@common_options
def command(
    settings: Settings,
    remote_places: Sequence[str],
    recursive: bool,
    preserve: bool,
    threads: int | None,
    byte_range: str | None,
    encrypt: bool,
    compress: bool,
    streams: int,
    legacy_cipher: str | None,
    no_verify: bool,
    no_resume: bool,
    limit_rate: str | None,
    server: str | None,
    one_time_password: str | None,
    peer_addresses: Sequence[str],
    no_wait: bool,
    status_of: str | None,
    wait_for: str | None,
    abort_of: str | None,
    keep: bool,
    progress_interval: int,
    sides: Mapping[Side, SideOptions],
) -> None:
    """Copy from one server to another. The data goes straight from one to the other, not through this machine.

    Places are written as for `cp`, and placed by the same rules; wildcards and -r work where one of the two servers is
    of this kind, and file by file on older ones. A source may also be any https URL or the link of a share, which the
    server of TARGET then fetches itself.

    The command waits, and shows progress; Ctrl-C ends the copy on the server, too, and the same command then goes on
    with it. With --no-wait it prints an id: `--status ID SERVER` asks for that copy, `--wait ID SERVER` waits for it,
    `--abort ID SERVER` ends it. SERVER is any place of the server that runs it, which --no-wait names.

    Log in with the common options; where the two sides need different logins, with --source-... and --target-...
    or by names of endpoints. Instead of one URL a path may be given together with -s and -p, host and one-time
    password of its server as `uftp auth` prints them.

    Which of the two servers runs the copy shows by what they can do. UFTP_RCP_USE_SEND_FILE=true has the source's
    run it. Each server decides which others it copies with.

    With --json each line is one object: {"type": "copy", "id", "server", "source", "target"} when a copy begins,
    and with "state" when it is over; {"type": "file", ...} for each failed file; at the end {"type": "summary", ...}.

    \b
    Examples:
      uftp rcp https://a.example.org:9000/rest/auth/CLUSTER:/data/big.nc https://b.example.org/rest/auth/STORE:/in/
      uftp rcp -r --target-user bob juelich:runs garching:archive/
      uftp rcp https://zenodo.example.org/records/1/files/data.zip juelich:data/
      uftp rcp -s ftp.example.org:64434 -p @secret /data/big.nc juelich:data/
    """
    asked = [option for option in (status_of, wait_for, abort_of) if option is not None]
    if len(asked) > 1:
        raise UsageError("only one of --status, --wait and --abort makes sense")
    if keep and abort_of is None:
        raise UsageError("--keep says what --abort leaves; use it with --abort")
    data = DataOptions(
        encrypt=encrypt,
        compress=compress,
        streams=streams,
        legacy_cipher=legacy_cipher,
        compression_level=None,
        # Several streams are set up in MODE S (NOOP); what the servers say to each other is not concerned.
        mode="stream" if streams > 1 and not encrypt else "auto",
    )
    if asked:
        if len(remote_places) != 1:
            raise UsageError("name one place: the server that runs the copy, as --no-wait has named it")
        at = _server_of(settings, sides, remote_places[0])
        if status_of is not None:
            _show_status(settings, at, status_of)
        elif wait_for is not None:
            _wait(settings, at, wait_for, progress_interval)
        elif abort_of is not None:
            _abort(settings, at, abort_of, keep=keep)
        return
    if len(remote_places) < 2:
        raise UsageError("name what to copy, and then where to; both are places on servers")
    from uftp.transfer.between_places import BetweenOptions
    from uftp.transfer.options import parse_byte_range, parse_size

    rate = parse_size(limit_rate) if limit_rate is not None else 0
    if limit_rate is not None and rate <= 0:
        raise UsageError("--limit-rate 0: nothing would ever move; leave it out for no limit")
    options = BetweenOptions(
        recursive=recursive,
        preserve=preserve,
        verify=not no_verify,
        resume=not no_resume,
        threads=threads,
        byte_range=parse_byte_range(byte_range) if byte_range is not None else None,
        limit_rate=rate,
        send_file=os.environ.get(SEND_FILE_VARIABLE, "").strip().lower() == "true",
        peer_addresses=tuple(item for text in peer_addresses for item in text.replace(",", " ").split()),
    )
    reader = _Reader(settings, sides, data, server, one_time_password)
    sources = [reader.source(text) for text in remote_places[:-1]]
    target = reader.target(remote_places[-1])
    reader.check()
    if no_wait:
        _start(settings, sources, target, options)
    else:
        _copy(settings, sources, target, options, progress_interval)


# -- places ---------------------------------------------------------------------------------------------------------


class _Reader:
    """Reads the places as typed: URLs, names of endpoints, links, and the path of a server that was named apart."""

    def __init__(
        self,
        settings: Settings,
        sides: Mapping[Side, SideOptions],
        data: DataOptions,
        server: str | None,
        password: str | None,
    ) -> None:
        self._settings = settings.with_servers_named()
        self._sides = sides
        self._data = data
        if (server is None) != (password is None):
            raise UsageError("-s and -p belong together: a server, and a one-time password for it")
        self._server = server
        self._password = password
        self._used = False
        self._by_side: dict[Side, Settings] = {}

    def source(self, text: str) -> Source:
        """A source.

        Raises:
            UsageError: nothing can be copied from there.
        """
        from uftp.transfer.between_places import read_source

        expanded = self._expand(text, "source")
        return read_source(expanded, self._access("source")) if is_url(expanded) else self._bare(text, expanded)

    def target(self, text: str) -> Target:
        """The target.

        Raises:
            UsageError: nothing can be copied to there.
        """
        from uftp.transfer.between_places import read_place

        expanded = self._expand(text, "target")
        return read_place(expanded, self._access("target")) if is_url(expanded) else self._bare(text, expanded)

    def check(self) -> None:
        """See that all that was given is of use.

        Raises:
            UsageError: it is not.
        """
        if self._server is not None and not self._used:
            raise UsageError("-s and -p are for a side that is no URL, and both are; leave them out")

    def _expand(self, text: str, side: Side) -> str:
        # With a server named apart, a path with a colon in it is a path.
        or_path = self._server is not None
        try:
            return self._settings_of(side).expand(text, or_path=or_path)
        except UsageError:
            if side == "source":
                raise
            # Two names for one server are two people there; so the target side is on its own.
            self._by_side[side] = replace(self._settings_of(side), _endpoints={}, _credentials={})
            return self._by_side[side].expand(text, or_path=or_path)

    def _settings_of(self, side: Side) -> Settings:
        if side not in self._by_side:
            options = self._sides[side]
            self._by_side[side] = options.over(self._settings) if options.has_any else self._settings
        return self._by_side[side]

    def _access(self, side: Side) -> Callable[[RemoteUrl], Access]:
        return lambda url: self._data.apply(self._settings_of(side).access(url))

    def _bare(self, text: str, path: str) -> Target:
        from uftp.protocol import ProtocolError
        from uftp.protocol.server_copies import parse_host_port
        from uftp.transfer.between_places import BarePlace

        if self._server is None or self._password is None:
            raise UsageError(
                f"{text}: a path alone says no server; write a URL or the name of an endpoint, or name its server with "
                "-s and -p. From and to this machine copies `uftp cp`"
            )
        if self._used:
            raise UsageError("a one-time password is good for one place; the other ones have to be URLs")
        self._used = True
        try:
            host, port = parse_host_port(self._server.encode())
        except ProtocolError as error:
            raise UsageError(f"-s {self._server}: {error}") from error
        secret = self._password
        secret = first_line(os.path.expanduser(secret[1:])) if secret.startswith("@") else secret
        if not secret.strip() or any(character.isspace() for character in secret):
            raise UsageError("-p: a one-time password is one word, and this is none")
        return BarePlace(host=host, port=port, secret=secret, path=os.fsencode(path))


def _server_of(settings: Settings, sides: Mapping[Side, SideOptions], text: str) -> Place:
    from uftp.transfer.between_places import read_place

    named = [side for side in sides.values() if side.has_any]
    if len(named) > 1:
        raise UsageError("only one server is asked; give the login there by the common options")
    chosen = named[0].over(settings) if named else settings
    return read_place(chosen.expand_server(text) if ":" not in text.rstrip(":") else chosen.expand(text), chosen.access)


# -- what is done ---------------------------------------------------------------------------------------------------


def _copy(
    settings: Settings, sources: Sequence[Source], target: Target, options: BetweenOptions, progress_interval: int
) -> None:
    from uftp.cli.copy_reports import Reports
    from uftp.cli.output import print_json
    from uftp.cli.progress import showing_progress
    from uftp.transfer.between import copy_between
    from uftp.transfer.between_places import Listeners

    reports = Reports(settings)
    interrupted: list[str] = []

    def started(copy: Copy) -> None:
        if settings.json:
            print_json(copy.to_json())
        elif settings.verbose:
            click.echo(one_line(f"uftp: copy {copy.id} runs on {copy.server}: {_said(copy)}"), err=True)

    def ended(copy: Copy, word: str) -> None:
        if settings.json:
            print_json({**copy.to_json(), "state": word})

    def stopped(copy: Copy, text: str) -> None:
        interrupted.append(text)

    def advice() -> str:
        from uftp.cli.copy_reports import resume_command

        done = f"{reports.state.files_done} files done; " if reports.state.files_done else ""
        what = "; ".join(interrupted) or "no copy was running"
        return f"{what}; {done}to go on: {resume_command(sys.argv)}"

    async def run() -> CopySummary:
        async with showing_progress(settings, reports.state, interval=progress_interval):
            listeners = Listeners(started=started, ended=ended, stopped=stopped)
            return await copy_between(sources, target, options=options, state=reports.state, listeners=listeners)

    try:
        summary = run_async(settings, run, when_interrupted=advice)
    except Interrupted:
        if not reports.state.completed:
            raise
        summary = reports.state.summary()  # it had ended before it could be ended
    if not settings.quiet:
        for text in interrupted:
            click.echo(one_line(f"uftp: {text}"), err=True)
    reports.finish(summary, show=sys.stderr.isatty() and not settings.quiet)


def _start(settings: Settings, sources: Sequence[Source], target: Target, options: BetweenOptions) -> None:
    from uftp.cli.output import print_json
    from uftp.transfer.between import start_between
    from uftp.transfer.between_places import Listeners

    def started(copy: Copy) -> None:
        if settings.json:
            print_json(copy.to_json())
            return
        click.echo(copy.id)
        if not settings.quiet:
            how = f"to see how it stands: uftp rcp --status {copy.id} {copy.at.url.service}"
            if not copy.tells:
                how = "this server never tells how copies stand; look at the target"
            click.echo(one_line(f"uftp: runs on {copy.server}: {_said(copy)}; {how}"), err=True)

    listeners = Listeners(started=started)
    run_async(
        settings,
        lambda: start_between(sources, target, options=options, listeners=listeners),
        when_interrupted=lambda: "the copies whose ids were printed go on",
    )


def _said(copy: Copy) -> str:
    return f"{copy.source.display()} -> {copy.target.display()}"


def _show_status(settings: Settings, at: Place, text: str) -> None:
    from uftp.cli.output import human_size, print_json
    from uftp.client.wording import printable
    from uftp.transfer.between_later import copy_status, parse_copy_number

    number = parse_copy_number(text)
    status, failures = run_async(settings, lambda: copy_status(at, number), when_interrupted=lambda: _UNTOUCHED)
    if settings.json:
        record = {
            "type": "status",
            "id": str(number),
            "state": status.word,
            "bytes": status.bytes,
            "total": status.total,
            "files": status.files,
            "failed": status.failed,
            "found": status.found,
            "planned": status.planned,
            "rate": status.rate,
            "seconds": status.seconds,
        }
        print_json({**record, "error": status.error} if status.error else record)
        for failure in failures:
            print_json(
                {
                    "type": "file",
                    "source": os.fsdecode(failure.source),
                    "target": os.fsdecode(failure.target),
                    "ok": False,
                    "error": failure.error,
                }
            )
        return
    more = "" if status.planned else "+"
    parts = [
        f"{status.files}/{max(status.found, status.files)}{more} files",
        f"{human_size(status.bytes)} of {human_size(status.total)}{more}",
        f"{human_size(status.rate)}/s",
        f"{status.seconds:.0f} s",
    ]
    if status.failed:
        parts.insert(1, f"{status.failed} failed")
    click.echo(f"{status.word} {', '.join(parts)}")
    if status.error:
        click.echo(printable(status.error))
    for failure in failures:
        click.echo(f"{printable(failure.source)}: {printable(failure.error)}")


def _wait(settings: Settings, at: Place, text: str, progress_interval: int) -> None:
    from uftp.cli.copy_reports import Reports
    from uftp.cli.progress import showing_progress
    from uftp.transfer.between_later import parse_copy_number, watch_copy

    number = parse_copy_number(text)
    reports = Reports(settings)

    async def run() -> CopySummary:
        async with showing_progress(settings, reports.state, interval=progress_interval):
            return await watch_copy(at, number, state=reports.state)

    advice = f"the copy goes on; `uftp rcp --abort {number} {at.url.service}` ends it"
    summary = run_async(settings, run, when_interrupted=lambda: advice)
    reports.finish(summary, show=sys.stderr.isatty() and not settings.quiet)


def _abort(settings: Settings, at: Place, text: str, *, keep: bool) -> None:
    from uftp.cli.output import print_json
    from uftp.transfer.between_later import abort_copy, parse_copy_number

    number = parse_copy_number(text)
    word = run_async(settings, lambda: abort_copy(at, number, keep=keep), when_interrupted=lambda: "it may have ended")
    if settings.json:
        print_json({"type": "status", "id": str(number), "state": word})
    else:
        click.echo(word)


_UNTOUCHED: Final = "the copy goes on"
