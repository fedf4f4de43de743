"""Which other machines this site connects to for its users: for copies between servers, fetched URLs, callbacks.

A user names the machine, so without rules our network would be theirs: every service that trusts our address could be
reached. A name is looked up once; all addresses it has must be allowed, and only these are connected to, so that a
name that changes its address gains nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from uftp.errors import Refused
from uftpd.config.copies import Copies

LookUp = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a host name, as text; none if it has none. Raises OSError if that cannot be found out."""


class PeerRefused(Refused):
    """This site does not connect there. The message is the same whatever a name was resolved to."""


class PeerRules:
    """What a site allows.

    Args:
        settings: its configuration.
        announced: `host:port` of the servers that whoever opened the session vouches for; of no effect if the
            configuration does not trust them.
        look_up: how names are resolved; for tests.
    """

    def __init__(self, settings: Copies, announced: Sequence[str] = (), look_up: LookUp | None = None) -> None:
        raise NotImplementedError

    async def admit(self, host: str, port: int) -> tuple[str, ...]:
        """The addresses to connect to for a UFTP or FTP server that a user has named.

        Args:
            host: a name or an address, IPv6 without brackets.
            port: of its control connection.

        Returns:
            IP literals, at least one, in the order to try them. Connect to these only; do not resolve again.

        Raises:
            PeerRefused: not allowed, or not to be found.
        """
        raise NotImplementedError

    async def admit_url(self, url: str) -> tuple[str, ...]:
        """The addresses to connect to for an https URL, of a redirect, too; see `admit`.

        For `uftp.client.vetted_http`, which connects to these and checks the certificate by name.

        Raises:
            PeerRefused: not https, not allowed, or not to be found.
        """
        raise NotImplementedError
