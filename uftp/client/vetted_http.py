"""HTTPS to servers that a stranger has named: connects only to addresses that somebody vouches for.

The address is asked for once a connection, and that very address is connected to; SNI and the check of the
certificate stay with the name. Proxies of the environment are left alone, redirects are never followed by the client
itself, and each new origin is asked for anew.

Loads the HTTP library: import it where it is used.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import httpcore2
import httpx2
import trio

from uftp._version import __version__
from uftp.client.http_errors import network_error
from uftp.client.wording import printable
from uftp.errors import LocalFileError, NetworkError, PeerBrokeProtocol, TimedOut, UsageError

Admit = Callable[[str], Awaitable[tuple[str, ...]]]
"""Asked with an https URL: the addresses (IP literals) that may be connected to, at least one. Raises UFTPError."""

_ADDRESS_SECONDS: Final = 5.0  # for one of several addresses, before the next one is tried
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_SAME_METHOD: Final = (307, 308)


def open_vetted_client(
    admit: Admit, *, tls: ssl.SSLContext | None = None, connect_seconds: float = 15.0, reply_seconds: float = 60.0
) -> httpx2.AsyncClient:
    """A client for HTTPS alone, which follows no redirects by itself; close it with `aclose`.

    An error of `admit` comes out of requests as it is.

    Args:
        admit: vets each origin, at each connection.
        tls: whom to trust; by default the system's authorities.
        connect_seconds: for connect and handshake, each.
        reply_seconds: for each wait for more of a reply.
    """
    return httpx2.AsyncClient(
        transport=_VettedTransport(admit, tls if tls is not None else ssl.create_default_context()),
        trust_env=False,
        timeout=httpx2.Timeout(reply_seconds, connect=connect_seconds),
        headers={"User-Agent": f"uftp/{__version__}"},
        follow_redirects=False,
    )


def trust(authorities: str) -> ssl.SSLContext:
    """Trust the system's authorities and these.

    Args:
        authorities: PEM certificates; none if empty.

    Raises:
        LocalFileError: they cannot be used.
    """
    context = ssl.create_default_context()
    if authorities:
        try:
            context.load_verify_locations(cadata=authorities)
        except (ssl.SSLError, ValueError) as error:
            raise LocalFileError(f"no usable CA certificates: {error}") from error
    return context


class _VettedTransport(httpx2.AsyncBaseTransport):
    """The transport of a client: a pool of connections that are opened by `_VettedBackend`."""

    def __init__(self, admit: Admit, tls: ssl.SSLContext) -> None:
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls, max_keepalive_connections=20, keepalive_expiry=5.0, network_backend=_VettedBackend(admit)
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.scheme != "https":
            raise UsageError(f"{_shown(str(request.url))}: not an https URL")
        url = request.url
        if url.userinfo:
            raise UsageError(f"https://{url.host}: a URL with a user or password in it is not fetched")
        # A certificate is for the origin of the connection, whatever somebody would rather have checked.
        extensions = {name: value for name, value in request.extensions.items() if name != "sni_hostname"}
        with _as_errors_of_the_client():
            response = await self._pool.handle_async_request(
                httpcore2.Request(
                    method=request.method,
                    url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=extensions,
                )
            )
        if not isinstance(response.stream, AsyncIterable):
            raise TypeError("the pool of connections answered with a stream of another kind")
        return httpx2.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response.stream),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx2.AsyncByteStream):
    """The body of a response; its errors are those of the client's library."""

    def __init__(self, stream: AsyncIterable[bytes]) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_errors_of_the_client():
            async for block in self._stream:
                yield block

    async def aclose(self) -> None:
        if (close := getattr(self._stream, "aclose", None)) is not None:
            await close()


class _VettedBackend(httpcore2.AsyncNetworkBackend):
    """Opens the connections of a pool."""

    def __init__(self, admit: Admit) -> None:
        self._admit = admit
        self._inner = httpcore2.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 -- the library's own interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        addresses = await self._admit(f"https://{place}/")
        if not addresses:
            raise NetworkError(f"https://{place}: no address to connect to")
        for number, address in enumerate(addresses, 1):
            last = number == len(addresses)
            seconds = timeout if last else min(timeout or _ADDRESS_SECONDS, _ADDRESS_SECONDS)
            try:
                return _Stream(await self._inner.connect_tcp(address, port, seconds, local_address, socket_options))
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if last:
                    raise
        raise AssertionError("the last address either connects or raises")

    async def connect_unix_socket(self, *args: object, **named: object) -> NoReturn:
        raise AssertionError("no URL names a socket of this machine")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection that does not outlive a handshake which somebody has cancelled; the library's own does."""

    def __init__(self, inner: httpcore2.AsyncNetworkStream) -> None:
        self._inner = inner

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 -- the library's own interface
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return await self._inner.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            self._inner.get_extra_info("socket").close()
            raise

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return await self._inner.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


@contextlib.contextmanager
def _as_errors_of_the_client() -> Iterator[None]:
    """The two libraries have the same tree of errors, each of its own classes."""
    try:
        yield
    except (
        httpcore2.TimeoutException,
        httpcore2.NetworkError,
        httpcore2.ProtocolError,
        httpcore2.ProxyError,
        httpcore2.UnsupportedProtocol,
    ) as error:
        raised: type[Exception] = getattr(httpx2, type(error).__name__, httpx2.TransportError)
        raise raised(str(error)) from error


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said.

    Attributes:
        status: of HTTP.
        headers: names in lower case.
        body: all of it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


async def exchange(
    client: httpx2.AsyncClient,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    content: bytes = b"",
    max_bytes: int = 64 * 1024,
    max_redirects: int = 0,
    seconds: float = 60.0,
) -> Answer:
    """One request with a short reply, a callback for instance.

    Args:
        client: of `open_vetted_client`.
        method, url, headers, content: the request. Headers named Authorization stay at the first origin.
        max_bytes: of the reply.
        max_redirects: followed, each admitted anew; a redirect of another method than GET only by 307 and 308. With
            0 a redirect is an answer like others.
        seconds: for all of it.

    Raises:
        NetworkError: no answer, or not in time.
        PeerBrokeProtocol: too long an answer, a redirect too many, or to nowhere.
        UsageError: not an https URL, of a redirect, too.
        UFTPError: of `admit`.
    """
    sent = {"Accept-Encoding": "identity", **(headers or {})}
    try:
        with trio.fail_after(seconds):
            for _ in range(max_redirects + 1):
                answer = await _one_exchange(client, method, url, sent, content, max_bytes)
                if not max_redirects or answer.status not in _REDIRECTS:
                    return answer
                if method not in ("GET", "HEAD") and answer.status not in _SAME_METHOD:
                    return answer
                if not answer.headers.get("location"):
                    return answer
                following = _redirected(url, answer.headers["location"])
                if httpx2.URL(following).netloc != httpx2.URL(url).netloc:
                    sent = {name: value for name, value in sent.items() if name.lower() != "authorization"}
                url = following
    except trio.TooSlowError:
        raise TimedOut(f"{_shown(url)}: no answer within {seconds:g} s") from None
    raise PeerBrokeProtocol(f"{_shown(url)}: the server redirects again and again")


async def _one_exchange(
    client: httpx2.AsyncClient, method: str, url: str, headers: Mapping[str, str], content: bytes, max_bytes: int
) -> Answer:
    try:
        async with client.stream(method, url, headers=dict(headers), content=content or None) as response:
            body = bytearray()
            # Left by cancellation: leaving the loop would leave the library's generators to the garbage collector.
            with trio.CancelScope() as reading:
                async for block in response.aiter_raw():
                    body += block[: max_bytes + 1 - len(body)]
                    if len(body) > max_bytes:
                        reading.cancel()
            if len(body) > max_bytes:
                raise PeerBrokeProtocol(f"{_shown(url)}: an answer of more than {max_bytes} bytes")
            return Answer(response.status_code, dict(response.headers), bytes(body))
    except httpx2.HTTPError as error:
        raise network_error(error, _shown(url)) from error
    except (httpx2.InvalidURL, UnicodeError) as error:
        raise UsageError(f"{_shown(url)}: not a valid URL: {error}") from error


def _redirected(url: str, where: str) -> str:
    try:
        return str(httpx2.URL(url).join(where))
    except (httpx2.InvalidURL, UnicodeError):
        raise PeerBrokeProtocol(f"{_shown(url)}: a redirect to what is no URL") from None


def _shown(url: str) -> str:
    """A URL for messages: what stands behind `?` may be secret."""
    return printable(url.partition("?")[0])[:200]
