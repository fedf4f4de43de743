"""Is the server alive, is it ready, and how does it do.

On the REST interface anybody (a load balancer, say) may ask for the first two and gets one word. On the listener of
`[monitoring]` the site gets the metrics, and is told what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from uftpd.auth.endpoints import Access, Caller, Endpoint
from uftpd.auth.metrics import CONTENT_TYPE
from uftpd.auth.services import Services
from uftpd.auth.store.engine import StoreUnavailable

REUSE_SECONDS = 1.0  # so that asking often costs nothing

_STATUS = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}


class Readiness:
    """Can requests be served now? If not, why not."""

    def __init__(self, services: Callable[[], Services], clock: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._clock = clock
        self._missing: list[str] = []
        self._asked = float("-inf")

    async def missing(self) -> list[str]:
        """What is missing, for people of the site; empty if the server is ready.

        A logical server is there if one of its nodes answers; the server is ready if one logical server is there, or
        none is configured yet.
        """
        if self._clock() >= self._asked + REUSE_SECONDS:
            services = self._services()
            missing = []
            try:
                await services.store.check()
            except StoreUnavailable:
                missing.append("the store does not answer")
            down = [name for name, server in services.registry.servers.items() if not server.is_up]
            if down and len(down) == len(services.registry.servers):
                missing += [f"no data node of {name} answers" for name in down]
            self._missing, self._asked = missing, self._clock()
        return self._missing


class PublicHealth:
    """`/healthz` and `/readyz` of the REST interface."""

    def __init__(self, services: Services) -> None:
        self._readiness = Readiness(lambda: services)

    def endpoints(self) -> list[Endpoint]:
        """The table of them."""
        return [
            Endpoint(
                method="GET",
                path="/healthz",
                handler=self.health,
                access=Access.PUBLIC,
                summary="The server is alive.",
                schema=_STATUS,
            ),
            Endpoint(
                method="GET",
                path="/readyz",
                handler=self.ready,
                access=Access.PUBLIC,
                summary="The server can serve requests.",
                schema=_STATUS,
                replies={503: "It cannot, now."},
            ),
        ]

    async def health(self, request: Request, caller: Caller) -> Response:
        """`GET /healthz`."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request, caller: Caller) -> Response:
        """`GET /readyz`; what is missing is the site's business."""
        if await self._readiness.missing():
            return JSONResponse({"status": "not ready", "errorMessage": "This server is not ready"}, 503)
        return JSONResponse({"status": "ready"})


def build_monitoring(services: Callable[[], Services]) -> Router:
    """The application behind the listener of `[monitoring]`.

    Args:
        services: those in force.
    """
    readiness = Readiness(services)

    async def metrics(request: Request) -> Response:
        return Response(services().metrics.text(), media_type=CONTENT_TYPE)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        missing = await readiness.missing()
        if missing:
            return JSONResponse({"status": "not ready", "missing": missing}, 503)
        return JSONResponse({"status": "ready"})

    handlers = {"/metrics": metrics, "/healthz": health, "/readyz": ready}
    return Router([Route(path, handler, methods=["GET"]) for path, handler in handlers.items()])
