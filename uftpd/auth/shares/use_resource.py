"""`POST /rest/access`: a session on the data node for somebody a path is shared with (CONTROL-PLANE 1.7, 4.6).

By id: whoever has the link of a share, and is a grantee of it. By path: those whom it is shared with by name, as old
clients need it; paths are easily guessed, so shares for anybody are found that way only where the site wants it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from uftp.protocol.command_port import TransferRequest
from uftp.protocol.dn import canonical
from uftpd.auth.addresses import client_addresses
from uftpd.auth.edge import RequestContext, context_of, read_body
from uftpd.auth.endpoints import JSON, Access, Caller, Endpoint
from uftpd.auth.errors import BadRequest, NotAllowed, NotFound
from uftpd.auth.nodes.registry import LogicalServer
from uftpd.auth.requests import (
    SESSION_TAG,
    SessionRequest,
    boolean_field,
    parse_object,
    parse_session_request,
    text_field,
)
from uftpd.auth.resources import SESSION_REPLY, SESSION_REQUEST
from uftpd.auth.services import Services
from uftpd.auth.session import GrantedSession, open_session, require_up
from uftpd.auth.shares.grants import Wanted
from uftpd.auth.shares.looking import still_a_file
from uftpd.auth.shares.model import ANONYMOUS, NO_SUCH_SHARE, Share, ShareAccess, is_share_id
from uftpd.auth.shares.owner_resource import server_with_shares
from uftpd.auth.shares.owners import check_owner
from uftpd.auth.shares.paths import and_above, below, normalised, normalised_below
from uftpd.auth.shares.reach import share_rate, start_of, transfer_request

MAX_LOGINS: Final = 64  # with the secret of a session that was asked for as a lasting one

_REPLIES: Mapping[int, str] = {
    401: "This is shared with others, or not for writing, or it needs a password.",
    404: "There is no such server, share or path.",
    408: "The body did not come in time.",
    409: "All uses that are left of the share are under way.",
    413: "The body is too large.",
    500: "No data node answers, or it refuses the session.",
}


class UseResource:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.config.shares
        self._grants = services.grants

    def endpoints(self) -> list[Endpoint]:
        """The table of them; empty if sharing is off."""
        if not self._settings.enabled:
            return []
        body: dict[str, Any] = dict(SESSION_REQUEST)
        body["properties"] = {**body["properties"], "password": {"type": ["string", "null"]}}
        by_id = {key: value for key, value in body.items() if key != "required"}
        return [
            Endpoint(
                method="POST",
                path="/rest/access/{server}",
                handler=self.by_path,
                access=Access.ANYBODY,
                summary="Have a data node expect a session for a path that is shared with the caller.",
                consumes=JSON,
                body=body,
                schema=SESSION_REPLY,
                replies=_REPLIES,
            ),
            Endpoint(
                method="POST",
                path="/rest/access/{server}/{id}",
                handler=self.by_id,
                access=Access.ANYBODY,
                summary="Have a data node expect a session for a share; serverPath counts from what is shared.",
                consumes=JSON,
                body=by_id,
                schema=SESSION_REPLY,
                replies=_REPLIES,
            ),
        ]

    async def by_id(self, request: Request, caller: Caller) -> Response:
        """`POST /rest/access/NAME/ID`."""
        context = context_of(request)
        context.outcome = "session of a share refused"
        server = server_with_shares(self._services, request.path_params["server"])
        require_up(server)
        fields = parse_object(await read_body(request, self._services.config.limits))
        fields.setdefault("serverPath", "")
        if fields["serverPath"] is None:
            fields["serverPath"] = ""
        wanted = self._parse(fields)
        share_id = request.path_params["id"]
        share = await self._grants.get(share_id, server.name) if is_share_id(share_id) else None
        if share is None:
            raise NotFound(NO_SUCH_SHARE)
        if not share.admits(canonical(caller.identity.dn)):
            raise NotAllowed("This is shared with somebody else")
        path = normalised_below(_asked_path(fields))
        if path == share.name and not share.directory:
            path = ""  # the file itself, by its name
        if path and not share.directory:
            raise NotFound("This share is a single file, with nothing beneath it")
        return await self._open(request, caller, server, [share], _session_directory(path), fields, wanted)

    async def by_path(self, request: Request, caller: Caller) -> Response:
        """`POST /rest/access/NAME`."""
        context = context_of(request)
        context.outcome = "session of a share refused"
        server = server_with_shares(self._services, request.path_params["server"])
        require_up(server)
        fields = parse_object(await read_body(request, self._services.config.limits))
        wanted = self._parse(fields)
        path = normalised(_asked_path(fields))
        person = canonical(caller.identity.dn)
        found = await self._grants.candidates(server.name, and_above(path))
        mine = [share for share in found if self._may_find(share, person)]
        if mine:
            part = below(path, mine[0].path) if mine[0].directory else ""
            return await self._open(request, caller, server, mine[:1], _session_directory(part), fields, wanted)
        if path.endswith("/"):
            # Old clients ask for the directory of the file they want (CONTROL-PLANE T19).
            files = await self._files_in(server, person, path)
            if files:
                return await self._open(request, caller, server, files, "", fields, wanted)
        # Strangers are not told whether the path is shared with anybody.
        if person != ANONYMOUS and any(not share.is_anonymous for share in found):
            raise NotAllowed(f"Not allowed to access '{path}'")
        raise NotFound(f"No such share '{path}', please check your URL")

    def _may_find(self, share: Share, person: str) -> bool:
        if share.is_anonymous:
            return self._settings.anonymous_by_path
        return share.target == person

    async def _files_in(self, server: LogicalServer, person: str, directory: str) -> list[Share]:
        """Files in a directory that one session can be for: the same account and rights, and no use counted."""
        targets = [person] if person != ANONYMOUS or self._settings.anonymous_by_path else []
        if self._settings.anonymous_by_path and person != ANONYMOUS:
            targets.append(ANONYMOUS)
        found: list[Share] = []
        for target in targets:
            found += await self._grants.in_directory(server.name, target, directory)
        if len(found) < 2:
            return found
        alike = [share for share in found if _kind(share) == _kind(found[0]) and not share.uses]
        return [share for share in alike if not share.password_hash and ":" not in share.name] or found[:1]

    def _parse(self, fields: dict[str, Any]) -> SessionRequest:
        return parse_session_request(fields, max_streams=self._services.config.sessions.max_streams)

    async def _open(
        self,
        request: Request,
        caller: Caller,
        server: LogicalServer,
        shares: list[Share],
        part: str,
        fields: dict[str, Any],
        wanted: SessionRequest,
    ) -> Response:
        context = context_of(request)
        share = shares[0]
        context.facts |= {"server": server.name, "share": share.id[:6], "user": share.uid}
        for used in shares:
            await check_owner(used, self._services.sources, context)
        password = (text_field(fields, "password") or "").encode()
        if not await self._services.passwords.admits(share, password, context.peer):
            raise NotAllowed("This share needs its password")
        # Shares of a time when the site allowed more are for reading now.
        writable = share.access >= ShareAccess.WRITE and self._settings.allow_write
        if not boolean_field(fields, "send", True) and not writable:
            raise NotAllowed(f"Not allowed to write to '{share.path}'")
        addresses = await client_addresses(context.peer, context.forwarded, None)
        for file in shares:
            if not file.directory:
                await still_a_file(file, server, self._settings, context.request_id)

        def build(extensions: bool) -> TransferRequest:
            if not extensions:
                # What restricts a session there still lets it list what stands beside the share (W9).
                raise BadRequest("This server's data node is too old for sessions on shares; use the http link")
            return transfer_request(
                share,
                write=writable,
                client_ip=addresses,
                below=part,
                among=[other.name for other in shares[1:]],
                persistent=wanted.persistent and not share.uses,
                max_logins=MAX_LOGINS if wanted.persistent and not share.uses else 1,
                streams=wanted.streams,
                key=wanted.key,
                cipher=wanted.cipher,
                compress=wanted.compress,
                append=wanted.append,
                rate_limit=share_rate(caller.granted, server),
                request_id=context.request_id,
            )

        # A session can fetch all there is, and this server does not see what it does: to be let in is the use.
        claim = await self._grants.claim(share, f"{caller.identity.dn} {context.request_id}", Wanted(part=part))
        result = "refused"
        try:
            session = await open_session(server, None, build, reuse_seconds=0)
            await claim.settle()
            result = "granted"
        finally:
            self._services.metrics.sessions.labels(server.name, result).inc()
            await claim.release()
        for used in shares:
            self._grants.record_access(used)
        return self._reply(context, share, part, session)

    def _reply(self, context: RequestContext, share: Share, part: str, session: GrantedSession) -> Response:
        context.outcome = "session of a share granted"
        context.facts |= {"instance": session.instance.number, "port": session.port}
        start, name = start_of(share, part)
        reply: dict[str, Any] = {
            "success": True,
            "reason": "",
            "serverHost": session.instance.settings.host,
            "serverPort": session.port,
            "secret": session.secret,
            "share": {"directory": not name, "name": name or start.rstrip("/").rpartition("/")[2]},
        }
        if session.features:
            reply["features"] = list(session.features)
        return JSONResponse(reply)


def _kind(share: Share) -> tuple[object, ...]:
    return share.uid, share.gid, share.access, share.includes, share.excludes


def _asked_path(fields: Mapping[str, Any]) -> str:
    """`serverPath` without the tag of old clients (CONTROL-PLANE 2.2)."""
    path = text_field(fields, "serverPath") or ""
    return path.removesuffix(SESSION_TAG)


def _session_directory(part: str) -> str:
    """Where in a shared directory a session for this part begins: in the directory of a file that is asked for."""
    return part if part.endswith("/") else part[: part.rfind("/") + 1]
