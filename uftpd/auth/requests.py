"""The body of a session request, read as tolerantly as clients need and no more (CONTROL-PLANE 1.4).

Clients send booleans and numbers as strings, and numbers where text is meant. What stays an error: a number for a
boolean, a fraction or empty text for an integer, an array or object anywhere, text behind the object. Text with
control characters is refused here already, since the values go into the line-based request to the data node (W1).
"""

from __future__ import annotations

import base64
import binascii
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from uftp.protocol.command_port import Cipher
from uftpd.auth.errors import BadRequest

MAX_TEXT = 16 * 1024  # paths are 4 KiB at most
MAX_INTEGER = 2**31 - 1

# Old clients append this to the path (CONTROL-PLANE 2.2).
SESSION_TAG = "___UFTP___MULTI___FILE___SESSION___MODE___"

_AES_KEY_BYTES = (32, 40, 48)  # 16 of them the IV
_BLOWFISH_KEY_BYTES = range(4, 57)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRequest:
    """What a client asks for.

    Attributes:
        path: base directory of the session, ends with `/`; empty for the home without confinement.
        streams: parallel data connections it means to use.
        key, cipher: for encrypted data connections, or None.
        compress: gzip on data connections.
        persistent: the secret may be used for several logins.
        group: requested primary group.
        client: addresses to open the session for, instead of the detected one.
        append: passed on.
    """

    path: str
    streams: int = 1
    key: bytes | None = field(default=None, repr=False)
    cipher: Cipher | None = None
    compress: bool = False
    persistent: bool = False
    group: str | None = None
    client: str | None = None
    append: bool = False


def parse_session_request(body: bytes | Mapping[str, Any], *, max_streams: int) -> SessionRequest:
    """Read the body of `POST /rest/auth/NAME`, or the fields of it.

    Raises:
        BadRequest: says which field is wrong.
    """
    fields = parse_object(body) if isinstance(body, bytes) else body
    path = text_field(fields, "serverPath")
    if path is None:
        raise BadRequest("serverPath: required")
    streams = integer_field(fields, "streamCount", 1)
    if not 1 <= streams <= max_streams:
        raise BadRequest(f"streamCount: 1 to {max_streams}")
    key, cipher = _key(fields)
    boolean_field(fields, "send", True)
    boolean_field(fields, "sessionMode", False)
    return SessionRequest(
        path=session_directory(path),
        streams=streams,
        key=key,
        cipher=cipher,
        compress=boolean_field(fields, "compress", False),
        persistent=boolean_field(fields, "persistent", False),
        group=text_field(fields, "group") or None,
        client=text_field(fields, "client"),
        append=boolean_field(fields, "append", False),
    )


def session_directory(path: str) -> str:
    """The `file` value for a `serverPath`: with a slash at its end, without the tag of old clients."""
    parent, slash, last = path.rpartition("/")
    if last == SESSION_TAG:
        if not slash:
            return ""
        path = parent or "/"
    return path if not path or path.endswith("/") else f"{path}/"


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object; of a repeated key the last counts.

    Raises:
        BadRequest: anything else, text behind it included.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadRequest("The request body is not valid JSON") from None
    if not isinstance(value, dict):
        raise BadRequest("The request body must be a JSON object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def text_field(fields: Mapping[str, Any], name: str) -> str | None:
    """A text; numbers and booleans are taken as written. None if missing or null.

    Raises:
        BadRequest: an array or object, too long, or with control characters.
    """
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, (list, dict)):
        raise BadRequest(f"{name}: expected a text")
    text = ("true" if value else "false") if isinstance(value, bool) else str(value)
    if len(text) > MAX_TEXT:
        raise BadRequest(f"{name}: at most {MAX_TEXT} characters")
    if not all(_is_plain(c) for c in text):
        raise BadRequest(f"{name}: control characters are not allowed")
    return text


def _is_plain(c: str) -> bool:
    # Beside control characters: line and paragraph separators, which some readers break lines at, and lone surrogates.
    return (c.isascii() and c.isprintable()) or unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp")


def boolean_field(fields: Mapping[str, Any], name: str, default: bool) -> bool:
    """A boolean or text; of texts only `true`, in any case, is true (CONTROL-PLANE T1).

    Raises:
        BadRequest: anything else.
    """
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.lower() == "true"
    raise BadRequest(f"{name}: expected true or false")


def integer_field(fields: Mapping[str, Any], name: str, default: int) -> int:
    """An integer, an integral float or a numeric text.

    Raises:
        BadRequest: anything else, or beyond 31 bits.
    """
    value = fields.get(name)
    if value is None:
        return default
    number: int | None = None
    if isinstance(value, str):
        digits = value.strip().removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) <= 10:
            number = int(value)
    elif isinstance(value, float):
        number = int(value) if value.is_integer() else None
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    if number is None or abs(number) > MAX_INTEGER:
        raise BadRequest(f"{name}: expected an integer")
    return number


def _key(fields: Mapping[str, Any]) -> tuple[bytes | None, Cipher | None]:
    text = (text_field(fields, "encryptionKey") or "").strip()
    name = (text_field(fields, "encryptionAlgorithm") or Cipher.BLOWFISH.value).strip().upper()
    if name not in Cipher.__members__:
        raise BadRequest(f"encryptionAlgorithm: expected one of {', '.join(Cipher.__members__)}")
    if not text:
        return None, None
    cipher = Cipher[name]
    try:
        plain = text.rstrip("=").replace("-", "+").replace("_", "/")
        key = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("encryptionKey: not base64") from None
    if cipher is Cipher.AES and len(key) not in _AES_KEY_BYTES:
        raise BadRequest("encryptionKey: AES takes 32, 40 or 48 bytes, 16 of them the IV")
    if cipher is Cipher.BLOWFISH and len(key) not in _BLOWFISH_KEY_BYTES:
        raise BadRequest("encryptionKey: Blowfish takes 4 to 56 bytes")
    return key, cipher
