"""Looks at what is to be shared, as its owner, on the data node (CONTROL-PLANE 4.2)."""

from __future__ import annotations

from dataclasses import replace

from uftp.client.login import SessionOptions, open_ftp_session
from uftp.errors import NotFound as NoFile
from uftp.errors import Refused, UFTPError
from uftp.protocol.command_port import IPAddress, Purpose, TransferRequest
from uftp.protocol.facts import FileInfo
from uftpd.auth.addresses import parse_address
from uftpd.auth.errors import BadRequest, NodeFailed, NotAllowed, NotFound
from uftpd.auth.nodes.registry import LogicalServer
from uftpd.auth.session import GrantedSession, RequestFor, open_session
from uftpd.auth.shares.model import Share, ShareAccess
from uftpd.auth.shares.reach import patterns, start_of, transfer_request
from uftpd.config.shares import Shares

LOGIN_SECONDS = 20.0

_OPTIONS = SessionOptions(connect_timeout=LOGIN_SECONDS, reply_timeout=LOGIN_SECONDS)


async def checked(share: Share, server: LogicalServer, settings: Shares, request_id: str) -> Share:
    """The share with its path as it is stored: with a `/` at its end if a directory is there.

    Args:
        share: what is wanted, its path normalised.
        server: where.
        settings: of shares.
        request_id: for the logs.

    Raises:
        NotFound: there is nothing.
        NotAllowed: the owner may not use it the way it is to be shared.
        BadRequest: it is reached by a link that a grantee could not follow.
        NodeFailed: no node answers, or it refuses.
    """
    # Links on the way are followed, so the session is not confined: nobody else has a part in it.
    whole = TransferRequest(
        user=share.uid,
        secret="",
        client_ip=_addresses(settings),
        file="/",
        groups=patterns(share.gid),
        includes=patterns(share.includes),
        excludes=patterns(share.excludes),
        request_id=request_id,
        purpose=Purpose.SHARE,
    )
    path = share.path.removesuffix("/") or "/"
    info = await _look(server, lambda extensions: whole, path, share)
    _check_rights(info, share)
    share = replace(share, path=path + "/" if info.is_dir and path != "/" else path)
    if not _knows_extensions(server):
        return share
    # What was found may be the end of a link; a grantee's session does not follow one out of where it is based.
    name = start_of(share)[1]
    try:
        await _look(server, _as_grantee(share, settings, request_id), name, share)
    except (NotFound, NotAllowed, NodeFailed) as error:
        raise BadRequest(f"'{share.path}' cannot be shared: is it a link? Share what it leads to") from error
    return share


async def still_a_file(share: Share, server: LogicalServer, settings: Shares, request_id: str) -> None:
    """Make sure that a shared file has not become a directory, all of which a session for it could see.

    Args:
        share: of a single file.
        server: where it is.
        settings: of shares.
        request_id: for the logs.

    Raises:
        NotFound: it has, or it is gone and may not be written.
        NodeFailed: no node answers, or it refuses.
    """
    try:
        info = await _look(server, _as_grantee(share, settings, request_id), share.name, share)
    except NotFound:
        if share.access >= ShareAccess.WRITE:
            return
        raise NotFound("What was shared is not there any more") from None
    if info.is_dir:
        raise NotFound("What was shared is not there any more")


def _as_grantee(share: Share, settings: Shares, request_id: str) -> RequestFor:
    """The session that a grantee gets, but for this server."""
    addresses = _addresses(settings)
    return lambda extensions: transfer_request(
        share, write=False, client_ip=addresses, extensions=extensions, request_id=request_id
    )


def _addresses(settings: Shares) -> tuple[IPAddress, ...]:
    return tuple(address for text in settings.client_address if (address := parse_address(text)) is not None)


def _knows_extensions(server: LogicalServer) -> bool:
    replies = [instance.ping_reply for instance in server.instances]
    return all(reply is None or reply.features for reply in replies)


async def _look(server: LogicalServer, request: RequestFor, path: str, share: Share) -> FileInfo:
    granted = await open_session(server, None, request, reuse_seconds=0)
    try:
        return await _stat(granted, path)
    except NoFile:
        raise NotFound(f"No such file or directory: '{share.path}'") from None
    except Refused:
        raise NotAllowed(f"You have no access to '{share.path}'") from None
    except UFTPError as error:
        raise NodeFailed(f"UFTPD server '{server.name}': {error}") from error


async def _stat(granted: GrantedSession, path: str) -> FileInfo:
    host = granted.instance.settings.host
    async with open_ftp_session(
        host, granted.port, user="anonymous", password=granted.secret, options=_OPTIONS
    ) as session:
        if not path:
            return FileInfo(name=b".", size=0, mtime_ns=0, is_dir=True)  # that it could be entered is all
        return await session.stat(path.encode())


def _check_rights(info: FileInfo, share: Share) -> None:
    if share.path.endswith("/") and not info.is_dir:
        raise NotFound(f"'{share.path.rstrip('/')}' is a file, not a directory")
    if share.access < ShareAccess.WRITE:
        return
    if not info.writable or (info.is_dir and not info.executable):
        raise NotAllowed(f"You may not write to '{share.path}'")
