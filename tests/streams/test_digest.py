"""Digests of files: every algorithm, every range."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import blake3
import pytest

from uftp.protocol.features import HASH_ALGORITHMS
from uftp.streams import BLOCK, Cancelled, Meter, hash_file, new_digest

CONTENT = bytes(range(256)) * 5000  # more than one block
EXPECTED = {
    "MD5": lambda data: hashlib.md5(data).hexdigest(),
    "SHA-1": lambda data: hashlib.sha1(data).hexdigest(),
    "SHA-256": lambda data: hashlib.sha256(data).hexdigest(),
    "SHA-512": lambda data: hashlib.sha512(data).hexdigest(),
    "BLAKE3": lambda data: blake3.blake3(data).hexdigest(),
}
RANGES = [(0, len(CONTENT)), (0, 0), (1, BLOCK), (BLOCK, 10), (len(CONTENT), 5), (len(CONTENT) - 3, 100), (7, 2**62)]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("algorithm", HASH_ALGORITHMS)
def test_ranges_of_a_file(source: int, algorithm: str) -> None:
    for offset, length in RANGES:
        part = CONTENT[offset : offset + length]
        meter = Meter()
        assert hash_file(source, offset, length, algorithm, meter) == EXPECTED[algorithm](part)
        assert meter.moved == len(part)


def test_an_unknown_algorithm_is_named(source: int) -> None:
    with pytest.raises(KeyError, match="MD4"):
        new_digest("MD4")
    with pytest.raises(KeyError):
        hash_file(source, 0, 1, "md5")


def test_a_cancel_stops_it(source: int) -> None:
    meter = Meter()
    meter.cancelled = True
    with pytest.raises(Cancelled):
        hash_file(source, 0, len(CONTENT), "SHA-256", meter)
    assert meter.moved == 0


def test_a_directory_has_no_digest(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            hash_file(fd, 0, 10, "MD5")
    finally:
        os.close(fd)
