"""What a long copy says of itself: in a log, when asked by a signal, on a terminal, and when it is interrupted."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from plain_ftp import PlainServer, pyftpdlib_server
from running_uftp import UFTP, environment

pytestmark = pytest.mark.slow

SECONDS = 30.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainServer]:
    with pyftpdlib_server(tmp_path_factory.mktemp("ftp")) as running:
        yield running


class Reader:
    """Reads what a process writes, until something is there."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.text = ""

    def until(self, wanted: str) -> None:
        deadline = time.monotonic() + SECONDS
        while wanted not in self.text:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{wanted!r} did not come: {self.text!r}"
            block = os.read(self._fd, 65536)
            assert block, f"{wanted!r} did not come: {self.text!r}"
            self.text += block.decode("utf-8", "replace")


@contextmanager
def copying(*arguments: str, stderr: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A copy from standard input, which does not end before the test lets it."""
    process = subprocess.Popen(
        [UFTP, "cp", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if stderr is None else stderr,
        env={**environment(), "TERM": "xterm", "COLUMNS": "120"},
    )
    try:
        assert process.stdin is not None
        process.stdin.write(b"x" * 3_000_000)
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_log_gets_a_line_now_and_then(server: PlainServer) -> None:
    with copying("--progress-interval", "1", "-", server.url + "/f") as process:
        assert process.stderr is not None
        reader = Reader(process.stderr.fileno())
        reader.until("uftp: 0/1 files, 3.0 MB")
        process.communicate(b"", timeout=SECONDS)
        assert process.returncode == 0
    assert (server.root / "f").stat().st_size == 3_000_000


def test_quiet_and_an_interval_of_nothing_are_silent(server: PlainServer) -> None:
    """They are asked for a snapshot, which comes after any line that was due: none may be before it."""
    for arguments in (("-q", "--progress-interval", "1"), ("--progress-interval", "0")):
        with copying(*arguments, "-", server.url + "/f") as process:
            assert process.stderr is not None
            reader = Reader(process.stderr.fileno())
            deadline = time.monotonic() + SECONDS
            while not any(path.stat().st_size for path in server.root.iterdir() if path.name != "f"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGUSR1)
            reader.until("sessions opened: 1")
            process.communicate(b"", timeout=SECONDS)
            assert process.returncode == 0
            assert reader.text.count(" files, ") == 1


def test_a_signal_asks_what_goes_on(server: PlainServer) -> None:
    with copying("-v", "-", server.url + "/f") as process:
        assert process.stderr is not None
        reader = Reader(process.stderr.fileno())
        reader.until("uftp: session 1 on ")
        process.send_signal(signal.SIGUSR1)
        reader.until("uftp: sessions opened: 1\n")
        assert "uftp: 0/" in reader.text
        process.communicate(b"", timeout=SECONDS)
        assert process.returncode == 0, "the signal has not ended it"


def test_a_terminal_gets_a_bar(server: PlainServer) -> None:
    master, slave = pty.openpty()
    try:
        with copying("-", server.url + "/f", stderr=slave) as process:
            Reader(master).until("0/1 files")
            process.communicate(b"", timeout=SECONDS)
            assert process.returncode == 0
    finally:
        os.close(slave)
        os.close(master)


def test_an_interrupt_says_that_a_pipe_cannot_go_on(server: PlainServer) -> None:
    with copying("-v", "-", server.url + "/f") as process:
        assert process.stderr is not None
        Reader(process.stderr.fileno()).until("uftp: session 1 on ")
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=SECONDS)
        assert process.returncode == 130
    assert rest.decode().splitlines()[-1] == "uftp: interrupted; what came from standard input has to come again"
