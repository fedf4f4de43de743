"""The interface every way of logging in has.

An authenticator gets the credentials of one request. It returns an identity, raises `LoginRefused` if it knows this
kind of credentials but does not accept these, or returns None if they are not of its kind.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from uftp.protocol.command_port import IPAddress

ANONYMOUS_DN = "CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN"


class LoginRefused(Exception):
    """These credentials are not accepted. The message is for the log; the peer is told nothing but that."""


class LoginEnded(LoginRefused):
    """Not accepted, and no other way of logging in is to be tried."""


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What an issued token says of itself, for whoever wants another one with it (CONTROL-PLANE 5.4).

    Attributes:
        jti: its id, for revocation; empty if it has none.
        renewable: it may be used to get another one.
        limited: it is for this server only; so is each one got with it.
        since: Unix seconds of the login at the beginning of the chain of renewals.
        chain: id of the token at the beginning of that chain; empty if this is it.
    """

    jti: str
    renewable: bool
    limited: bool
    since: float
    chain: str = ""

    def ids(self) -> tuple[str, ...]:
        """What must not have been revoked: the token, and the one it was renewed from in the first place."""
        return tuple(found for found in (self.jti, self.chain) if found)


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody.

    Attributes:
        dn: the name, as the method gave it, not canonical.
        method: as shown to clients (CONTROL-PLANE 1.3); empty for anonymous.
        attributes: preset by the method, such as the account name of an SSH key; a map file overrides them.
        servers: logical servers this login is good for; None for all. Whatever remembers an identity keeps this.
        expires: Unix seconds at which the credentials end; None if they have no end of their own.
        preferences: header lines of the user's preferences that are part of the credentials and replace those of the
            request; None if there are none.
        token: what a token of this server says of itself; None for all other credentials.
        proof: stands for what the login was accepted by, so that the method can look whether it is still there; empty
            if it cannot.
    """

    dn: str
    method: str
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    servers: tuple[str, ...] | None = None
    expires: float | None = None
    preferences: tuple[str, ...] | None = None
    token: TokenFacts | None = None
    proof: str = ""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request shows of itself.

    Attributes:
        scheme: of the `Authorization` header, in lower case; empty if there is none.
        value: the rest of that header.
        address: of the client.
        request_id: for the log.
    """

    scheme: str
    value: str = field(repr=False)
    address: IPAddress
    request_id: str

    def basic(self) -> tuple[str, bytes] | None:
        """User name and password of a Basic header, or None for any other scheme.

        The password is bytes: clients send whatever encoding their platform has (CONTROL-PLANE 5.1, T6).

        Raises:
            LoginRefused: a Basic header that is broken or has no password.
        """
        if self.scheme != "basic":
            return None
        try:
            decoded = base64.b64decode(self.value.strip(), validate=True)
            user, colon, password = decoded.partition(b":")
            name = user.decode("utf-8")
        except (binascii.Error, ValueError):
            raise LoginRefused("broken Basic header") from None
        if not colon:
            raise LoginRefused("Basic header without password")
        return name, password


def read_authorization(header: str | None, address: IPAddress, request_id: str) -> Credentials:
    """The credentials in an `Authorization` header; None is no header at all."""
    scheme, _, value = (header or "").strip().partition(" ")
    if header is not None and not scheme:
        scheme = "none"  # an empty header is not the absence of one
    return Credentials(scheme.lower(), value.strip(), address, request_id)


class Authenticator(Protocol):
    """One way of logging in."""

    async def authenticate(self, credentials: Credentials) -> Identity | None:
        """Check credentials.

        Returns:
            An identity, or None if these credentials are not of this authenticator's kind.

        Raises:
            LoginRefused: of its kind, but not accepted.
        """
        ...


@runtime_checkable
class Rechecking(Protocol):
    """A way of logging in that can tell later whether what it accepted still counts.

    Attributes:
        method: as in its identities.
    """

    method: str

    def still_accepts(self, identity: Identity) -> bool:
        """Whether what an identity of this method was accepted by is still there."""
        ...
