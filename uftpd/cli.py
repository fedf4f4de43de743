"""The command `uftpd`: starts servers, checks their configuration, makes lines for password files.

Servers are imported only when they are started, so that `uftpd --help` is quick.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uftp._version import __version__
from uftpd.config.toml import ConfigError, PortRange

if TYPE_CHECKING:
    from uftpd.auth.store.engine import Store
    from uftpd.check import Checked

EXIT_FAILED = 1  # a server ended with an error
EXIT_CONFIG = 2  # wrong usage or configuration; also click's code for usage errors
EXIT_INTERRUPTED = 130

_EXISTING = click.Path(path_type=Path)
_PORT = click.IntRange(0, 65535)


def main() -> None:
    """Entry point: every error is one line on standard error."""
    try:
        code = cli.main(prog_name="uftpd", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = error.exit_code
    except click.ClickException as error:
        code = _complain(error.format_message(), error.exit_code)
    except click.Abort:
        code = EXIT_INTERRUPTED
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except ConfigError as error:
        code = _complain(str(error), EXIT_CONFIG)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(text: str, code: int) -> int:
    click.echo(f"uftpd: {' '.join(text.split())}", err=True)
    return code


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="uftpd", message="%(prog)s %(version)s")
def cli() -> None:
    """Servers for UFTP: fast, safe transfer of research data."""


@cli.group(invoke_without_command=True)
@click.option("--config", type=_EXISTING, help="Configuration file of the auth server.")
@click.pass_context
def auth(context: click.Context, config: Path | None) -> int:
    """Run the auth server, or prepare its files."""
    if context.invoked_subcommand is not None:
        return 0
    if config is None:
        raise click.UsageError("--config FILE is needed to run the auth server")
    from uftpd.auth import server
    from uftpd.config.auth import AuthConfig, checked
    from uftpd.config.toml import load
    from uftpd.data import systemd

    def read() -> AuthConfig:
        return checked(load(config, AuthConfig), config)

    return server.run(read(), ready=partial(systemd.notify, "READY=1"), load=read)


@auth.command("hash-password")
@click.argument("name")
@click.argument("dn")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the password from the first line of standard input.")
def hash_password(name: str, dn: str, from_stdin: bool) -> int:
    """Print a line for a password file.

    NAME is the login name, DN the person, such as "CN=Demo User,O=UNICORE,C=EU". The password is asked for.
    """
    from uftpd.auth.identity.password_file import password_line

    if from_stdin or not sys.stdin.isatty():
        password = sys.stdin.buffer.readline().rstrip(b"\r\n")  # bytes: no locale may change or refuse it
    else:
        password = os.fsencode(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    if not password:
        raise click.UsageError("the password is empty")
    try:
        click.echo(password_line(name, password, dn))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return 0


@auth.command("migrate")
@click.option("--config", type=_EXISTING, required=True, help="Configuration file of the auth server.")
def migrate_store(config: Path) -> int:
    """Bring the store to the tables of this version, as a start of the server does."""
    store = _open_store(config)
    store.close()
    click.echo("The store has the tables of this version.")
    return 0


@auth.command("revoke-token")
@click.argument("token")
@click.option("--config", type=_EXISTING, required=True, help="Configuration file of the auth server.")
def revoke_token(token: str, config: Path) -> int:
    """Refuse a token from now on, at all servers on this store.

    TOKEN is the token itself, its id (jti) as in the log, or @FILE for a file with either.
    """
    import time

    from uftpd.auth.admin import token_to_revoke
    from uftpd.auth.errors import BadRequest
    from uftpd.auth.store.engine import reason
    from uftpd.auth.store.revocations import check_token_id, revoke
    from uftpd.config.auth import AuthConfig
    from uftpd.config.toml import load

    if token.startswith("@"):
        try:
            token = Path(token[1:]).read_text("ascii", "replace").strip()
        except OSError as error:
            raise ConfigError(f"{token[1:]}: cannot be read: {error.strerror}") from error
    longest = load(config, AuthConfig).login.tokens.longest_renewal_seconds
    try:
        named, expires = token_to_revoke({"token" if token.count(".") == 2 else "jti": token}, longest)
        check_token_id(named)
    except BadRequest as error:
        raise click.UsageError(str(error)) from None
    store = _open_store(config)
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with store.engine.begin() as connection:
            ended = revoke(connection, named, expires, time.time())
    except (SQLAlchemyError, BadRequest) as error:
        why = reason(error) if isinstance(error, SQLAlchemyError) else str(error)
        return _complain(f"nothing has been revoked: {why}", EXIT_FAILED)
    finally:
        store.close()
    click.echo(f"Token {named} is refused from now on; {ended} security session(s) ended.")
    return 0


def _open_store(config: Path) -> Store:
    from uftpd.auth.store.engine import open_store
    from uftpd.config.auth import AuthConfig
    from uftpd.config.toml import load

    settings = load(config, AuthConfig).store
    if settings.path is None and not settings.url:
        raise ConfigError(f"{config}: store: without path or url nothing is kept that could be changed")
    if settings.path is not None and not settings.path.exists():
        # It must not come to belong to whoever runs this command.
        raise ConfigError(f"{settings.path}: there is no such file; the auth server makes it when it starts")
    return open_store(settings)


@cli.command()
@click.option("--config", type=_EXISTING, required=True, help="Configuration file of the data node.")
def data(config: Path) -> int:
    """Run a data node."""
    from uftpd.config.data import DataConfig, checked
    from uftpd.config.toml import load
    from uftpd.data import service

    return service.run(checked(load(config, DataConfig), config), config_path=config)


@cli.command("check-config")
@click.argument("files", nargs=-1, required=True, type=_EXISTING)
def check_config(files: tuple[Path, ...]) -> int:
    """Check configuration files, of auth servers and data nodes alike."""
    from uftpd.check import check_file

    code = 0
    for file in files:
        code = max(code, _show_check(file, check_file(file)))
    return code


def _show_check(file: Path, checked: Checked) -> int:
    """Say what was found in a configuration file; the exit code for it."""
    for warning in checked.warnings:
        _complain(f"warning: {warning}", 0)
    for problem in checked.problems:
        _complain(problem, EXIT_CONFIG)
    if checked.problems:
        return EXIT_CONFIG
    click.echo(f"{file}: ok")
    return 0


@cli.command("import-config")
@click.option("--auth", type=_EXISTING, metavar="FILE", help="container.properties of an upstream auth server.")
@click.option("--data", type=_EXISTING, metavar="FILE", help="uftpd.conf of an upstream data node.")
@click.option("--into", type=_EXISTING, required=True, metavar="DIR", help="Where to write; made if it is missing.")
@click.option("--root", type=_EXISTING, metavar="DIR", help="Directory that relative paths in the files count from.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def import_config(auth: Path | None, data: Path | None, into: Path, root: Path | None, force: bool) -> int:
    """Write configuration files made from those of an upstream installation.

    Prints what was written, and each thing that could not be carried over, with its place and what to do about it.
    """
    if auth is None and data is None:
        raise click.UsageError("--auth FILE or --data FILE is needed")
    from uftpd.importer.run import run_import

    imported = run_import(auth, data, into, root=root, force=force)
    for line in imported.notes.lines():
        click.echo(line)
    click.echo(f"Written to {into}: {', '.join(imported.written)}")
    if imported.secrets:
        click.echo(f"For their owner alone, so the server must run as it: {', '.join(imported.secrets)}")
    return max(_show_check(file, checked) for file, checked in imported.checks.items())


@cli.command()
@click.option(
    "--state",
    type=_EXISTING,
    metavar="DIR",
    help="Directory for everything that is kept.  [default: ~/.local/state/uftpd; for root /var/lib/uftpd]",
)
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDR", help="Address to listen on.")
@click.option("--auth-port", type=_PORT, default=9000, show_default=True, metavar="N", help="0 picks a free port.")
@click.option("--ftp-port", type=_PORT, default=64434, show_default=True, metavar="N", help="0 picks a free port.")
@click.option("--command-port", type=_PORT, default=64435, show_default=True, metavar="N", help="0 picks a free port.")
@click.option(
    "--objects-port", type=_PORT, default=0, metavar="N", help="For direct downloads of shares.  [default: a free port]"
)
@click.option(
    "--direct", is_flag=True, help="Shared files are fetched from the data nodes themselves; needs --objects-port open."
)
@click.option("--port-range", metavar="LO:HI", help="Ports of data connections.  [default: any]")
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="A data node; may be repeated.  [default: TEST]")
@click.option(
    "--user",
    "users",
    multiple=True,
    metavar="NAME:PASSWORD",
    help="An account; may be repeated. NAME:@FILE keeps the password out of the list of processes.  "
    "[default: one with a random password]",
)
@click.option("--map", "mapping", multiple=True, metavar="NAME:UNIXUSER", help="Which local account NAME may use.")
@click.option(
    "--allow-peer",
    "allow_peers",
    multiple=True,
    metavar="HOST[:PORT]",
    help="Another server the nodes may copy with when users say so; may be repeated.  [default: each other]",
)
@click.option(
    "--peer-ca",
    "peer_cas",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="CA certificates to trust for auth servers and https URLs elsewhere, beside the system's; may be repeated.",
)
@click.option(
    "--service-user", default="nobody", show_default=True, metavar="NAME", help="As root: for what needs no rights."
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option("--ready-json", is_flag=True, help="Print one line of JSON when everything serves.")
def standalone(
    state: Path | None,
    host: str,
    auth_port: int,
    ftp_port: int,
    command_port: int,
    objects_port: int,
    direct: bool,
    port_range: str | None,
    nodes: tuple[str, ...],
    users: tuple[str, ...],
    mapping: tuple[str, ...],
    allow_peers: tuple[str, ...],
    peer_cas: tuple[Path, ...],
    service_user: str,
    log_level: str,
    ready_json: bool,
) -> int:
    """Run auth server and data nodes together, with nothing to set up.

    Certificates, accounts and logs are kept in one directory. Ctrl-C ends everything.
    """
    from uftpd.standalone import options

    try:
        ports = PortRange.parse(port_range) if port_range else None
    except ValueError as error:
        raise click.UsageError(f"--port-range: {error}") from None
    logins = tuple(options.parse_user(user) for user in users)
    if len({login.name for login in logins}) != len(logins):
        raise click.UsageError("--user: names must differ")
    chosen = options.StandaloneOptions(
        state=state or options.default_state(),
        host=host,
        auth_port=auth_port,
        ftp_port=ftp_port,
        command_port=command_port,
        objects_port=objects_port,
        direct=direct,
        port_range=ports,
        nodes=options.parse_nodes(nodes),
        users=logins,
        mapping=options.parse_mapping(mapping, logins),
        allow_peers=options.parse_peers(allow_peers),
        peer_authorities=options.read_authorities(peer_cas),
        service_user=service_user,
        ready_json=ready_json,
        log_level=log_level,
    )
    from uftpd.standalone.run import run_standalone
    from uftpd.standalone.supervisor import StartFailed

    try:
        return run_standalone(chosen)
    except StartFailed as error:
        return _complain(f"{error}; the log is {chosen.state / 'uftpd.log'}", EXIT_FAILED)
