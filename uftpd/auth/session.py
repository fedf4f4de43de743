"""Opening a session: as which account, from where, on which node; one transfer request (CONTROL-PLANE section 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from uftp.protocol.command_port import IPAddress, RequestRefused, TransferRequest, encode_request
from uftpd.auth.addresses import client_addresses
from uftpd.auth.attributes.base import Entitlements
from uftpd.auth.attributes.rates import parse_rate
from uftpd.auth.errors import BadRequest, NodeFailed, NotAllowed, RequestError, Unavailable
from uftpd.auth.nodes.client import NodeUnreachable
from uftpd.auth.nodes.instance import NodeInstance, needs_extensions
from uftpd.auth.nodes.registry import LogicalServer
from uftpd.auth.requests import SessionRequest
from uftpd.config.auth import Sessions

MAX_SHOWN_REFUSAL = 500


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


async def assemble(
    request: SessionRequest,
    granted: Entitlements,
    server: LogicalServer,
    *,
    peer: IPAddress,
    forwarded: str | None,
    policy: Sessions,
    request_id: str,
    peers: tuple[str, ...] = (),
) -> TransferRequest:
    """The transfer request for a client's request, still without secret.

    Args:
        request: what the client asks for.
        granted: what the person may do.
        server: where.
        peer: whom the request came from.
        forwarded: what a trusted proxy says of the client's address; None without one.
        policy: what clients may ask for.
        request_id: names the request in the logs.
        peers: data nodes that it may have this one copy with.

    Raises:
        BadRequest: the group is not the person's, no client address can be used, or a value cannot be sent.
        NotAllowed: the person has no account there.
        RequestError: what the person's map entry says of this server cannot be used.
    """
    group = granted.group_on(server.name, request.group)
    account = granted.account_on(server.name)
    if not granted.counts_on(server.name):
        holds = ", ".join(granted.servers or ()) or "no server"
        raise NotAllowed(f"You are logged in for {holds} only: '{server.name}' does not know your key")
    if account is None:
        raise NotAllowed(f"You have no account on '{server.name}'")
    if request.client is not None and not policy.allow_client_addresses:
        raise BadRequest("client: this server opens sessions only for the address you come from")
    transfer = TransferRequest(
        user=account,
        secret="",
        client_ip=await client_addresses(peer, forwarded, request.client),
        persistent=request.persistent,
        file=request.path,
        append=request.append,
        streams=request.streams,
        compress=request.compress,
        key=request.key,
        algorithm=request.cipher,
        groups=group_list(group, granted.supplementary),
        rate_limit=rate_limit(granted, server),
        includes=path_patterns(granted, server.name, "includes"),
        excludes=path_patterns(granted, server.name, "excludes"),
        request_id=request_id,
        peers=peers,
    )
    try:
        encode_request(transfer)
    except RequestRefused as refusal:
        raise BadRequest(str(refusal)) from None
    return transfer


def group_list(group: str | None, supplementary: tuple[str, ...]) -> tuple[str, ...]:
    """The groups of a session: the primary one, then those the person selected; empty for the account's own."""
    primary = tuple(item for item in (group or "").split(":") if item)
    if supplementary and not primary:
        primary = ("DEFAULT_GID",)
    return primary + supplementary


def rate_limit(granted: Entitlements, server: LogicalServer) -> int:
    """Bytes a second of a session on this server: the person's own limit, or that of a reservation of others.

    Returns:
        The smaller one; 0 for no limit.

    Raises:
        RequestError: the map file has something that is no rate.
    """
    text = granted.override(server.name, "rateLimit")
    try:
        own = parse_rate(text) if text is not None else 0
    except ValueError as error:
        raise RequestError(f"Your rate limit for '{server.name}' is wrongly configured: {error}") from None
    account = granted.account_on(server.name)
    left = 0
    if server.reservations is not None and account is not None:
        left = server.reservations.limit_for(account)
    return min((rate for rate in (own, left) if rate > 0), default=0)


def path_patterns(granted: Entitlements, server: str, name: str) -> tuple[str, ...]:
    """`includes` or `excludes` of a person on a server, by the map file.

    Raises:
        RequestError: something is set, and no pattern is in it: without one everything would be allowed.
    """
    text = granted.override(server, name)
    if not text:
        return ()
    patterns = tuple(item for item in text.split(":") if item)
    if not patterns:
        raise RequestError(f"Your {name} for '{server}' are wrongly configured: no pattern in '{text}'")
    return patterns


RequestFor = Callable[[bool], TransferRequest]
"""Makes the request for a node, given whether it knows the extensions. What it raises ends the search."""


async def open_session(
    server: LogicalServer, number: int | None, request: TransferRequest | RequestFor, *, reuse_seconds: float
) -> GrantedSession:
    """Have a node of the logical server expect the session; others stand in for one that does not answer.

    Each node gets a secret of its own: one that fell silent may have taken in the request.

    Args:
        server: the logical server.
        number: the instance to use, from 1; None for the next in turn.
        request: what to ask for; or how to make it, if that depends on what the node knows.
        reuse_seconds: a node that answered a ping this lately is not pinged again.

    Raises:
        NodeFailed: no node answers, or one refused.
    """
    for instance in server.candidates(number):
        # What restricts a session must not go to a node that would pass over it: no old answer tells who it is now.
        restricts = callable(request) or needs_extensions(request)
        ping = await instance.ping(max_age=0 if restricts else reuse_seconds)
        if ping is None:
            continue
        wanted = request(bool(ping.features)) if callable(request) else request
        try:
            announced = await instance.transfer(wanted)
        except NodeUnreachable:
            continue
        except RequestRefused as refusal:
            text = "".join(c if c.isprintable() else " " for c in str(refusal))[:MAX_SHOWN_REFUSAL]
            raise NodeFailed(f"UFTPD server '{server.name}': {text}") from None
        return GrantedSession(instance, announced.port, announced.secret, ping.features)
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
