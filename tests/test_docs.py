"""The configurations printed in the documentation are ones the servers take."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from uftpd.config.auth import AuthConfig
from uftpd.config.copies import Copies
from uftpd.config.data import DataConfig, problems
from uftpd.config.login import configured_methods, login_problems
from uftpd.config.toml import load

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page: str) -> list[str]:
    """The indented blocks of a page that look like TOML."""
    text = (DOCS / page).read_text()
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in found if re.search(r"^    \[(ftp|server)\]$", block, re.MULTILINE)]


def login_blocks() -> list[str]:
    """The indented blocks that show ways to log in."""
    text = (DOCS / "ADMIN.md").read_text()
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in found if re.search(r"^    \[login\.", block, re.MULTILINE)]


@pytest.mark.parametrize("block", login_blocks(), ids=lambda block: block.splitlines()[0])
def test_example_logins_load(tmp_path: Path, block: str) -> None:
    path = tmp_path / "example.toml"
    server = '[server]\ncertificate = "a.pem"\nkey = "a.key"\n[nodes]\n'
    path.write_text(f"{server}\n{block}")
    config = load(path, AuthConfig)
    assert login_problems(config.login) == []
    assert configured_methods(config.login) or config.login.tokens.issuers


def test_the_example_of_copies_loads(tmp_path: Path) -> None:
    text = (DOCS / "ADMIN.md").read_text()
    block = re.search(r"(?:^    .*\n)*^    \[copies\].*\n(?:^    .*\n)*", text, re.MULTILINE)
    assert block is not None
    path = tmp_path / "example.toml"
    path.write_text("[command_port]\nplain = true\n" + textwrap.dedent(block[0]))
    config = load(path, DataConfig)
    assert problems(config) == []
    assert config.copies.https_ports == Copies().https_ports, "the page says what the ports are by default"
    assert set(Copies.__struct_fields__) == set(re.findall(r"^ *([a-z_]+) = ", block[0], re.MULTILINE))


@pytest.mark.parametrize(("number", "model"), [(0, DataConfig), (1, AuthConfig)])
def test_example_configurations_load(tmp_path: Path, number: int, model: type[DataConfig | AuthConfig]) -> None:
    """A typing error in the page, or a setting that was renamed, shows here."""
    path = tmp_path / "example.toml"
    path.write_text(blocks("ADMIN.md")[number])
    config = load(path, model)
    if isinstance(config, DataConfig):
        assert problems(config) == []
