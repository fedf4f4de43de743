"""Agreeing on MODE U: options, the hello of a data connection, and its keys (EXTENSIONS section 1).

What comes after, the records themselves, is in `uftp.protocol.records`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from uftp.protocol._errors import ProtocolError

SALT_BYTES: Final = 32
NONCE_BYTES: Final = 32  # the R of a hello
HELLO_BYTES: Final = 72
MAX_CONNECTIONS: Final = 1000  # under one SALT; bounds what is remembered against replay
DEFAULT_LEVEL: Final = 1  # of zstd: the fastest usual one, since the network is rarely slower than level 3
MAX_LEVEL: Final = 19  # above it zstd takes memory that a server with many sessions has not got

_MAGIC: Final = b"UFTPU\x01\r\n"
_INFO: Final = b"uftp mode-u v1 "
_LEVEL: Final = re.compile(r"[1-9][0-9]?")
_SALT: Final = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What both ends have agreed on for the records.

    Attributes:
        crypt: AES-256-GCM; needs a session key.
        compress: zstd, record by record where it pays.
        level: of zstd, 1 to 19; means nothing without `compress`.
        digest: BLAKE3 of each transfer's plain bytes in its END record.
        sparse: runs of zeros go as HOLE records.
        facts: END records of files carry MLST facts.
    """

    crypt: bool = False
    compress: bool = False
    level: int = DEFAULT_LEVEL
    digest: bool = False
    sparse: bool = False
    facts: bool = False


NO_OPTIONS: Final = RecordOptions()


def parse_options(argument: str) -> RecordOptions:
    """Read what follows `OPTS MODE U`.

    Raises:
        ProtocolError: an unknown or repeated option, or an unknown value (501, and nothing changes).
    """
    words = argument.upper().split()
    found: dict[str, str] = {}
    while words:
        name = words.pop(0)
        if name not in ("CRYPT", "COMPRESS", "LEVEL", "DIGEST", "SPARSE", "FACTS"):
            raise ProtocolError(f"Unknown option '{name[:32]}'")
        if name in found:
            raise ProtocolError(f"{name} is there twice")
        if name in ("SPARSE", "FACTS"):
            found[name] = "1"
        elif words:
            found[name] = words.pop(0)
        else:
            raise ProtocolError(f"{name} needs a value")
    return _options(found)


def _options(found: dict[str, str]) -> RecordOptions:
    for name, value in (("CRYPT", "AES-256-GCM"), ("COMPRESS", "ZSTD"), ("DIGEST", "BLAKE3"), *_FLAGS):
        if found.get(name, value) != value:
            raise ProtocolError(f"Unknown value of {name}; there is {value}")
    level = found.get("LEVEL", str(DEFAULT_LEVEL))
    if not _LEVEL.fullmatch(level) or int(level) > MAX_LEVEL:
        raise ProtocolError(f"LEVEL is a number from 1 to {MAX_LEVEL}")
    if "LEVEL" in found and "COMPRESS" not in found:
        raise ProtocolError("LEVEL needs COMPRESS")
    return RecordOptions(
        crypt="CRYPT" in found,
        compress="COMPRESS" in found,
        level=int(level),
        digest="DIGEST" in found,
        sparse="SPARSE" in found,
        facts="FACTS" in found,
    )


_FLAGS: Final = (("SPARSE", "1"), ("FACTS", "1"))


def _pairs(options: RecordOptions) -> list[tuple[str, str]]:
    pairs = [("CRYPT", "AES-256-GCM")] if options.crypt else []
    if options.compress:
        pairs += [("COMPRESS", "ZSTD"), ("LEVEL", str(options.level))]
    if options.digest:
        pairs.append(("DIGEST", "BLAKE3"))
    return pairs + [pair for pair, wanted in zip(_FLAGS, (options.sparse, options.facts), strict=True) if wanted]


def format_options(options: RecordOptions) -> str:
    """The whole line: `OPTS MODE U CRYPT AES-256-GCM ...`."""
    flags = dict(_FLAGS)
    return " ".join(["OPTS MODE U", *(name if name in flags else f"{name} {value}" for name, value in _pairs(options))])


def format_agreed(options: RecordOptions, salt: bytes) -> str:
    """The text of the 200 reply to `MODE U`: what applies, and the salt."""
    return "MODE U " + "".join(f"{name}={value};" for name, value in _pairs(options)) + f"SALT={salt.hex()};"


def parse_agreed(text: str) -> tuple[RecordOptions, bytes]:
    """Read the text of the 200 reply to `MODE U`.

    A client must compare the options with those it asked for: others mean that somebody changed a line on the way.

    Returns:
        The options and the 32 bytes of SALT.

    Raises:
        ProtocolError: not such a text.
    """
    words = text.strip().split(" ", 2)
    if len(words) != 3 or [word.upper() for word in words[:2]] != ["MODE", "U"] or not words[2].endswith(";"):
        raise ProtocolError("The reply to MODE U names no options")
    found: dict[str, str] = {}
    for item in words[2].removesuffix(";").split(";"):
        name, equals, value = item.strip().partition("=")
        name = name.upper()
        if not equals or name in found:
            raise ProtocolError("The reply to MODE U is garbled")
        found[name] = value.upper()
    salt = found.pop("SALT", "")
    if not _SALT.fullmatch(salt):
        raise ProtocolError("The reply to MODE U has no SALT")
    if unknown := found.keys() - {"CRYPT", "COMPRESS", "LEVEL", "DIGEST", "SPARSE", "FACTS"}:
        raise ProtocolError(f"The reply to MODE U names an unknown option '{sorted(unknown)[0][:32]}'")
    return _options(found), bytes.fromhex(salt)


# -- hello and keys -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class ConnectionKeys:
    """The AES-256-GCM keys of one data connection, 32 bytes each."""

    client_to_server: bytes
    server_to_client: bytes


def derive_keys(session_key: bytes, salt: bytes, nonce: bytes) -> ConnectionKeys:
    """The keys of the data connection that said hello with `nonce`.

    Args:
        session_key: as carried in the transfer request, decoded.
        salt: SALT of the session's last `MODE U`.
        nonce: the hello's 32 random bytes.
    """
    return ConnectionKeys(
        _derive(session_key, salt, nonce, b"client-to-server"), _derive(session_key, salt, nonce, b"server-to-client")
    )


def _derive(session_key: bytes, salt: bytes, nonce: bytes, purpose: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt=salt + nonce, info=_INFO + purpose).derive(session_key)


def make_hello(session_key: bytes, salt: bytes, nonce: bytes) -> bytes:
    """The 72 bytes a client sends right after the connect.

    Args:
        session_key: as for `derive_keys`; empty without CRYPT.
        salt: SALT of the session's last `MODE U`.
        nonce: 32 fresh random bytes.
    """
    head = _MAGIC + nonce
    return head + _proof(session_key, salt, head)


def _proof(session_key: bytes, salt: bytes, head: bytes) -> bytes:
    key = _derive(session_key, salt, head[len(_MAGIC) :], b"hello")
    return hmac.new(key, head, hashlib.sha256).digest()


class HelloRefused(ProtocolError):
    """A hello that proves nothing, was seen before, or is one too many: close the connection and go on waiting."""


class HelloChecker:
    """The server's side of the hello, for all data connections under one SALT.

    Args:
        session_key: as for `derive_keys`; empty without CRYPT.
        salt: of this `MODE U`.
    """

    def __init__(self, session_key: bytes, salt: bytes) -> None:
        self._session_key = session_key
        self._salt = salt
        self._seen: set[bytes] = set()

    def check(self, hello: bytes) -> bytes:
        """Check the first 72 bytes of a connection.

        Returns:
            Their nonce, for `derive_keys`.

        Raises:
            HelloRefused: see there.
        """
        head, proof = hello[: HELLO_BYTES - 32], hello[HELLO_BYTES - 32 :]
        nonce = head[len(_MAGIC) :]
        if len(hello) != HELLO_BYTES or not head.startswith(_MAGIC):
            raise HelloRefused("not a hello")
        if not hmac.compare_digest(proof, _proof(self._session_key, self._salt, head)):
            raise HelloRefused("wrong proof")
        if nonce in self._seen:
            raise HelloRefused("replayed")
        if len(self._seen) >= MAX_CONNECTIONS:
            raise HelloRefused(f"more than {MAX_CONNECTIONS} connections under one SALT")
        self._seen.add(nonce)
        return nonce
