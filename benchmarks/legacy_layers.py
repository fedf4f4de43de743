"""How fast the layers for peers without MODE U are, without servers: one process sends, another drops what it gets.

python -m benchmarks.legacy_layers [--size MIB] [--rounds N]

Prints GB/s of payload (from /dev/zero, a text and random bytes in memory), the ratio to one plain connection in the
same run, and the processor time of each side in milliseconds a GB, which says what a form costs on a machine that is
not idle. Medians of the rounds. gzip by the standard library is timed beside it, without any network.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import statistics
import tempfile
import time
import zlib
from typing import Final

from uftp.streams import Layers, Link, Meter, prepare

_KEYS: Final = {"AES": bytes(range(48)), "BLOWFISH": bytes(range(56))}
_FORMS: Final = [
    # streams, cipher, gzip, source, share of the size
    (1, "", False, "zero", 1.0),
    (2, "", False, "zero", 1.0),
    (4, "", False, "zero", 1.0),
    (8, "", False, "zero", 1.0),
    (1, "", True, "text", 0.5),
    (4, "", True, "text", 0.5),
    (1, "", True, "random", 0.25),
    (1, "AES", False, "random", 0.5),
    (4, "AES", False, "random", 0.5),
    (1, "BLOWFISH", False, "random", 0.1),
    (4, "BLOWFISH", False, "random", 0.1),
    (4, "AES", True, "text", 0.5),
]


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for end in (near, far):
        prepare(end, 60)
    return near, far


def _time(streams: int, layers: Layers, source: int, size: int) -> tuple[float, float, float]:
    """Seconds, and processor seconds of sender and receiver."""
    pairs = [_pair() for _ in range(streams)]
    pid = os.fork()
    if pid == 0:
        for far in (far for _, far in pairs):
            far.close()
        link = Link([near for near, _ in pairs], layers, framed=streams > 1)
        outgoing = link.outgoing()
        outgoing.from_file(source, 0, size, Meter())
        outgoing.end()
        os._exit(0)
    for near in (near for near, _ in pairs):
        near.close()
    link = Link([far for _, far in pairs], layers, framed=streams > 1)
    started, cpu = time.perf_counter(), time.process_time()
    incoming = link.incoming()
    received = incoming.to_nowhere(size, Meter())
    if not incoming.finish() or received != size:
        raise SystemExit("not all arrived")
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    link.close()
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit("the sender failed")
    return seconds, usage.ru_utime + usage.ru_stime, cpu


def _sources(directory: str, size: int) -> dict[str, int]:
    zero = os.open("/dev/zero", os.O_RDONLY)
    text = b"".join(
        b"%d: temperature %.3f, pressure %.2f\n" % (n, n * 7919 % 997 / 7, n % 83 * 1.3) for n in range(25000)
    )
    found = {"zero": zero}
    for name, block in (("text", text), ("random", os.urandom(1024 * 1024))):
        found[name] = fd = os.open(os.path.join(directory, name), os.O_RDWR | os.O_CREAT)
        written = 0
        while written < size:
            written += os.write(fd, block[: size - written])
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    size = arguments.size * 1024 * 1024
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        sources = _sources(directory, size // 2)
        print(f"{'form':32} {'GB/s':>6} {'ratio':>6} {'sender':>8} {'receiver':>8}  ms of processor a GB")
        plain = 0.0
        for streams, cipher, compress, source, share in _FORMS:
            layers = Layers(compress, cipher, _KEYS.get(cipher, b""))
            count = max(1, int(size * share))
            rounds = [_time(streams, layers, sources[source], count) for _ in range(arguments.rounds)]
            seconds, sender, receiver = (statistics.median(column) for column in zip(*rounds, strict=True))
            rate = count / seconds / 1e9
            plain = plain or rate
            name = f"{streams} x {cipher or 'clear'}{' gzip' * compress}, {source}"
            costs = [f"{part / count * 1e12:8.0f}" for part in (sender, receiver)]
            print(f"{name:32} {rate:6.2f} {rate / plain:6.2f} {' '.join(costs)}", flush=True)
        sample = os.pread(sources["text"], min(size // 2, 32 * 1024 * 1024), 0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        zlib.compress(sample)
        spent = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
        print(f"{'gzip of the standard library':32} {len(sample) / max(spent, 1e-9) / 1e9:6.2f}")


if __name__ == "__main__":
    main()
