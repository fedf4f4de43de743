"""The benchmarks run, and their arithmetic holds."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measure import CommandFailed, median, percentile, run, tree, tree_cpu

ROOT = Path(__file__).parent.parent
BUSY = "import time\nwhile time.process_time() < 0.05: pass"


def test_percentiles() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert (percentile(values, 0), percentile(values, 50), percentile(values, 99)) == (1, 51, 100)
    assert math.isnan(percentile([], 50))
    assert math.isnan(median([]))


def test_the_time_of_ended_children_stays_in_the_account_of_a_tree() -> None:
    before = tree_cpu(os.getpid())
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    assert tree_cpu(os.getpid()) - before >= 0.035  # ticks of 0.01, as floats
    assert os.getpid() in tree(os.getpid())


def test_a_client_that_fails_is_named_with_its_last_words() -> None:
    assert run([sys.executable, "-c", BUSY], None).client_cpu >= 0.05
    with pytest.raises(CommandFailed, match=r"exit 3: sorry$"):
        run([sys.executable, "-c", "import sys; print('sorry'); sys.exit(3)"], None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        "legacy_layers",
        "small_files",
        "small_file_sides",
        "throughput",
        "logins",
        "session_requests",
        "objects",
        "planning",
        "server_copies",
    ],
)
def test_they_print_a_table(program: str) -> None:
    few = {
        "legacy_layers": ["--size", "2", "--rounds", "1"],
        "throughput": ["--size", "1", "--repeat", "1", "--only", "bare"],
        "logins": ["--count", "4", "--repeat", "1", "--at-once", "2"],
        "small_files": ["--count", "20", "--quick", "--only", "uftp -t 1"],
        "small_file_sides": ["--count", "20", "--rounds", "1"],
        "session_requests": ["--count", "4", "--repeat", "1", "--at-once", "2"],
        "planning": ["--count", "200", "--directories", "4"],
        "objects": ["--size", "1", "--repeat", "1", "--seconds", "1"],
        "server_copies": ["--size", "2", "--count", "20", "--repeat", "1", "--only", "RECEIVE-FILE"],
    }
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{program}", *few[program]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    row = {
        "legacy_layers": "4 x AES gzip, text",
        "throughput": "bare sendfile loop",
        "logins": "uftpd ",
        "small_files": "uftp -t 1",
        "small_file_sides": "lane, down",
        "session_requests": "security session",
        "objects": "uftpd https",
        "planning": "down, dry run",
        "server_copies": "RECEIVE-FILE",
    }
    assert row[program] in done.stdout


@pytest.mark.slow
def test_the_one_of_delta_sync_compares_what_it_made(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.delta", "--size", "4", "--repeat", "1", "--directory", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "unrelated: uftp" in done.stdout
    assert list(tmp_path.iterdir()) == []
