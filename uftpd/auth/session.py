"""Opening a session: as which account, from where, on which node; one transfer request (CONTROL-PLANE section 2)."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass, replace

from uftp.protocol.command_port import IPAddress, RequestRefused, TransferRequest
from uftpd.auth.addresses import named_addresses
from uftpd.auth.attributes.base import Entitlements
from uftpd.auth.attributes.rates import parse_rate
from uftpd.auth.errors import BadRequest, NodeFailed, NotAllowed, RequestError, Unavailable
from uftpd.auth.nodes.client import NodeUnreachable
from uftpd.auth.nodes.instance import NodeInstance
from uftpd.auth.nodes.registry import LogicalServer
from uftpd.auth.requests import SessionRequest
from uftpd.config.auth import Sessions

SECRET_CHARACTERS = 32  # of 62 different ones: 190 bits
MAX_SHOWN_REFUSAL = 500

_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class GrantedSession:
    """A session a node is expecting.

    Attributes:
        instance: the node.
        port: its FTP port, from its own answer.
        secret: the password to log in with.
        features: the node's extensions; the client must find them there again (EXTENSIONS, introduction).
    """

    instance: NodeInstance
    port: int
    secret: str
    features: tuple[str, ...]


def new_secret() -> str:
    """A one-time password: no quotes, no blanks, since it is also an argument of copy verbs (CONTROL-PLANE 2.1)."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_CHARACTERS))


async def assemble(
    request: SessionRequest,
    granted: Entitlements,
    server: str,
    *,
    peer: IPAddress,
    policy: Sessions,
    request_id: str,
) -> TransferRequest:
    """The transfer request for a client's request, still without secret.

    Raises:
        BadRequest: the group is not the person's, or no client address can be used.
        NotAllowed: the person has no account there.
        RequestError: the person's rate limit for this server cannot be read.
    """
    group = granted.group_on(server, request.group)
    account = granted.account_on(server)
    if account is None:
        raise NotAllowed(f"You have no account on '{server}'")
    addresses: tuple[IPAddress, ...] = (peer,)
    if request.client is not None:
        if not policy.allow_client_addresses:
            raise BadRequest("client: this server opens sessions only for the address you come from")
        addresses = await named_addresses(request.client)
    return TransferRequest(
        user=account,
        secret="",
        client_ip=addresses,
        persistent=request.persistent,
        file=request.path,
        append=request.append,
        streams=request.streams,
        compress=request.compress,
        key=request.key,
        algorithm=request.cipher,
        groups=_groups(group, granted.supplementary),
        rate_limit=rate_limit(granted, server),
        includes=_patterns(granted.override(server, "includes")),
        excludes=_patterns(granted.override(server, "excludes")),
        request_id=request_id,
    )


def _groups(group: str | None, supplementary: tuple[str, ...]) -> tuple[str, ...]:
    primary = tuple(item for item in (group or "").split(":") if item)
    if supplementary and not primary:
        primary = ("DEFAULT_GID",)
    return primary + supplementary


def rate_limit(granted: Entitlements, server: str) -> int:
    """Bytes a second of a session on this server; 0 for no limit.

    Raises:
        RequestError: the map file has something that is no rate.
    """
    text = granted.override(server, "rateLimit")
    try:
        return parse_rate(text) if text is not None else 0
    except ValueError as error:
        raise RequestError(f"Your rate limit for '{server}' is wrongly configured: {error}") from None


def _patterns(text: str | None) -> tuple[str, ...]:
    return tuple(item for item in (text or "").split(":") if item)


async def open_session(
    server: LogicalServer, number: int | None, request: TransferRequest, *, reuse_seconds: float
) -> GrantedSession:
    """Have a node of the logical server expect the session; others stand in for one that does not answer.

    Each node gets a secret of its own: one that fell silent may have taken in the request.

    Args:
        server: the logical server.
        number: the instance to use, from 1; None for the next in turn.
        request: what to ask for.
        reuse_seconds: a node that answered a ping this lately is not pinged again.

    Raises:
        NodeFailed: no node answers, or one refused.
    """
    for instance in server.candidates(number):
        ping = await instance.ping(max_age=reuse_seconds)
        if ping is None:
            continue
        secret = new_secret()
        try:
            port = await instance.transfer(replace(request, secret=secret))
        except NodeUnreachable:
            continue
        except RequestRefused as refusal:
            text = "".join(c if c.isprintable() else " " for c in str(refusal))[:MAX_SHOWN_REFUSAL]
            raise NodeFailed(f"UFTPD server '{server.name}': {text}") from None
        return GrantedSession(instance, port, secret, ping.features)
    raise NodeFailed(
        "Cannot connect to UFTPD server: "
        + ("The selected UFTPD server" if number else "None of the configured UFTPD servers")
        + (" is not available!" if number else " is available!")
    )


def require_up(server: LogicalServer) -> None:
    """Refuse at once while all nodes are known to be down.

    Raises:
        Unavailable: with the status of the logical server.
    """
    if server.is_left_alone():
        raise Unavailable(server.status())
