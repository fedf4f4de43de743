"""The description of the REST interface at /openapi.json, made from the table that also makes the routes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from uftp._version import __version__
from uftpd.auth.endpoints import ANY, JSON, Access, Caller, Endpoint

PATH = "/openapi.json"

_CONVERTOR = re.compile(r":[a-z]+\}")  # what of a path only the router needs

_ERROR = {
    "type": "object",
    "required": ["errorMessage", "status"],
    "properties": {"errorMessage": {"type": "string"}, "status": {"type": "integer"}},
}
_EVERYWHERE = {
    400: "The request is malformed.",
    406: "The reply is of another type than asked for.",
    503: "The server, what it keeps, or all data nodes cannot serve now.",
}
_WITH_LOGIN = {
    403: "Not authenticated, or the role is not enough.",
    429: "Too many failed logins from this address.",
    432: "No such security session: ask again with credentials.",
}


class Description:
    """Serves the description."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._own = Endpoint(
            method="GET",
            path=PATH,
            handler=self.serve,
            access=Access.PUBLIC,
            summary="This description.",
            schema={"type": "object"},
        )
        self._document = describe([*endpoints, self._own])

    def endpoints(self) -> list[Endpoint]:
        """Its own place in the table."""
        return [self._own]

    async def serve(self, request: Request, caller: Caller) -> Response:
        """`GET /openapi.json`."""
        return JSONResponse(self._document)


def describe(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(_CONVERTOR.sub("}", endpoint.path), {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "UFTP auth server",
            "version": __version__,
            "description": "Says who people are and has data nodes expect their sessions.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "header", "name": "X-UNICORE-SecuritySession"},
            },
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    names = [part[1:-1].partition(":")[0] for part in endpoint.path.split("/") if part.startswith("{")]
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names
    ]
    parameters += [
        {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in endpoint.query.items()
    ]
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": _responses(endpoint),
    }
    if endpoint.consumes:
        operation["requestBody"] = {
            "required": endpoint.body_required,
            "content": {endpoint.consumes: {"schema": dict(endpoint.body)}},
        }
    if endpoint.access is not Access.PUBLIC:
        schemes: list[dict[str, list[str]]] = [{"basic": []}, {"bearer": []}, {"session": []}]
        operation["security"] = schemes if endpoint.access is not Access.ANYBODY else [{}, *schemes]
    return operation


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    errors = dict(_EVERYWHERE)
    if endpoint.access is not Access.PUBLIC:
        errors |= _WITH_LOGIN
    if endpoint.consumes:
        errors[415] = f"The body is not {endpoint.consumes}."
    content: dict[str, Any] = {}
    if endpoint.produces != ANY:
        content = {endpoint.produces: {"schema": dict(endpoint.schema) or {"type": "string"}}}
    responses: dict[str, Any] = {"200": {"description": endpoint.summary, "content": content}}
    if endpoint.created:
        described = {"description": "It was made.", "content": {endpoint.produces: {"schema": dict(endpoint.created)}}}
        responses["201"] = described
    for status, meaning in sorted((errors | dict(endpoint.replies)).items()):
        # An unknown security session has no body, by the protocol.
        body = {} if status in (204, 432) else {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
        responses[str(status)] = {"description": meaning, **({"content": body} if body else {})}
    return responses
