"""The resources for everybody: information and session requests (CONTROL-PLANE 1.3, 1.4)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from uftpd.auth.addresses import TrustedProxies, parse_address
from uftpd.auth.edge import context_of, read_body
from uftpd.auth.endpoints import JSON, Access, Caller, Endpoint
from uftpd.auth.info import info_reply
from uftpd.auth.requests import parse_session_request
from uftpd.auth.services import Services
from uftpd.auth.session import assemble, open_session, require_up
from uftpd.config.auth import AuthConfig

_HOST = re.compile(r"[A-Za-z0-9._~-]{1,255}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?", re.ASCII)

_GATEWAY = re.compile(r"https?://[A-Za-z0-9._~:\[\]-]{1,300}(/[A-Za-z0-9._~/%-]{0,200})?", re.ASCII)

_TOLERANT_BOOLEAN = {"type": ["boolean", "string", "null"]}
SESSION_REQUEST: Mapping[str, Any] = {
    "type": "object",
    "required": ["serverPath"],
    "properties": {
        "serverPath": {"type": "string", "maxLength": 16384, "description": "base directory; empty for the home"},
        "streamCount": {"type": ["integer", "string", "null"], "minimum": 1},
        "encryptionKey": {"type": ["string", "null"], "description": "base64"},
        "encryptionAlgorithm": {"type": ["string", "null"], "description": "BLOWFISH or AES, any case"},
        "compress": _TOLERANT_BOOLEAN,
        "persistent": _TOLERANT_BOOLEAN,
        "group": {"type": ["string", "null"]},
        "client": {"type": ["string", "null"], "description": "addresses the FTP connections will come from"},
        "append": _TOLERANT_BOOLEAN,
        "send": _TOLERANT_BOOLEAN,
        "sessionMode": _TOLERANT_BOOLEAN,
    },
}
SESSION_REPLY: Mapping[str, Any] = {
    "type": "object",
    "required": ["success", "reason", "serverHost", "serverPort", "secret"],
    "properties": {
        "success": {"type": "boolean"},
        "reason": {"type": "string"},
        "serverHost": {"type": "string"},
        "serverPort": {"type": "integer"},
        "secret": {"type": "string"},
        "features": {"type": "array", "items": {"type": "string"}},
    },
}
_INFO_REPLY: Mapping[str, Any] = {
    "type": "object",
    "required": ["client", "server"],
    "additionalProperties": {"type": "object", "description": "a logical server, by name"},
    "properties": {"client": {"type": "object"}, "server": {"type": "object"}},
}


class Resources:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._config = services.config

    def endpoints(self) -> list[Endpoint]:
        """The table of them."""
        found = [
            Endpoint(
                method="GET",
                path="/rest/auth",
                handler=self.info,
                access=Access.ANYBODY,
                summary="The servers, and what the caller may do there.",
                schema=_INFO_REPLY,
            )
        ]
        found.append(
            Endpoint(
                method="POST",
                path="/rest/auth/{server}",
                handler=self.open_session,
                access=Access.MEMBERS,
                summary="Have a data node expect a session.",
                consumes=JSON,
                body=SESSION_REQUEST,
                schema=SESSION_REPLY,
                replies={
                    401: "The caller has no account on that server.",
                    404: "There is no such server or instance.",
                    408: "The body did not come in time.",
                    413: "The body is too large.",
                    500: "No data node answers, or it refuses the session; its words are in the text.",
                },
            )
        )
        return found

    async def info(self, request: Request, caller: Caller) -> Response:
        """`GET /rest/auth`: the servers and what the caller may do there (1.3)."""
        await self._services.registry.refresh(
            self._services.background, wait_seconds=self._config.command_port.status_wait_seconds
        )
        url = base_url(request, self._config)
        reply = info_reply(
            self._services.registry,
            self._services.facts,
            caller.identity,
            caller.granted,
            url,
            shares=self._config.shares,
            transfers=self._services.transfers is not None,
        )
        context_of(request).outcome = "info"
        return JSONResponse(reply)

    async def open_session(self, request: Request, caller: Caller) -> Response:
        """`POST /rest/auth/NAME[-N]`: have a data node expect a session (1.4)."""
        context = context_of(request)
        context.outcome = "session refused"
        server, number = self._services.registry.find(request.path_params["server"])
        context.facts["server"] = server.name
        result = "refused"
        try:
            require_up(server)
            body = await read_body(request, self._config.limits)
            wanted = parse_session_request(body, max_streams=self._config.sessions.max_streams)
            transfer = await assemble(
                wanted,
                caller.granted,
                server,
                peer=context.peer,
                forwarded=context.forwarded,
                policy=self._config.sessions,
                request_id=context.request_id,
                peers=await self._services.registry.peers(
                    self._services.background, wait_seconds=self._config.command_port.status_wait_seconds
                ),
            )
            context.facts |= {"user": transfer.user, "client": ",".join(map(str, transfer.client_ip))}
            session = await open_session(
                server, number, transfer, reuse_seconds=self._config.command_port.reuse_seconds
            )
            result = "granted"
        finally:
            self._services.metrics.sessions.labels(server.name, result).inc()
        context.outcome = "session granted"
        context.facts |= {"instance": session.instance.number, "port": session.port}
        reply = {
            "success": True,
            "reason": "",
            "serverHost": session.instance.settings.host,
            "serverPort": session.port,
            "secret": session.secret,
        }
        if session.features:
            reply["features"] = list(session.features)
        return JSONResponse(reply)


def share_base_url(request: Request, config: AuthConfig) -> str:
    """The same for links to shares: as a trusted gateway says, if there is one (CONTROL-PLANE 1.1).

    A header that the client sent itself may stand beside the gateway's: then neither is believed.
    """
    named = request.headers.getlist("x-unicore-gateway")
    address = parse_address(request.client.host) if request.client is not None else None
    if len(named) == 1 and address is not None and address in TrustedProxies(config.server.trusted_proxies):
        gateway = named[0].strip().rstrip("/")
        if _GATEWAY.fullmatch(gateway):
            return gateway
    return base_url(request, config)


def base_url(request: Request, config: AuthConfig) -> str:
    """The external URL of this server: as configured, else as the client asked for it."""
    if config.server.external_url:
        return config.server.external_url
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        name, port = request.scope.get("server") or ("localhost", 0)
        host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    return f"{request.scope['scheme']}://{host}"
