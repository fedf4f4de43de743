"""Tar and zip as streams: what real programs and the standard library write, cut anywhere, and what nobody should."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from uftpd.session.archive_input import ArchiveError, ArchiveInput, Member, Members, Parse
from uftpd.session.archive_tar import parse_pax, parse_tar
from uftpd.session.archive_zip import parse_zip

Parser = Callable[[ArchiveInput, Members], Parse[None]]
TREE = {"a.txt": b"content", "empty": b"", "dir/deep/b.bin": bytes(range(256)) * 700, "x" * 150: b"long"}


@dataclass
class Collected:
    """Keeps members in memory."""

    files: dict[str, bytes] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    _data: bytearray = field(default_factory=bytearray)

    def begin(self, member: Member) -> None:
        self.members.append(member)
        self._data = bytearray()
        if member.kind == "refused":
            self.problems.append((os.fsdecode(member.name), member.reason))

    def write(self, offset: int, data: memoryview) -> None:
        assert data.nbytes, "nothing is nothing to write"
        self._data.extend(bytes(offset - len(self._data)))
        self._data += data

    def finish(self, size: int, problem: str = "") -> None:
        member = self.members[-1]
        name = os.fsdecode(member.name)
        if problem:
            self.problems.append((name, problem))
        elif member.kind == "file":
            self.files[name] = bytes(self._data.ljust(size, b"\0"))
            assert len(self.files[name]) == size
        elif member.kind == "directory":
            self.directories.append(name)

    def complain(self, name: bytes, problem: str) -> None:
        self.problems.append((os.fsdecode(name), problem))


class Unkept(Collected):
    """Keeps a size only."""

    size = 0

    def finish(self, size: int, problem: str = "") -> None:
        self.size = size


def parse(parser: Parser, *blocks: bytes) -> Collected:
    """Feed blocks in memory that is used again."""
    found = Collected()
    run = parser(ArchiveInput(), found)
    try:
        next(run)
        for block in blocks:
            memory = bytearray(block)
            run.send(memoryview(memory))
            memory[:] = b"\xee" * len(memory)
        run.send(None)
    except StopIteration:
        return found
    raise AssertionError("it wants more than everything")


def cut(data: bytes, borders: list[int]) -> list[bytes]:
    places = sorted({border % (len(data) + 1) for border in borders} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def make_tree(top: Path, tree: dict[str, bytes] = TREE) -> Path:
    for name, content in tree.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)
    return top


def tar_of(tree: dict[str, bytes] = TREE, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, content in tree.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1_111_111_111
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, *, size: int = 0, **values: str) -> bytes:
    """One header."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for key, value in values.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT)


END = bytes(1024)


def program(*command: str | Path, cwd: Path) -> bytes:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout


# -- tar ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_of_the_standard_library(form: int) -> None:
    found = parse(parse_tar, tar_of(TREE, form) if form != tarfile.USTAR_FORMAT else tar_of({"d/a": b"1"}, form))
    assert found.files == (TREE if form != tarfile.USTAR_FORMAT else {"d/a": b"1"})
    assert found.problems == []
    assert {member.mtime_ns for member in found.members} == {1_111_111_111 * 10**9}


@pytest.mark.parametrize("writer", ["tar", "bsdtar"])
@pytest.mark.parametrize("form", ["ustar", "gnu", "pax"])
def test_tar_of_real_programs(tmp_path: Path, writer: str, form: str) -> None:
    tree = {name: content for name, content in TREE.items() if form != "ustar" or len(name) < 100}
    tree["p" * 90 + "/" + "q" * 60] = b"name and prefix"
    make_tree(tmp_path / "t", tree)
    (tmp_path / "t" / "dir").chmod(0o750)
    os.utime(tmp_path / "t" / "a.txt", ns=(1, 1_234_567_890_987_654_321))
    name = {"gnu": "gnutar"}.get(form, form) if writer == "bsdtar" else form
    data = program(writer, f"--format={name}", "-b1", "-cf", "-", ".", cwd=tmp_path / "t")
    found = parse(parse_tar, data)
    assert {os.path.normpath(name): content for name, content in found.files.items()} == tree
    assert {os.path.normpath(name) for name in found.directories} == {".", "dir", "dir/deep", "p" * 90}
    facts = {os.path.normpath(os.fsdecode(member.name)): member for member in found.members}
    assert facts["dir"].mode == 0o750
    assert facts["a.txt"].mtime_ns == (1_234_567_890_987_654_321 if form == "pax" else 1_234_567_890 * 10**9)


@pytest.mark.parametrize("command", ["tar --format=gnu -S", "tar --format=pax -S", "bsdtar --format=pax"])
def test_sparse_files(tmp_path: Path, command: str) -> None:
    """Forms "S" (with more parts than the header holds) and 1.0."""
    with (tmp_path / "holes").open("wb") as file:
        for number in range(40):
            file.seek(number * 1024 * 1024)
            file.write(b"%04d" % number * 1024)
        file.truncate(45 * 1024 * 1024)
    (tmp_path / "hole").write_bytes(b"")
    os.truncate(tmp_path / "hole", 3_000_000)
    data = program(*command.split(), "-cf", "-", "holes", "hole", cwd=tmp_path)
    assert len(data) < 2_000_000, "the program has written no sparse form"
    found = parse(parse_tar, *cut(data, list(range(0, len(data), 1000))))
    assert found.problems == []
    assert found.files["holes"] == (tmp_path / "holes").read_bytes()
    assert found.files["hole"] == bytes(3_000_000)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.text("ab/é.", min_size=1, max_size=200), st.binary(max_size=2000), max_size=4),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.lists(st.integers(0, 10**6), max_size=12),
)
def test_tar_however_it_is_cut(tree: dict[str, bytes], form: int, borders: list[int]) -> None:
    tree = {name.strip("/") or "x": content for name, content in tree.items()}
    data = tar_of(tree, form)
    whole = parse(parse_tar, data)
    assert whole.files == tree
    assert parse(parse_tar, *cut(data, borders)) == whole


def test_tar_byte_by_byte() -> None:
    data = tar_of({"n" * 200: b"some"})
    assert parse(parse_tar, *(data[at : at + 1] for at in range(len(data)))) == parse(parse_tar, data)


def test_tar_links_devices_and_pipes_are_refused_and_the_rest_comes() -> None:
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"M", b"z")
    data = b"".join(entry(f"m{number}", kind, linkname="/etc/passwd") for number, kind in enumerate(kinds))
    data += entry("long link", b"2", linkname="y" * 300) + entry("good", size=3) + b"yes".ljust(512, b"\0") + END
    found = parse(parse_tar, data)
    assert found.files == {"good": b"yes"}
    assert [name for name, _ in found.problems] == [f"m{number}" for number in range(len(kinds))] + ["long link"]


def test_tar_cut_at_any_block_is_an_error() -> None:
    data = tar_of({"a": b"1", "n" * 200: b"z" * 1500})
    body = data.rstrip(b"\0")
    for length in range(0, len(body), 100):
        with pytest.raises(ArchiveError):
            parse(parse_tar, data[:length])
    whole = -(-len(body) // 512) * 512
    with pytest.raises(ArchiveError, match="without its end mark"):
        parse(parse_tar, data[:whole])
    assert parse(parse_tar, data[: whole + 512]).files.keys() == {"a", "n" * 200}


def test_tar_with_a_changed_header_is_an_error() -> None:
    """Not an end, as for some readers."""
    data = bytearray(tar_of({"a": b"1", "b": b"2"}, tarfile.GNU_FORMAT))
    data[1024] ^= 1
    with pytest.raises(ArchiveError, match="checksum"):
        parse(parse_tar, bytes(data))
    with pytest.raises(ArchiveError, match="neither a tar nor a zip"):
        parse(parse_tar, b"just text, no archive at all".ljust(512))


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return entry("pax", kind, size=len(records)) + records.ljust(-(-len(records) // 512) * 512, b"\0")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (entry("x", b"x", size=2**30), "a header of"),
        (entry("x", b"L", size=2**30), "a header of"),
        (pax(b"99 path=x\n"), "cannot be read"),
        (pax(b"9 path=x"), "cannot be read"),
        (pax(b"0 path=x\n"), "cannot be read"),
        (pax(b"junk"), "cannot be read"),
        (pax(b"11 size=-1\n") + entry("f"), "a number that is none"),
        (pax(b"29 size=99999999999999999999\n") + entry("f"), "a number that is none"),
        (pax(b"10 path=x\n", b"g") + entry("f"), "sets a name"),
        (
            pax(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n28 GNU.sparse.realsize=4096\n")
            + entry("f", size=512)
            + b"900000000\n".ljust(512, b"\0"),
            "map",
        ),
        (
            pax(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n28 GNU.sparse.realsize=4096\n")
            + entry("f", size=1024)
            + b"1\n4000\n512\n".ljust(1024, b"\0"),
            "outside",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tar_headers_that_make_no_sense(data: bytes, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        parse(parse_tar, data + END)


@pytest.mark.parametrize("kind", [b"x", b"g"])
def test_tar_headers_without_end_take_no_memory(kind: bytes) -> None:
    """Each is within its limit, and no member ever comes."""
    source, found = ArchiveInput(), Collected()
    run = parse_tar(source, found)
    next(run)
    tracemalloc.start()
    try:
        for number in range(40):
            value = b"%d" % number * 200_000
            for key in (b"key%d" % number, b"GNU.sparse.%d" % number, b"mtime"):
                body = b" " + key + b"=" + value + b"\n"
                run.send(memoryview(pax(b"%d" % (len(body) + 6) + body, kind)))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 4 * 1024 * 1024, kept
    with pytest.raises(StopIteration):
        run.send(memoryview(entry("f") + END[:512]))
    assert found.files == {"f": b""} or found.problems == [("f", "is a sparse file of an old form")]


def test_a_sparse_map_takes_little_memory() -> None:
    count = 100_000
    numbers = b"%d\n" % count + b"".join(b"%d\n0\n" % (2**60 + number) for number in range(count))
    header = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n43 GNU.sparse.realsize=%d\n" % (2**63 - 1)
    data = numbers.ljust(-(-len(numbers) // 512) * 512, b"\0")
    members = Unkept()
    run = parse_tar(ArchiveInput(), members)
    next(run)
    run.send(memoryview(pax(header) + entry("f", size=len(data))))
    tracemalloc.start()
    try:
        run.send(memoryview(data))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert members.size == 2**63 - 1, "the map was taken"
    assert peak < 64 * count, peak


def test_tar_names_that_are_too_long_are_refused_one_by_one() -> None:
    name = b"n" * 5000
    data = entry("long", b"L", size=len(name)) + name.ljust(5120, b"\0") + entry("n") + entry("ok") + END
    found = parse(parse_tar, data)
    assert found.files == {"ok": b""}
    assert [problem for _, problem in found.problems] == ["has a name that is too long"]


@given(st.dictionaries(st.binary(min_size=1, max_size=20).filter(lambda k: not set(k) & set(b"=\n")), st.binary()))
def test_pax_records(records: dict[bytes, bytes]) -> None:
    data = b""
    for key, value in records.items():
        rest = b" " + key + b"=" + value + b"\n"
        length = len(rest)
        while length != len(str(length)) + len(rest):
            length = len(str(length)) + len(rest)
        data += str(length).encode() + rest
    assert parse_pax(data) == records


# -- zip ----------------------------------------------------------------------------------------------------------


class Unseekable(io.RawIOBase):
    """Makes zipfile write lengths behind the data."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.data += memoryview(data)  # type: ignore[arg-type]
        return memoryview(data).nbytes  # type: ignore[arg-type]


def zip_of(tree: dict[str, bytes] = TREE, method: int = zipfile.ZIP_DEFLATED, *, streamed: bool = False) -> bytes:
    out = Unseekable() if streamed else io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in tree.items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=len(name) > 100) as member:
                member.write(content)
        for info in archive.infolist():
            assert info.compress_type in (0, 8)
    return bytes(out.data) if isinstance(out, Unseekable) else out.getvalue()


def deflated(tree: dict[str, bytes], *, streamed: bool) -> bytes:
    out = Unseekable() if streamed else io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in tree.items():
            archive.writestr(name, content)
    return bytes(out.data) if isinstance(out, Unseekable) else out.getvalue()


@pytest.mark.parametrize("streamed", [False, True])
def test_zip_of_the_standard_library(streamed: bool) -> None:
    for tree in (TREE, {}):
        found = parse(parse_zip, deflated(tree, streamed=streamed))
        assert found.files == tree
        assert found.problems == []
    assert parse(parse_zip, zip_of(TREE)).files == TREE, "stored, and zip64"


@pytest.mark.parametrize("command", ["zip -qr - .", "zip -0qr - .", "zip -fzqr - .", "bsdtar --format=zip -cf - ."])
def test_zip_of_real_programs(tmp_path: Path, command: str) -> None:
    make_tree(tmp_path)
    os.utime(tmp_path / "a.txt", (1, 1_234_567_890))
    found = parse(parse_zip, program(*command.split(), cwd=tmp_path))
    assert {os.path.normpath(name): content for name, content in found.files.items()} == TREE
    assert found.problems == []
    times = {os.path.normpath(os.fsdecode(member.name)): member.mtime_ns for member in found.members}
    assert times["a.txt"] == 1_234_567_890 * 10**9


@settings(deadline=None)
@given(
    st.dictionaries(st.text("ab/é.", min_size=1, max_size=20), st.binary(max_size=2000), max_size=4),
    st.booleans(),
    st.lists(st.integers(0, 10**6), max_size=12),
)
def test_zip_however_it_is_cut(tree: dict[str, bytes], streamed: bool, borders: list[int]) -> None:
    tree = {name.strip("/") or "x": content for name, content in tree.items()}
    data = deflated(tree, streamed=streamed)
    whole = parse(parse_zip, data)
    assert whole.files == tree
    assert parse(parse_zip, *cut(data, borders)) == whole


@pytest.mark.parametrize("streamed", [False, True])
def test_zip_byte_by_byte_and_cut_short(streamed: bool) -> None:
    data = deflated({"a": b"some", "b/": b"", "c": bytes(3000)}, streamed=streamed)
    assert parse(parse_zip, *(data[at : at + 1] for at in range(len(data)))) == parse(parse_zip, data)
    for length in range(len(data)):
        with pytest.raises(ArchiveError):
            parse(parse_zip, data[:length])


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_in_a_zip_changes_no_file_unseen(streamed: bool, place: int, change: int) -> None:
    tree = {"a": b"some bytes, some bytes", "b": bytes(range(200))}
    data = bytearray(deflated(tree, streamed=streamed))
    data[place % len(data)] ^= change
    try:
        found = parse(parse_zip, bytes(data))
    except ArchiveError:
        return
    if not found.problems:
        assert found.files == tree


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([parse_tar, parse_zip]), st.binary(max_size=3000), st.integers(0, 2))
def test_junk_is_an_error_of_its_own_kind(parser: Parser, junk: bytes, start: int) -> None:
    head = {0: b"", 1: b"PK\x03\x04", 2: tar_of({"a": b"1"})[:1024]}[start]
    try:
        parse(parser, head + junk)
    except ArchiveError:
        return


def test_zip_links_show_in_the_directory_and_are_reported() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
        archive.writestr("file", "x")
    found = parse(parse_zip, out.getvalue())
    assert found.files == {"link": b"/etc/passwd", "file": b"x"}
    assert found.problems == [("link", "is a link, unpacked as a file that holds its data")]


def test_zip_members_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret" * 100)
    program("zip", "-qP", "password", "a.zip", "secret", cwd=tmp_path)
    assert parse(parse_zip, (tmp_path / "a.zip").read_bytes()).problems == [("secret", "is encrypted")]
    with pytest.raises(ArchiveError, match="of unknown length"):
        parse(parse_zip, program("zip", "-qP", "password", "-", "secret", cwd=tmp_path))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("lzma", b"x" * 1000)
        archive.writestr("good", b"1", zipfile.ZIP_DEFLATED)
    found = parse(parse_zip, out.getvalue())
    assert found.problems == [("lzma", "is compressed by method 14")]
    assert found.files == {"good": b"1"}


def test_zip_whose_directory_names_others() -> None:
    data = deflated({"good": b"1"}, streamed=False)
    at = data.index(b"PK\x01\x02")
    changed = data[:at] + data[at:].replace(b"good", b"evil")
    with pytest.raises(ArchiveError, match="names other members"):
        parse(parse_zip, changed)
    with pytest.raises(ArchiveError, match="names other members"):
        parse(parse_zip, data[:at] + data[:at] + data[at:])


def test_zip_with_wrong_sums_and_lengths() -> None:
    for tree_method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", tree_method) as archive:
            archive.writestr("bad", b"x" * 500)
            archive.writestr("good", b"1")
        data = bytearray(out.getvalue())
        data[14] ^= 1  # the CRC, in both places
        central = data.index(b"PK\x01\x02")
        data[central + 16] ^= 1
        found = parse(parse_zip, bytes(data))
        assert found.files == {"good": b"1"}
        assert found.problems == [("bad", "is damaged: its checksum is wrong")]


def test_a_bomb_is_unpacked_in_small_pieces() -> None:
    """300 MB from 300 kB: memory stays that of a piece, and whoever takes the pieces may stop at any."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(1024 * 1024)
    body = b"".join(packer.compress(zeros) for _ in range(300)) + packer.flush()
    header = struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 20, 8, 8, 0, 0, 0, 0, 0, 4, 0) + b"bomb"
    largest = total = 0

    class Sink(Collected):
        def write(self, offset: int, data: memoryview) -> None:
            nonlocal largest, total
            largest, total = max(largest, data.nbytes), total + data.nbytes
            if total > 200 * 1024 * 1024:
                raise InterruptedError

    run = parse_zip(ArchiveInput(), Sink())
    next(run)
    with pytest.raises(InterruptedError):
        run.send(memoryview(header + body))
    assert largest <= 1024 * 1024
