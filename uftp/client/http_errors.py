"""What goes wrong between this program and an auth server, as one error each with one line for a person."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final

from uftp.client.wording import printable
from uftp.errors import (
    AuthenticationFailed,
    NetworkError,
    NotFound,
    PeerBrokeProtocol,
    Refused,
    TimedOut,
    UFTPError,
    UsageError,
)

_MAX_MESSAGE: Final = 500  # characters of a server's error text that are passed on
_SUSPICIOUS_CLOCK_SECONDS: Final = 120.0  # servers allow a minute


def server_message(document: Mapping[str, Any] | None, default: str) -> str:
    """The text of an error body (CONTROL-PLANE 1.2), fit for a terminal."""
    for key in ("errorMessage", "reason", "message"):
        text = document.get(key) if document else None
        if isinstance(text, str) and text.strip():
            return printable(" ".join(text.split()))[:_MAX_MESSAGE]
    return default


def status_error(
    status: int,
    document: Mapping[str, Any] | None,
    url: str,
    *,
    tried: str | None,
    clock_ahead: float = 0.0,
    request_id: str | None = None,
) -> UFTPError:
    """The error for a reply that is not the one wanted.

    Args:
        status: of the reply.
        document: its body, if that was a JSON object.
        url: what was asked.
        tried: the credentials shown, in words; None if there were none.
        clock_ahead: by how many seconds this machine's clock is ahead of the server's, as far as the reply tells.
        request_id: what the server's log calls the request; stands in errors that its administrator can do more about
            than the user.
    """
    quote = f" (request {request_id})" if request_id else ""
    said = server_message(document, "no reason given")
    if status in (401, 403) and abs(clock_ahead) > _SUSPICIOUS_CLOCK_SECONDS:
        way = "ahead of" if clock_ahead > 0 else "behind"
        tried = f"{tried or 'no credential'} (this machine's clock is {abs(clock_ahead):.0f} s {way} the server's)"
    if status in (401, 403) and document is None:
        if tried is None:
            return AuthenticationFailed(f"{url}: the auth server lets nobody in without a login ({status}); use -u")
        return AuthenticationFailed(
            f"{url}: the auth server does not let you in ({status}) with {tried}; "
            "check user name and password, key or token, and your role there"
        )
    match status:
        case 200:
            return PeerBrokeProtocol(f"{url}: the reply is not a JSON object; is this an auth server?")
        case 401 if tried is not None:  # who that is was accepted, what they want is not (CONTROL-PLANE T4)
            return Refused(f"{url}: {said}; logged in with {tried}", code=status)
        case 401 | 403:
            return AuthenticationFailed(f"{url}: {said}" + (f"; tried: {tried}" if tried is not None else ""))
        case 404:
            return NotFound(f"{url}: {said}", code=status)
        case 405 | 406 | 415:
            return Refused(f"{url}: the server does not know this call ({status}); check the URL", code=status)
        case 429 | 502 | 504:
            return NetworkError(f"{url}: the auth server cannot answer just now ({status}): {said}; try again later")
        case 503:
            what = "the server's data nodes are down" if said.startswith("DOWN") else "the server cannot serve this now"
            return NetworkError(f"{url}: {what}: {said}; try again later{quote}")
        case _ if 300 <= status < 400:
            return Refused(
                f"{url}: the server redirects elsewhere ({status}); use the URL it is really at", code=status
            )
        case _:
            return Refused(f"{url}: the auth server answers {status}: {said}{quote}", code=status)


def network_error(error: Exception, url: str, *, server: str = "auth server", advice: bool = True) -> UFTPError:
    """The error for a call that got no reply, from what the HTTP library raised.

    Args:
        error: that.
        url: for messages.
        server: what they call the other end.
        advice: whether to name the options of the command line that help.
    """
    import httpx2

    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            help_is = "; name the CA with --ca FILE, or take the risk with --insecure" if advice else ""
            return NetworkError(f"{url}: the server's certificate is not trusted: {cause.verify_message}{help_is}")
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return NetworkError(f"{url}: TLS fails: {cause.reason or cause}; is this an https port?")
        if isinstance(cause, socket.gaierror):
            return NetworkError(f"{url}: no such host; check the name in the URL")
        if isinstance(cause, ConnectionRefusedError):
            return NetworkError(f"{url}: connection refused; is the port right and the server running?")
    if isinstance(error, httpx2.TimeoutException):
        return TimedOut(f"{url}: the {server} does not answer; try again, or check host and port")
    if isinstance(error, httpx2.UnsupportedProtocol):
        return UsageError(f"{url}: not an https URL")
    if isinstance(error, httpx2.RemoteProtocolError) and "disconnected" in str(error):
        # A kept connection whose server has gone, or one that goes while it answers.
        return NetworkError(f"{url}: the {server} closed the connection without an answer; try again")
    if isinstance(error, httpx2.RemoteProtocolError):
        return PeerBrokeProtocol(f"{url}: no HTTP server there: {error}")
    return NetworkError(f"{url}: the connection to the {server} failed: {error or type(error).__name__}")


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
