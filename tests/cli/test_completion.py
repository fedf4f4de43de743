"""Completion scripts know every command and option, and complete in the real shells."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from uftp.cli.completion import SHELLS, read_grammar
from uftp.cli.main import ALIASES, COMMANDS, command_line

SECONDS = 30.0
CONFIG = """
[endpoints.juelich]
url = "https://auth.example.org:9000/rest/auth/CLUSTER"

[endpoints.juelich.oidc]
issuer = "https://idp.example.org"
client_id = "uftp"

[ endpoints."jureca" ] # quoted, as TOML has it too
url = "https://auth.example.org:9000/rest/auth/OTHER"
"""

needs = {
    name: pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")
    for name in ("bash", "zsh", "fish")
}


def made(shell: str) -> str:
    result = CliRunner().invoke(command_line, ["completion", shell])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with files in it, a file of endpoints, and the scripts."""
    (tmp_path / "config.toml").write_text(CONFIG)
    for shell in SHELLS:
        (tmp_path / f"uftp.{shell}").write_text(made(shell))
    here = tmp_path / "here"
    (here / "field data").mkdir(parents=True)
    (here / "field one").write_text("")
    return tmp_path


def variables(place: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UFTP_", "XDG_"))}
    return {**kept, "UFTP_CONFIG": str(place / "config.toml"), "HOME": str(place), "TERM": "dumb", "LC_ALL": "C"}


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_option_is_in_the_script(shell: str) -> None:
    """Compared with what click itself lists, not with what the script was made from."""
    text = made(shell)
    context = click.Context(command_line, info_name="uftp")
    seen = 0
    for name in [*COMMANDS, *ALIASES]:
        command = command_line.get_command(context, name)
        assert command is not None
        assert name in text
        inner = click.Context(command, info_name=name, parent=context)
        every = [(command, inner)]
        for other in command.list_commands(inner) if isinstance(command, click.Group) else []:
            found = command.get_command(inner, other)  # type: ignore[attr-defined]  # a group
            assert found is not None
            assert other in text
            every.append((found, click.Context(found, info_name=other, parent=inner)))
        for one, its in every:
            for parameter in one.get_params(its):
                for option in parameter.opts + parameter.secondary_opts if isinstance(parameter, click.Option) else []:
                    wanted = option
                    if shell == "fish":
                        wanted = f"-l {option[2:]} " if option.startswith("--") else f"-s {option[1:]} "
                    assert wanted in text, f"{name} {option}"
                    seen += 1
    assert seen > 300


def test_the_grammar_knows_what_comes_behind_an_option() -> None:
    lines = {name: line for name, (_, line) in COMMANDS.items()}
    grammar = read_grammar(command_line, ALIASES, lines)
    commands = {command.names[0]: command for command in grammar.commands}
    options = {name: option for option in commands["cp"].options for name in option.names}
    assert (options["--recursive"].kind, options["-i"].kind, options["-T"].kind) == ("flag", "file", "text")
    assert options["--links"].choices == ("follow", "keep", "skip")
    assert (commands["cp"].argument, commands["ls"].argument, commands["endpoints"].argument) == (
        "place",
        "remote",
        "none",
    )
    assert commands["auth"].names == ("auth", "authenticate")


@needs["bash"]
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("uftp che", ["checksum"]),
        ("uftp --ver", ["--version"]),
        ("uftp cp --inc", ["--include"]),
        ("uftp cp -r --links ", ["follow", "keep", "skip"]),
        ("uftp cp --links = k", ["keep"]),  # how bash cuts --links=k
        ("uftp cp fiel", ["field data", "field one"]),
        ("uftp cp jue", ["juelich:"]),
        ("uftp ls j", ["juelich:", "jureca:"]),
        ("uftp ls fiel", []),
        ("uftp ls juelich : da", []),
        ("uftp cp -i fiel", ["field data", "field one"]),
        ("uftp cp --retries ", []),
        ("uftp authenticate --persi", ["--persistent"]),
        ("uftp completion z", ["zsh"]),
        ("uftp nonsense --", []),
        ("uftp transfer ", ["cancel", "list", "pause", "resume", "retry", "show", "submit", "wait"]),
        ("uftp transfer ca", ["cancel"]),
        ("uftp transfer --he", ["--help"]),
        ("uftp transfer list --state pa", ["paused"]),
        ("uftp transfer submit --source-us", ["--source-user"]),
        ("uftp transfer submit -r j", ["juelich:", "jureca:"]),
        ("uftp transfer submit fiel", []),
        ("uftp transfer submit --source-identity fiel", ["field data", "field one"]),
        ("uftp transfer nonsense --", []),
    ],
)
def test_bash_completes(place: Path, words: str, expected: list[str]) -> None:
    driver = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()\n'
        'complete -p uftp >/dev/null && _uftp; for word in "${COMPREPLY[@]}"; do printf "%s\\n" "$word"; done'
    )
    command = ["bash", "--norc", "-c", driver, "bash", str(place / "uftp.bash"), *words.split(" ")]
    done = subprocess.run(
        command, cwd=place / "here", env=variables(place), capture_output=True, timeout=SECONDS, check=True
    )
    assert done.stderr == b""
    assert sorted(done.stdout.decode().splitlines()) == expected


@needs["fish"]
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("uftp che", ["checksum"]),
        ("uftp cp --inc", ["--include"]),
        ("uftp cp -r --links ", ["follow", "keep", "skip"]),
        ("uftp ls j", ["juelich:", "jureca:"]),
        ("uftp ls fiel", []),
        ("uftp cp fiel", ["field data/", "field one"]),
        ("uftp completion z", ["zsh"]),
        ("uftp transfer ca", ["cancel"]),
        ("uftp transfer list --state pa", ["paused"]),
        ("uftp transfer submit -r j", ["juelich:", "jureca:"]),
        ("uftp ls submi", []),
    ],
)
def test_fish_completes(place: Path, line: str, expected: list[str]) -> None:
    command = ["fish", "--no-config", "-c", f"source {place / 'uftp.fish'}; complete -C '{line}'"]
    done = subprocess.run(
        command, cwd=place / "here", env=variables(place), capture_output=True, timeout=SECONDS, check=True
    )
    assert done.stderr == b""
    assert sorted(row.partition("\t")[0] for row in done.stdout.decode().splitlines()) == expected


@needs["zsh"]
@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("uftp chec\t", "uftp checksum "),
        ("uftp cp --no-ver\t", "uftp cp --no-verify "),
        ("uftp cp --links ke\t", "uftp cp --links keep "),
        ("uftp ls jue\t", "uftp ls juelich:"),
        ("uftp cp field\\ o\t", "uftp cp field\\ one "),
        ("uftp transfer canc\t", "uftp transfer cancel "),
        ("uftp transfer list --state canc\t", "uftp transfer list --state cancelled "),
        ("uftp transfer submit -r jue\t", "uftp transfer submit -r juelich:"),
    ],
)
def test_zsh_completes(place: Path, typed: str, expected: str) -> None:
    """On a terminal, as its line editor works nowhere else."""
    setup = f"autoload -U compinit; compinit -u -D; source {place / 'uftp.zsh'}; PS1='ready>'; unsetopt beep\n"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(place / "here")
        os.execvpe("zsh", ["zsh", "-f", "-i"], variables(place))
    try:
        os.write(terminal, setup.encode())
        read_until(terminal, "ready>", times=2)  # once in the echo of what was typed
        os.write(terminal, typed.encode())
        read_until(terminal, expected)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)


def read_until(terminal: int, wanted: str, times: int = 1) -> None:
    text, deadline = "", time.monotonic() + SECONDS
    while text.count(wanted) < times:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{wanted!r} did not come: {text!r}"
        text += os.read(terminal, 4096).decode("utf-8", "replace")


@pytest.mark.parametrize("shell", [pytest.param(name, marks=needs[name]) for name in ("bash", "zsh")])
def test_the_syntax_is_right(place: Path, shell: str) -> None:
    subprocess.run([shell, "-n", str(place / f"uftp.{shell}")], env=variables(place), timeout=SECONDS, check=True)
