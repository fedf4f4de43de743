"""What a user wants of the data connections, what to ask the auth server for, and what a session then uses.

Whether a data node has MODE U shows only after the login, and a session key must be asked for before. So one is always
asked for that serves both, and the node's FEAT decides. Without MODE U the old forms are left: gzip, several streams,
and ciphers that keep nobody from changing the data; those only if the user has named one (DATA-PLANE 6 to 8, 13.3).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

from uftp.client.wording import printable
from uftp.errors import Refused, UsageError
from uftp.streams import NO_LAYERS, Layers

if TYPE_CHECKING:
    from uftp.client.auth import SessionRequest
    from uftp.client.dialect import Dialect
    from uftp.client.login import SessionOptions

LegacyCipher = Literal["AES", "BLOWFISH"]

BUFFER_BYTES: Final = 1024 * 1024  # what an upstream server reads at once, if nobody has set it
_OTHER_BUFFERS: Final = (BUFFER_BYTES, 1048573, 1048571)  # the latter are primes
_BLOCK_BYTES: Final = {"AES": 16, "BLOWFISH": 8}
_KEY_BYTES: Final = {"AES": 48, "BLOWFISH": 56}  # 48: what MODE U asks for, and AES-256 with its start value


def parse_cipher(text: str) -> LegacyCipher:
    """A cipher's name in any case.

    Raises:
        UsageError: no such cipher.
    """
    match text.strip().upper():
        case "AES":
            return "AES"
        case "BLOWFISH":
            return "BLOWFISH"
        case _:
            raise UsageError(f"{printable(text)}: not a cipher of the old form; there are aes and blowfish")


def ask_for(options: SessionOptions, request: SessionRequest) -> tuple[SessionOptions, SessionRequest]:
    """Options and request of one more session: each has a key of its own, unless `options` have one already.

    Args:
        options: what the user wants.
        request: what is asked of the auth server otherwise.
    """
    cipher = options.legacy_cipher or "AES"
    key = options.key or new_key(options)
    wanted = replace(
        request,
        key=key,
        cipher=cipher if key else "",
        compress=options.compress,
        # A server without MODE U gets one stream where it encrypts; see `layers_of`.
        streams=1 if key else options.streams,
    )
    return replace(options, key=key), wanted


def new_key(options: SessionOptions) -> bytes:
    """A session key as `options` need one; empty without encryption."""
    return secrets.token_bytes(_KEY_BYTES[options.legacy_cipher or "AES"]) if options.encrypt else b""


def check_without_auth_server(options: SessionOptions, server: str) -> None:
    """Refuse what only an auth server can arrange.

    Raises:
        UsageError: encryption or compression is wanted of a plain FTP server.
    """
    if options.encrypt or options.compress:
        option = "-E" if options.encrypt else "-C"
        raise UsageError(f"{server}: {option} is arranged by an auth server, and this is a plain FTP server's URL")


def layers_of(name: str, dialect: Dialect, options: SessionOptions) -> tuple[Layers, int]:
    """What data connections carry outside MODE U, and how many of them a transfer has.

    Args:
        name: of the server, for messages.
        dialect: what it is and can.
        options: what the user wants, with the key that was asked for.

    Raises:
        Refused: the server cannot do it, or only in a way the user has not allowed.
    """
    if dialect.kind == "other":
        if options.key or options.compress:
            raise Refused(f"{name}: this server neither encrypts nor compresses data connections")
        return NO_LAYERS, 1
    if not options.key:
        return Layers(compress=options.compress), options.streams
    if options.legacy_cipher is None:
        raise Refused(
            f"{name}: the server has no MODE U, so -E cannot keep the data from being changed on the way; "
            "--legacy-cipher aes or blowfish takes its old encryption"
        )
    if f"CRYPTED-{options.legacy_cipher}" not in dialect.features:
        raise Refused(f"{name}: the server does not encrypt with {options.legacy_cipher}")
    # Upstream loses step between ciphers and frames (DATA-PLANE 7.1).
    streams = options.streams if dialect.kind == "ours" else 1
    return Layers(compress=options.compress, cipher=options.legacy_cipher, key=options.key), streams


def buffer_bytes_of(options: SessionOptions) -> int:
    """How much an upstream server reads at once, as far as the user has set it."""
    text = options.server_options.get("BUFFER_SIZE", "").strip()
    return int(text) if re.fullmatch("[1-9][0-9]{0,9}", text, re.ASCII) else BUFFER_BYTES


def safe_buffer_bytes(layers: Layers, length: int | None, current: int) -> int | None:
    """How much an upstream server should read at once, so that it keeps no padding at the end of an encrypted upload.

    It does where the padded length is a multiple of what it reads (DATA-PLANE 8.2).

    Args:
        layers: of the session.
        length: plain bytes to come; None if unknown.
        current: what it reads at once now.

    Returns:
        Another size, None if the current one will do.
    """
    if not layers.cipher or layers.compress:
        return None
    if length is None:
        return None if current in _OTHER_BUFFERS[1:] else _OTHER_BUFFERS[1]
    block = _BLOCK_BYTES[layers.cipher]
    padded = (length // block + 1) * block
    if padded % current:
        return None
    return next(size for size in _OTHER_BUFFERS if padded % size)
