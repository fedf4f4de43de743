"""Help, version, and how fast they come."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from running_uftp import uftp

from uftp import cli
from uftp.cli.exits import MEANINGS
from uftp.cli.main import COMMANDS, command_line


@pytest.mark.parametrize("name", [*COMMANDS, "authenticate"])
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(command_line, [name, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert "--ca" in result.output or name in ("completion", "transfer")


@pytest.mark.parametrize("name", ["submit", "list", "show", "wait", "cancel", "pause", "resume", "retry"])
def test_every_command_for_transfers_explains_itself(name: str) -> None:
    result = CliRunner().invoke(command_line, ["transfer", name, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert "--ca" in result.output


def test_the_top_help_lists_commands_and_exit_codes() -> None:
    result = CliRunner().invoke(command_line, ["--help"])
    for name, (_, line) in COMMANDS.items():
        assert name in result.output
        assert line in result.output
    for code, meaning in MEANINGS:
        assert f"{code:3}  {meaning}" in result.output


@pytest.mark.slow
def test_help_loads_nothing_slow() -> None:
    """The figure that matters is a start under 0.2 s; what would spoil it is one of these."""
    script = (
        "import sys; from uftp.cli.main import run; run(['--help']);"
        "slow = {'trio', 'httpx2', 'rich', 'ssl', 'asyncio', 'msgspec'} & set(sys.modules);"
        "sys.exit(str(slow) if slow else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_version_and_no_arguments() -> None:
    import uftp as package

    outcome = uftp("--version")
    assert (outcome.code, outcome.out.decode().strip()) == (0, f"uftp {package.__version__}")
    assert uftp().code == 2


def test_the_documentation_has_the_same_exit_codes() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "CLI.md").read_text()
    table = page.partition("## Exit codes")[2]
    assert re.findall(r"^\| ([0-9]+) \| (.*) \|$", table, re.MULTILINE) == [
        (str(code), meaning) for code, meaning in MEANINGS
    ]


def test_an_interrupt_while_modules_are_loaded_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Loading:
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "uftp.cli.main", Loading())  # type: ignore[arg-type]
    # Once it is loaded, the module `main` hides the function of that name.
    assert importlib.reload(cli).main() == 130
    assert capsys.readouterr().err == "uftp: interrupted\n"
