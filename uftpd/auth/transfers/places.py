"""The places that people name in transfers, read as `uftp` reads them (CONTROL-PLANE 7.1).

NAME:/path                            on a logical server of this auth server
https://HOST/rest/auth/NAME:/path     of another one; of this one if HOST is its own
https://...                           anything else is fetched as it is, a share link for instance
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from uftp.client.url import RemoteUrl, parse_url
from uftp.errors import UsageError
from uftpd.auth.errors import BadRequest
from uftpd.auth.transfers.model import Place

MAX_PLACE_CHARACTERS: Final = 8192
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_NAMED: Final = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.]{0,63}):(.*)", re.ASCII | re.DOTALL)
_BLANK: Final = re.compile(r"[\x00-\x20\x7f]")
_EXAMPLE: Final = "NAME:/path or https://HOST:PORT/rest/auth/NAME:/path"


def parse_place(text: str, field: str, own: Collection[str]) -> Place:
    """Read a place.

    Args:
        text: as submitted; without control characters.
        field: what errors call it.
        own: URLs of this auth server, without `/rest`.

    Raises:
        BadRequest: it is none; says what is expected.
    """
    if len(text) > MAX_PLACE_CHARACTERS:
        raise BadRequest(f"{field}: at most {MAX_PLACE_CHARACTERS} characters")
    scheme = _SCHEME.match(text)
    if scheme is None:
        return _named(text, field)
    if scheme[1].lower() != "https":
        raise BadRequest(f"{field}: only https URLs, and places such as {_EXAMPLE}")
    host = host_of(text, field)
    try:
        url = parse_url(text)
    except UsageError:
        return Place(kind="web", text=text, service=text, host=host)
    if url.kind != "auth":
        return Place(kind="web", text=text, service=text, host=host)
    if ":" not in text.partition("/rest/auth/")[2]:
        raise BadRequest(f"{field}: no path; expected {_EXAMPLE}")
    if _base(url) in {canonical_base(base) for base in own}:
        return _named(f"{url.server}:{text.partition('/rest/auth/')[2].partition(':')[2]}", field)
    return Place(
        kind="auth",
        text=text,
        server=url.server,
        service=f"{_base(url)}/rest/auth/{url.server}",
        path=url.path,
        pattern=url.pattern,
        host=host,
    )


def _named(text: str, field: str) -> Place:
    match = _NAMED.fullmatch(text)
    if match is None:
        raise BadRequest(f"{field}: expected {_EXAMPLE}")
    # Percent signs and wildcards mean the same in both notations.
    url = parse_url(f"https://here/rest/auth/{match[1]}:{match[2]}")
    return Place(kind="server", text=text, server=match[1], path=url.path, pattern=url.pattern)


def _base(url: RemoteUrl) -> str:
    return canonical_base(url.info_url.removesuffix("/rest/auth"))


def canonical_base(url: str) -> str:
    """A URL with host in lower case, and without the port that goes without saying."""
    parts = urlsplit(url)
    return f"https://{_host(parts.hostname, parts.port)}{parts.path.rstrip('/')}"


def host_of(url: str, field: str) -> str:
    """Host and port of an https URL, as `host` or `host:port`.

    Raises:
        BadRequest: it is none, or has a user or password in it.
    """
    if _BLANK.search(url):
        raise BadRequest(f"{field}: a URL has no blanks; write %20")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise BadRequest(f"{field}: not a URL") from None
    if parts.scheme != "https" or not host:
        raise BadRequest(f"{field}: expected an https URL")
    if "@" in parts.netloc:
        raise BadRequest(f"{field}: user and password do not belong into a URL")
    return _host(host, port)


def _host(host: str | None, port: int | None) -> str:
    name = (host or "").lower()
    name = f"[{name}]" if ":" in name else name
    return name if port in (None, 443) else f"{name}:{port}"
