"""Where a file is: the URL notation of UFTP clients (CONTROL-PLANE 7.1) and plain FTP URLs.

    https://HOST:PORT/rest/auth/NAME:/path       a UFTP server, through its auth server; a site prefix may precede /rest
    https://HOST:PORT/rest/access/NAME:/path     a file or directory somebody has shared
    https://HOST:PORT/rest/access/NAME/ID:path   the same by its link; the path counts from what is shared
    ftp://USER:PASSWORD@HOST:PORT/path           any FTP server, directly; /~/path starts at the login directory

A path is all that follows the first colon of the URL's path, `?` and `#` included; without a leading slash it starts
at the home directory. %XX stands for one byte. Wildcards are `*`, `?` and `[...]`; written as %XX they stand for
themselves. Paths are bytes inside.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import unquote

from uftp.client.wording import printable
from uftp.errors import UsageError
from uftp.protocol.names import pct_decode

_URL = re.compile(r"(https?|ftp)://([^/]*)(/.*)?", re.IGNORECASE | re.DOTALL)
_SERVICE = re.compile(
    r"(?P<site>.*?)/rest/(?:(?P<kind>auth|access)(?:/(?P<name>[^/:]*))?|access/(?P<server>[^/:]+)/(?P<share>[\w-]+))/*"
)
_PCT = re.compile(rb"%([0-9A-Fa-f]{2})")
_MARKED = re.compile(rb"[\x00-\x1f\x7f%*?[]")
_WILDCARDS = re.compile(rb"[*?[]")
_EXAMPLE = "https://HOST:PORT/rest/auth/NAME:/path"

DEFAULT_FTP_PORT = 21


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteUrl:
    """A place on a server.

    Attributes:
        kind: how to get there: "auth" and "access" ask an auth server for a session, "ftp" logs in directly.
        service: URL the session is asked for, as `https://host/rest/auth/NAME`; for "ftp" `ftp://host:port`.
        server: NAME, empty if the URL has none.
        path: decoded; empty for the home or login directory.
        pattern: the path as a pattern, where it has wildcards: %XX forms in it are escaped as `[x]`.
        host, port: of an FTP URL.
        user, password: of an FTP URL.
    """

    kind: Literal["auth", "access", "ftp"]
    service: str
    server: str = ""
    path: bytes = b""
    pattern: bytes | None = None
    host: str = ""
    port: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def info_url(self) -> str:
        """The information resource of the auth server."""
        head, _, _ = self.service.rpartition("/rest/")
        return f"{head}/rest/auth"

    def with_path(self, path: bytes) -> RemoteUrl:
        """Another file on the same server."""
        return replace(self, path=path, pattern=None)

    def display(self, path: bytes | None = None) -> str:
        """The URL in its usual notation, without password: fit for messages, and to be typed again.

        Wildcards, `%`, control characters and bytes that are not UTF-8 stand as %XX.
        """
        if path is None and self.pattern is not None:
            text = printable(self.pattern)
        else:
            text = _quote(self.path if path is None else path)
        if self.kind == "ftp":
            return f"{self.service}{text}" if text.startswith("/") else f"{self.service}/~/{text}"
        return f"{self.service}:{text}"


def is_url(text: str) -> bool:
    """Whether `text` names a place on a server; everything else is a local path."""
    return _URL.fullmatch(text) is not None


def parse_url(text: str, *, need_server: bool = True) -> RemoteUrl:
    """Read a URL as typed.

    Args:
        text: the URL; bytes that are not UTF-8 as surrogates, as in `sys.argv`.
        need_server: whether an https URL without NAME is an error.

    Raises:
        UsageError: not such a URL.
    """
    match = _URL.fullmatch(text)
    if not match:
        raise UsageError(f"{text}: not a URL of a UFTP server; they look like {_EXAMPLE}")
    scheme, authority, rest = match[1].lower(), match[2], match[3] or ""
    if not authority.rpartition("@")[2]:
        raise UsageError(f"{scheme}://: the URL names no host; it should look like {_EXAMPLE}")
    if scheme == "ftp":
        return _parse_ftp(authority, rest)
    if "@" in authority:
        raise UsageError("credentials do not belong into an https URL; use -u and -P")
    service, _, raw_path = rest.partition(":")
    found = _SERVICE.fullmatch(service)
    if not found:
        raise UsageError(
            f"{scheme}://{authority}{service}: not the URL of an auth server; it should look like {_EXAMPLE}"
        )
    kind: Literal["auth", "access"] = "auth" if found["kind"] == "auth" else "access"
    name = found["name"] or found["server"] or ""
    if need_server and not name:
        raise UsageError(
            f"{scheme}://{authority}{service}: names no server; `uftp info` lists them, then use {_EXAMPLE}"
        )
    url = f"{scheme}://{authority}{found['site']}/rest/{kind}" + (f"/{name}" if name else "")
    if found["share"]:
        url, raw_path = f"{url}/{found['share']}", raw_path.lstrip("/")
    path, pattern = _decode_path(os.fsencode(raw_path))
    return RemoteUrl(kind=kind, service=url, server=name, path=path, pattern=pattern)


def _parse_ftp(authority: str, rest: str) -> RemoteUrl:
    userinfo, _, hostport = authority.rpartition("@")
    user, colon, password = userinfo.partition(":")
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?", hostport)
    port = int(match[2] or DEFAULT_FTP_PORT) if match else 0
    if not match or not 0 < port < 65536:
        raise UsageError(f"ftp://{hostport}: no host and port; FTP URLs look like ftp://USER@HOST:PORT/path")
    raw = os.fsencode(rest)
    if raw.startswith(b"/~/"):
        raw = raw[3:]
    path, pattern = _decode_path(raw)
    return RemoteUrl(
        kind="ftp",
        service=f"ftp://{hostport}",
        path=path,
        pattern=pattern,
        host=match[1].strip("[]"),
        port=port,
        user=unquote(user, errors="surrogateescape") if userinfo else None,
        password=unquote(password, errors="surrogateescape") if colon else None,
    )


def _decode_path(raw: bytes) -> tuple[bytes, bytes | None]:
    path = pct_decode(raw)
    if not _WILDCARDS.search(raw):
        return path, None
    return path, _PCT.sub(_literal, raw)


def _quote(path: bytes) -> str:
    marked = _MARKED.sub(lambda match: b"%%%02X" % match[0][0], path)
    text = marked.decode("utf-8", "surrogateescape")
    return re.sub(r"[\udc80-\udcff\x80-\x9f]", lambda match: _percent(match[0]), text)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))


def _literal(match: re.Match[bytes]) -> bytes:
    byte = bytes([int(match[1], 16)])
    return b"[" + byte + b"]" if byte in b"*?[" else byte


def has_wildcards(component: bytes) -> bool:
    """Whether a pattern, or one component of it, can match other names than itself."""
    return _WILDCARDS.search(component) is not None


def directory_of(path: bytes) -> bytes:
    """The directory part with its trailing slash; empty for a bare name. A path ending in `/` is itself one."""
    return path[: path.rfind(b"/") + 1]


def session_directory(urls: Iterable[RemoteUrl]) -> bytes:
    """The directory a session for all these places is asked for (`serverPath`).

    The deepest directory that holds every one of them, down to the first wildcard. With a relative path among them it
    is empty: such a session starts at the home directory and is free. One asked for `data/` would start there, and
    `data/x` would be looked for below it (DATA-PLANE 3.1). For shares it is the path itself (CONTROL-PLANE 4.6).
    """
    directories = []
    for url in urls:
        if url.kind == "access":
            return url.path
        text = url.path if url.pattern is None else url.path[: _fixed_length(url.pattern)]
        directories.append(directory_of(text))
    if not directories or not all(path.startswith(b"/") for path in directories):
        return b""
    # Smallest and largest in byte order differ first where any two of them do.
    first, last = min(directories), max(directories)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return directory_of(first[:same])


def directory_around(url: RemoteUrl) -> bytes:
    """The directory a session is asked for that makes or replaces what `url` names, which may not be there yet."""
    return url.path if url.kind == "access" else session_directory([url.with_path(url.path.rstrip(b"/"))])


def _fixed_length(pattern: bytes) -> int:
    """Length of the part of the literal path that lies before the first component with a wildcard."""
    fixed = 0
    for component in pattern.split(b"/"):
        if has_wildcards(component):
            break
        fixed += len(component) + 1
    return fixed
