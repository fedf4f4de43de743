"""Sessions of TLS with the data nodes, to be resumed by the next connection: that spares both ends a full handshake.

A session is resumed only under the checks it was made with, since it is kept by the settings of the instance, and
only for a while: what was found about a certificate, such as that it has not expired, must not hold for ever.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass

import trio

from uftpd.config.auth import Instance

RESUME_SECONDS = 600.0  # from a full handshake to the next; also how long a node that breaks off is left without


@dataclass(frozen=True, slots=True)
class _Kept:
    session: ssl.SSLSession
    at: float


class Resumption:
    """The sessions of one set of certificates.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: dict[Instance, _Kept] = {}
        self._broken: dict[Instance, float] = {}

    def offer(self, instance: Instance, stream: trio.SSLStream[trio.SocketStream]) -> bool:
        """Before the handshake: offer the node the session it gave us, if there is one. To take it is its choice.

        Returns:
            Whether one was offered.
        """
        kept = self._kept.get(instance)
        if kept is None:
            return False
        if self._clock() >= kept.at + RESUME_SECONDS:
            del self._kept[instance]
            return False
        stream.session = kept.session
        return True

    def keep(self, instance: Instance, stream: trio.SSLStream[trio.SocketStream]) -> None:
        """After a reply: keep the session of a full handshake. With TLS 1.3 its ticket comes only with the reply."""
        if stream.session_reused:
            return  # a ticket is good for many connections, and to get it out costs more than all else
        broken_at = self._broken.get(instance)
        if broken_at is not None and self._clock() < broken_at + RESUME_SECONDS:
            return
        session: ssl.SSLSession | None = stream.session
        if session is not None and session.has_ticket:
            self._kept[instance] = _Kept(session, self._clock())

    def broke_off(self, instance: Instance) -> None:
        """A connection ended without a reply after a session was offered. Some TLS servers cannot resume, and close
        instead of going back to a full handshake.
        """
        self._kept.pop(instance, None)
        self._broken[instance] = self._clock()
