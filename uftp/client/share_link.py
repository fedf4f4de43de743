"""The link of a share, and what is found there by HTTP (CONTROL-PLANE 4.5), on our servers and on older ones.

Ours tell programs what there is with `?format=json`, without using anything up. On an older one the first GET is the
use itself, so its answer is the file, or a page that lists a directory.
"""

from __future__ import annotations

import base64
import contextlib
import html.parser
import json
import re
import urllib.parse
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from uftp.client.auth import HttpOptions, open_http_client
from uftp.client.credentials import Credential
from uftp.client.http_errors import network_error, server_message
from uftp.client.url import RemoteUrl
from uftp.client.wording import printable
from uftp.errors import AuthenticationFailed, NetworkError, NotFound, PeerBrokeProtocol, Refused, UFTPError, UsageError

if TYPE_CHECKING:
    import httpx2

_LINK = re.compile(
    r"(https?://[^/@\s]+)((?:/[^?#\s]*?)?/rest/access)/([^/:?#]+)/([\w-]{1,64})(/[^?#]*)?(?:[?#].*)?", re.ASCII
)
_MAX_DOCUMENT_BYTES: Final = 64 * 1024 * 1024
_MAX_REDIRECTS: Final = 5
_PASSWORD_HEADER: Final = "X-Share-Password"  # noqa: S105 - the name of a header


@dataclass(frozen=True, slots=True)
class ShareLink:
    """A link.

    Attributes:
        origin: scheme, host and port.
        root: path of the share itself, without a slash at its end.
        server: the logical server.
        parts: names of the way below a shared directory.
        slash: whether it ends with `/`.
    """

    origin: str
    root: str
    server: str
    parts: tuple[bytes, ...] = ()
    slash: bool = False

    @property
    def url(self) -> str:
        """For HTTP."""
        below = "".join("/" + urllib.parse.quote_from_bytes(part, safe="") for part in self.parts)
        return f"{self.origin}{self.root}{below}{'/' if self.slash else ''}"

    @property
    def service(self) -> str:
        """The resource that is asked for a session by UFTP."""
        return f"{self.origin}{self.root}"

    def place(self, name: bytes | None) -> RemoteUrl:
        """For UFTP: what is shared, or a path below it; for a single shared file give its name."""
        parts = self.parts or ((name,) if name else ())
        return RemoteUrl(kind="access", service=self.service, server=self.server, path=b"/".join(parts))

    def entry(self, href: str, directory: bool) -> ShareLink:
        """The link of an entry that a listing names.

        Raises:
            PeerBrokeProtocol: it is none below this one.
        """
        path = urllib.parse.urlsplit(href).path if "://" in href else href.partition("?")[0]
        found = _parts(path[len(self.root) :]) if path.startswith(f"{self.root}/") else None
        if not found or found[:-1] != self.parts:
            raise PeerBrokeProtocol(f"{self.url}: a listing that leads elsewhere: {printable(href)[:200]}")
        return ShareLink(self.origin, self.root, self.server, found, directory)


def parse_link(text: str) -> ShareLink:
    """Read a link as typed.

    Raises:
        UsageError: not the link of a share.
    """
    match = _LINK.fullmatch(text.strip())
    parts = _parts(match[5] or "") if match else None
    if match is None or parts is None:
        raise UsageError(f"{text}: not the link of a share; they look like https://HOST:PORT/rest/access/NAME/ID")
    root = f"{match[2]}/{match[3]}/{match[4]}"
    return ShareLink(match[1], root, urllib.parse.unquote(match[3]), parts, (match[5] or "").endswith("/"))


def _parts(path: str) -> tuple[bytes, ...] | None:
    """The names in a path; None if one of them cannot be a name."""
    found = tuple(urllib.parse.unquote_to_bytes(part) for part in path.split("/") if part)
    if any(part in (b".", b"..") or b"/" in part or b"\0" in part for part in found):
        return None
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What there is at a link.

    Attributes:
        link: its own.
        name: of the file or directory.
        directory: which of the two it is.
        size: bytes of a file; None if not known.
        counted: the share counts its uses, and this server says so.
    """

    link: ShareLink
    name: bytes
    directory: bool
    size: int | None = None
    counted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the first look at a link has brought.

    Attributes:
        entry: what is there.
        entries: of a directory.
        ours: the server tells programs what there is; else a look is a use.
    """

    entry: Entry
    entries: tuple[Entry, ...] = ()
    ours: bool = True


class ShareClient:
    """Fetches from shares. Use as an async context manager.

    Args:
        credential: who one is; None for nobody in particular.
        options: TLS and addresses.
        password: of the share; empty for none.
        http: what the requests are made with, if not by a client that `options` are for; closed at the end.
    """

    def __init__(
        self,
        credential: Credential | None,
        options: HttpOptions,
        password: str = "",
        *,
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        self._credential = credential
        self._options = options
        self._password = password
        self._http = http
        self._advice = http is None

    async def __aenter__(self) -> ShareClient:  # noqa: PYI034 - never subclassed
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._http is not None:
            await self._http.aclose()

    @contextlib.asynccontextmanager
    async def get(
        self, url: str, headers: Mapping[str, str] | None = None, *, accepted: tuple[int, ...] = (200, 206)
    ) -> AsyncIterator[httpx2.Response]:
        """GET; redirects are followed, to a data node that serves the file itself for instance.

        Raises:
            UFTPError: another status than the accepted ones, or no answer.
        """
        import httpx2

        if url.startswith("http:") and not self._options.insecure:
            raise UsageError(f"{url}: http would show the link to the network; use https, or --insecure")
        if self._http is None:
            self._http = open_http_client(self._options)
        named = {"Accept": "*/*", "Accept-Encoding": "identity", **(headers or {})}
        sent = {name: value.encode() for name, value in named.items()} | await self._secrets()
        origin = urllib.parse.urlsplit(url)[:2]
        for _ in range(_MAX_REDIRECTS + 1):
            try:
                pairs = [(name.encode(), value) for name, value in sent.items()]
                async with self._http.stream("GET", url, headers=pairs) as response:
                    where = response.headers.get("Location", "")
                    if response.status_code in (301, 302, 303, 307, 308) and where:
                        url = urllib.parse.urljoin(url, where)
                        if urllib.parse.urlsplit(url)[:2] != origin:
                            for name in ("Authorization", _PASSWORD_HEADER):
                                sent.pop(name, None)
                        continue
                    if response.status_code not in accepted:
                        raise await _refusal(response, url)
                    yield response
                    return
            except httpx2.HTTPError as error:
                shown = printable(url.partition("?")[0])
                raise network_error(error, shown, server="server", advice=self._advice) from error
            except (httpx2.InvalidURL, UnicodeError) as error:
                raise UsageError(f"{printable(url.partition('?')[0])}: not a valid URL: {error}") from error
        raise NetworkError(f"{printable(url.partition('?')[0])}: the server redirects again and again")

    async def _secrets(self) -> dict[str, bytes]:
        found = {}
        authorization = await self._credential.authorization() if self._credential is not None else None
        if authorization is not None:
            found["Authorization"] = authorization.encode()
        if self._password and authorization is not None:
            found[_PASSWORD_HEADER] = self._password.encode()
        elif self._password:
            found["Authorization"] = b"Basic " + base64.b64encode(b":" + self._password.encode())
        return found

    @contextlib.asynccontextmanager
    async def look(self, link: ShareLink) -> AsyncIterator[tuple[Facts, httpx2.Response | None]]:
        """What there is at a link.

        Yields:
            The facts, and on an older server the open answer with the content of a file.

        Raises:
            UFTPError: as `get`.
        """
        async with self.get(f"{link.url}?format=json") as response:
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            attached = "Content-Disposition" in response.headers
            if kind == "application/json" and not attached:
                yield _facts(link, await _document(response, link)), None
            elif kind == "text/html" and not attached:
                yield _page_facts(link, (await _body(response, link)).decode("utf-8", "replace")), None
            else:
                name = name_in(response) or (link.parts[-1] if link.parts else b"share")
                size = _length(response)
                yield Facts(entry=Entry(link=link, name=name, directory=False, size=size), ours=False), response

    async def entries(self, link: ShareLink) -> tuple[Entry, ...]:
        """What a directory holds.

        Raises:
            UFTPError: as `get`.
        """
        async with self.look(link) as (facts, _):
            if not facts.entry.directory:
                raise PeerBrokeProtocol(f"{link.url}: this was a directory a moment ago")
            return facts.entries


async def _body(response: httpx2.Response, link: ShareLink) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > _MAX_DOCUMENT_BYTES:
            raise PeerBrokeProtocol(f"{link.url}: a listing of more than {_MAX_DOCUMENT_BYTES} bytes")
    return bytes(content)


async def _document(response: httpx2.Response, link: ShareLink) -> Mapping[str, Any]:
    try:
        found = json.loads(await _body(response, link))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise PeerBrokeProtocol(f"{link.url}: the reply is no JSON object")
    return found


def _facts(link: ShareLink, document: Mapping[str, Any]) -> Facts:
    """Of what `?format=json` says."""
    try:
        counted = document.get("counted") is True
        if document["directory"] is not True:
            name = _last(document["href"]) if link.parts else document["name"].encode("utf-8", "surrogatepass")
            size = _size(document)
            return Facts(entry=Entry(link=link, name=safe_name(name), directory=False, size=size, counted=counted))
        if document.get("complete") is False:
            raise Refused(f"{link.url}: the directory is too large to be listed")
        found = []
        for entry in document["entries"]:
            if entry.get("type", "file") not in ("file", "directory"):
                continue
            inner = link.entry(entry["href"], entry["directory"] is True)
            known = None if entry["directory"] is True else _size(entry)
            found.append(Entry(link=inner, name=inner.parts[-1], directory=entry["directory"] is True, size=known))
        name = link.parts[-1] if link.parts else safe_name(str(document.get("name") or "share").encode())
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, IndexError):
        raise PeerBrokeProtocol(f"{link.url}: the reply does not say what is there") from None
    return Facts(entry=Entry(link=link, name=name, directory=True, counted=counted), entries=tuple(found))


def _size(facts: Mapping[str, Any]) -> int:
    """Bytes of a file. JSON knows infinity, and numbers below zero."""
    size = int(facts["size"])
    if size < 0:
        raise ValueError("less than nothing")
    return size


def _last(href: str) -> bytes:
    return urllib.parse.unquote_to_bytes(href.rstrip("/").rpartition("/")[2])


class _Links(html.parser.HTMLParser):
    """The addresses in the page of a directory."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def _page_facts(link: ShareLink, page: str) -> Facts:
    """Of the page by which older servers list a directory: each entry is linked, directories with a `/` behind."""
    parser = _Links()
    parser.feed(page)
    entries = {}
    for href in parser.found:
        with contextlib.suppress(PeerBrokeProtocol):
            # Only what lies directly beneath; a page may have other links besides. Names are not encoded there.
            path = urllib.parse.urlsplit(urllib.parse.urljoin(f"{link.origin}{link.root}/", href)).path
            inner = link.entry(re.sub("/+", "/", path), path.endswith("/"))
            entries[inner.parts] = Entry(link=inner, name=inner.parts[-1], directory=inner.slash)
    name = link.parts[-1] if link.parts else b"share"
    return Facts(entry=Entry(link=link, name=name, directory=True), entries=tuple(entries.values()), ours=False)


def name_in(response: httpx2.Response) -> bytes | None:
    """The file name of Content-Disposition (RFC 6266), made harmless; None without one."""
    header = response.headers.get("Content-Disposition", "")
    exact = re.search(r"filename\*\s*=\s*utf-8''([^;\s]+)", header, re.IGNORECASE)
    plain = re.search(r'filename\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]+))', header, re.IGNORECASE)
    if exact:
        return safe_name(urllib.parse.unquote_to_bytes(exact[1]))
    if plain:
        text = plain[1] if plain[1] is not None else plain[2]
        return safe_name(re.sub(r"\\(.)", r"\1", text).encode("utf-8", "replace"))
    return None


def safe_name(name: bytes) -> bytes:
    """A name that somebody else has chosen, as one of a file here: no directories, no control characters."""
    name = re.sub(rb"[\x00-\x1f\x7f/]", b"_", name.rstrip(b"/").rpartition(b"/")[2])[:255]
    return name if name.strip(b".") else b"share"


def _length(response: httpx2.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


async def _refusal(response: httpx2.Response, url: str) -> UFTPError:
    """The error for a status that is not the one wanted."""
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > 64 * 1024:
            break
    try:
        document = json.loads(bytes(content))
    except (ValueError, RecursionError):
        document = None
    shown = url.partition("?")[0]
    said = server_message(document if isinstance(document, dict) else None, "no reason given")
    status = response.status_code
    match status:
        case 401 | 403 if "WWW-Authenticate" in response.headers:
            return AuthenticationFailed(f"{shown}: {said}; give the password with --link-password")
        case 401 | 403:
            return AuthenticationFailed(f"{shown}: {said}; is it shared with somebody else? Log in with -u or -i")
        case 404 | 410:
            return NotFound(f"{shown}: {said}; the share may have ended", code=status)
        case 409 | 429 | 502 | 503 | 504:
            return NetworkError(f"{shown}: not now ({status}): {said}; try again later")
        case _:
            return Refused(f"{shown}: the server answers {status}: {said}", code=status)
