"""The REST calls to an auth server: information and session requests (CONTROL-PLANE 1.2 to 1.4, 8.1).

TLS is verified unless the caller says otherwise. Every failure becomes one error of `uftp.errors` with one line that
names the server and what to try; credentials never get into it.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from uftp.client.credentials import Credential
from uftp.client.wording import printable
from uftp.errors import (
    AuthenticationFailed,
    LocalFileError,
    NetworkError,
    NotFound,
    PeerBrokeProtocol,
    Refused,
    TimedOut,
    UFTPError,
    UsageError,
)

if TYPE_CHECKING:
    import httpx2

_CONNECT_SECONDS: Final = 20.0
# The auth server asks a data node before it answers; it allows that 10 s to connect and 60 s to reply.
_REPLY_SECONDS: Final = 90.0
_MAX_REPLY_BYTES: Final = 4 * 1024 * 1024
_MAX_MESSAGE: Final = 500  # characters of a server's error text that are passed on


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

    Raises:
        LocalFileError: the CA file cannot be read.
    """

    def __init__(self, credential: Credential, options: HttpOptions | None = None) -> None:
        self._credential = credential
        self._options = options or HttpOptions()
        self._http: httpx2.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close idle connections."""
        if self._http is not None:
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

    async def _call(self, method: str, url: str, body: Mapping[str, object] | None) -> dict[str, Any]:
        import httpx2

        if url.startswith("http:") and not self._options.insecure:
            raise UsageError(f"{url}: http would show your credentials to the network; use https, or --insecure")
        headers = {"Accept": "application/json"}
        authorization = await self._credential.authorization()
        if authorization is not None:
            headers["Authorization"] = authorization
        if self._options.preferences:
            headers["X-UNICORE-User-Preferences"] = self._options.preferences
        if self._http is None:
            self._http = _http_client(self._options)
        try:
            async with self._http.stream(method, url, headers=headers, json=body) as response:
                content = await _read_body(response, url)
        except httpx2.HTTPError as error:
            raise _network_error(error, url) from error
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise UsageError(f"{url}: not a valid URL: {error}") from error
        document = _parse_object(content)
        if response.status_code == 200 and document is not None:
            return document
        raise _status_error(response.status_code, document, url, anonymous=authorization is None)


def _http_client(options: HttpOptions) -> httpx2.AsyncClient:
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
        raise Refused(f"{url}: no session: {_message(reply, 'the server gives no reason')}")
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


def _message(document: Mapping[str, Any] | None, default: str) -> str:
    for key in ("errorMessage", "reason", "message"):
        text = document.get(key) if document else None
        if isinstance(text, str) and text.strip():
            return printable(" ".join(text.split()))[:_MAX_MESSAGE]
    return default


def _status_error(status: int, document: Mapping[str, Any] | None, url: str, *, anonymous: bool) -> UFTPError:
    said = _message(document, "no reason given")
    if status in (401, 403) and document is None:
        hint = "log in with -u or -A" if anonymous else "check user name and password or token, and your role there"
        return AuthenticationFailed(f"{url}: the auth server does not let you in ({status}); {hint}")
    match status:
        case 200:
            return PeerBrokeProtocol(f"{url}: the reply is not a JSON object; is this an auth server?")
        case 401 | 403:
            return AuthenticationFailed(f"{url}: {said}")
        case 404:
            return NotFound(f"{url}: {said}", code=status)
        case 405 | 406 | 415:
            return Refused(f"{url}: the server does not know this call ({status}); check the URL", code=status)
        case 503:
            return NetworkError(f"{url}: the server's data nodes are down: {said}; try again later")
        case _ if 300 <= status < 400:
            return Refused(
                f"{url}: the server redirects elsewhere ({status}); use the URL it is really at", code=status
            )
        case _:
            return Refused(f"{url}: the auth server answers {status}: {said}", code=status)


def _network_error(error: Exception, url: str) -> UFTPError:
    import httpx2

    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return NetworkError(
                f"{url}: the server's certificate is not trusted: {cause.verify_message}; "
                "name the CA with --ca FILE, or take the risk with --insecure"
            )
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return NetworkError(f"{url}: TLS fails: {cause.reason or cause}; is this an https port?")
        if isinstance(cause, socket.gaierror):
            return NetworkError(f"{url}: no such host; check the name in the URL")
        if isinstance(cause, ConnectionRefusedError):
            return NetworkError(f"{url}: connection refused; is the port right and the server running?")
    if isinstance(error, httpx2.TimeoutException):
        return TimedOut(f"{url}: the auth server does not answer; try again, or check host and port")
    if isinstance(error, httpx2.UnsupportedProtocol):
        return UsageError(f"{url}: not an https URL")
    if isinstance(error, httpx2.RemoteProtocolError):
        return PeerBrokeProtocol(f"{url}: no HTTP server there: {error}")
    return NetworkError(f"{url}: the connection to the auth server failed: {error or type(error).__name__}")


def _causes(error: BaseException) -> list[BaseException]:
    """An error and everything behind it, groups taken apart."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting and len(found) < 50:
        current = waiting.pop(0)
        if current is None or current in found:
            continue
        found.append(current)
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions
        waiting += [current.__cause__, current.__context__]
    return found


def _sayable(directory: bytes) -> str:
    """`directory`, or its deepest parent that is UTF-8: JSON carries no other bytes."""
    while True:
        try:
            return directory.decode()
        except UnicodeDecodeError as error:
            directory = directory[: directory.rfind(b"/", 0, error.start) + 1]
