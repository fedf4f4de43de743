"""`…/token` and `…/certificate`, the same under all three services (CONTROL-PLANE 1.5)."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from uftpd.auth.attributes.preferences import HEADER as PREFERENCES
from uftpd.auth.edge import context_of
from uftpd.auth.endpoints import TEXT, Access, Caller, Endpoint
from uftpd.auth.identity.credential import ServerCredential
from uftpd.auth.identity.tokens import TokenIssuer, read_lifetime

# Who may use a service at all (CONTROL-PLANE 1.1).
_SERVICES = {"auth": Access.ANYBODY, "share": Access.MEMBERS, "access": Access.ANYBODY}
_NO_STORE = {"Cache-Control": "no-store"}


class TokenResource:
    """The handlers."""

    def __init__(self, issuer: TokenIssuer, credential: ServerCredential | None) -> None:
        self._issuer = issuer
        self._credential = credential

    async def token(self, request: Request, caller: Caller) -> Response:
        """A token for the caller."""
        context = context_of(request)
        context.outcome = "token refused"
        preferences = caller.identity.preferences
        if preferences is None:
            preferences = tuple(request.headers.getlist(PREFERENCES))
        text = self._issuer.issue(
            caller.identity,
            preferences,
            lifetime=read_lifetime(request.query_params.get("lifetime")),
            renewable=_flag(request, "renewable"),
            limited=_flag(request, "limited"),
        )
        context.outcome = "token issued"
        return PlainTextResponse(text, headers=_NO_STORE)

    async def certificate(self, request: Request, caller: Caller) -> Response:
        """The server's certificate as PEM, with which others can check its tokens."""
        context_of(request).outcome = "certificate"
        if self._credential is None:
            return Response(status_code=204)
        return PlainTextResponse(self._credential.pem)


def token_endpoints(issuer: TokenIssuer, credential: ServerCredential | None) -> list[Endpoint]:
    """Their entries in the table of resources."""
    resource = TokenResource(issuer, credential)
    found = []
    for service, access in _SERVICES.items():
        found += [
            Endpoint(
                method="GET",
                path=f"/rest/{service}/token",
                handler=resource.token,
                access=access,
                summary="A token for the caller",
                produces=TEXT,
                query={
                    "lifetime": {"type": "integer", "minimum": 1},
                    "renewable": {"type": "string"},
                    "limited": {"type": "string"},
                },
                replies={
                    400: "the lifetime is no number, too long, or beyond the end of the server's certificate",
                    403: "anonymous callers and tokens that are not renewable get none",
                },
            ),
            Endpoint(
                method="GET",
                path=f"/rest/{service}/certificate",
                handler=resource.certificate,
                access=access,
                summary="The certificate of this server",
                produces=TEXT,
                replies={204: "the server has none"},
            ),
        ]
    return found


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() == "true"
