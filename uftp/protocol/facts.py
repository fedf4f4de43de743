"""Facts of files: MLST and MLSD lines, times, and the older listing forms (DATA-PLANE 4.2 to 4.4, RFC 3659 section 7).

`FileInfo` is what both ends hold; each `format_…` has the `parse_…` that reads it back.
"""

from __future__ import annotations

import calendar
import re
import stat
import time
from dataclasses import dataclass, replace
from functools import lru_cache

from uftp.protocol._errors import ProtocolError
from uftp.protocol.names import pct_decode, pct_encode

NANOSECONDS = 1_000_000_000
_KEYS = {name.encode(): name for name in ("type", "size", "modify", "perm", "unique")} | {b"UNIX.mode": "unix.mode"}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HALF_YEAR = 15_811_200  # seconds; an older date is listed with its year instead of the time

_LINK = "OS.unix=symlink"
_LINK_VALUE = _LINK.lower().encode()
_TIME = re.compile(rb"([0-9]{4})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})(?:\.([0-9]{1,9})[0-9]*)?")
_LIST_LINE = re.compile(
    rb"([-dlbcps])([-rwxsStT]{9})[.+@]?\s+[0-9]+\s+\S+\s+\S+\s+([0-9]+)\s+([A-Z][a-z]{2})\s+([0-9]{1,2})\s+"
    rb"([0-9]{4}|[0-9]{1,2}:[0-9]{2}) (.*)",
    re.DOTALL,
)
_STAT_LINE = re.compile(rb" ?([-d])([-r])([-w])([-x]) ([0-9]+) (-?[0-9]+) (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """What is known of one file.

    Attributes:
        name: base name, `/` for the root. Names are bytes, as files have them; `text_name` is for people.
        size: bytes.
        mtime_ns: last change, nanoseconds since the epoch.
        is_dir: whether it is a directory; links count as what they point to.
        mode: `st_mode` with the file type bits, None where the server does not say.
        readable, writable, executable: rights of the session's user; on directories: list, change, enter.
        link: what a symbolic link points to, where links are listed as such (EXTENSIONS section 6).
        unique: of a directory, where the server tells it: the same whatever way led there (RFC 3659 section 7.5.2).
    """

    name: bytes
    size: int
    mtime_ns: int
    is_dir: bool = False
    mode: int | None = None
    readable: bool = True
    writable: bool = True
    executable: bool = False
    link: bytes | None = None
    unique: bytes | None = None

    @property
    def text_name(self) -> str:
        """The name as text; bytes that are not UTF-8 become lone surrogates, as everywhere in Python."""
        return self.name.decode("utf-8", "surrogateescape")

    @property
    def permissions(self) -> int | None:
        """The permission bits of `mode`."""
        return None if self.mode is None else stat.S_IMODE(self.mode)


# -- times --------------------------------------------------------------------------------------------------------


def format_time(mtime_ns: int, *, utc: bool, fraction: bool = False) -> str:
    """`YYYYMMDDHHMMSS`, in UTC or in the server's local time; with up to nine decimals if `fraction`."""
    seconds, nanoseconds = divmod(mtime_ns, NANOSECONDS)
    text = _second_text(seconds) if utc else _format_second(seconds, utc=False)
    return f"{text}.{nanoseconds:09}".rstrip("0") if fraction and nanoseconds else text


def _format_second(seconds: int, *, utc: bool) -> str:
    t = _broken_down(seconds, utc=utc)
    return f"{t.tm_year:04}{t.tm_mon:02}{t.tm_mday:02}{t.tm_hour:02}{t.tm_min:02}{t.tm_sec:02}"


# Most files of a listing or a copy share their second, and many more things: what is known of those is not worked out
# again. (Local time is, since the zone may change.)


@lru_cache(maxsize=256)
def _second_text(seconds: int) -> str:
    return _format_second(seconds, utc=True)


def _broken_down(seconds: int, *, utc: bool) -> time.struct_time:
    """Calendar time; the epoch for what four digits of a year cannot say: some file systems hold any 64-bit number."""
    try:
        t = time.gmtime(seconds) if utc else time.localtime(seconds)
    except (OverflowError, ValueError, OSError):
        return time.gmtime(0)
    return t if 1 <= t.tm_year <= 9999 else time.gmtime(0)


def parse_time(text: bytes, *, utc: bool) -> int:
    """Nanoseconds since the epoch.

    Raises:
        ProtocolError: not a time of this form, or no such day or hour.
    """
    if utc and text[14:15] == b"." and 16 <= len(text) <= 24 and text[15:].isdigit():
        return _second_of(text[:14]) + int(text[15:].ljust(9, b"0"))
    return _parse_time(text, utc=utc)


@lru_cache(maxsize=256)
def _second_of(text: bytes) -> int:
    return _parse_time(text, utc=True)


def _parse_time(text: bytes, *, utc: bool) -> int:
    if not (match := _TIME.fullmatch(text)):
        raise ProtocolError("time must be YYYYMMDDHHMMSS")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    seconds = _seconds((year, month, day, hour, minute, second), utc=utc)
    return seconds * NANOSECONDS + int((match[7] or b"").ljust(9, b"0"))


def _seconds(calendar_time: tuple[int, int, int, int, int, int], *, utc: bool) -> int:
    year, month, day, hour, minute, second = calendar_time
    if not (year >= 1 and 1 <= month <= 12 and hour < 24 and minute < 60 and second <= 60):
        raise ProtocolError("no such time")
    if not 1 <= day <= calendar.monthrange(year, month)[1]:
        raise ProtocolError("no such day")
    if utc:
        return calendar.timegm((*calendar_time, 0, 0, 0))
    try:
        return int(time.mktime((*calendar_time, 0, 0, -1)))
    except (OverflowError, ValueError):
        raise ProtocolError("no such time") from None


# -- MLST, MLSD ---------------------------------------------------------------------------------------------------


def format_facts(info: FileInfo, *, utc: bool, fraction: bool = False, type_first: bool = False) -> str:
    """The facts of an MLST line, up to the last semicolon.

    Args:
        info: the file.
        utc: whether the time is told in UTC or in local time.
        fraction: tell the time to the nanosecond.
        type_first: begin with the type instead of the size, as upstream does. lftp takes no line for a line of facts
            that begins with the size.
    """
    rights = _perm(info.is_dir, info.readable, info.writable, info.executable)
    mode = "" if info.mode is None else f"UNIX.mode={info.mode:o};"
    kind = "dir" if info.is_dir else "file"
    if info.link is not None:
        kind = _LINK
        mode += f"UNIX.target={pct_encode(info.link).replace(b';', b'%3B').decode()};"
    if info.unique is not None:
        mode += f"unique={info.unique.decode()};"
    modify = format_time(info.mtime_ns, utc=utc, fraction=fraction)
    if type_first:
        return f"type={kind};size={info.size};modify={modify};perm={rights};{mode}"
    return f"size={info.size};modify={modify};type={kind};perm={rights};{mode}"


@lru_cache(maxsize=16)
def _perm(is_dir: bool, *flags: bool) -> str:
    letters = "lwe" if is_dir else "rwx"
    return "".join(letter for letter, flag in zip(letters, flags, strict=True) if flag)


def parse_facts(line: bytes, *, utc: bool) -> FileInfo | None:
    """The file of an MLST or MLSD line; None for the directory itself and its parent.

    Raises:
        ProtocolError: not a line of facts.
    """
    facts_text, blank, name = line.lstrip(b" ").partition(b" ")
    if not blank or not name:
        raise ProtocolError(f"no facts: {line[:80]!r}")
    facts: dict[str, bytes] = {}
    for fact in facts_text.split(b";"):
        key, _, value = fact.partition(b"=")
        facts[_KEYS.get(key) or key.decode("ascii", "replace").lower()] = value
    kind = facts.get("type", b"file").lower()
    if kind in (b"cdir", b"pdir") or name in (b".", b".."):
        return None
    readable, writable, executable = _rights(facts.get("perm", b"rw"))  # not said is not refused
    is_dir = kind == b"dir"
    return FileInfo(
        name=name,
        size=_decimal(facts.get("size", facts.get("sizd", b"0"))),
        mtime_ns=parse_time(facts["modify"], utc=utc) if "modify" in facts else 0,
        is_dir=is_dir,
        mode=_octal(facts.get("unix.mode")),
        readable=readable,
        writable=writable,
        executable=executable,
        link=pct_decode(facts["unix.target"]) if kind == _LINK_VALUE and "unix.target" in facts else None,
        unique=facts.get("unique"),
    )


@lru_cache(maxsize=64)
def _rights(perm: bytes) -> tuple[bool, bool, bool]:
    perm = perm.lower()
    return _any(b"lr", perm), _any(b"cwm", perm), _any(b"ex", perm)


def _any(letters: bytes, perm: bytes) -> bool:
    return any(letter in perm for letter in letters)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise ProtocolError(f"no size: {text[:40]!r}")
    return int(text)


@lru_cache(maxsize=256)
def _octal(text: bytes | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(rb"(?:0o)?[0-7]{1,7}", text):  # pyftpdlib writes modes as Python does, 0o644
        raise ProtocolError(f"no mode: {text[:40]!r}")
    return int(text, 8)


# -- STAT ---------------------------------------------------------------------------------------------------------


def format_stat(info: FileInfo) -> bytes:
    """A line of UFTP's STAT listing: rights of the user, size, milliseconds since the epoch, name."""
    flags = zip("rwx", (info.readable, info.writable, info.executable), strict=True)
    rights = "".join(letter if flag else "-" for letter, flag in flags)
    kind = "d" if info.is_dir else "-"
    return f" {kind}{rights} {info.size} {info.mtime_ns // 1_000_000} ".encode() + info.name


def parse_stat(line: bytes) -> FileInfo:
    """The file of a STAT line.

    Raises:
        ProtocolError: not such a line.
    """
    if not (match := _STAT_LINE.fullmatch(line)) or len(match[6]) > 20:
        raise ProtocolError(f"no STAT line: {line[:80]!r}")
    return FileInfo(
        name=match[7],
        size=_decimal(match[5]),
        mtime_ns=int(match[6]) * 1_000_000,
        is_dir=match[1] == b"d",
        readable=match[2] != b"-",
        writable=match[3] != b"-",
        executable=match[4] != b"-",
    )


# -- LIST ---------------------------------------------------------------------------------------------------------


def format_list(info: FileInfo, *, now: float) -> bytes:
    """A line in the style of `ls -l`, as upstream writes it; `now` in seconds since the epoch decides the date form."""
    seconds = info.mtime_ns // NANOSECONDS
    t = _broken_down(seconds, utc=False)
    form = f"{t.tm_year:04}" if abs(now - seconds) > _HALF_YEAR else f"{t.tm_hour:02}:{t.tm_min:02}"
    flags = zip("rwx", (info.readable, info.writable, info.executable), strict=True)
    rights = "".join(letter if flag else "-" for letter, flag in flags)
    kind, links = ("d", 3) if info.is_dir else ("-", 1)
    date = f"{_MONTHS[t.tm_mon - 1]} {t.tm_mday:02} {form}"
    return f"{kind}{rights}------   {links} dummy dummy {info.size} {date} ".encode() + info.name


def parse_list(line: bytes, *, now: float) -> FileInfo | None:
    """The file of an `ls -l` line, for servers without MLSD; None for lines that are none (totals, `.`, `..`).

    Dates are read as UTC: servers that list this way do not say their zone.

    Raises:
        ProtocolError: a date that does not exist, or a size out of bounds.
    """
    if not (match := _LIST_LINE.fullmatch(line)) or match[7] in (b".", b".."):
        return None
    month = match[4].decode()
    if month not in _MONTHS:
        return None
    year_or_time = match[6].decode()
    t = time.gmtime(now)
    year, hour, minute = int(year_or_time) if ":" not in year_or_time else t.tm_year, 0, 0
    if ":" in year_or_time:
        hour, minute = (int(part) for part in year_or_time.split(":"))
    day_and_time = (_MONTHS.index(month) + 1, int(match[5]), hour, minute, 0)
    if ":" in year_or_time and calendar.timegm((year, *day_and_time, 0, 0, 0)) > now + 86_400:
        year -= 1
    seconds = _seconds((year, *day_and_time), utc=True)
    info = FileInfo(
        name=match[7],
        size=_decimal(match[3]),
        mtime_ns=seconds * NANOSECONDS,
        is_dir=match[1] == b"d",
        mode=_ls_mode(match[1], match[2]),
    )
    if match[1] == b"l":
        return replace(info, name=match[7].partition(b" -> ")[0])
    return info


def _ls_mode(kind: bytes, rights: bytes) -> int:
    bits = sum(1 << (8 - place) for place, letter in enumerate(rights) if letter in b"rwxst")
    return bits | (stat.S_IFDIR if kind == b"d" else stat.S_IFREG)


# -- MFF ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FactChange:
    """What an MFF line asks to set (RFC draft MFxx); None leaves a fact alone."""

    mtime_ns: int | None = None
    permissions: int | None = None


def parse_mff(facts: bytes, *, utc: bool) -> FactChange:
    """Read the facts of `MFF <facts> <path>`: Modify and UNIX.mode, any case.

    Raises:
        ProtocolError: another fact, or a value out of form.
    """
    change = FactChange()
    for fact in facts.split(b";"):
        if not fact:
            continue
        key, _, value = fact.partition(b"=")
        match key.lower():
            case b"modify":
                change = replace(change, mtime_ns=parse_time(value, utc=utc))
            case b"unix.mode" if (mode := _octal(value)) is not None and mode <= 0o177777:
                change = replace(change, permissions=stat.S_IMODE(mode))
            case _:
                raise ProtocolError(f"Not supported: '{key.decode('ascii', 'replace')}'")
    return change


# -- the facts of MODE U --------------------------------------------------------------------------------------------


def format_kept(mtime_ns: int | None, permissions: int | None) -> bytes:
    """The facts at the end of a transfer in MODE U (EXTENSIONS section 1, FACTS), as `parse_mff` reads them.

    Args:
        mtime_ns: time of last change, nanoseconds since the epoch; None to leave it out.
        permissions: bits of the mode; None to leave them out.
    """
    mode = "" if permissions is None else f"UNIX.mode={permissions:04o};"
    if mtime_ns is None:
        return mode.encode()
    seconds, nanoseconds = divmod(mtime_ns, NANOSECONDS)
    fraction = f".{nanoseconds:09}".rstrip("0") if nanoseconds else ""
    return f"modify={_second_text(seconds)}{fraction};{mode}".encode()


@lru_cache(maxsize=256)
def _change_of(facts: bytes) -> FactChange:
    return parse_mff(facts, utc=True)


def parse_kept(facts: bytes) -> tuple[int | None, int | None]:
    """Read the facts at the end of a transfer in MODE U: time of last change and permission bits, None where not given.

    Raises:
        ProtocolError: as `parse_mff`.
    """
    # modify=YYYYMMDDHHMMSS.fraction;the rest
    if facts[:7] == b"modify=" and facts[21:22] == b".":
        fraction, _, rest = facts[22:].partition(b";")
        change = _change_of(rest)
        if change.mtime_ns is None and fraction.isdigit() and len(fraction) <= 9:
            return _second_of(facts[7:21]) + int(fraction.ljust(9, b"0")), change.permissions
    change = parse_mff(facts, utc=True)
    return change.mtime_ns, change.permissions
