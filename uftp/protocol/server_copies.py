"""Copies between servers, as the control connection of the one that runs them has them (DATA-PLANE 12, EXTENSIONS 3).

    SEND-FILE <local> <remote> <host>:<port> <secret>      -> 299 OK transfer-process-ID=<id>
    RECEIVE-FILE <local> <remote> <host>:<port> <secret>   -> the same
    RCP-FETCH <local> <https URL>                          -> the same
    OPTS RCP [word ...]                                    -> 200; how the copies are done that start from then on
    RCP-STATUS <id>                                        -> 299 <word> [facts]
    RCP-ABORT <id> [KEEP]                                  -> 299 <word>
    RCP-ERRORS <id> [<first>]                              -> 299, a line a failed file

Both directions of each; server and client use the same code. Arguments are bytes without the verb.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from uftp.protocol._errors import ProtocolError
from uftp.protocol.names import pct_decode, pct_encode

MAX_ERRORS: Final = 200  # lines of one reply to RCP-ERRORS
MAX_ID: Final = 2**63 - 1  # clients of old know process ids, and hold them in signed integers
MAX_LOGINS: Final = 100
MAX_SESSIONS: Final = 64

CopyWord = Literal["RUNNING", "FINISHED", "FAILED", "ABORTED", "UNKNOWN"]
"""How a copy stands; FINISHED, FAILED and ABORTED are final."""

_WORDS: Final = frozenset(get_args(CopyWord))
_FLAGS: Final = {
    "TREES": "trees",
    "RECURSIVE": "recursive",
    "PRESERVE": "preserve",
    "ENCRYPT": "encrypt",
    "COMPRESS": "compress",
    "NO-VERIFY": "verify",
    "RESUME": "resume",
}
_NUMBERS: Final = {
    "LOGINS": ("logins", 1, MAX_LOGINS),
    "SESSIONS": ("sessions", 0, MAX_SESSIONS),
    "RATE": ("rate", 0, 2**62),
}
_NAMED: Final = "NAMED"
_NAME: Final = re.compile(r"[!-~]{1,256}")
_DIGITS: Final = re.compile(r"[0-9]{1,19}")
_STARTED: Final = re.compile(r"transfer-process-ID=([0-9]{1,19})(?![0-9])")
_END: Final = re.compile(r"End ([0-9]{1,19})")
_UNSAFE: Final = re.compile(rb"[\x00\r\n]")
_QUOTES: Final = re.compile(rb"['\"\\]")
_FACT_ENDS: Final = re.compile(rb"[;=]")
_SPECIAL: Final = re.compile(rb"[\x00-\x20\x7f]")
_ERROR_TEXT: Final = 500  # characters of an error that travel
_ERROR_LINE: Final = 15 * 1024  # bytes; below what peers take as a line, whatever the names are


# -- arguments ----------------------------------------------------------------------------------------------------


def parse_copy_arguments(argument: bytes, *, pct: bool, count: int = 4) -> tuple[bytes, ...]:
    """The words of SEND-FILE, RECEIVE-FILE (four) or RCP-FETCH (two).

    Shell-like: quotes may be left out where no blank occurs. What cannot be read so is read as clients mean it that
    put a single quote at both ends of each word, whatever it holds, and as the older server did, at the blanks.

    Args:
        argument: what follows the verb.
        pct: names are percent-encoded (EXTENSIONS 5); here all words are.
        count: how many there must be.

    Raises:
        ProtocolError: other than `count` words, or an empty one.
    """
    text = argument.strip()
    for split in (_shell_words, _quoted_words, _blank_words):
        words = split(text)
        if words is not None and len(words) == count:
            break
    else:
        raise ProtocolError("Wrong parameter count")
    found = tuple(pct_decode(word) for word in words) if pct else tuple(words)
    if not all(found):
        raise ProtocolError("An argument is empty")
    return found


def format_copy_arguments(words: Iterable[bytes], *, pct: bool) -> bytes:
    """What `parse_copy_arguments` reads, and, without `pct`, upstream as well.

    Raises:
        ProtocolError: a word holds a line break, and names are not percent-encoded.
    """
    if pct:
        encoded = (_QUOTES.sub(lambda match: b"%%%02X" % match[0][0], pct_encode(word)) for word in words)
        return b" ".join(b"'" + word + b"'" for word in encoded)
    plain = list(words)
    if any(_UNSAFE.search(word) for word in plain):
        raise ProtocolError("A name with a line break cannot be said to this server")
    return b" ".join(b"'" + word.replace(b"'", b"'\\''") + b"'" for word in plain)


def _shell_words(text: bytes) -> list[bytes] | None:
    """POSIX words; None if a quote or backslash has no end."""
    words: list[bytes] = []
    word: bytearray | None = None
    place = 0
    while place < len(text):
        char = text[place : place + 1]
        place += 1
        if char in b" \t":
            if word is not None:
                words.append(bytes(word))
                word = None
            continue
        word = bytearray() if word is None else word
        if char == b"'":
            end = text.find(b"'", place)
            if end < 0:
                return None
            word += text[place:end]
            place = end + 1
        elif char == b'"':
            if (behind := _double_quoted(text, place, word)) is None:
                return None
            place = behind
        elif char == b"\\":
            if place == len(text):
                return None
            word += text[place : place + 1]
            place += 1
        else:
            word += char
    if word is not None:
        words.append(bytes(word))
    return words


def _double_quoted(text: bytes, place: int, word: bytearray) -> int | None:
    """Add what stands up to the closing quote; the place behind it, None if there is none."""
    while place < len(text):
        char = text[place : place + 1]
        if char == b'"':
            return place + 1
        if char == b"\\" and text[place + 1 : place + 2] in (b'"', b"\\"):
            place += 1
            char = text[place : place + 1]
        word += char
        place += 1
    return None


def _quoted_words(text: bytes) -> list[bytes] | None:
    """Words that all stand in single quotes, with single quotes inside that are not told apart."""
    if len(text) < 2 or not (text.startswith(b"'") and text.endswith(b"'")):
        return None
    return re.split(rb"' +'", text[1:-1])


def _blank_words(text: bytes) -> list[bytes] | None:
    return [word.removeprefix(b"'").removesuffix(b"'") for word in text.split()]


def parse_host_port(text: bytes) -> tuple[str, int]:
    """Read `<host>:<port>`; an IPv6 address stands in brackets. Whether one may connect there is not looked at.

    Raises:
        ProtocolError: it is none.
    """
    host, colon, port = text.rpartition(b":")
    if host.startswith(b"[") and host.endswith(b"]"):
        host = host[1:-1]
    elif b":" in host:
        raise ProtocolError("An IPv6 address stands in brackets: [address]:port")
    if not colon or not host or len(host) > 255 or _SPECIAL.search(host) or not host.isascii():
        raise ProtocolError("A server is <host>:<port>")
    if not re.fullmatch(rb"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ProtocolError("A port is a number from 1 to 65535")
    return host.decode("ascii"), int(port)


def format_host_port(host: str, port: int) -> bytes:
    """What `parse_host_port` reads."""
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode("ascii")


# -- how to copy --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyWords:
    """What `OPTS RCP` sets for the copies that start from then on. The defaults are the legacy form.

    Attributes:
        trees: the target is placed as by `cp`, the source may have wildcards; else both are exact names of files.
        recursive: directories, too; only with `trees`.
        preserve: keep times and modes.
        encrypt: MODE U with AES-256-GCM, or the copy fails.
        compress: zstd in MODE U.
        verify: compare what was copied with its source.
        resume: keep a journal and what is there of large files, and go on with what an earlier copy left.
        logins: how many logins the secret is good for.
        sessions: how many sessions at most to open at the other server, 0 for as many as help.
        rate: bytes a second at most, 0 for no limit of its own.
        named: what the other server is called in what is said of failures, and for `resume`: an earlier copy of the
            same is gone on with although another node of one name is spoken to. Visible ASCII without blanks, 256 at
            most; empty: host and port.
    """

    trees: bool = False
    recursive: bool = False
    preserve: bool = False
    encrypt: bool = False
    compress: bool = False
    verify: bool = True
    resume: bool = False
    logins: int = 1
    sessions: int = 0
    rate: int = 0
    named: str = ""


LEGACY_COPY: Final = CopyWords()


def parse_copy_words(argument: bytes) -> CopyWords:
    """Read what follows `OPTS RCP`; without words, the legacy form.

    Raises:
        ProtocolError: an unknown or repeated word, a number that is none or out of its range, or a name that is none.
    """
    found: dict[str, bool | int | str] = {}
    for word in argument.decode("ascii", "replace").split():
        name, has_value, value = word.partition("=")
        name = name.upper()
        if has_value and name in _NUMBERS:
            key, lowest, highest = _NUMBERS[name]
            if not _DIGITS.fullmatch(value) or not lowest <= int(value) <= highest:
                raise ProtocolError(f"{name} is a number from {lowest} to {highest}")
            item: bool | int | str = int(value)
        elif has_value and name == _NAMED:
            if not _NAME.fullmatch(value):
                raise ProtocolError("A server is named by visible ASCII characters, 256 at most")
            key, item = "named", value
        elif not has_value and name in _FLAGS:
            key = _FLAGS[name]
            item = key != "verify"
        else:
            raise ProtocolError(f"No such word: {word[:40]!r}")
        if key in found:
            raise ProtocolError(f"{name} is there twice")
        found[key] = item
    if found.get("recursive") and not found.get("trees"):
        raise ProtocolError("RECURSIVE needs TREES")
    return CopyWords(**found)  # type: ignore[arg-type]  # the tables above say which is a number


def format_copy_words(words: CopyWords) -> bytes:
    """What follows `OPTS RCP`. A name that cannot be said is left out: copies go without."""
    said = [name for name, key in _FLAGS.items() if getattr(words, key) != getattr(LEGACY_COPY, key)]
    for name, (key, _, _) in _NUMBERS.items():
        if getattr(words, key) != getattr(LEGACY_COPY, key):
            said.append(f"{name}={getattr(words, key)}")
    if _NAME.fullmatch(words.named):
        said.append(f"{_NAMED}={words.named}")
    return " ".join(said).encode("ascii")


# -- ids ----------------------------------------------------------------------------------------------------------


def format_copy_started(copy_id: int) -> str:
    """The text of the 299 that says a copy has started."""
    return f"OK transfer-process-ID={copy_id}"


def parse_copy_id(text: str) -> int:
    """The id in the text of that reply.

    Raises:
        ProtocolError: there is none.
    """
    match = _STARTED.search(text)
    if match is None or int(match[1]) > MAX_ID:
        raise ProtocolError(f"The reply holds no id of a copy: {text[:80]!r}")
    return int(match[1])


def parse_status_arguments(argument: bytes) -> int:
    """Read what follows RCP-STATUS: an id.

    Raises:
        ProtocolError: it is no such number.
    """
    words = _words(argument)
    if len(words) != 1:
        raise ProtocolError("The id of a copy is needed")
    return _id(words[0])


def parse_abort_arguments(argument: bytes) -> tuple[int, bool]:
    """Read what follows RCP-ABORT: an id, and whether a later copy is to go on with what is there.

    Raises:
        ProtocolError: it is no such number, or what follows it is not KEEP.
    """
    words = _words(argument)
    if not words or len(words) > 2 or [word.upper() for word in words[1:]] not in ([], ["KEEP"]):
        raise ProtocolError("The id of a copy is needed, and KEEP may follow it")
    return _id(words[0]), len(words) == 2


def parse_errors_arguments(argument: bytes) -> tuple[int, int]:
    """Read what follows RCP-ERRORS: an id, and the number of the first failure to list, from 0.

    Raises:
        ProtocolError: one of them is no such number.
    """
    words = _words(argument)
    if not 0 < len(words) < 3 or not all(_DIGITS.fullmatch(word) for word in words[1:]):
        raise ProtocolError("The id of a copy is needed, and a number may follow it")
    return _id(words[0]), int(words[1]) if len(words) == 2 else 0


def _words(argument: bytes) -> list[str]:
    return argument.decode("ascii", "replace").split()


def _id(word: str) -> int:
    if not _DIGITS.fullmatch(word) or int(word) > MAX_ID:
        raise ProtocolError("The id of a copy is a number")
    return int(word)


# -- status -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyStatus:
    """What is known of a copy.

    Attributes:
        word: how it stands.
        bytes: moved so far.
        total: bytes found so far; of all there is once `planned`.
        files: done.
        rate: bytes a second: of late while it runs, on the whole when it has ended.
        failed: files that failed.
        found: files found so far.
        planned: whether everything has been found.
        seconds: since it began, or how long it took.
        error: why it failed; of a copy that brought some files, the first reason.
    """

    word: CopyWord
    bytes: int = 0
    total: int = 0
    files: int = 0
    rate: int = 0
    failed: int = 0
    found: int = 0
    planned: bool = False
    seconds: float = 0.0
    error: str = ""

    @property
    def is_final(self) -> bool:
        """Whether nothing will change any more."""
        return self.word != "RUNNING"


UNKNOWN: Final = CopyStatus(word="UNKNOWN")


def format_copy_status(status: CopyStatus) -> bytes:
    """The text of the 299 reply to RCP-STATUS; UNKNOWN has no facts."""
    if status.word == "UNKNOWN":
        return b"UNKNOWN"
    facts = {
        "bytes": str(status.bytes),
        "total": str(status.total),
        "files": str(status.files),
        "rate": str(status.rate),
        "failed": str(status.failed),
        "found": str(status.found),
        "planned": str(int(status.planned)),
        "seconds": f"{status.seconds:.3f}",
    }
    if status.error:
        facts["error"] = _say(status.error)
    return f"{status.word} {_format_facts(facts)}".encode("ascii")


def parse_copy_status(text: str | bytes) -> CopyStatus:
    """Read the text of a reply to RCP-STATUS. Facts that are not there keep their default; unknown ones are ignored.

    Raises:
        ProtocolError: it begins with none of the words, or a fact is no number.
    """
    line = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    word, _, rest = line.strip().partition(" ")
    if word.upper() not in _WORDS:
        raise ProtocolError(f"No state of a copy: {line[:80]!r}")
    facts = _parse_facts(rest)
    numbers = {
        key: _number(facts[key]) for key in ("bytes", "total", "files", "rate", "failed", "found") if key in facts
    }
    return CopyStatus(
        word=cast("CopyWord", word.upper()),
        planned=facts.get("planned") == "1",
        seconds=_seconds(facts.get("seconds", "0")),
        error=_heard(facts.get("error", "")).decode("utf-8", "replace"),
        **numbers,
    )


def parse_abort_answer(text: str) -> CopyWord:
    """Read the text of a reply to RCP-ABORT.

    Raises:
        ProtocolError: it begins with none of the words.
    """
    return parse_copy_status(text.strip().partition(" ")[0]).word


def _number(text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise ProtocolError(f"A fact of a copy is no number: {text[:40]!r}")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
        raise ProtocolError(f"A fact of a copy is no number: {text[:40]!r}")
    return float(text)


# -- failed files -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyError:
    """A file of a copy that failed.

    Attributes:
        source, target: paths on their servers; the target is empty where none was chosen yet, or both are very long.
        error: why, one line.
    """

    source: bytes
    target: bytes
    error: str


def format_copy_error(error: CopyError) -> bytes:
    """A line of the reply to RCP-ERRORS, with the blank that inner lines start with."""
    facts = {"source": _escaped(error.source), "target": _escaped(error.target), "error": _say(error.error)}
    line = b" " + _format_facts(facts).encode("ascii")
    return line if len(line) <= _ERROR_LINE else b" " + _format_facts(facts | {"target": ""}).encode("ascii")


def parse_copy_error(line: bytes) -> CopyError:
    """Read a line of the reply to RCP-ERRORS.

    Raises:
        ProtocolError: it names no source.
    """
    facts = _parse_facts(line.decode("ascii", "replace"))
    if "source" not in facts:
        raise ProtocolError(f"No failure of a copy: {line[:80]!r}")
    return CopyError(
        source=_heard(facts["source"]),
        target=_heard(facts.get("target", "")),
        error=_heard(facts.get("error", "")).decode("utf-8", "replace"),
    )


def format_errors_end(following: int) -> str:
    """The last line of the reply to RCP-ERRORS: the number to ask for next, 0 if these were all."""
    return f"End {following}"


def parse_errors_end(text: str) -> int:
    """Read that line.

    Raises:
        ProtocolError: it is another one.
    """
    if not (match := _END.fullmatch(text.strip())):
        raise ProtocolError(f"No end of a list of failures: {text[:80]!r}")
    return int(match[1])


# -- facts --------------------------------------------------------------------------------------------------------


def _format_facts(facts: dict[str, str]) -> str:
    return "".join(f"{key}={value};" for key, value in facts.items())


def _parse_facts(text: str) -> dict[str, str]:
    pairs = (item.partition("=") for item in text.strip().split(";") if "=" in item)
    return {key.strip().lower(): value for key, _, value in pairs}


def _escaped(name: bytes) -> str:
    return _FACT_ENDS.sub(lambda match: b"%%%02X" % match[0][0], pct_encode(name)).decode("ascii")


def _say(text: str) -> str:
    return _escaped(text[:_ERROR_TEXT].encode("utf-8", "replace"))


def _heard(text: str) -> bytes:
    return pct_decode(text.encode("ascii", "replace"))
