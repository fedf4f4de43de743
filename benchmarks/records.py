"""How fast MODE U's streams move bytes, without servers: one process sends, another receives, on loopback.

python -m benchmarks.records [--size MIB] [--rounds N] [--directory DIR] [--target file|null]

Prints GB/s of payload for each form, and its ratio to the plain pump of MODE S (sendfile, recv and pwrite) in the
same run; medians of the rounds. Beside it the processor time of both sides, in milliseconds a GB: that says what a
form costs on a machine that is not idle. Then files of 4 KiB, in files a second.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Final

from uftp.protocol.record_mode import RecordOptions
from uftp.streams import Meter, prepare, receive_file, send_file
from uftp.streams.records import RecordReader, RecordWriter

_KEY: Final = bytes(32)
_SMALL: Final = 4096
_SMALL_FILES: Final = 20_000
_FORMS: Final = {
    "MODE U": RecordOptions(),
    "digest": RecordOptions(digest=True),
    "crypt": RecordOptions(crypt=True),
    "crypt digest": RecordOptions(crypt=True, digest=True),
    "zstd 1": RecordOptions(compress=True, level=1),
    "zstd 1 crypt digest": RecordOptions(compress=True, level=1, crypt=True, digest=True),
    "zstd 3": RecordOptions(compress=True, level=3),
}


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        receiver, _ = listener.accept()
    for end in (sender, receiver):
        prepare(end, 60)
    return sender, receiver


def _in_child(work: Callable[[], None]) -> Callable[[], float]:
    """Run `work` in a process of its own; the result waits for it, and tells its processor time in seconds."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)

    def wait() -> float:
        _, status, usage = os.wait4(pid, 0)
        if status:
            raise SystemExit("the receiver failed")
        return usage.ru_utime + usage.ru_stime

    return wait


def _time(options: RecordOptions | None, source: str, target: str) -> tuple[float, float, float]:
    """Seconds for one large file, and processor seconds of sender and receiver; None is the plain pump."""
    size = os.stat(source).st_size
    near, far = _pair()

    def receive() -> None:
        near.close()
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        if options is None:
            received = receive_file(far, fd, 0, size, Meter())
        else:
            incoming = RecordReader(far, options, _KEY).begin(1)
            received = incoming.to_file(fd, 0, size, Meter())
            assert incoming.finish()
        assert received == size
        far.sendall(b"+")

    wait = _in_child(receive)
    far.close()
    started, cpu = time.perf_counter(), time.process_time()
    with open(source, "rb") as file, near:
        if options is None:
            send_file(file.fileno(), 0, size, near, Meter())
        else:
            writer = RecordWriter(near, options, _KEY)
            outgoing = writer.begin(1)
            outgoing.from_file(file.fileno(), 0, size, Meter())
            outgoing.end()
            writer.flush()
            writer.close()
        near.recv(1)
        seconds = time.perf_counter() - started
    return seconds, time.process_time() - cpu, wait()


def _time_small(options: RecordOptions, source: str, directory: str) -> float:
    """Seconds for many small files."""
    near, far = _pair()

    def receive() -> None:
        near.close()
        reader = RecordReader(far, options, _KEY)
        fd = os.open(os.path.join(directory, "small"), os.O_WRONLY | os.O_CREAT, 0o600)
        for number in range(1, _SMALL_FILES + 1):
            incoming = reader.begin(number)
            assert incoming.to_file(fd, 0, _SMALL, Meter()) == _SMALL
            assert incoming.finish()
        far.sendall(b"+")

    wait = _in_child(receive)
    far.close()
    started = time.perf_counter()
    with open(source, "rb") as file, near:
        writer = RecordWriter(near, options, _KEY)
        for number in range(1, _SMALL_FILES + 1):
            outgoing = writer.begin(number)
            outgoing.from_file(file.fileno(), 0, _SMALL, Meter())
            outgoing.end()
        writer.flush()
        writer.close()
        near.recv(1)
        seconds = time.perf_counter() - started
    wait()
    return seconds


def _write_source(path: str, size: int, *, compressible: bool) -> None:
    words = [os.urandom(6).hex().encode() for _ in range(4000)]
    choose = random.Random(1)
    with open(path, "wb") as file:
        block = b" ".join(choose.choices(words, k=90_000))[: 1024 * 1024] if compressible else b""
        while file.tell() < size:
            if compressible:
                shift = choose.randrange(len(block))
                file.write(block[shift:] + block[:shift])
            else:
                file.write(os.urandom(1024 * 1024))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="MiB of the large file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", default="/dev/shm", help="where the files are")
    parser.add_argument("--target", choices=("file", "null"), default="file")
    parser.add_argument("--forms", nargs="*", default=list(_FORMS))
    given = parser.parse_args()
    size = given.size * 1024 * 1024
    with tempfile.TemporaryDirectory(dir=given.directory) as directory:
        target = os.path.join(directory, "target") if given.target == "file" else os.devnull
        for kind in ("random", "text"):
            source = os.path.join(directory, kind)
            _write_source(source, size, compressible=kind == "text")
            forms = [form for form in given.forms if kind == "random" or "zstd" in form]
            times: dict[str, list[tuple[float, float, float]]] = {form: [] for form in ("plain pump", *forms)}
            for _ in range(given.rounds):
                for form, taken in times.items():
                    taken.append(_time(_FORMS.get(form), source, target))
            plain = statistics.median(seconds for seconds, _, _ in times["plain pump"])
            for form, taken in times.items():
                seconds, sender, receiver = (statistics.median(column) for column in zip(*taken, strict=True))
                per_gb = 1e12 / size
                print(
                    f"{kind:7} {form:20} {size / seconds / 1e9:6.2f} GB/s  {plain / seconds:5.2f} of plain"
                    f"  {sender * per_gb:5.0f} + {receiver * per_gb:5.0f} ms/GB"
                )
            if kind == "random":
                for form in given.forms:
                    rate = _SMALL_FILES / _time_small(_FORMS[form], source, directory)
                    print(f"{'4 KiB':7} {form:20} {rate:8.0f} files/s")
            os.unlink(source)


if __name__ == "__main__":
    main()
