"""`uftp rcp` where a name stands for several data nodes: each copy is known to one of them only."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from raw_ftp import eventually
from running_uftp import UFTP, environment, uftp_inside
from two_sites import PATIENCE

from benchmarks.stack import PASSWORD, Stack, account


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the account that sessions run as."""
    with tempfile.TemporaryDirectory(prefix="uftp-group-files-") as name:
        person = pwd.getpwnam(account())
        os.chmod(name, 0o755)
        os.chown(name, person.pw_uid, person.pw_gid)
        yield Path(name)


def login(group: Stack) -> tuple[str, ...]:
    return ("--ca", str(group.ca), "-u", f"{group.login}:{PASSWORD}")


def test_the_node_that_runs_a_copy_is_found(group: Stack, place: Path) -> None:
    (place / "x").write_bytes(content := os.urandom(100_000))
    (place / "x").chmod(0o644)
    url = f"{group.url}{place}"
    copies = []
    for number in range(4):
        one = f"{group.auth_url}/TEST-{number % 2 + 1}:{place}/y{number}"
        done = uftp_inside("rcp", *login(group), "--json", "--no-wait", f"{url}/x", one)
        assert done.code == 0, done.err
        copies += done.records
    assert len({copy["server"] for copy in copies}) == 2
    for number, copy in enumerate(copies):
        waited = uftp_inside("rcp", *login(group), "--wait", copy["id"], group.url)
        assert waited.code == 0, waited.err
        assert (place / f"y{number}").read_bytes() == content
        status = uftp_inside("rcp", *login(group), "--status", copy["id"], group.url)
        assert status.lines[0].startswith("FINISHED 1/1 files")
    unknown = uftp_inside("rcp", *login(group), "--status", "4711", group.url)
    assert unknown.code == 4


def test_a_node_that_dies_takes_its_copy_with_it_and_nobody_says_otherwise(group: Stack, place: Path) -> None:
    (place / "x").write_bytes(os.urandom(70_000_000))
    (place / "x").chmod(0o644)
    url = f"{group.url}{place}"
    command = [UFTP, "rcp", *login(group), "-v", "--limit-rate", "1m", f"{url}/x", f"{url}/y"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert process.stderr is not None
    line = process.stderr.readline().decode()
    assert " runs on " in line
    number = next(number for number, (_, port) in enumerate(group.ftp) if f":{port}: " in line)
    eventually(lambda: list(place.glob(".uftp-*.part")), PATIENCE, "something arrives")
    group.kill(f"node{number}")
    group.start(f"node{number}")
    _, errors = process.communicate(timeout=4 * PATIENCE)
    assert process.returncode == 9, errors
    assert b"no longer knows this copy" in errors
    assert not (place / "y").exists()
    # The same command goes on, on whatever node.
    again = uftp_inside("rcp", *login(group), f"{url}/x", f"{url}/y")
    assert again.code == 0, again.err
    assert (place / "y").read_bytes() == (place / "x").read_bytes()
