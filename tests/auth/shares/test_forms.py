"""Archives, names and addresses as bytes, without a server."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
import urllib.parse
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peer_programs import needed

from uftpd.auth.errors import NotFound
from uftpd.auth.shares import packing
from uftpd.auth.shares.entrance import split_address
from uftpd.auth.shares.packing import Packer, TarPacker, ZipPacker
from uftpd.auth.shares.presentation import disposition, media_type, shows_inline
from uftpd.auth.shares.representation import Multipart, may_write, version_of

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=200)
FILES = st.lists(
    st.tuples(NAMES, st.binary(max_size=3000), st.integers(0, 4_000_000_000), st.integers(0, 0o777)),
    max_size=8,
    unique_by=lambda file: file[0],
)


def packed(packer: Packer, files: list[tuple[str, bytes, int, int]]) -> bytes:
    whole = packer.directory(b"top", 1_600_000_000, 0o755)
    for name, content, mtime, permissions in files:
        whole += packer.begin(b"top/" + name.encode(), len(content), mtime, permissions)
        for at in range(0, len(content), 1000):
            whole += packer.data(content[at : at + 1000])
        whole += packer.end()
    return whole + b"".join(packer.close())


@given(FILES)
@settings(deadline=None, max_examples=60)
def test_a_tar_holds_what_was_put_in(files: list[tuple[str, bytes, int, int]]) -> None:
    whole = packed(TarPacker(), files)
    assert len(whole) % 10240 == 0
    with tarfile.open(fileobj=io.BytesIO(whole)) as opened:
        members = opened.getmembers()
        assert members[0].isdir()
        for member, (name, content, mtime, permissions) in zip(members[1:], files, strict=True):
            assert (member.name, member.mtime, member.mode) == (f"top/{name}".rstrip("/"), mtime, permissions)
            found = opened.extractfile(member)
            assert found is not None
            assert found.read() == content


@given(FILES)
@settings(deadline=None, max_examples=60)
def test_a_zip_holds_what_was_put_in(files: list[tuple[str, bytes, int, int]]) -> None:
    with zipfile.ZipFile(io.BytesIO(packed(ZipPacker(), files))) as opened:
        assert opened.testzip() is None
        for info, (name, content, _, permissions) in zip(opened.infolist()[1:], files, strict=True):
            assert info.orig_filename == f"top/{name}"
            assert info.external_attr >> 16 & 0o777 == permissions
            assert opened.read(info) == content


def test_a_zip_beyond_32_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More members than 16 bits count, and offsets beyond 32 bits: what zip64 is for."""
    packer = ZipPacker()
    target = tmp_path / "large.zip"
    with target.open("wb") as file:
        file.write(packer.begin(b"zeros.gz", 5 * 1024**3, 0, 0o644))
        start = file.tell()
        block = bytes(1 << 20)
        with monkeypatch.context() as patch:
            patch.setattr(
                "uftpd.auth.shares.packing.zlib.crc32", lambda data, before=0: before
            )  # takes seconds, and is not read here
            for _ in range(5 * 1024):
                packer.data(block)
        file.seek(start + 5 * 1024**3)  # a hole, which is zeros
        file.write(packer.end())
        for number in range(66_000):
            file.write(packer.begin(b"f%d" % number, 1, 0, 0o644) + packer.data(b"x") + packer.end())
        for part in packer.close():
            file.write(part)
    with zipfile.ZipFile(target) as opened:
        names = opened.namelist()
        assert (len(names), opened.getinfo("zeros.gz").file_size) == (66_001, 5 * 1024**3)
        assert opened.read("f65999") == b"x"
    listed = subprocess.run([needed("unzip"), "-l", str(target)], capture_output=True, check=True, text=True)
    assert "66001 files" in listed.stdout


def test_a_tar_member_beyond_8_gib() -> None:
    head = TarPacker().begin(b"large", 9 * 1024**3, 0, 0o644)
    assert tarfile.TarInfo.frombuf(head[-512:], "utf-8", "strict").name == "large"
    assert b"size=9663676416\n" in head


def test_the_directory_of_a_zip_is_not_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_SPOOLED", 1000)
    files = [(f"f{number}", b"x", 0, 0o644) for number in range(100)]
    with zipfile.ZipFile(io.BytesIO(packed(ZipPacker(), files))) as opened:
        assert len(opened.namelist()) == 101


# -- names ----------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name and b"\0" not in name))
def test_a_disposition_is_one_harmless_line(name: bytes) -> None:
    value = disposition(name)
    assert all(" " <= c <= "~" for c in value)
    plain = value.removeprefix('attachment; filename="').partition('"')[0]
    assert plain
    assert plain not in (".", "..")
    assert not set(plain) & set('/\\%"')
    exact = urllib.parse.unquote(value.partition("filename*=UTF-8''")[2])
    assert all(c.isprintable() or c == " " for c in exact)


@pytest.mark.parametrize(
    ("name", "plain", "exact"),
    [
        (b"data.txt", "data.txt", ""),
        (b'a "b".txt', "a _b_.txt", "a%20%22b%22.txt"),
        ("ü.txt".encode(), "_.txt", "%C3%BC.txt"),
        (b"\xff", "download", "%EF%BF%BD"),
        (b"..", "download", ".."),
        (b"a\r\nb", "a__b", "a__b"),
    ],
)
def test_dispositions(name: bytes, plain: str, exact: str) -> None:
    expected = f'attachment; filename="{plain}"' + (f"; filename*=UTF-8''{exact}" if exact else "")
    assert disposition(name) == expected


def test_types() -> None:
    assert media_type(b"x.PNG") == "image/png"
    assert media_type(b"x.tar.gz") == "application/gzip"
    assert media_type(b"README") == "text/plain; charset=utf-8"
    assert media_type(b"x.unknown-thing") == "application/octet-stream"
    assert media_type(b"\xff") == "application/octet-stream"
    for name in (b"x.html", b"x.svg", b"x.xml", b"x.pdf", b"x.js", b"x.xhtml", b"x"):
        assert not shows_inline(media_type(name)), name


# -- addresses ------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([b"a", b"..", b".", b"", b"%2e%2e", b"%2E.", b"b%20c", b"%ff"]), max_size=12))
def test_no_address_leads_above_the_share(pieces: list[bytes]) -> None:
    raw = b"/rest/access/TEST/id/" + b"/".join(pieces)
    try:
        server, share_id, parts, _ = split_address(raw)
    except NotFound:
        return
    assert (server, share_id) == ("TEST", "id")
    depth = 0
    for piece in pieces:
        name = urllib.parse.unquote_to_bytes(piece)
        depth += {b"..": -1, b".": 0, b"": 0}.get(name, 1)
        assert depth >= 0
    assert len(parts) == depth
    assert not {b"..", b".", b""} & set(parts)


@pytest.mark.parametrize("raw", [b"/rest%2faccess/S/id", b"/rest/access/S/id/a%2fb", b"/rest/access/S/id/a%00"])
def test_encoded_slashes_separate_nothing(raw: bytes) -> None:
    with pytest.raises(NotFound):
        split_address(raw)


@given(st.binary(max_size=200))
def test_any_junk_is_an_address_or_none(junk: bytes) -> None:
    with contextlib.suppress(NotFound):
        split_address(b"/rest/access/" + junk)


# -- versions and parts ---------------------------------------------------------------------------------------------


def test_conditions_of_a_write() -> None:
    there = version_of(b"salt", b"path", 10, 1_700_000_000_000_000_000)
    assert may_write({}, None)
    assert may_write({"if-none-match": "*"}, None)
    assert not may_write({"if-none-match": "*"}, there)
    assert not may_write({"if-none-match": f'"x", W/{there.etag}'}, there)
    assert may_write({"if-match": f'"x", {there.etag}'}, there)
    assert not may_write({"if-match": f"W/{there.etag}"}, there)
    assert not may_write({"if-match": "*"}, None)
    assert may_write({"if-unmodified-since": "Tue, 14 Nov 2023 22:13:20 GMT"}, there)
    assert not may_write({"if-unmodified-since": "Tue, 14 Nov 2023 22:13:19 GMT"}, there)


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(1, 10**6)), min_size=2, max_size=5))
def test_the_length_of_several_parts_is_exact(parts: list[tuple[int, int]]) -> None:
    body = Multipart(parts, 10**13, "text/plain")
    made = sum(len(head) + length for head, (_, length) in zip(body.heads, parts, strict=True)) + len(body.closing)
    assert body.length == made


def test_a_version_is_of_one_path_and_share() -> None:
    first = version_of(b"share", b"path", 1, 2)
    assert first == version_of(b"share", b"path", 1, 2)
    others = [
        version_of(b"other", b"path", 1, 2),
        version_of(b"share", b"p", 1, 2),
        version_of(b"share", b"path", 1, 3),
    ]
    assert first.etag not in {other.etag for other in others}
