"""Facts of files: every listing form is read back as written, other servers' forms are read, junk is refused."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from uftp.protocol import ProtocolError
from uftp.protocol.facts import (
    NANOSECONDS,
    FactChange,
    FileInfo,
    format_facts,
    format_kept,
    format_list,
    format_stat,
    format_time,
    parse_facts,
    parse_kept,
    parse_list,
    parse_mff,
    parse_stat,
    parse_time,
)

NOW = 1_795_371_496.0  # 2026-11-22 18:18:16 UTC
FEB_2021 = 1_612_325_106 * NANOSECONDS  # 2021-02-03 04:05:06 UTC
YEAR_ONE, YEAR_9999 = -62_135_596_800, 253_402_300_799

infos = st.builds(
    FileInfo,
    name=st.binary(min_size=1).filter(lambda name: name not in (b".", b"..")),
    size=st.integers(min_value=0, max_value=2**63 - 1),
    mtime_ns=st.integers(min_value=YEAR_ONE * NANOSECONDS, max_value=YEAR_9999 * NANOSECONDS),
    is_dir=st.booleans(),
    mode=st.none() | st.integers(min_value=0, max_value=0o177777),
    readable=st.booleans(),
    writable=st.booleans(),
    executable=st.booleans(),
    unique=st.none() | st.from_regex(rb"[0-9a-f]{1,16}g[0-9a-f]{1,16}", fullmatch=True),
)
links = st.builds(
    FileInfo,
    name=st.just(b"x"),
    size=st.integers(min_value=0, max_value=4096),
    mtime_ns=st.just(FEB_2021),
    mode=st.just(0o120777),
    link=st.binary(min_size=1, max_size=300),
)


@pytest.fixture
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The server's zone; one and a half hours east of UTC unless a test says otherwise."""
    monkeypatch.setenv("TZ", getattr(request, "param", "TEST-01:30"))
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# -- times --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mtime_ns"),
    [
        (b"20210203040506", FEB_2021),
        (b"20210203040506.5", FEB_2021 + 500_000_000),
        (b"20210203040506.000000001", FEB_2021 + 1),
        (b"20210203040506.0000000019999", FEB_2021 + 1),
        (b"19700101000000", 0),
        (b"19691231235959.75", -250_000_000),
        (b"20240229000000", 1_709_164_800 * NANOSECONDS),
        (b"20161231235960", 1_483_228_800 * NANOSECONDS),  # a leap second
        (b"99991231235959", YEAR_9999 * NANOSECONDS),
        (b"00010101000000", YEAR_ONE * NANOSECONDS),
    ],
)
def test_times_are_read(text: bytes, mtime_ns: int) -> None:
    assert parse_time(text, utc=True) == mtime_ns


@pytest.mark.parametrize(
    "text",
    [b"", b"2021", b"2021020304050", b"202102030405067", b"20210203040506.", b"20211303040506", b"20210003040506",
     b"20210200040506", b"20210229040506", b"20210431040506", b"20210203240506", b"20210203046006", b"20210203040561",
     b"00000101000000", b"2021-02-03", b" 20210203040506", b"20210203040506Z", b"-0210203040506"],
)  # fmt: skip
@pytest.mark.parametrize("utc", [True, False])
def test_times_that_do_not_exist_are_refused(text: bytes, utc: bool) -> None:
    with pytest.raises(ProtocolError):
        parse_time(text, utc=utc)


@pytest.mark.usefixtures("zone")
def test_local_time_is_that_of_the_server() -> None:
    assert format_time(FEB_2021, utc=True) == "20210203040506"
    assert format_time(FEB_2021, utc=False) == "20210203053506"
    assert parse_time(b"20210203053506", utc=False) == FEB_2021


@given(st.integers(min_value=YEAR_ONE * NANOSECONDS, max_value=YEAR_9999 * NANOSECONDS))
def test_any_time_is_read_back_to_the_nanosecond(mtime_ns: int) -> None:
    assert parse_time(format_time(mtime_ns, utc=True, fraction=True).encode(), utc=True) == mtime_ns
    assert parse_time(format_time(mtime_ns, utc=True).encode(), utc=True) == mtime_ns // NANOSECONDS * NANOSECONDS


@given(st.integers(min_value=-(2**63), max_value=2**63), st.booleans(), st.booleans())
@example(-30_610_224_001, False, False)  # the year 999
def test_whatever_a_file_system_holds_as_time_can_be_listed(seconds: int, utc: bool, fraction: bool) -> None:
    info = FileInfo(name=b"x", size=0, mtime_ns=seconds * NANOSECONDS + 1)
    text = format_time(info.mtime_ns, utc=utc, fraction=fraction)
    assert len(text.partition(".")[0]) == 14
    parse_time(text.encode(), utc=utc)
    assert parse_list(format_list(info, now=NOW), now=NOW) is not None


# -- MLST, MLSD ---------------------------------------------------------------------------------------------------


@given(infos)
def test_facts_are_read_back(info: FileInfo) -> None:
    line = format_facts(info, utc=True, fraction=True).encode() + b" " + info.name
    assert parse_facts(line, utc=True) == info
    assert parse_facts(b" " + line, utc=True) == info, "MLST has a blank before"


@given(info=links)
def test_the_target_of_a_link_can_be_any_text(info: FileInfo) -> None:
    line = format_facts(info, utc=True, type_first=True).encode() + b" " + info.name
    assert line.startswith(b"type=OS.unix=symlink;")
    assert parse_facts(line, utc=True) == info


def test_facts_are_written_as_the_legacy_clients_read_them() -> None:
    info = FileInfo(name=b"digits.txt", size=10, mtime_ns=FEB_2021 + 5, mode=0o100644)
    assert format_facts(info, utc=True) == "size=10;modify=20210203040506;type=file;perm=rw;UNIX.mode=100644;"
    directory = replace(info, size=4096, is_dir=True, mode=0o40755, executable=True)
    assert format_facts(directory, utc=True) == "size=4096;modify=20210203040506;type=dir;perm=lwe;UNIX.mode=40755;"


def test_facts_can_begin_with_the_type() -> None:
    info = FileInfo(name=b"a", size=10, mtime_ns=FEB_2021, mode=0o100644)
    facts = format_facts(info, utc=True, type_first=True)
    assert facts == "type=file;size=10;modify=20210203040506;perm=rw;UNIX.mode=100644;"
    assert parse_facts(facts.encode() + b" a", utc=True) == info


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            b" size=10;modify=20210203040506;type=file;perm=rw;UNIX.mode=100644; digits.txt",
            FileInfo(name=b"digits.txt", size=10, mtime_ns=FEB_2021, mode=0o100644),
        ),
        (  # pyftpdlib
            b"modify=20210203040506;perm=el;size=4096;type=dir;unique=fd0ag2;unix.gid=0;unix.mode=0755; a b ",
            FileInfo(name=b"a b ", size=4096, mtime_ns=FEB_2021, is_dir=True, mode=0o755, writable=False,
                     executable=True, unique=b"fd0ag2"),
        ),
        (b"Type=file;SIZE=3;Perm=adfrw; x", FileInfo(name=b"x", size=3, mtime_ns=0)),
        (b"type=dir;sizd=4096; x", FileInfo(name=b"x", size=4096, mtime_ns=0, is_dir=True)),
        (b"type=file;size=1; x", FileInfo(name=b"x", size=1, mtime_ns=0)),
        (b"type=OS.unix=slink:/a;size=1; x", FileInfo(name=b"x", size=1, mtime_ns=0)),
        (b"type=cdir;modify=20210203040506; /home", None),
        (b"type=pdir; ..", None),
        (b"size=4096;type=dir;perm=rwx; .", None),
    ],
)  # fmt: skip
def test_facts_of_other_servers(line: bytes, expected: FileInfo | None) -> None:
    assert parse_facts(line, utc=True) == expected


@pytest.mark.parametrize(
    "line",
    [b"", b"x", b"size=1;", b"size=1; ", b"size=; x", b"size=-1; x", b"size=1e3; x", b"size=" + b"9" * 5000 + b"; x",
     b"modify=2021; x", b"UNIX.mode=; x", b"UNIX.mode=8; x", b"UNIX.mode=" + b"7" * 5000 + b"; x"],
)  # fmt: skip
def test_what_are_no_facts(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_facts(line, utc=True)


# -- STAT ---------------------------------------------------------------------------------------------------------


@given(infos)
def test_stat_lines_are_read_back(info: FileInfo) -> None:
    known = replace(info, mode=None, mtime_ns=info.mtime_ns // 1_000_000 * 1_000_000, unique=None)
    assert parse_stat(format_stat(info)) == known


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b" -rw- 10 1612325106000 digits.txt", FileInfo(name=b"digits.txt", size=10, mtime_ns=FEB_2021)),
        (b"-rw- 12 1612325106000 with space.txt", FileInfo(name=b"with space.txt", size=12, mtime_ns=FEB_2021)),
        (b" drwx 4096 0  x", FileInfo(name=b" x", size=4096, mtime_ns=0, is_dir=True, executable=True)),
        (b" ---- 0 -1000 x",
         FileInfo(name=b"x", size=0, mtime_ns=-NANOSECONDS, readable=False, writable=False)),
    ],
)  # fmt: skip
def test_stat_lines_of_the_reference_server(line: bytes, expected: FileInfo) -> None:
    assert parse_stat(line) == expected


@pytest.mark.parametrize(
    "line", [b"", b" -rw- 10 x", b"lrw- 1 0 x", b"-rw- -1 0 x", b"-rw- 1 " + b"9" * 5000 + b" x", b"-rw- 1 1.5 x",
             b"-rw- " + b"1" * 5000 + b" 0 x"],
)  # fmt: skip
def test_what_is_no_stat_line(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_stat(line)


# -- LIST ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("zone")
def test_list_lines_are_written_as_the_reference_server_does() -> None:
    old = FileInfo(name=b"digits.txt", size=10, mtime_ns=FEB_2021)
    new = FileInfo(name=b"sub", size=4096, mtime_ns=int(NOW) * NANOSECONDS, is_dir=True, executable=True)
    assert format_list(old, now=NOW) == b"-rw-------   1 dummy dummy 10 Feb 03 2021 digits.txt"
    assert format_list(new, now=NOW) == b"drwx------   3 dummy dummy 4096 Nov 22 19:48 sub"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(infos, st.integers(min_value=-250 * 86_400, max_value=86_000))
@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize("zone", ["UTC"], indirect=True)
def test_list_lines_are_read_back_to_the_minute_or_the_day(info: FileInfo, age: int) -> None:
    listed = replace(info, mtime_ns=(int(NOW) + age) * NANOSECONDS)
    found = parse_list(format_list(listed, now=NOW), now=NOW)
    assert found is not None
    assert (found.size, found.is_dir) == (info.size, info.is_dir)
    assert found.name == info.name
    precision = 60 if age > -15_811_200 else 86_400
    assert found.mtime_ns == listed.mtime_ns // (precision * NANOSECONDS) * precision * NANOSECONDS


@pytest.mark.parametrize(
    ("line", "name", "size", "mode", "date"),
    [
        (b"-rw-r--r--    1 1000     1000           10 Feb 03  2021 a b", b"a b", 10, 0o100644, "20210203000000"),
        (b"drwxr-xr-x    2 ftp      ftp          4096 Nov 22 17:49 sub", b"sub", 4096, 0o40755, "20261122174900"),
        (b"-rwsr-xr-t. 1 root root 1 Dec 24 08:00 x", b"x", 1, 0o100755, "20251224080000"),
        (b"-rw-r--r--+ 1 root root 1 Feb 29 08:00 x", b"x", 1, 0o100644, None),
        (b"-rw-r--r-- 1 root root 1 Feb 29 2024  x", b" x", 1, 0o100644, "20240229000000"),
        (b"lrwxrwxrwx 1 root root 4 Jan 01 2020 link -> a -> b", b"link", 4, 0o100777, "20200101000000"),
    ],
)
def test_list_lines_of_other_servers(line: bytes, name: bytes, size: int, mode: int, date: str | None) -> None:
    if date is None:
        with pytest.raises(ProtocolError):
            parse_list(line, now=NOW)
        return
    found = parse_list(line, now=NOW)
    assert found is not None
    assert (found.name, found.size, found.mode) == (name, size, mode)
    assert found.permissions == stat.S_IMODE(mode)
    assert format_time(found.mtime_ns, utc=True) == date


def test_a_day_ahead_is_this_year_even_across_the_end_of_a_month() -> None:
    now = parse_time(b"20260131233000", utc=True) / NANOSECONDS
    found = parse_list(b"-rw-r--r-- 1 root root 1 Feb 01 00:10 x", now=now)
    assert found is not None
    assert format_time(found.mtime_ns, utc=True) == "20260201001000"


@pytest.mark.parametrize(
    "line",
    [b"total 12", b"", b"crw-rw-rw- 1 root root 1, 3 Nov 22 17:49 null", b"-rw-r--r-- 1 r r 1 Foo 22 2021 x",
     b"drwxr-xr-x 2 r r 1 Nov 22 2021 .", b"drwxr-xr-x 2 r r 1 Nov 22 2021 .."],
)  # fmt: skip
def test_lines_of_a_listing_that_are_no_files(line: bytes) -> None:
    assert parse_list(line, now=NOW) is None


@pytest.mark.parametrize(
    "date", [b"Nov 99 2021", b"Nov 00 2021", b"Nov 22 0000", b"Nov 22 25:00", b"Nov 22 10:60", b"Jan 99 99:99"]
)
def test_listed_dates_that_do_not_exist_are_refused(date: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_list(b"-rw-r--r-- 1 root root 1 " + date + b" x", now=NOW)


# -- MFF ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "change"),
    [
        (b"", FactChange()),
        (b"UNIX.mode=600;", FactChange(permissions=0o600)),
        (b"unix.MODE=100644", FactChange(permissions=0o644)),
        (b"Modify=20210203040506;UNIX.mode=0644;", FactChange(mtime_ns=FEB_2021, permissions=0o644)),
        (b"modify=20210203040506.25", FactChange(mtime_ns=FEB_2021 + 250_000_000)),
    ],
)
def test_mff(facts: bytes, change: FactChange) -> None:
    assert parse_mff(facts, utc=True) == change


@pytest.mark.parametrize(
    "facts", [b"UNIX.owner=x;", b"UNIX.mode=;", b"UNIX.mode=9;", b"UNIX.mode=7777777", b"Modify=2021;", b"=1", b"x"]
)
def test_mff_that_is_refused(facts: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_mff(facts, utc=True)


# -- junk ---------------------------------------------------------------------------------------------------------

fragments = [b"-rw-------", b"drwxr-xr-x", b" ", b"1", b"Feb", b"31", b"2021", b"0000", b"99:99", b"size=", b"modify=",
             b"type=", b";", b"=", b"unix.mode=", b"\xff", b"\n", b"perm=", b"20210203040506", b"x"]  # fmt: skip


@given(st.binary() | st.lists(st.sampled_from(fragments)).map(b"".join))
def test_any_junk_is_a_file_or_a_protocol_error(line: bytes) -> None:
    for read in (lambda: parse_facts(line, utc=True), lambda: parse_facts(line, utc=False), lambda: parse_stat(line),
                 lambda: parse_list(line, now=NOW), lambda: parse_mff(line, utc=True)):  # fmt: skip
        with contextlib.suppress(ProtocolError):
            read()


def test_long_junk_is_refused_in_linear_time() -> None:
    # Backtracking would take for ever on these.
    for line in (b"-rw------- " + b"1 " * 50_000, b"-rw-------" + b" " * 100_000, b"d" * 100_000, b";=" * 50_000):
        assert parse_list(line, now=NOW) is None
        with pytest.raises(ProtocolError):
            parse_stat(line)
        with contextlib.suppress(ProtocolError):
            parse_facts(line + b" x", utc=True)


def test_a_name_as_text() -> None:
    info = FileInfo(name=b"\xc3\xa4 \xff", size=0, mtime_ns=0)
    assert info.text_name == "ä \udcff"
    assert os.fsencode(info.text_name) == info.name


# -- the facts of MODE U -----------------------------------------------------------------------------------------------


@given(
    st.none() | st.integers(YEAR_ONE * NANOSECONDS, (YEAR_9999 + 1) * NANOSECONDS - 1),
    st.none() | st.integers(0, 0o7777),
)
def test_what_a_transfer_keeps_comes_back(mtime_ns: int | None, permissions: int | None) -> None:
    facts = format_kept(mtime_ns, permissions)
    assert parse_kept(facts) == (mtime_ns, permissions)
    assert parse_mff(facts, utc=True) == FactChange(mtime_ns=mtime_ns, permissions=permissions)


@given(
    st.lists(
        st.sampled_from([b"modify=", b"Modify=", b"20260131233000", b"2026013123300", b".", b"5", b"0123456789", b";"])
        | st.sampled_from([b"UNIX.mode=0644;", b"UNIX.mode=9;", b"modify=20260131233000.25;", b"x=y;", b"\xb2"])
    ).map(b"".join)
)
def test_any_facts_are_read_as_those_of_mff(facts: bytes) -> None:
    try:
        change = parse_mff(facts, utc=True)
    except ProtocolError:
        with pytest.raises(ProtocolError):
            parse_kept(facts)
    else:
        assert parse_kept(facts) == (change.mtime_ns, change.permissions)
