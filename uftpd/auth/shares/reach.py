"""How a grantee, or this server for one, gets at the object of a share: the transfer request (CONTROL-PLANE 4.5, 4.6).

A session for a directory is based in it, and one for a file in the directory it stands in with the file as its scope,
so that neither can list or touch what stands beside it (W9). A node without extensions knows no scope: there a
pattern restricts what can be read but not what can be listed, so only this server itself opens such a session.
"""

from __future__ import annotations

from collections.abc import Sequence

from uftp.protocol.command_port import (
    Access,
    Cipher,
    IPAddress,
    Purpose,
    RequestRefused,
    TransferRequest,
    encode_request,
)
from uftpd.auth.attributes.base import Entitlements
from uftpd.auth.errors import BadRequest
from uftpd.auth.nodes.registry import LogicalServer
from uftpd.auth.session import rate_limit
from uftpd.auth.shares.model import Share

EXPIRES_SECONDS = 60.0  # of a secret, until its first use


def transfer_request(
    share: Share,
    *,
    write: bool,
    client_ip: Sequence[IPAddress],
    below: str = "",
    among: Sequence[str] = (),
    extensions: bool = True,
    persistent: bool = False,
    max_logins: int | None = None,
    expires: float = EXPIRES_SECONDS,
    http: bool = False,
    streams: int = 1,
    key: bytes | None = None,
    cipher: Cipher | None = None,
    compress: bool = False,
    append: bool = False,
    rate_limit: int = 0,
    request_id: str = "",
) -> TransferRequest:
    """A session, or with `http` a one-object URL, for a share; still without secret.

    Where it begins: a directory (`share.path`, or `below` if that ends with `/`), or the directory in which a single
    file stands. `start_of` tells the name to ask for there.

    Args:
        share: what is used.
        write: the object may be written.
        client_ip: where the connections come from.
        below: only this beneath a shared directory: relative, normalised, ends with `/` for a directory; empty for
            all.
        among: further files beside a shared file, which the same session is for.
        extensions: whether the node knows the fields of EXTENSIONS section 7. Without them a file gets a pattern.
        persistent, max_logins: how often the secret is good for a login.
        expires: seconds until the secret dies unused.
        http: the secret also opens the object over HTTP; the object is a file then.
        streams, key, cipher, compress, append: as the client asks.
        rate_limit: bytes a second; 0 for none.
        request_id: for the logs.

    Raises:
        BadRequest: `below` something that is no directory, or the path cannot be sent to a node.
    """
    if below and not share.directory:
        raise BadRequest("This share is a single file")
    directory, name = start_of(share, below)
    names = [_escaped(file) for file in (name, *among)] if name and (among or not extensions) else []
    request = TransferRequest(
        user=share.uid,
        secret="",
        client_ip=tuple(client_ip),
        persistent=persistent,
        file=directory,
        append=append,
        streams=streams,
        compress=compress,
        key=key,
        algorithm=cipher,
        groups=tuple(item for item in share.gid.split(":") if item),
        rate_limit=rate_limit,
        includes=tuple(names) or patterns(share.includes),
        excludes=patterns(share.excludes),
        access=Access.WRITE if write else Access.READ,
        request_id=request_id,
        purpose=Purpose.SHARE,
        scope=name.encode() if extensions and not among else b"",
        expires=expires,
        max_logins=max_logins if extensions else None,
        http=http,
    )
    try:
        encode_request(request, extensions=extensions)
    except RequestRefused as refusal:
        raise BadRequest(str(refusal)) from None
    return request


def share_rate(granted: Entitlements, server: LogicalServer) -> int:
    """Bytes a second of a session on a share: that of the person who uses it (CONTROL-PLANE 2.6); 0 for no limit.

    Raises:
        RequestError: the map file has something that is no rate.
    """
    limits = [rate_limit(granted, server)]
    if granted.account_on(server.name) is None and server.reservations is not None:
        limits.append(server.reservations.limit_for(""))  # a stranger owns no reservation
    return min((limit for limit in limits if limit > 0), default=0)


def start_of(share: Share, below: str = "") -> tuple[str, str]:
    """Where a session of `transfer_request` starts, ending with `/`, and the name of the file there; empty if the
    whole directory is meant.
    """
    path = share.path + below
    if path.endswith("/"):
        return path, ""
    directory, _, name = path.rpartition("/")
    return f"{directory}/", name


def patterns(text: str) -> tuple[str, ...]:
    """The items of a `:`-separated list."""
    return tuple(item for item in text.split(":") if item)


def _escaped(name: str) -> str:
    """A shell pattern that only this name matches; a `:` cannot be in one (W9)."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
