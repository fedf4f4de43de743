"""Two data nodes behind one name: sessions spread over them, and one that goes away costs a retry, not the copy."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_uftp import environment

from benchmarks.stack import BIN, PASSWORD, Stack

_MIB = 1024 * 1024


@pytest.fixture(scope="module")
def top() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nodes") as name:
        os.chmod(name, 0o755)  # sessions run as somebody else
        (Path(name) / "there").mkdir()
        os.chmod(Path(name) / "there", 0o777)
        yield Path(name)


@pytest.fixture(scope="module")
def stack(top: Path) -> Iterator[Stack]:
    (top / "stack").mkdir()
    with Stack(top / "stack", ["127.0.0.1", "127.0.0.1"]) as running:
        yield running


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_a_node_that_goes_away_costs_a_retry(stack: Stack, top: Path, up: bool) -> None:
    size = 72 * _MIB
    source = top / "source"
    source.write_bytes(os.urandom(size))
    target = top / "there" / "up" if up else top / "down"
    places = (str(source), f"{stack.url}{target}") if up else (f"{stack.url}{source}", str(target))
    # Slow enough for the node to be ended in the middle.
    command = [
        str(BIN / "uftp"),
        "cp",
        "--ca",
        str(stack.ca),
        "-u",
        f"joe:{PASSWORD}",
        "--json",
        "--verbose",
        "-t",
        "4",
    ]
    command += ["-t", "4", "--limit-rate", "20m", *places]
    variables = environment({"XDG_STATE_HOME": str(top / "state")})
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables) as process:
        said = _wait_for_sessions_on(process, [port for _, port in stack.ftp])
        stack.kill("node0")
        out, rest = process.communicate(timeout=120)
        errors = said + rest.decode()
    try:
        summary = json.loads(out.splitlines()[-1])
        assert process.returncode == 0, errors
        assert summary["bytes"] == size
        assert target.read_bytes() == source.read_bytes()
        assert summary["retries"] > 0
    finally:
        stack.start("node0")


def _wait_for_sessions_on(process: subprocess.Popen[bytes], ports: list[int]) -> str:
    """What the program says until it has a session on each of the ports: all of them are asked for at once."""
    assert process.stderr is not None
    said = ""
    while not all(f":{port}: " in said for port in ports):
        line = process.stderr.readline().decode()
        assert line, f"sessions are not spread over both nodes: {said}"
        said += line
    return said
