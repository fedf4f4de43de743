"""The `uftp` command: finds subcommands without loading the others, and turns errors into exit codes.

Starting must be quick: nothing here imports trio, TLS or HTTP.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import click

from uftp.cli.exits import EXIT_TABLE
from uftp.errors import EXIT_INTERRUPTED, UsageError

# Command to module and help line; aliases have no help line and are not listed.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "info": ("info", "Show the servers one may use, and who one is there."),
    "auth": ("auth", "Get host, port and one-time password for another FTP client."),
    "ls": ("ls", "List a directory."),
    "find": ("find", "List a directory tree."),
    "stat": ("stat", "Show what is known of a file."),
    "cp": ("cp", "Copy files to or from a server."),
    "rcp": ("rcp", "Copy from one server to another."),
    "sync": ("sync", "Make a tree or a file equal to another, moving only what differs."),
    "cat": ("cat", "Write files to standard output."),
    "mkdir": ("mkdir", "Create directories."),
    "mv": ("mv", "Rename or move a file on a server."),
    "rm": ("rm", "Remove files and directories."),
    "checksum": ("checksum", "Compute checksums on the server."),
    "share": ("share", "Share a file or directory by a link."),
    "get-share": ("get_share", "Fetch what somebody has shared, by its link."),
    "transfer": ("transfer", "Have copies between servers done while you are away."),
    "login": ("login", "Log in through an identity provider, in a browser."),
    "logout": ("logout", "Forget such a login."),
    "issue-token": ("issue_token", "Get a token that stands for you, for a job or a script."),
    "endpoints": ("endpoints", "List the names set up for servers."),
    "completion": ("completion", "Print a script that completes commands and options in your shell."),
}
ALIASES: Final = {"authenticate": "auth"}

_EPILOG: Final = f"""
\b
Places on a server are written like
  https://HOST:PORT/rest/auth/NAME:/path    through its auth server
  https://HOST:PORT/rest/access/NAME:/path  shared by somebody
  ftp://USER@HOST:PORT/path                 any FTP server
  ENDPOINT:path                             by a name of one's own; see `uftp endpoints --help`
Relative paths (NAME:dir/file) start at the home directory. Quote wildcards.

\b
Variables:
  UFTP_USER, UFTP_PASSWORD, UFTP_TOKEN      credentials; a token may be @FILE
  UFTP_KEY_PASSPHRASE                       passphrase of SSH key files
  UFTP_NO_AGENT                             `true`: leave ssh-agent alone
  UFTP_CONFIG                               file with the endpoints
  UFTP_OPTIONS                              NAME=VALUE,... sent as OPTS after login

\b
Exit codes:
{EXIT_TABLE}
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        found = import_module(f"uftp.cli.{COMMANDS[name][0]}_command").command
        if not isinstance(found, click.Command):
            raise TypeError(f"uftp.cli.{COMMANDS[name][0]}_command has no command")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click would import every command for its help line.
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        import uftp

        click.echo(f"uftp {uftp.__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "-V", "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version."
)
def command_line() -> None:
    """Copy and manage files on UFTP servers and FTP servers.

    `uftp COMMAND --help` explains each command.
    """


def run(arguments: Sequence[str]) -> int:
    """Run a command line.

    Returns:
        The exit code.
    """
    try:
        code = command_line.main(list(arguments), prog_name="uftp", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.Abort:
        click.echo("uftp: interrupted", err=True)
        return EXIT_INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return UsageError.exit_code
    except click.UsageError as error:
        hint = f"; `{error.ctx.command_path} --help` explains" if error.ctx is not None else ""
        click.echo(f"uftp: {error.format_message().rstrip('.')}{hint}", err=True)
        return UsageError.exit_code
    except click.ClickException as error:
        click.echo(f"uftp: {error.format_message()}", err=True)
        return 1
    except BrokenPipeError:
        # Whoever read the output has enough. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
