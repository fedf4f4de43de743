"""The form every resource has: one entry says method, path, types, who may, and what it answers.

The same table makes the routes and the description at /openapi.json, so that neither can know a resource the other
does not; and `Gate` checks types and role before a handler runs, so that no handler can forget to.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from uftpd.auth.attributes.base import Entitlements
from uftpd.auth.edge import context_of
from uftpd.auth.errors import Refused, RequestError
from uftpd.auth.identity.base import Identity

JSON = "application/json"
TEXT = "text/plain"
ANY = "*/*"

_MEMBERS = frozenset({"user", "admin"})


class Access(Enum):
    """Who may use a resource (CONTROL-PLANE 1.1, roles)."""

    PUBLIC = "public"  # nobody is asked who they are
    ANYBODY = "anybody"  # anonymous callers too; not those who are banned
    MEMBERS = "members"
    ADMINISTRATORS = "administrators"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, and what they may be."""

    identity: Identity
    granted: Entitlements


NOBODY = Caller(Identity("", ""), Entitlements(role="", attributes={}))
"""The caller of a public resource, who has not been asked."""

Handler = Callable[[Request, Caller], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method of one resource.

    Attributes:
        method: GET serves HEAD as well.
        path: with `{name}` for a segment; a slash at its end is allowed, too.
        handler: answers.
        access: who may.
        summary: a line for people.
        produces: type of the reply; `*/*` for any.
        consumes: type of the request's body; empty if it has none.
        body: JSON schema of the request's body.
        body_required: without, a request may have no body, and then no type of it.
        query: query parameters, each with its JSON schema.
        replies: statuses it answers with beside those every resource has, and what they mean.
        schema: JSON schema of the reply with status 200.
        created: JSON schema of the reply with status 201, if there is one that has a body.
    """

    method: str
    path: str
    handler: Handler
    access: Access
    summary: str
    produces: str = JSON
    consumes: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    body_required: bool = True
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    replies: Mapping[int, str] = field(default_factory=dict)
    schema: Mapping[str, Any] = field(default_factory=dict)
    created: Mapping[str, Any] = field(default_factory=dict)


FindCaller = Callable[[Request], Awaitable[Caller]]


def routes(endpoints: Sequence[Endpoint], find_caller: FindCaller) -> list[Route]:
    """What the router needs; the methods of one path share a route, so that 405 names them all."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    found = []
    for path, methods in by_path.items():
        gate = _Gate(methods, find_caller)
        found += [_any_method(Route(form, gate.serve)) for form in (path, f"{path}/")]
    return found


def _any_method(route: Route) -> Route:
    # The gate looks at methods. The router would pass a wrong one on to the next path that matches, and `token` is not
    # to be the name of a server (CONTROL-PLANE 1.5).
    route.methods = None
    return route


class _Gate:
    """Before a handler: is this method's table entry satisfied?"""

    def __init__(self, methods: Mapping[str, Endpoint], find_caller: FindCaller) -> None:
        self._methods = methods
        self._allowed = {*methods, *(["HEAD"] if "GET" in methods else [])}
        self._find_caller = find_caller

    async def serve(self, request: Request) -> Response:
        endpoint = self._methods.get("GET" if request.method == "HEAD" else request.method)
        if endpoint is None:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self._allowed))})
        context_of(request).resource = endpoint.path
        if endpoint.produces != ANY and not accepts(request.headers.getlist("accept"), endpoint.produces):
            raise RequestError(f"This resource produces {endpoint.produces} only", status=406)
        kind = _content_type(request)
        if endpoint.consumes and kind != endpoint.consumes and (kind or endpoint.body_required):
            raise RequestError(f"The request body must be {endpoint.consumes}", status=415)
        caller = NOBODY
        if endpoint.access is not Access.PUBLIC:
            caller = await self._find_caller(request)
            check_role(endpoint.access, caller.granted.role)
        return await endpoint.handler(request, caller)


def check_role(access: Access, role: str) -> None:
    """Refuse whoever may not use a resource.

    Raises:
        Refused: the role is not enough.
    """
    if role == "banned":
        raise Refused("Access denied")
    if access is Access.MEMBERS and role not in _MEMBERS:
        raise Refused("Access denied: you have no role on this server")
    if access is Access.ADMINISTRATORS and role != "admin":
        raise Refused("Access denied: this is for administrators")


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def accepts(headers: Sequence[str], kind: str) -> bool:
    """Whether the Accept headers allow a type; no header allows everything."""
    family = kind.partition("/")[0] + "/*"
    ranges = [item for header in headers for item in header.split(",") if item.strip()]
    for item in ranges:
        named, *parameters = (part.strip().lower() for part in item.split(";"))
        refused = any(re.fullmatch(r"q\s*=\s*0(\.0*)?", parameter) for parameter in parameters)
        if named in (kind, family, "*/*", "*") and not refused:
            return True
    return not ranges
