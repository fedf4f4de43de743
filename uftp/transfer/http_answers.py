"""What an answer of HTTP says of the file in it, and its content in blocks."""

from __future__ import annotations

import email.utils
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio

from uftp.errors import NetworkError, TransferFailed

if TYPE_CHECKING:
    import httpx2

_BLOCK_BYTES: Final = 1 << 20


async def each_block(response: httpx2.Response, take: Callable[[bytes], Awaitable[bool]]) -> None:
    """Give `take` the content in blocks of a size worth a thread, until it wants no more.

    Args:
        response: open.
        take: returns whether it wants more. If it does not the connection ends.

    Raises:
        NetworkError: the connection broke.
    """
    import httpx2

    from uftp.client.http_errors import network_error

    failure: BaseException | None = None
    try:
        # Left by cancellation alone: leaving the loop would leave the library's generators to the garbage collector.
        with trio.CancelScope() as reading:
            async for block in response.aiter_raw(_BLOCK_BYTES):
                if reading.cancel_called:
                    continue
                try:
                    if not await take(block):
                        reading.cancel()
                except BaseException as error:
                    failure = error
                    reading.cancel()
    except httpx2.RemoteProtocolError as error:
        raise NetworkError(f"{_shown(response)}: the connection ended before all bytes were there") from error
    except httpx2.HTTPError as error:
        raise network_error(error, _shown(response), server="server") from error
    if failure is not None:
        raise failure


def total(response: httpx2.Response) -> int | None:
    """The size of the whole file that a 206 is part of."""
    text = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def start(response: httpx2.Response) -> int | None:
    """The first byte of the range that a 206 has."""
    text = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def length(response: httpx2.Response) -> int | None:
    """The bytes that the answer has, as it says."""
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def has_everything(response: httpx2.Response) -> bool:
    """Whether a 206 has all bytes of the file."""
    return start(response) == 0 and length(response) == total(response)


def shows_its_end(response: httpx2.Response) -> bool:
    """Whether an answer that breaks off differs from one that is whole."""
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    return length(response) is not None or chunked


def check_length(response: httpx2.Response, received: int) -> None:
    """Nothing if as many bytes came as the answer says.

    Raises:
        TransferFailed: others.
    """
    announced = length(response)
    if announced is not None and announced != received:
        raise TransferFailed(f"{_shown(response)}: {received} bytes came of {announced}")


def joined(response: httpx2.Response) -> dict[str, str]:
    """Headers by name in lower case; several of a name joined."""
    return {name: response.headers[name] for name in response.headers}


def last_modified(response: httpx2.Response) -> int | None:
    """The time of the last change, nanoseconds since 1970; None if the answer does not tell."""
    try:
        return int(email.utils.parsedate_to_datetime(response.headers["Last-Modified"]).timestamp()) * 1_000_000_000
    except (KeyError, ValueError, OverflowError):
        return None


def _shown(response: httpx2.Response) -> str:
    """Its URL; what stands behind `?` may be secret."""
    return str(response.url).partition("?")[0]
