"""`/rest/share`: people make, see, change and withdraw shares (CONTROL-PLANE 1.6, 4.2, 4.3)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from uftp.protocol.dn import canonical
from uftpd.auth.edge import context_of, read_body
from uftpd.auth.endpoints import JSON, Access, Caller, Endpoint
from uftpd.auth.errors import BadRequest, NotAllowed, NotFound
from uftpd.auth.nodes.registry import LogicalServer
from uftpd.auth.resources import share_base_url
from uftpd.auth.services import Services
from uftpd.auth.session import group_list, path_patterns, require_up
from uftpd.auth.shares import describe
from uftpd.auth.shares.looking import checked
from uftpd.auth.shares.model import NO_SUCH_SHARE, Share, ShareAccess, is_share_id, new_share_id
from uftpd.auth.shares.owner_requests import (
    MAX_NAME_CHARACTERS,
    ShareRequest,
    ShareUpdate,
    parse_share_request,
    parse_share_update,
)
from uftpd.auth.shares.paths import other_form

_NOBODY = "nobody"

_TEXT_OR_NUMBER = {"type": ["integer", "string", "null"]}
_SHARE_REQUEST: Mapping[str, Any] = {
    "type": "object",
    "required": ["path", "user"],
    "properties": {
        "path": {"type": "string", "maxLength": 4096, "description": "absolute"},
        "user": {"type": "string", "description": "name of the grantee; CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN: anybody"},
        "access": {"enum": ["NONE", "READ", "WRITE", "MODIFY", None]},
        "lifetime": {**_TEXT_OR_NUMBER, "description": "seconds; 0 for no end"},
        "onetime": {"type": ["boolean", "string", "null"]},
        "group": {"type": ["string", "null"]},
        "password": {"type": ["string", "null"], "description": "left out: stays as it is; empty: none"},
        "maxDownloads": {**_TEXT_OR_NUMBER, "description": "0 for any number"},
    },
}
_SHARE_UPDATE: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"type": ["string", "null"], "maxLength": 4096},
        "lifetime": _TEXT_OR_NUMBER,
        "password": {"type": ["string", "null"]},
        "maxDownloads": _TEXT_OR_NUMBER,
    },
}
_LISTS: Mapping[str, Any] = {
    "type": "object",
    "required": ["shares", "accessible", "status"],
    "properties": {"shares": {"type": "array"}, "accessible": {"type": "array"}, "status": {"type": "string"}},
}
_DETAILS: Mapping[str, Any] = {
    "type": "object",
    "required": ["share", "owner", "status"],
    "properties": {"share": {"type": "object"}, "owner": {"type": "string"}, "status": {"type": "string"}},
}
_NO_SHARING = {404: "There is no such server, or nothing of it can be shared."}
_BODY = {408: "The body did not come in time.", 413: "The body is too large."}


class OwnerResource:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.config.shares
        self._grants = services.grants

    def endpoints(self) -> list[Endpoint]:
        """The table of them; empty if sharing is off."""
        if not self._settings.enabled:
            return []
        one, all_of_server = "/rest/share/{server}/{id}", "/rest/share/{server}"
        not_owner = {401: "The share is somebody else's.", 404: "There is no such share or server."}
        return [
            Endpoint(
                method="GET",
                path="/rest/share",
                handler=self.servers,
                access=Access.MEMBERS,
                summary="The servers whose files can be shared.",
                schema={"type": "object", "additionalProperties": {"type": "object"}},
            ),
            Endpoint(
                method="GET",
                path=all_of_server,
                handler=self.list,
                access=Access.MEMBERS,
                summary="What the caller shares, and what is shared with them.",
                schema=_LISTS,
                replies=_NO_SHARING,
            ),
            Endpoint(
                method="POST",
                path=all_of_server,
                handler=self.create,
                access=Access.MEMBERS,
                summary="Share a path, or with access NONE end all shares of it.",
                consumes=JSON,
                body=_SHARE_REQUEST,
                replies={
                    201: "The share is at the Location.",
                    401: "The caller has no account there, or no such right to the path.",
                    404: "There is no such server, or nothing at the path.",
                    500: "No data node answers, or it refuses.",
                    **_BODY,
                },
            ),
            Endpoint(
                method="GET",
                path=one,
                handler=self.show,
                access=Access.MEMBERS,
                summary="One of the caller's shares.",
                schema=_DETAILS,
                replies=not_owner,
            ),
            Endpoint(
                method="PUT",
                path=one,
                handler=self.update,
                access=Access.MEMBERS,
                summary="Change path, lifetime, password or number of downloads of a share.",
                consumes=JSON,
                body=_SHARE_UPDATE,
                schema={"type": "object", "additionalProperties": {"type": "string"}},
                replies=not_owner | {500: "No data node answers, or it refuses."} | _BODY,
            ),
            Endpoint(
                method="DELETE",
                path=one,
                handler=self.delete,
                access=Access.MEMBERS,
                summary="Withdraw a share; with stop=true also what is being fetched by it.",
                query={"stop": {"type": "string"}},
                replies={401: "The share is somebody else's.", **_NO_SHARING},
            ),
        ]

    # -- looking ----------------------------------------------------------------------------------------------------

    async def servers(self, request: Request, caller: Caller) -> Response:
        """`GET /rest/share`."""
        base = share_base_url(request, self._services.config)
        reply: describe.JsonObject = {
            name: {"href": f"{base}/rest/share/{name}", "description": server.description, "status": server.status()}
            for name, server in self._services.registry.servers.items()
            if self._settings.covers(name)
        }
        context_of(request).outcome = "servers with shares"
        return JSONResponse(reply | {"userInfo": describe.user_info(caller)})

    async def list(self, request: Request, caller: Caller) -> Response:
        """`GET /rest/share/NAME`."""
        server = self._server(request)
        person = canonical(caller.identity.dn)
        base = share_base_url(request, self._services.config)
        mine = await self._grants.by_owner(person, server.name)
        for_me = await self._grants.by_target(person, server.name)
        context_of(request).outcome = "shares listed"
        reply = describe.lists(mine, for_me, base)
        reply |= {"status": "OK", "userInfo": describe.user_info(caller, server.name)}
        return JSONResponse(reply)

    async def show(self, request: Request, caller: Caller) -> Response:
        """`GET /rest/share/NAME/ID`."""
        server = self._server(request)
        share = await self._mine(request, caller, server)
        base = share_base_url(request, self._services.config)
        context_of(request).outcome = "share shown"
        reply = {
            "share": describe.own(share, base, time.time()),
            "owner": share.owner,
            "status": "OK",
            "userInfo": describe.user_info(caller, server.name),
        }
        return JSONResponse(reply)

    # -- changing ---------------------------------------------------------------------------------------------------

    async def create(self, request: Request, caller: Caller) -> Response:
        """`POST /rest/share/NAME`."""
        context = context_of(request)
        context.outcome = "share refused"
        server = self._server(request)
        wanted = parse_share_request(await read_body(request, self._services.config.limits))
        context.facts |= {"server": server.name, "path": wanted.path, "target": wanted.target}
        if wanted.access is None:
            return await self._end_all(request, caller, server, wanted)
        share = await self.make(caller, server, wanted, request)
        base = share_base_url(request, self._services.config)
        return Response(status_code=201, headers={"Location": f"{base}/rest/share/{server.name}/{share.id}"})

    async def make(self, caller: Caller, server: LogicalServer, wanted: ShareRequest, request: Request) -> Share:
        """Make a share, or grant it anew; the request is the one that asked for it.

        Raises:
            RequestError: the site, the caller's account or the data node do not allow it.
        """
        context = context_of(request)
        share = self._grant(caller, server, wanted)
        require_up(server)
        share = await checked(share, server, self._settings, context.request_id)
        if wanted.password:
            share = replace(share, password_hash=await self._services.passwords.hash(wanted.password))
        share = await self._grants.put(share, per_owner=self._settings.per_owner, keep_password=wanted.password is None)
        context.outcome = "share made"
        context.facts |= {"share": share.id[:6], "access": share.access.name}
        return share

    def _grant(self, caller: Caller, server: LogicalServer, wanted: ShareRequest) -> Share:
        """The share that is asked for, not yet looked at on the node.

        Raises:
            NotAllowed: the site or the caller's account do not allow it.
            BadRequest: the lifetime is too long, or the group is not the caller's.
        """
        assert wanted.access is not None  # noqa: S101 - for the type checker
        granted = caller.granted
        group = granted.group_on(server.name, wanted.group)
        share = Share(
            id=new_share_id(),
            server=server.name,
            path=wanted.path,
            owner=_owner(caller),
            uid=self._account(caller, server),
            gid=":".join(group_list(group, granted.supplementary)),
            target=wanted.target,
            access=wanted.access,
            one_time=wanted.one_time,
            expires=self._end(wanted.lifetime),
            created=int(time.time()),
            max_downloads=wanted.max_downloads,
            includes=":".join(path_patterns(granted, server.name, "includes")),
            excludes=":".join(path_patterns(granted, server.name, "excludes")),
        )
        if wanted.access >= ShareAccess.WRITE and not self._settings.allow_write:
            raise NotAllowed("Shares for writing are switched off on this server")
        if share.is_anonymous and not self._settings.anonymous:
            raise NotAllowed("Shares for anybody are switched off on this server; name a person")
        return share

    def _account(self, caller: Caller, server: LogicalServer) -> str:
        account = caller.granted.account_on(server.name)
        if account is None:
            raise NotAllowed(f"You have no account on '{server.name}'")
        if account == _NOBODY:
            raise NotAllowed(f"The account '{_NOBODY}' has nothing to share")
        return account

    def _end(self, lifetime: int) -> int:
        longest = self._settings.max_lifetime_seconds
        if longest and lifetime > longest:
            raise BadRequest(f"lifetime: at most {longest} seconds on this server")
        lifetime = lifetime or longest
        return int(time.time()) + lifetime if lifetime else 0

    async def _end_all(self, request: Request, caller: Caller, server: LogicalServer, wanted: ShareRequest) -> Response:
        ended = await self._grants.delete_paths(_owner(caller), server.name, [wanted.path, other_form(wanted.path)])
        for share_id in ended:
            await self._stop(request, share_id)
        context_of(request).outcome = "shares ended"
        context_of(request).facts["count"] = len(ended)
        return Response(status_code=200)

    async def update(self, request: Request, caller: Caller) -> Response:
        """`PUT /rest/share/NAME/ID`."""
        context = context_of(request)
        context.outcome = "share not changed"
        server = self._server(request)
        share = await self._mine(request, caller, server)
        update = parse_share_update(await read_body(request, self._services.config.limits))
        values = await self._changes(caller, server, share, update, context.request_id)
        if values and await self._grants.overwrite(share, values) is None:
            raise NotFound(NO_SUCH_SHARE)
        context.outcome = "share changed"
        context.facts |= {"server": server.name, "share": share.id[:6], "changed": ",".join(sorted(values))}
        return JSONResponse(dict(update.answers))

    async def _changes(
        self, caller: Caller, server: LogicalServer, share: Share, update: ShareUpdate, request_id: str
    ) -> dict[str, object]:
        values: dict[str, object] = {}
        if update.path is not None and update.path not in (share.path, other_form(share.path)):
            # As a new share of that path: the caller's rights of today, the same look.
            request = ShareRequest(path=update.path, target=share.target, access=share.access)
            fresh = replace(self._grant(caller, server, request), one_time=share.one_time)
            require_up(server)
            fresh = await checked(fresh, server, self._settings, request_id)
            for name in ("path", "uid", "gid", "includes", "excludes"):
                values[name] = getattr(fresh, name)
        if update.lifetime is not None:
            values["expires"] = self._end(update.lifetime)
        if update.password is not None:
            values["password_hash"] = await self._services.passwords.hash(update.password)
        if update.max_downloads is not None:
            values["max_downloads"] = update.max_downloads
        return values

    async def delete(self, request: Request, caller: Caller) -> Response:
        """`DELETE /rest/share/NAME[-N]/ID`: 200 also if there is none."""
        server, _ = self._services.registry.find(request.path_params["server"])
        if not self._settings.covers(server.name):
            raise NotFound(f"Nothing of '{server.name}' can be shared")
        await self.withdraw(caller, server, request.path_params["id"], request)
        return Response(status_code=200)

    async def withdraw(
        self, caller: Caller, server: LogicalServer, share_id: str, request: Request, *, stop: bool = False
    ) -> bool:
        """Remove a share of the caller's.

        Args:
            caller: must be its owner.
            server: where it is.
            share_id: its id.
            request: the one that asked for it.
            stop: end what is being fetched, whatever the request says.

        Returns:
            Whether there was one.

        Raises:
            NotAllowed: it is somebody else's.
        """
        share = await self._grants.get(share_id, server.name) if is_share_id(share_id) else None
        context_of(request).outcome = "share ended"
        if share is None:
            return False
        if share.owner != _owner(caller):
            raise NotAllowed("This share is not yours")
        await self._grants.delete(share.id)
        await self._stop(request, share.id, stop=stop)
        return True

    async def _stop(self, request: Request, share_id: str, *, stop: bool = False) -> None:
        """End what is being delivered, if that is asked for or the rule here."""
        asked = request.query_params.get("stop", "").lower() == "true"
        if stop or asked or self._settings.stop_on_delete:
            context_of(request).facts["stopped"] = self._services.deliveries.stop(share_id)
            await self._grants.stop(share_id)

    # -- finding ----------------------------------------------------------------------------------------------------

    def _server(self, request: Request) -> LogicalServer:
        return server_with_shares(self._services, request.path_params["server"])

    async def _mine(self, request: Request, caller: Caller, server: LogicalServer) -> Share:
        share_id = request.path_params["id"]
        await self._grants.write_counts()
        share = await self._grants.get(share_id, server.name) if is_share_id(share_id) else None
        if share is None:
            raise NotFound(NO_SUCH_SHARE)
        if share.owner != _owner(caller):
            raise NotAllowed("This share is not yours")
        return share


def server_with_shares(services: Services, name: str) -> LogicalServer:
    """The logical server of this name. `NAME-N` is not understood here (CONTROL-PLANE 1.7).

    Raises:
        NotFound: there is none, or nothing of it can be shared.
    """
    server = services.registry.servers.get(name)
    if server is None:
        raise NotFound(f"No such server: '{name}', please check your URL")
    if not services.config.shares.covers(name):
        raise NotFound(f"Nothing of '{name}' can be shared")
    return server


def _owner(caller: Caller) -> str:
    name = canonical(caller.identity.dn)
    if len(name) > MAX_NAME_CHARACTERS:
        raise BadRequest("Your name is too long to own shares")
    return name
