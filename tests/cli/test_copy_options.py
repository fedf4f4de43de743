"""The options of cp and sync as they arrive, and the words they are answered with."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from running_uftp import uftp

from uftp.cli.copy_options import ManyOptions, OrderedCommand, many_options
from uftp.cli.copy_reports import describe, resume_command
from uftp.cli.progress import progress_line, snapshot
from uftp.errors import UsageError
from uftp.streams import Meter
from uftp.transfer.results import CopyState, CopySummary, FileResult


def parsed(*arguments: str) -> ManyOptions:
    found: list[ManyOptions] = []

    @click.command(cls=OrderedCommand)
    @click.argument("names", nargs=-1)
    @many_options
    def command(many: ManyOptions, **rest: Any) -> None:
        found.append(many)

    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found[0]


def test_patterns_keep_the_order_they_were_given_in() -> None:
    many = parsed("--exclude", "*.o", "x", "--include=*.c", "--exclude", "*", "--include", "never", "--", "--include")
    assert many.patterns == ((False, "*.o"), (True, "*.c"), (False, "*"), (True, "never"))
    filters = many.filters()
    assert not filters.takes_file(b"a.o", 1, None)
    assert filters.takes_file(b"a.c", 1, None)
    assert not filters.takes_file(b"never", 1, None)
    assert many.is_selective


def test_without_options_everything_is_taken() -> None:
    many = parsed()
    assert not many.is_selective
    assert many.filters().takes_all
    assert (many.links, many.verify, many.retries, many.rate(), many.max_errors) == ("follow", True, 5, 0, None)


def test_bounds_and_names(tmp_path: Path) -> None:
    (tmp_path / "names").write_bytes(b"a\nb/c\n")
    (tmp_path / "moment").write_bytes(b"")
    many = parsed(
        *("--min-size", "1k", "--max-size", "2k", "--files-from", str(tmp_path / "names")),
        *("--newer", "@1000", "--limit-rate", "10m", "--no-verify"),
    )
    filters = many.filters()
    assert filters.takes_file(b"b/c", 1024, 1001 * 10**9)
    assert not filters.takes_file(b"b/c", 1023, None)
    assert not filters.takes_file(b"b/c", 2049, None)
    assert not filters.takes_file(b"b/d", 1024, None)
    assert not filters.takes_file(b"a", 1024, 1000 * 10**9)
    assert (many.rate(), many.verify) == (10 * 1024 * 1024, False)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--min-size", "2k", "--max-size", "1k"),
        ("--min-size", "big"),
        ("--newer", "yesterday"),
        ("--files-from", "/nonexistent/names"),
        ("--exclude", "["),
        ("--exclude", ""),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...]) -> None:
    many = parsed(*arguments)
    with pytest.raises(UsageError):
        many.filters()


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing would ever move"):
        parsed("--limit-rate", "0").rate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("only-one",), "only one place is named"),
        (("--links", "sometimes", "a", "ftp://127.0.0.1:1/b"), "sometimes"),
        (("--dry-run", "-", "ftp://127.0.0.1:1/b"), "--dry-run"),
        (("-a", "--exclude", "x", "a.tar", "ftp://127.0.0.1:1/b"), "-a"),
        (("--retries", "-1", "a", "ftp://127.0.0.1:1/b"), "--retries"),
        (("--exclude", "[", "a", "ftp://127.0.0.1:1/b"), "bracket"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = uftp("cp", *arguments)
    assert done.code == 2
    assert len(done.error_lines) == 1
    assert said in done.err


def test_the_command_to_go_on_with_can_be_typed_and_tells_no_secrets() -> None:
    line = ["/usr/bin/uftp", "cp", "-r", "two words", "-u", "me:secret", "-A", "token", "ftp://me:secret@host/x"]
    assert resume_command(line) == "uftp cp -r 'two words' -u me:... -A ... ftp://me:...@host/x"
    line = [
        "uftp",
        "sync",
        "--user=me:secret",
        "--auth-token=token",
        "-A",
        "@file",
        "a",
        "https://host:1/rest/auth/N:/x",
    ]
    assert resume_command(line) == "uftp sync --user=me:... --auth-token=... -A @file a https://host:1/rest/auth/N:/x"


def test_the_summary_names_what_there_is() -> None:
    plain = CopySummary(files=1, failed=0, bytes=2000, seconds=2.0)
    assert describe(plain) == "1 file, 2.0 kB in 2.0 s (1.0 kB/s)"
    full = CopySummary(files=3, failed=1, bytes=0, seconds=0.0, unchanged=4, deleted=5)
    assert describe(full) == "3 files, 4 unchanged, 5 deleted, 1 failed, 0 B in 0.0 s (-/s)"
    assert describe(full, dry_run=True).endswith("nothing was changed")


def test_progress_says_how_far_and_how_long() -> None:
    state = CopyState(started=time.monotonic() - 10)
    state.files_found, state.bytes_found = 4, 10_000
    meter = Meter()
    state.start(meter, "big.nc")
    meter.moved = 4000
    assert progress_line(state, 100.0) == "0/4+ files, 4.0 kB of 10.0 kB+, 100 B/s"
    state.planned = True
    state.record(FileResult(source="a", target="b"))
    assert progress_line(state, 100.0) == "1/4 files, 4.0 kB of 10.0 kB, 100 B/s, 1 min 00 s left"
    assert progress_line(state, 0.5).endswith("3 h 20 min left")
    state.taken_over = 1000  # by an interrupted copy: it is there, but has not moved now
    assert progress_line(state, 100.0) == "1/4 files, 5.0 kB of 10.0 kB, 100 B/s, 50 s left"
    assert "  4.0 kB of big.nc" in snapshot(state)
    state.stop(meter)
    assert "  4.0 kB of big.nc" not in snapshot(state)
    assert state.moved == 4000
