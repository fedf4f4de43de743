"""The resources of the auth server and their rules: methods, types, roles (CONTROL-PLANE 1.1 to 1.4)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from uftpd.auth.addresses import TrustedProxies
from uftpd.auth.attributes.base import AttributeSource, Entitlements, collect, entitlements
from uftpd.auth.attributes.map_file import MapFile
from uftpd.auth.attributes.preferences import HEADER as PREFERENCES
from uftpd.auth.attributes.preferences import apply_preferences
from uftpd.auth.edge import Edge, context_of, read_body
from uftpd.auth.errors import Refused, RequestError
from uftpd.auth.identity.anonymous import AnonymousAuthenticator
from uftpd.auth.identity.base import Authenticator, Identity, read_authorization
from uftpd.auth.identity.chain import LoginChain
from uftpd.auth.identity.password import PasswordFileAuthenticator
from uftpd.auth.info import ServerFacts, info_reply
from uftpd.auth.nodes.client import CommandPort
from uftpd.auth.nodes.registry import NodeRegistry, build_registry
from uftpd.auth.requests import parse_session_request
from uftpd.auth.session import assemble, open_session, require_up
from uftpd.config.auth import AuthConfig

_MEMBERS = frozenset({"user", "admin"})
_HOST = re.compile(r"[A-Za-z0-9._~-]{1,255}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?", re.ASCII)
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Services:
    """Everything the resources use, built once from the configuration."""

    config: AuthConfig
    logins: LoginChain
    sources: Sequence[AttributeSource]
    registry: NodeRegistry
    facts: ServerFacts
    background: trio.Nursery


def build_services(config: AuthConfig, port: CommandPort, facts: ServerFacts, background: trio.Nursery) -> Services:
    """Read password and map file and build the services.

    Args:
        config: the whole configuration.
        port: speaks with the data nodes.
        facts: what the server says of itself.
        background: pings that nobody waits for run here.

    Raises:
        ConfigError: a file cannot be used.
    """
    logins: list[Authenticator] = []
    if config.login.password_file is not None:
        logins.append(PasswordFileAuthenticator(config.login.password_file, config.login))
    if config.login.anonymous:
        logins.append(AnonymousAuthenticator())
    sources: list[AttributeSource] = []
    if config.attributes.map_file is not None:
        sources.append(MapFile(config.attributes.map_file, config.attributes.match))
    return Services(config, LoginChain(logins), sources, build_registry(config, port), facts, background)


def build_app(services: Services) -> Edge:
    """The ASGI application."""
    resources = Resources(services)
    routes = [
        Route("/rest/auth", _json(resources.info), methods=["GET"]),
        Route("/rest/auth/", _json(resources.info), methods=["GET"]),
        Route("/rest/auth/{server}", _json(resources.open_session), methods=["POST"]),
        Route("/rest/auth/{server}/", _json(resources.open_session), methods=["POST"]),
    ]
    router = Router(routes, redirect_slashes=False)
    return Edge(router, services.config.limits, TrustedProxies(services.config.server.trusted_proxies))


def _json(resource: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """A resource that produces JSON, and takes nothing else in a body."""

    async def checked(request: Request) -> Response:
        if not accepts_json(request.headers.getlist("accept")):
            raise RequestError(f"This resource produces {_JSON} only", status=406)
        if request.method in ("POST", "PUT"):
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != _JSON:
                raise RequestError(f"The request body must be {_JSON}", status=415)
        return await resource(request)

    return checked


def accepts_json(headers: Sequence[str]) -> bool:
    """Whether the Accept headers allow JSON; no header allows everything."""
    ranges = [item for header in headers for item in header.split(",") if item.strip()]
    for item in ranges:
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        refused = any(re.fullmatch(r"q\s*=\s*0(\.0*)?", parameter) for parameter in parameters)
        if kind in (_JSON, "application/*", "*/*", "*") and not refused:
            return True
    return not ranges


class Resources:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._config = services.config

    async def info(self, request: Request) -> Response:
        """`GET /rest/auth`: the servers and what the caller may do there (1.3)."""
        identity, granted = await self._caller(request)
        if granted.role == "banned":
            raise Refused("Access denied")
        await self._services.registry.refresh(
            self._services.background, wait_seconds=self._config.command_port.status_wait_seconds
        )
        reply = info_reply(self._services.registry, self._services.facts, identity, granted, self._base_url(request))
        context_of(request).outcome = "info"
        return JSONResponse(reply, headers={"Cache-Control": "no-store"})

    async def open_session(self, request: Request) -> Response:
        """`POST /rest/auth/NAME[-N]`: have a data node expect a session (1.4)."""
        context = context_of(request)
        context.outcome = "session refused"
        _, granted = await self._caller(request)
        if granted.role not in _MEMBERS:
            raise Refused("Access denied: you have no role on this server")
        server, number = self._services.registry.find(request.path_params["server"])
        context.facts["server"] = server.name
        require_up(server)
        body = await read_body(request, self._config.limits)
        wanted = parse_session_request(body, max_streams=self._config.sessions.max_streams)
        transfer = await assemble(
            wanted,
            granted,
            server,
            peer=context.peer,
            forwarded=context.forwarded,
            policy=self._config.sessions,
            request_id=context.request_id,
        )
        context.facts |= {"user": transfer.user, "client": ",".join(map(str, transfer.client_ip))}
        session = await open_session(server, number, transfer, reuse_seconds=self._config.command_port.reuse_seconds)
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
        return JSONResponse(reply, headers={"Cache-Control": "no-store"})

    async def _caller(self, request: Request) -> tuple[Identity, Entitlements]:
        context = context_of(request)
        headers = request.headers.getlist("authorization")
        if len(headers) > 1:
            raise Refused("More than one Authorization header")
        credentials = read_authorization(headers[0] if headers else None, context.peer, context.request_id)
        identity = await self._services.logins.authenticate(credentials)
        context.facts["dn"] = identity.dn
        granted = entitlements(await collect(identity, self._services.sources), identity.servers)
        preferences = identity.preferences
        if preferences is None:
            preferences = tuple(request.headers.getlist(PREFERENCES))
        return identity, apply_preferences(preferences, granted)

    def _base_url(self, request: Request) -> str:
        """The external URL of this server: as configured, else as the client asked for it."""
        if self._config.server.external_url:
            return self._config.server.external_url
        host = request.headers.get("host", "")
        if not _HOST.fullmatch(host):
            name, port = request.scope.get("server") or ("localhost", 0)
            host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        return f"{request.scope['scheme']}://{host}"
