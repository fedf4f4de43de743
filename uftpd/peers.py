"""Which other machines this site connects to for its users: for copies between servers, fetched URLs, callbacks.

A user names the machine, so without rules our network would be theirs: every service that trusts our address could be
reached. What is listed says what is allowed, and an entry is good for

    an address or network    all that is in it, whatever it is
    HOST                     public and private addresses of this name; `localhost` for loopback
    *.DOMAIN                 public addresses: whoever may add a name there must not choose among our own machines
    announced HOST:PORT      as HOST and ADDRESS, at this port

Beside that, https URLs on public addresses may be allowed in general. A name is looked up once, each of its addresses
must be allowed, and only these are connected to: a name that changes its address gains nothing. Who is refused is
not told what a name led to; the log is.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import trio

from uftp.client.wording import printable
from uftp.errors import NetworkError, Refused, UsageError
from uftp.protocol.command_port import IPAddress, plain_address
from uftpd.addresses import AddressKind, kind_of
from uftpd.config.copies import Copies, entries
from uftpd.config.peer_entry import PeerEntry, parse_entry, parse_host, parse_network
from uftpd.config.toml import ConfigError

LookUp = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a host name, as text; none if it has none. Raises OSError if that cannot be found out now."""

MAX_ANNOUNCED: Final = 100
MAX_ADDRESSES: Final = 8  # of a host; more are not tried
LOOK_UP_SECONDS: Final = 10.0
HTTPS_PORT: Final = 443
MAX_AUTHORITIES_BYTES: Final = 64 * 1024  # some twenty certificates; they travel in one message to each fetch

# Threads that wait for a name service that is slow; they end on their own, whoever has given up waiting for them.
_RESOLVERS: Final = 16
_resolver_places: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("uftpd.peers.resolvers")
_NO_SUCH_NAME: Final = (socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_FAIL)
_SHOWN: Final = 100  # characters of what a user has named


class PeerRefused(Refused):
    """This site does not connect there. The message is the same whatever a name led to.

    Attributes:
        why: more, for the log of the site itself.
    """

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message)
        self.why = why


_PUBLIC: Final = frozenset({AddressKind.PUBLIC})
_OF_A_HOST: Final = frozenset({AddressKind.PUBLIC, AddressKind.PRIVATE})
_OF_THIS_MACHINE: Final = frozenset({AddressKind.LOOPBACK})


class PeerRules:
    """What a site allows. Cheap to make, one for each session or request.

    Args:
        settings: its configuration.
        announced: `host:port` of the servers that whoever opened the session vouches for; of no effect if the
            configuration does not trust them. What is none is passed over.
        look_up: how names are resolved; by default as this machine does.
    """

    def __init__(self, settings: Copies, announced: Sequence[str] = (), look_up: LookUp | None = None) -> None:
        self._settings = settings
        self._entries = (*entries(settings.allow), *(_announced(announced) if settings.announced else ()))
        self._denied = tuple(parse_network(item) for item in settings.deny)
        self._look_up = look_up if look_up is not None else system_look_up

    async def admit(self, host: str, port: int) -> tuple[str, ...]:
        """The addresses to connect to for a UFTP or FTP server that a user has named.

        Args:
            host: a name or an address, IPv6 without brackets.
            port: of its control connection.

        Returns:
            IP literals, at least one, in the order to try them. Connect to these only; do not resolve again.

        Raises:
            PeerRefused: not allowed, or there is no such host.
            NetworkError: the name service does not answer.
        """
        if not self._settings.enabled:
            raise PeerRefused("Copies between servers are switched off here", "copies.enabled")
        return await self._admit(host, port, public=False)

    async def admit_url(self, url: str) -> tuple[str, ...]:
        """The addresses to connect to for an https URL; see `admit`. Ask anew for each redirect.

        For `uftp.client.vetted_http`, which connects to these and checks the certificate by name.

        Raises:
            PeerRefused: not allowed, or there is no such host.
            UsageError: not an https URL, or one with a user or password in it.
            NetworkError: the name service does not answer.
        """
        if not self._settings.enabled or self._settings.https == "none":
            raise PeerRefused("Fetching of URLs is switched off here", "copies.enabled, copies.https")
        host, port = _origin(url)
        on_public_port = any(ports.low <= port <= ports.high for ports in self._settings.https_ports)
        return await self._admit(host, port, public=self._settings.https == "public" and on_public_port)

    async def _admit(self, host: str, port: int, *, public: bool) -> tuple[str, ...]:
        shown = printable(host[:_SHOWN])
        place = f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"
        try:
            named = parse_host(host)
        except ValueError as error:
            raise PeerRefused(f"'{shown}': no host name or address in its usual form", str(error)) from None
        if isinstance(named, str):
            kinds = self._kinds(named, port, public=public)
            addresses = await self._addresses(named, port, kinds, place)
        else:
            kinds = _PUBLIC if public else frozenset()
            addresses = (named,)
        for address in addresses:
            if not self._is_allowed(address, port, kinds):
                why = f"{address} ({kind_of(address).value}) is not listed, or denied"
                raise _refusal(place, why)
        return tuple(map(str, addresses[:MAX_ADDRESSES]))

    def _kinds(self, name: str, port: int, *, public: bool) -> frozenset[AddressKind]:
        """The kinds of addresses that a name may have."""
        kinds = _PUBLIC if public else frozenset()
        for entry in self._entries:
            if entry.has_port(port) and entry.has_name(name):
                if name == "localhost":
                    kinds |= _OF_THIS_MACHINE
                else:
                    kinds |= _PUBLIC if entry.below else _OF_A_HOST
        return kinds

    async def _addresses(
        self, name: str, port: int, kinds: frozenset[AddressKind], place: str
    ) -> tuple[IPAddress, ...]:
        """All addresses of a name, looked up only where the answer can matter."""
        if not kinds and not any(entry.network is not None and entry.has_port(port) for entry in self._entries):
            raise _refusal(place, "not listed")
        try:
            with trio.fail_after(LOOK_UP_SECONDS):
                found = await self._look_up(name)
        except (OSError, trio.TooSlowError):
            raise NetworkError(f"{place}: the name service does not answer; try again later") from None
        addresses = tuple(dict.fromkeys(_address(text) for text in found))
        if not addresses:
            raise _refusal(place, "the name has no address")
        return addresses

    def _is_allowed(self, address: IPAddress, port: int, kinds: frozenset[AddressKind]) -> bool:
        if any(address in network for network in self._denied):
            return False
        if any(entry.has_port(port) and entry.has_address(address) for entry in self._entries):
            return True
        return kind_of(address) in kinds


def fetch_authorities(settings: Copies) -> str:
    """The authorities that https URLs are trusted by beside the system's, for `uftp.client.vetted_http.trust`.

    Returns:
        PEM certificates; nothing if there are none.

    Raises:
        ConfigError: the file cannot be read, holds none, or is too large.
    """
    if settings.https_ca is None:
        return ""
    try:
        with settings.https_ca.open("rb") as file:
            text = file.read(MAX_AUTHORITIES_BYTES + 1).decode("ascii", "ignore")
        if len(text) > MAX_AUTHORITIES_BYTES:
            raise ConfigError(f"{settings.https_ca}: larger than {MAX_AUTHORITIES_BYTES} bytes; name only your own")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except ssl.SSLError:
        raise ConfigError(f"{settings.https_ca}: holds no PEM certificates") from None
    except OSError as error:
        raise ConfigError(f"{settings.https_ca}: cannot be read: {error.strerror}") from error
    except ValueError:
        raise ConfigError(f"{settings.https_ca}: is empty") from None
    return text


def _announced(items: Sequence[str]) -> tuple[PeerEntry, ...]:
    found = []
    for item in items[:MAX_ANNOUNCED]:
        try:
            entry = parse_entry(item)
        except ValueError:
            continue
        # Single hosts only, each with its port: another server's word is not good for whole networks.
        single = entry.network is None or entry.network.num_addresses == 1
        if entry.port is not None and not entry.below and single:
            found.append(entry)
    return tuple(found)


def _address(text: str) -> IPAddress:
    """One of a name's addresses; a zone is of no use, since only link-local addresses have one."""
    return plain_address(ipaddress.ip_address(text))


def _origin(url: str) -> tuple[str, int]:
    """Host and port of an https URL.

    Raises:
        UsageError: it is none.
    """
    # Nothing of the URL is in these messages, which get into logs: it may be all one needs to fetch something.
    if not url.isprintable() or " " in url or "\\" in url:
        raise UsageError("A URL holds no blanks, backslashes or control characters; percent-encode them")
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UsageError("Not a valid URL") from None
    if parts.scheme != "https" or not host or ("[" in parts.netloc and ":" not in host):
        raise UsageError("Only https URLs are fetched")
    if "@" in parts.netloc:
        raise UsageError("A URL with a user or password in it is not fetched")
    return host, HTTPS_PORT if port is None else port


def _refusal(place: str, why: str) -> PeerRefused:
    return PeerRefused(f"{place}: this site allows no copies with it, or there is no such host", why)


async def system_look_up(name: str) -> Sequence[str]:
    """The addresses of a name as this machine finds them, in the order to try them.

    Args:
        name: in ASCII.

    Raises:
        OSError: that cannot be found out now.
    """
    try:
        places = _resolver_places.get()
    except LookupError:
        places = trio.CapacityLimiter(_RESOLVERS)
        _resolver_places.set(places)
    # Bytes: text would be put through IDNA once more. Not trio's own threads: a slow name service would stop all else.
    look_up = partial(socket.getaddrinfo, name.encode("ascii"), None, type=socket.SOCK_STREAM)
    try:
        results = await trio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=places)
    except socket.gaierror as error:
        if error.errno in _NO_SUCH_NAME:
            return ()
        raise
    return [str(place[0]) for *_, place in results]
