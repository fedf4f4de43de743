"""A web server that shows views, and takes uploads as a share would: in a thread, since tests wait for a browser."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from urllib.parse import unquote

import hypercorn.trio
import trio
from hypercorn.config import Config
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router

from uftpd.auth import http_connection
from uftpd.auth.addresses import TrustedProxies
from uftpd.auth.edge import Edge
from uftpd.auth.endpoints import Caller, routes
from uftpd.auth.metrics import Metrics
from uftpd.auth.pages import (
    DirectoryView,
    ErrorView,
    FileView,
    PasswordView,
    directory_page,
    error_page,
    file_page,
    password_page,
)
from uftpd.auth.pages.assets import asset_endpoints
from uftpd.auth.pages.failures import ErrorPages
from uftpd.auth.pages.transfer_views import OneTransferView, TransfersView
from uftpd.auth.pages.transfers import reply_with
from uftpd.config.auth import Limits

View = DirectoryView | FileView | PasswordView | ErrorView | TransfersView | OneTransferView
MakeView = Callable[[Request], View | Response]


@dataclass
class Views:
    """What is served.

    Attributes:
        url: of the server.
        pages: views, by path.
        stored: uploads, by name.
        refusals: statuses with which uploads of a name are refused.
        held: names of uploads that are answered only when the event is set.
    """

    url: str = ""
    pages: dict[str, View | MakeView] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    held: dict[str, threading.Event] = field(default_factory=dict)
    requested: list[str] = field(default_factory=list)

    async def serve(self, request: Request) -> Response:
        """Any request."""
        path = request.url.path
        self.requested.append(path)
        if request.method == "PUT":
            return await self._put(request, unquote(request.scope["raw_path"].decode()).rpartition("/")[2])
        if request.method == "POST":
            return PlainTextResponse((await request.body()).decode())
        found = self.pages.get(path)
        if found is None:
            return PlainTextResponse(f"you asked for {path}", 404)
        view = found(request) if callable(found) else found
        if isinstance(view, DirectoryView):
            return await directory_page(view)
        if isinstance(view, FileView):
            return file_page(view)
        if isinstance(view, Response):
            return view
        if isinstance(view, TransfersView | OneTransferView):
            return reply_with(request, view)
        return password_page(view) if isinstance(view, PasswordView) else error_page(view)

    async def _put(self, request: Request, name: str) -> Response:
        content = await request.body()
        if name in self.held:
            await trio.to_thread.run_sync(self.held[name].wait, abandon_on_cancel=True)
        if name in self.refusals:
            status = self.refusals[name]
            return JSONResponse({"errorMessage": f"refused for {status}", "status": status}, status)
        if name in self.stored and request.headers.get("if-none-match") == "*":
            return JSONResponse({"errorMessage": "there already", "status": 412}, 412)
        self.stored[name] = content
        return Response(status_code=201)


async def _nobody(request: Request) -> Caller:
    raise AssertionError("all of these are public")


class _Places:
    """As many connections as a browser makes."""

    def place(self, peer: object) -> nullcontext[None]:
        return nullcontext()


class _Config(Config):
    connections = _Places()
    any_address = ipaddress.ip_address("0.0.0.0")


@contextmanager
def serving(views: Views) -> Iterator[Views]:
    """Serve while the block runs."""
    methods = ["GET", "PUT", "POST"]
    router = Router([*routes(asset_endpoints(), _nobody), Route("/{path:path}", views.serve, methods=methods)])
    application = Edge(ErrorPages(router, ""), Limits(), TrustedProxies(()), Metrics())
    http_connection.install()  # for good and for all, as whatever else runs in this process may have done
    config = _Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    config.graceful_timeout = 0.1  # a browser keeps its connections open
    ready = threading.Event()
    stop = trio.Event()
    token: list[trio.lowlevel.TrioToken] = []

    async def run() -> None:
        token.append(trio.lowlevel.current_trio_token())
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(
                lambda task_status: hypercorn.trio.serve(
                    application,  # type: ignore[arg-type]
                    config,
                    shutdown_trigger=stop.wait,
                    task_status=task_status,
                )
            )
            views.url = str(bound[0])
            ready.set()

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    try:
        assert ready.wait(30)
        yield views
    finally:
        for event in views.held.values():
            event.set()
        token[0].run_sync_soon(stop.set)
        thread.join(30)
    assert not thread.is_alive()
