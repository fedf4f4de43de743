"""pyuftp with its layers: gzip, several streams, its ciphers; every file is compared byte for byte.

What pyuftp 1.1 itself cannot do, and so is not here: read a download over one encrypted stream (it sets decryption up
and throws it away); encrypt over three streams beyond a few blocks, since its chunks are then no multiple of the
cipher's block; and -E together with -C over one stream down, for the first reason.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from peer_programs import beside_python, run
from uftp_site import Site

pytestmark = pytest.mark.slow

SIZES = (0, 1, 15, 16, 17, 16383, 16384, 16385, 32768, 65535, 65536, 65537, 1048575, 1048576, 1048577, 3000001)
BOTH_WAYS = [
    ("-C",),
    ("-n", "2"),
    ("-n", "3"),
    ("-n", "4"),
    ("-C", "-n", "2"),
    ("-C", "-n", "4"),
    ("-E", "-n", "2"),
    ("-E", "-n", "4"),
]


def content(size: int) -> bytes:
    """Half of it shrinks."""
    text = b"a line of text that is there many times\n" * (size // 80 + 1)
    return text[: size // 2] + os.urandom(size - size // 2)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.mkdir()
    return path


def pyuftp(site: Site, local: Path, *arguments: str, cipher: str = "") -> None:
    name = site.first
    variables = {"PYTHONWARNINGS": "ignore"} | ({"UFTP_ENCRYPTION_ALGORITHM": cipher} if cipher else {})
    login = ("-u", f"{name}:{site.password(name)}")
    done = run(beside_python("pyuftp"), *arguments, *login, cwd=local, **variables)
    assert b"ERROR" not in done.out
    assert done.err == ""


def ciphers_of(options: tuple[str, ...]) -> tuple[str, ...]:
    return ("BLOWFISH", "AES") if "-E" in options else ("",)


CASES = [
    pytest.param(options, cipher, id=" ".join((*options, cipher)).strip())
    for options in BOTH_WAYS
    for cipher in ciphers_of(options)
]


@pytest.mark.parametrize(("options", "cipher"), CASES)
def test_both_ways(site: Site, local: Path, options: tuple[str, ...], cipher: str) -> None:
    remote = site.directory()
    for size in SIZES:
        (local / f"f{size}").write_bytes(content(size))
    pyuftp(site, local, "cp", *options, "f*", site.url(f"{remote}/"), cipher=cipher)
    for size in SIZES:
        assert (remote / f"f{size}").read_bytes() == (local / f"f{size}").read_bytes(), size
    (local / "back").mkdir()
    pyuftp(site, local, "cp", *options, site.url(f"{remote}/f*"), "back", cipher=cipher)
    for size in SIZES:
        assert (local / "back" / f"f{size}").read_bytes() == (local / f"f{size}").read_bytes(), size


@pytest.mark.parametrize("cipher", ["BLOWFISH", "AES"])
@pytest.mark.parametrize("options", [("-E",), ("-E", "-C")])
def test_one_encrypted_stream_up(site: Site, local: Path, options: tuple[str, ...], cipher: str) -> None:
    remote = site.directory()
    for size in SIZES:
        (local / f"f{size}").write_bytes(content(size))
    pyuftp(site, local, "cp", *options, "f*", site.url(f"{remote}/"), cipher=cipher)
    for size in SIZES:
        assert (remote / f"f{size}").read_bytes() == (local / f"f{size}").read_bytes(), size


@pytest.mark.parametrize("options", [("-C",), ("-n", "2"), ("-C", "-n", "2"), ("-E", "-n", "2")])
def test_ranges(site: Site, local: Path, options: tuple[str, ...]) -> None:
    remote = site.directory()
    data = content(100000)
    site.file(remote / "file", data)
    pyuftp(site, local, "cp", *options, "-B", "10000-49999", site.url(remote / "file"), "part")
    assert (local / "part").read_bytes() == data[10000:50000]
    (local / "new").write_bytes(bytes(100000))
    pyuftp(site, local, "cp", *options, "-B", "1000-40999-p", "new", site.url(remote / "file"))
    assert (remote / "file").read_bytes() == data[:1000] + bytes(40000) + data[41000:]
