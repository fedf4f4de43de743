"""HTTPS to servers that a stranger has named: connects only to addresses that somebody vouches for.

The address is asked for once a connection, and that very address is connected to; SNI and the check of the
certificate stay with the name. Proxies of the environment are left alone, redirects are never followed by the client
itself, and each new origin is asked for anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

    import httpx2

Admit = Callable[[str], Awaitable[tuple[str, ...]]]
"""Asked with an https URL: the addresses (IP literals) that may be connected to, at least one. Raises UFTPError."""


def open_vetted_client(
    admit: Admit, *, tls: ssl.SSLContext | None = None, connect_seconds: float = 15.0, reply_seconds: float = 60.0
) -> httpx2.AsyncClient:
    """A client for HTTPS alone, which follows no redirects by itself; close it with `aclose`.

    An error of `admit` comes out of requests as it is.

    Args:
        admit: vets each origin.
        tls: whom to trust; by default the system's authorities.
        connect_seconds: for connect and handshake, each.
        reply_seconds: for each wait for more of a reply.
    """
    raise NotImplementedError


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
        max_redirects: followed, each admitted anew; a redirect of another method than GET only by 307 and 308.
        seconds: for all of it.

    Raises:
        NetworkError: no answer, or not in time.
        PeerBrokeProtocol: too long an answer, a redirect too many.
        UFTPError: of `admit`.
    """
    raise NotImplementedError
