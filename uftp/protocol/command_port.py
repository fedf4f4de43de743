"""Requests of the command port between an auth server and a data node (DATA-PLANE section 1, EXTENSIONS section 7).

One request a connection, lines of `key=value` closed by `END`; one reply, ended by the end of the stream. Both sides
are here, without sockets: the data node feeds `RequestReader` and calls `parse_request`; an auth server calls
`encode_request`. What comes back is in `command_replies`.

Values never hold control characters, on either side: a line break in one would add a field, the account included.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TypeVar

from uftp.protocol._errors import ProtocolError

MAX_REQUEST_BYTES = 64 * 1024  # the largest legal request (two pattern lists) is a few KiB
MAX_RATE = 2**50  # bytes a second, a petabyte: above this a limit is none, and numbers get too large for the kernel
DEFAULT_SECRET_LIFETIME = 300.0  # seconds to the first login (DATA-PLANE 1.6)

MAX_PEERS = 100  # data nodes named in one request; with the longest names that is half of the largest one

_PEER = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[^\s,:\[\]\x00-\x20\x7f]{1,255}):[0-9]{1,5}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

T = TypeVar("T")

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Access(IntEnum):
    """What a session may do, each level including those below it (DATA-PLANE 3.5)."""

    NONE = 0
    INFO = 1
    READ = 2
    WRITE = 3
    FULL = 4


class Purpose(Enum):
    """What a session is for; counted apart by the node (EXTENSIONS section 7)."""

    LOGIN = "login"
    SHARE = "share"
    COPY = "copy"


class Cipher(Enum):
    """Legacy ciphers of data connections (DATA-PLANE 8.1); a MODE U session key comes as AES with 48 bytes."""

    BLOWFISH = "BLOWFISH"
    AES = "AES"


class RequestRefused(ProtocolError):
    """A request that cannot be granted; the message goes behind `ERROR::`."""


@dataclass(frozen=True, slots=True)
class PingRequest:
    """Is the node alive, and what can it do (DATA-PLANE 1.3)."""


@dataclass(frozen=True, slots=True)
class UserInfoRequest:
    """Home and accepted SSH keys of an account (DATA-PLANE 1.4)."""

    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRequest:
    """Expect a login with this secret, and run it as this user (DATA-PLANE 1.5).

    Attributes:
        user: local account name.
        secret: the one-time password, any printable text without white space.
        client_ip: addresses the control connection may come from; empty: none can log in.
        persistent: several logins are allowed.
        file: the session directory is its part up to the last `/`; empty means the home (DATA-PLANE 3.1).
        streams: data streams the client announced to the auth server; a hint only.
        compress: legacy gzip on all data connections.
        key: session key, decoded; None for plain data connections.
        algorithm: what `key` is for; None lets the length of the key decide.
        groups: primary group, then supplementary ones; empty: the account's own (DATA-PLANE 1.8).
        rate_limit: bytes a second for the session, both directions; 0 for none.
        includes, excludes: shell patterns over whole paths (DATA-PLANE 3.4).
        access: what the session may do.
        request_id: names the request in the logs of both servers.
        purpose: counted apart, with limits of its own.
        scope: path below the session directory; only this object and what is beneath it.
        expires: seconds until the secret dies unused; None for the node's default.
        max_logins: logins the secret is good for; None: one, or any number if persistent.
        http: the secret also opens the object over HTTP.
        peers: `host:port` of the FTP servers that copies between servers may be made with, beside those the node
            allows by itself; sent to nodes that know such copies only.
    """

    user: str
    secret: str = field(repr=False)
    client_ip: tuple[IPAddress, ...] = ()
    persistent: bool = False
    file: str = ""
    append: bool = False
    streams: int = 1
    compress: bool = False
    key: bytes | None = field(default=None, repr=False)
    algorithm: Cipher | None = None
    groups: tuple[str, ...] = ()
    rate_limit: int = 0
    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    access: Access = Access.FULL
    request_id: str = ""
    purpose: Purpose = Purpose.LOGIN
    scope: bytes = b""
    expires: float | None = None
    max_logins: int | None = None
    http: bool = False
    peers: tuple[str, ...] = ()


Request = PingRequest | UserInfoRequest | TransferRequest


# -- the node's side ------------------------------------------------------------------------------------------------


class RequestReader:
    """Collects one request. Feed it with `receive_data` until it returns the fields."""

    def __init__(self, max_bytes: int = MAX_REQUEST_BYTES) -> None:
        self._max_bytes = max_bytes
        self._received = 0
        self._rest = bytearray()
        self._searched = 0
        self._fields: dict[str, str] = {}

    def receive_data(self, data: bytes) -> Mapping[str, str] | None:
        """Take bytes from the peer.

        Returns:
            The fields of the request once its `END` line is in, None before. Bytes behind `END` are ignored.

        Raises:
            RequestRefused: too large, not UTF-8, a repeated key, or a control character in a value.
        """
        self._received += len(data)
        if self._received > self._max_bytes:
            raise RequestRefused(f"Request is larger than {self._max_bytes} bytes")
        self._rest += data
        while (end := self._rest.find(b"\n", self._searched)) >= 0:
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            self._searched = 0
            if self._take_line(line):
                return self._fields
        self._searched = len(self._rest)
        return None

    def _take_line(self, raw: bytes) -> bool:
        try:
            line = raw.decode("utf-8").strip(" \t\r")
        except UnicodeDecodeError:
            raise RequestRefused("Request is not UTF-8") from None
        if line == "END":
            return True
        key, equals, value = line.partition("=")
        if not equals:
            return False
        if not is_clean(key) or not is_clean(value):
            raise RequestRefused("Control characters are not allowed in a request")
        if key in self._fields:
            raise RequestRefused(f"Repeated key '{key}'")
        self._fields[key] = value
        return False


def parse_request(fields: Mapping[str, str]) -> Request:
    """Turn the fields of a request into a typed one, checking all that needs no user identity.

    Raises:
        RequestRefused: with the text for `ERROR::`.
    """
    kind = fields.get("request-type")
    if kind == "uftp-ping-request":
        return PingRequest()
    if kind == "uftp-get-user-info-request":
        return UserInfoRequest(_account(fields))
    if kind == "uftp-transfer-request":
        return _parse_transfer(fields)
    raise RequestRefused(f"Unsupported request type '{kind if kind is not None else 'n/a'}'")


def _parse_transfer(fields: Mapping[str, str]) -> TransferRequest:
    secret = _required(fields, "secret")
    if len(secret) > 512 or not all("!" <= c <= "~" for c in secret) or secret == "anonymous":  # noqa: S105
        raise RequestRefused("The secret must be printable text without white space, at most 512 characters")
    key, algorithm = _parse_key(fields)
    return TransferRequest(
        user=_account(fields),
        secret=secret,
        client_ip=parse_addresses(fields.get("client-ip", "")),
        persistent=_boolean(fields, "persistent"),
        file=fields.get("file", ""),
        append=_boolean(fields, "append"),
        streams=_integer(fields, "streams", 1, minimum=1),
        compress=_boolean(fields, "compress"),
        key=key,
        algorithm=algorithm,
        groups=_parse_groups(fields.get("group", "")),
        rate_limit=min(_integer(fields, "rateLimit", 0, minimum=0), MAX_RATE),
        includes=_patterns(fields.get("includes", "")),
        excludes=_patterns(fields.get("excludes", "")),
        access=_choice(fields, "access-permissions", Access.__members__, Access.FULL),
        request_id=fields.get("request-id", "")[:128],
        purpose=_choice(fields, "purpose", {p.value: p for p in Purpose}, Purpose.LOGIN),
        scope=_parse_scope(fields["scope"]) if "scope" in fields else b"",
        expires=float(_integer(fields, "expires", 0, minimum=1)) if fields.get("expires") else None,
        max_logins=_integer(fields, "max-logins", 0, minimum=1) if fields.get("max-logins") else None,
        http=_boolean(fields, "http"),
        peers=_parse_peers(fields.get("peers", "")),
    )


def _required(fields: Mapping[str, str], name: str) -> str:
    value = fields.get(name, "").strip()
    if not value:
        raise RequestRefused(f"'{name}'")
    return value


def _account(fields: Mapping[str, str]) -> str:
    user = _required(fields, "user")
    if len(user) > 256 or user.startswith("-") or any(c in user for c in "/: \t"):
        raise RequestRefused("Illegal account name")
    return user


def _boolean(fields: Mapping[str, str], name: str) -> bool:
    return fields.get(name, "").strip().lower() == "true"


def _integer(fields: Mapping[str, str], name: str, default: int, *, minimum: int) -> int:
    text = fields.get(name, "").strip()
    if not text:
        return default
    # int() alone also takes underscores and non-ASCII digits, and is slow on huge ones.
    if len(text) > 20 or not (text.isascii() and text.removeprefix("-").isdigit()):
        raise RequestRefused(f"'{name}' is not an integer")
    if int(text) < minimum:
        raise RequestRefused(f"'{name}' must be at least {minimum}")
    return int(text)


def _choice(fields: Mapping[str, str], name: str, choices: Mapping[str, T], default: T) -> T:
    text = fields.get(name, "").strip()
    if not text:
        return default
    if text not in choices:
        raise RequestRefused(f"'{name}' must be one of {' '.join(choices)}")
    return choices[text]


def _parse_key(fields: Mapping[str, str]) -> tuple[bytes | None, Cipher | None]:
    text = fields.get("key", "").strip()
    if not text:
        return None, None
    try:
        # Clients and servers differ in alphabet and padding; all forms name the same bytes.
        plain = text.rstrip("=").replace("-", "+").replace("_", "/")
        key = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise RequestRefused("'key' is not base64") from None
    algorithm: Cipher | None = _choice(fields, "algo", Cipher.__members__, None)
    if algorithm is None:
        algorithm = _cipher_for(key)
    if algorithm is Cipher.AES and len(key) not in (32, 40, 48):
        raise RequestRefused("An AES key has 32, 40 or 48 bytes (16 of them the IV)")
    if algorithm is Cipher.BLOWFISH and not 4 <= len(key) <= 56:
        raise RequestRefused("A Blowfish key has 4 to 56 bytes")
    return key, algorithm


def _cipher_for(key: bytes) -> Cipher:
    return Cipher.AES if len(key) in (32, 40, 48) else Cipher.BLOWFISH


def _parse_groups(text: str) -> tuple[str, ...]:
    items = tuple(item.strip() for item in text.split(":") if item.strip())
    return () if not items or items[0] == "NONE" else items


def _patterns(text: str) -> tuple[str, ...]:
    return tuple(item for item in text.split(":") if item)


def _parse_scope(text: str) -> bytes:
    scope = urllib.parse.unquote_to_bytes(text)
    parts = scope.split(b"/")
    inside = b"/".join(part for part in parts if part not in (b"", b"."))
    # One that names nothing would be taken for no limit at all.
    if not inside or b"\0" in scope or b".." in parts or scope.startswith(b"/"):
        raise RequestRefused("'scope' must be a path below the session directory")
    return inside


def _parse_peers(text: str) -> tuple[str, ...]:
    items = [item for item in text.split(",") if item]
    if len(items) > MAX_PEERS:
        raise RequestRefused(f"'peers' has more than {MAX_PEERS} items")
    peers = tuple(urllib.parse.unquote(item) for item in items)
    if not all(is_peer(peer) for peer in peers):
        raise RequestRefused("An item of 'peers' is no HOST:PORT")
    return peers


def parse_addresses(text: str) -> tuple[IPAddress, ...]:
    """Read a `client-ip` list: commas and blanks separate, IPv4-mapped IPv6 means IPv4 (DATA-PLANE 1.7).

    Raises:
        RequestRefused: an item that is no address.
    """
    addresses: list[IPAddress] = []
    for item in text.replace(",", " ").split():
        try:
            address: IPAddress = ipaddress.ip_address(item.strip("[]"))
        except ValueError:
            raise RequestRefused(f"'client-ip' has an item that is no address: '{item[:64]}'") from None
        address = plain_address(address)
        if address not in addresses:
            addresses.append(address)
    return tuple(addresses)


def plain_address(address: IPAddress) -> IPAddress:
    """The IPv4 address of an IPv4-mapped one, an IPv6 address without its zone, any other unchanged.

    A zone (`%eth0`) names an interface of one machine, and means nothing on another.
    """
    if not isinstance(address, ipaddress.IPv6Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return ipaddress.IPv6Address(int(address)) if address.scope_id is not None else address


def is_peer(text: str) -> bool:
    """Whether `text` can be an item of `peers`: HOST:PORT or [IPv6]:PORT."""
    return _PEER.fullmatch(text) is not None and is_clean(text)


def is_clean(text: str) -> bool:
    """Whether `text` holds no control character, so that it can stand as a value of a request."""
    return _CONTROL.search(text) is None


# -- the auth server's side -----------------------------------------------------------------------------------------


def encode_request(request: Request, *, extensions: bool = False) -> bytes:
    """The bytes of a request, fields in the order the reference auth server writes them (CONTROL-PLANE 2.1).

    Args:
        request: what is asked.
        extensions: also send the fields of EXTENSIONS section 7; only for nodes whose ping lists features.

    Raises:
        RequestRefused: a value that would arrive as another one: with a control character, a blank at its end, a
            `:` inside an item of a list, or text that is not UTF-8.
        ValueError: the request needs extension fields for its safety (scope, max_logins, http) and may not send them.
    """
    if isinstance(request, PingRequest):
        fields = [("request-type", "uftp-ping-request")]
    elif isinstance(request, UserInfoRequest):
        fields = [
            ("request-type", "uftp-get-user-info-request"),
            ("client-ip", ""),
            ("user", request.user),
            ("secret", "null"),
            ("persistent", "false"),
        ]
    else:
        fields = _transfer_fields(request)
        if extensions:
            fields += _extension_fields(request)
        elif request.scope or request.http or request.max_logins is not None:
            raise ValueError("this node does not know scope, max-logins or http")
    for key, value in fields:
        if not is_clean(value):
            raise RequestRefused(f"Control characters are not allowed in '{key}'")
        if value.endswith(" "):
            raise RequestRefused(f"'{key}' must not end with a blank")
    try:
        return "".join(f"{key}={value}\n" for key, value in fields).encode() + b"END\n"
    except UnicodeEncodeError:
        raise RequestRefused("Request is not UTF-8") from None


def _transfer_fields(request: TransferRequest) -> list[tuple[str, str]]:
    fields = [
        ("request-type", "uftp-transfer-request"),
        ("client-ip", ",".join(_address_forms(request.client_ip))),
        ("user", request.user),
        ("secret", request.secret),
        ("persistent", _true_false(request.persistent)),
        ("file", request.file),
        ("append", _true_false(request.append)),
        ("streams", str(request.streams)),
        ("compress", _true_false(request.compress)),
    ]
    if request.groups:
        fields.append(("group", _joined("group", request.groups)))
    if request.rate_limit > 0:
        fields.append(("rateLimit", str(request.rate_limit)))
    if request.key is not None:
        fields.append(("key", base64.b64encode(request.key).decode()))
        fields.append(("algo", (request.algorithm or _cipher_for(request.key)).value))
    if request.includes:
        fields.append(("includes", _joined("includes", request.includes)))
    if request.excludes:
        fields.append(("excludes", _joined("excludes", request.excludes)))
    if request.access is not Access.FULL:
        fields.append(("access-permissions", request.access.name))
    return fields


def _joined(name: str, items: tuple[str, ...]) -> str:
    # One item would arrive as two, or as none: a session could reach more than was granted.
    if not all(items) or any(":" in item for item in items):
        raise RequestRefused(f"An item of '{name}' is empty or holds a ':'")
    return ":".join(items)


def _extension_fields(request: TransferRequest) -> list[tuple[str, str]]:
    fields = []
    if request.request_id:
        fields.append(("request-id", request.request_id))
    if request.purpose is not Purpose.LOGIN:
        fields.append(("purpose", request.purpose.value))
    if request.scope:
        fields.append(("scope", urllib.parse.quote_from_bytes(request.scope)))
    if request.expires is not None:
        fields.append(("expires", str(max(1, int(request.expires)))))
    if request.max_logins is not None:
        fields.append(("max-logins", str(request.max_logins)))
    if request.http:
        fields.append(("http", "true"))
    if request.peers:
        if len(request.peers) > MAX_PEERS or not all(is_peer(peer) for peer in request.peers):
            raise RequestRefused(f"'peers' has more than {MAX_PEERS} items, or one that is no HOST:PORT")
        fields.append(("peers", ",".join(urllib.parse.quote(peer, safe="[]:.-_") for peer in request.peers)))
    return fields


def _address_forms(addresses: tuple[IPAddress, ...]) -> list[str]:
    # An upstream node compares text, and sees IPv4 peers in mapped form on a dual-stack listener (CONTROL-PLANE 2.3).
    forms = []
    for address in addresses:
        forms.append(str(address))
        if isinstance(address, ipaddress.IPv4Address):
            forms.append(f"::ffff:{address}")
    return forms


def _true_false(value: bool) -> str:
    return "true" if value else "false"
