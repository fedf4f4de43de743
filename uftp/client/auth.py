"""The REST calls to an auth server: information, session requests, tokens (CONTROL-PLANE 1.1 to 1.5, 8.1).

TLS is verified unless the caller says otherwise. Every failure becomes one error of `uftp.errors` with one line that
names the server and what to try; credentials never get into it.

After a login the server is shown the id of its security session instead of the credentials, which saves it the work of
checking them again; it may forget an id at any time (CONTROL-PLANE T9).
"""

from __future__ import annotations

import base64
import json
import logging
import re
import secrets
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Self

from uftp.client.credentials import Credential, RenewableCredential, checked_token, description
from uftp.client.http_errors import network_error, server_message, status_error
from uftp.client.wording import printable
from uftp.errors import LocalFileError, NotFound, PeerBrokeProtocol, Refused, UFTPError, UsageError

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger("uftp.client")

_CONNECT_SECONDS: Final = 20.0
# The auth server asks a data node before it answers; it allows that 10 s to connect and 60 s to reply.
_REPLY_SECONDS: Final = 90.0
_MAX_REPLY_BYTES: Final = 4 * 1024 * 1024

_REQUEST_ID_HEADER: Final = "X-Request-Id"
_PLAIN_WORD: Final = re.compile("[A-Za-z0-9._-]{1,64}")
_SESSION_HEADER: Final = "X-UNICORE-SecuritySession"
_SESSION_ID = re.compile(r"[!-~]{1,256}", re.ASCII)
_SESSION_MARGIN_SECONDS: Final = 5.0
_UNKNOWN_SESSION: Final = 432
_MAX_LOGINS: Final = 12  # a session, every key there may be, each of them renewed once, a password


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """How the auth server is talked to.

    Attributes:
        ca: file with the CA certificates to trust instead of the system's (PEM).
        insecure: do not verify the server's certificate, and allow http URLs.
        family: AF_INET or AF_INET6 to use only that; AF_UNSPEC for both.
        preferences: value of the X-UNICORE-User-Preferences header.
    """

    ca: str | None = None
    insecure: bool = False
    family: socket.AddressFamily = socket.AF_UNSPEC
    preferences: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRequest:
    """What a session is asked for; see the table in CONTROL-PLANE 1.4.

    Attributes:
        directory: `serverPath`: base directory, with a trailing slash, or empty.
        client: addresses the FTP connections will come from, if not this one's.
        group: primary group.
        persistent: whether the secret may be used for several logins.
        send: False announces a write (for shares).
        key, cipher: session key, and the name of the cipher it is for; empty without encryption.
        compress: gzip on data connections without MODE U.
        streams: data connections of a transfer without MODE U.
    """

    directory: bytes = b""
    client: str | None = None
    group: str | None = None
    persistent: bool = False
    send: bool = True
    key: bytes = field(default=b"", repr=False)
    cipher: str = ""
    compress: bool = False
    streams: int = 1

    def to_json(self) -> dict[str, object]:
        """The members of the request body."""
        body: dict[str, object] = {"serverPath": _sayable(self.directory), "persistent": self.persistent}
        if self.client:
            body["client"] = self.client
        if self.group:
            body["group"] = self.group
        if not self.send:
            body["send"] = False
        if self.key:
            body["encryptionKey"] = base64.b64encode(self.key).decode()
            body["encryptionAlgorithm"] = self.cipher
        if self.compress:
            body["compress"] = True
        if self.streams > 1:
            body["streamCount"] = self.streams
        return body


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionGrant:
    """Where to log in, and with what.

    Attributes:
        hosts: names or addresses to try in this order.
        port: FTP port.
        secret: one-time password.
        features: extension features of the node as told over HTTPS; the node must list them in FEAT.
    """

    hosts: tuple[str, ...]
    port: int
    secret: str = field(repr=False)
    features: tuple[str, ...] = ()


class AuthServer:
    """Client of one auth server. Use as an async context manager; connections are kept between calls.

    Args:
        credential: who one is.
        options: TLS and addresses.
        client: makes the connections, and stays open for its owner; of `options` only the headers count then.

    Raises:
        LocalFileError: the CA file cannot be read.
    """

    def __init__(
        self, credential: Credential, options: HttpOptions | None = None, *, client: httpx2.AsyncClient | None = None
    ) -> None:
        self._credential = credential
        self._options = options or HttpOptions()
        self._http = client
        self._owned = client is None
        self._sessions: dict[str, _SecuritySession] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close idle connections."""
        if self._http is not None and self._owned:
            await self._http.aclose()
            self._http = None

    async def info(self, url: str) -> dict[str, Any]:
        """The information document: one member a server, `client` and `server` (CONTROL-PLANE 1.3).

        Args:
            url: `https://host/rest/auth`.

        Raises:
            UFTPError: as described at the top of `uftp.errors`.
        """
        return await self._call("GET", url, None)

    async def request_session(self, url: str, request: SessionRequest) -> SessionGrant:
        """Ask for a session.

        Args:
            url: `https://host/rest/auth/NAME` or `https://host/rest/access/NAME`.
            request: what for.

        Raises:
            AuthenticationFailed: the credentials are not accepted.
            NotFound: no such server or share.
            Refused: the server, or its data node, says no.
            NetworkError, PeerBrokeProtocol: see there.
        """
        try:
            reply = await self._call("POST", url, request.to_json())
        except NotFound as error:
            raise await self._with_server_list(error, url) from error
        return _read_grant(reply, url)

    async def _with_server_list(self, error: NotFound, url: str) -> NotFound:
        head, _, name = url.rpartition("/")
        if not head.endswith("/rest/auth"):
            return error
        try:
            reply = await self.info(head)
        except UFTPError:
            return error
        names = sorted(printable(key) for key in reply if key not in ("client", "server"))
        known = f"it has {', '.join(names)}" if names else "it has none"
        return NotFound(f"{head}: no server {printable(name)} there; {known}", code=error.code)

    async def issue_token(
        self, url: str, *, lifetime: int | None = None, renewable: bool = False, limited: bool = False
    ) -> str:
        """A token of the auth server, for use in place of other credentials (CONTROL-PLANE 1.5).

        Args:
            url: `https://host/rest/auth`.
            lifetime: seconds; None for what the server thinks best.
            renewable: whether it can be used to get another.
            limited: whether it is good for this server only.

        Raises:
            AuthenticationFailed: the credentials are not accepted, or may not be used for this.
            UFTPError: as described at the top of `uftp.errors`.
        """
        query = {"lifetime": str(lifetime)} if lifetime is not None else {}
        query |= {name: "true" for name, wanted in (("renewable", renewable), ("limited", limited)) if wanted}
        url = f"{url}/token"
        reply = await self._exchange("GET", url, accept="text/plain", query=query)
        if reply.status != 200:
            raise self._error(reply, _parse_object(reply.content), url)
        try:
            return checked_token(reply.content.decode("ascii", "replace"))
        except UsageError as error:
            raise PeerBrokeProtocol(f"{url}: the reply is no token") from error

    async def call(
        self,
        method: str,
        url: str,
        body: Mapping[str, object] | None = None,
        *,
        accepted: Sequence[int] = (200,),
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> RestReply:
        """Any other call.

        Args:
            method, url: of a resource of this server.
            body: sent as JSON.
            accepted: statuses that are no errors.
            query: parameters.
            headers: further ones of the request.

        Raises:
            UFTPError: as described at the top of `uftp.errors`.
        """
        reply = await self._exchange(method, url, body, query=query, more=headers)
        document = _parse_object(reply.content)
        if reply.status not in accepted:
            raise self._error(reply, document, url)
        return RestReply(reply.status, document, reply.location)

    async def _call(self, method: str, url: str, body: Mapping[str, object] | None) -> dict[str, Any]:
        reply = await self._exchange(method, url, body)
        document = _parse_object(reply.content)
        if reply.status == 200 and document is not None:
            return document
        raise self._error(reply, document, url)

    def _error(self, reply: _Reply, document: Mapping[str, Any] | None, url: str) -> UFTPError:
        tried = description(self._credential) if reply.is_logged_in else None
        return status_error(
            reply.status, document, url, tried=tried, clock_ahead=reply.clock_ahead, request_id=reply.request_id
        )

    async def _exchange(
        self,
        method: str,
        url: str,
        body: Mapping[str, object] | None = None,
        *,
        accept: str = "application/json",
        query: Mapping[str, str] | None = None,
        more: Mapping[str, str] | None = None,
    ) -> _Reply:
        """One call, with a security session, or else with credentials; renewed ones if there are any."""
        if url.startswith("http:") and not self._options.insecure:
            raise UsageError(f"{url}: http would show your credentials to the network; use https, or --insecure")
        origin = "/".join(url.split("/", 3)[:3])
        for _ in range(_MAX_LOGINS):
            headers = {"Accept": accept, **(more or {})}
            if self._options.preferences:
                headers["X-UNICORE-User-Preferences"] = self._options.preferences
            session = self._sessions.get(origin)
            authorization = None
            if session is not None and time.monotonic() < session.ends:
                headers[_SESSION_HEADER] = session.id
            else:
                session = None
                authorization = await self._credential.authorization()
                if authorization is not None:
                    headers["Authorization"] = authorization
            response, content = await self._send(method, url, headers, body, query)
            status = response.status_code
            if session is not None and status in (_UNKNOWN_SESSION, 401, 403):
                # The session may stand for what the credentials no longer do, or the other way round.
                if self._sessions.get(origin) is session:
                    del self._sessions[origin]
                continue
            if authorization is None:
                break
            if status not in (401, 403):
                self._remember_session(origin, response)
                break
            renewable = self._credential if isinstance(self._credential, RenewableCredential) else None
            if renewable is None or not await renewable.renew(authorization):
                break
        return _Reply(
            status,
            content,
            session is not None or authorization is not None,
            _clock_ahead(response),
            _request_id(response),
            response.headers.get("Location", ""),
        )

    def _remember_session(self, origin: str, response: httpx2.Response) -> None:
        name = response.headers.get(_SESSION_HEADER, "")
        milliseconds = response.headers.get(f"{_SESSION_HEADER}-Lifetime", "")
        if _SESSION_ID.fullmatch(name) and re.fullmatch("[0-9]{1,12}", milliseconds, re.ASCII):
            ends = time.monotonic() + int(milliseconds) / 1000 - _SESSION_MARGIN_SECONDS
            self._sessions[origin] = _SecuritySession(name, ends)

    async def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Mapping[str, object] | None,
        query: Mapping[str, str] | None,
    ) -> tuple[httpx2.Response, bytes]:
        import httpx2

        if self._http is None:
            self._http = open_http_client(self._options)
        # Names the request in the server's log too, and in that of the data node, if they are of our kind.
        request_id = secrets.token_hex(8)
        headers = {**headers, _REQUEST_ID_HEADER: request_id}
        logger.debug("> %s %s (request %s)", method, printable(url), request_id)
        try:
            async with self._http.stream(method, url, headers=headers, json=body, params=query or None) as response:
                logger.debug("< %d (request %s)", response.status_code, request_id)
                return response, await _read_body(response, url)
        except httpx2.HTTPError as error:
            raise network_error(error, url) from error
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise UsageError(f"{url}: not a valid URL: {error}") from error


@dataclass(frozen=True, slots=True)
class _SecuritySession:
    """A login the server remembers: its id, and the time of the monotonic clock until which."""

    id: str = field(repr=False)
    ends: float


@dataclass(frozen=True, slots=True)
class RestReply:
    """What a call is answered.

    Attributes:
        status: of the reply.
        document: its body, if that is a JSON object.
        location: its Location header; empty without one.
    """

    status: int
    document: Mapping[str, Any] | None
    location: str = ""


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    content: bytes
    is_logged_in: bool
    clock_ahead: float
    request_id: str | None
    location: str


def _request_id(response: httpx2.Response) -> str | None:
    """What the request is called in the server's log; None for a server that does not say."""
    named = response.headers.get(_REQUEST_ID_HEADER, "")
    return named if _PLAIN_WORD.fullmatch(named) else None


def _clock_ahead(response: httpx2.Response) -> float:
    """By how many seconds this machine's clock is ahead of the server's."""
    try:
        return time.time() - parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return 0.0


def open_http_client(options: HttpOptions) -> httpx2.AsyncClient:
    """A client for HTTP as the options have it; it follows no redirects.

    Raises:
        LocalFileError: the CA file cannot be read.
    """
    import httpx2

    import uftp

    local = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}.get(options.family)
    context = _tls_context(options)
    return httpx2.AsyncClient(
        verify=context,
        # Binding the local end to a family is the only way this library has to choose one.
        transport=httpx2.AsyncHTTPTransport(verify=context, local_address=local) if local else None,
        timeout=httpx2.Timeout(_REPLY_SECONDS, connect=_CONNECT_SECONDS),
        headers={"User-Agent": f"uftp/{uftp.__version__}"},
        follow_redirects=False,  # credentials go to the server that was named, and nowhere else
    )


def _tls_context(options: HttpOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror if not isinstance(error, ssl.SSLError) else "it holds no PEM certificates"
        raise LocalFileError(f"{options.ca}: cannot use the CA file: {reason}") from error
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _read_body(response: httpx2.Response, url: str) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > _MAX_REPLY_BYTES:
            raise PeerBrokeProtocol(f"{url}: the auth server's reply is longer than {_MAX_REPLY_BYTES} bytes")
    return bytes(content)


def _parse_object(content: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _read_grant(reply: Mapping[str, Any], url: str) -> SessionGrant:
    # Upstream answers refusals on shares with 200 and success false (CONTROL-PLANE T5); booleans may be strings.
    if str(reply.get("success", True)).lower() != "true":
        raise Refused(f"{url}: no session: {server_message(reply, 'the server gives no reason')}")
    hosts, port, secret = reply.get("serverHost"), reply.get("serverPort"), reply.get("secret")
    features = reply.get("features") or []
    valid_port = isinstance(port, int | str) and str(port).isascii() and str(port).isdigit() and 0 < int(port) < 65536
    if not (isinstance(hosts, str) and valid_port and isinstance(secret, str) and secret and secret.isprintable()):
        raise PeerBrokeProtocol(f"{url}: the auth server's reply lacks host, port or secret")
    if not isinstance(features, list) or not all(isinstance(feature, str) for feature in features):
        raise PeerBrokeProtocol(f"{url}: the auth server's reply has features that are no list of texts")
    names = tuple(hosts.replace(",", " ").split())
    if not names:
        raise PeerBrokeProtocol(f"{url}: the auth server's reply names no host")
    return SessionGrant(hosts=names, port=int(str(port)), secret=secret, features=tuple(features))


def _sayable(directory: bytes) -> str:
    """`directory`, or its deepest parent that is UTF-8: JSON carries no other bytes."""
    while True:
        try:
            return directory.decode()
        except UnicodeDecodeError as error:
            directory = directory[: directory.rfind(b"/", 0, error.start) + 1]
