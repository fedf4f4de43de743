"""`/ui/transfers`: where somebody sees their managed transfers as they go on, and steers them.

The part of a page that changes can be had by itself, `?part=1`, which a script asks for every few seconds. Such a
question is no sign of somebody being there, so it does not make a login last longer.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from uftp.protocol.dn import canonical
from uftpd.auth.edge import context_of
from uftpd.auth.endpoints import ANY, Access, Caller, Endpoint
from uftpd.auth.errors import NotFound, RequestError
from uftpd.auth.pages.failures import base_path
from uftpd.auth.pages.forms import FORM
from uftpd.auth.pages.render import transfer_page, transfer_part, transfers_page, transfers_part
from uftpd.auth.pages.transfer_views import OneTransferView, TransfersView, TransferView
from uftpd.auth.pages.visitors import PLACE, Visitor, Visitors
from uftpd.auth.resources import base_url
from uftpd.auth.services import Services
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.model import Action, Transfer, is_transfer_id

_SEE_OTHER: Final = 303
_SHOWN: Final = 50  # transfers on a page
_ERRORS_SHOWN: Final = 100
_NO_SUCH: Final = "There is no such transfer"
_DONE: Final = {
    Action.CANCEL: "The transfer is being cancelled.",
    Action.PAUSE: "The transfer is being paused.",
    Action.RESUME: "The transfer goes on.",
    Action.RETRY: "The transfer is tried again.",
}


class TransferPages:
    """The handlers.

    Args:
        services: of the configuration in force.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        external_url = services.config.server.external_url
        self._base = base_path(external_url)
        self._visitors = Visitors(services.callers, self._base, external_url)

    def endpoints(self) -> list[Endpoint]:
        """The table of them; empty if this server looks after no transfers."""
        if self._services.transfers is None:
            return []
        table = (
            ("GET", f"{PLACE}/transfers", self.show, "Somebody's transfers."),
            ("GET", f"{PLACE}/transfers/{{id}}", self.show_one, "One transfer."),
            ("POST", f"{PLACE}/transfers/{{id}}/{{action}}", self.act, "Steers a transfer."),
        )
        return [
            Endpoint(
                method=method,
                path=path,
                handler=handler,
                access=Access.PUBLIC,  # these look for a cookie themselves, and for nothing else
                summary=summary,
                produces=ANY,
                consumes=FORM if method == "POST" else "",
            )
            for method, path, handler, summary in table
        ]

    @property
    def _transfers(self) -> ManagedTransfers:
        assert self._services.transfers is not None  # noqa: S101 - else there are no such pages
        return self._services.transfers

    async def show(self, request: Request, caller: Caller) -> Response:
        """`GET /ui/transfers`."""
        context_of(request).outcome = "page"
        visitor = await self._visitors.find(request)
        if visitor is None:
            return self._stranger(request)
        done = request.query_params.get("done", "")
        text = _DONE[Action(done)] if done in list(Action) else ""
        return await self._list_page(request, visitor, done=text)

    async def show_one(self, request: Request, caller: Caller) -> Response:
        """`GET /ui/transfers/ID`."""
        context_of(request).outcome = "page"
        visitor = await self._visitors.find(request)
        if visitor is None:
            return self._stranger(request)
        return await self._one_page(request, visitor, await self._own(visitor, request.path_params["id"]))

    async def act(self, request: Request, caller: Caller) -> Response:
        """`POST /ui/transfers/ID/ACTION`.

        Raises:
            NotFound: no such action, or no such transfer of this person.
            Refused: the form was not sent by our own page.
        """
        context_of(request).outcome = "transfer not changed"
        visitor, form = await self._visitors.sent(request, self._services.config.limits)
        if visitor is None:
            return self._stranger(request)
        named = request.path_params["action"]
        if named not in list(Action):
            raise NotFound("No such resource, please check your URL")
        transfer = await self._own(visitor, request.path_params["id"])
        try:
            changed = await self._transfers.act(transfer.id, Action(named))
        except RequestError as error:
            return await self._refused(request, visitor, form, transfer, error)
        if changed is None:
            raise NotFound(_NO_SUCH)
        context_of(request).outcome = f"transfer: {named}"
        if form.get("back") == "one":
            return self._go(f"/transfers/{transfer.id}")
        return self._go(f"/transfers?done={named}#transfer-{transfer.id}")

    async def _refused(
        self, request: Request, visitor: Visitor, form: Mapping[str, str], transfer: Transfer, error: RequestError
    ) -> Response:
        """The page the form was on, as it is now, and why it was of no use."""
        text = str(error)
        if form.get("back") == "one":
            transfer = await self._own(visitor, transfer.id)
            return await self._one_page(request, visitor, transfer, problem=text, status=error.status)
        return await self._list_page(request, visitor, problem=text, status=error.status)

    # -- pages --------------------------------------------------------------------------------------------------------

    async def _list_page(
        self, request: Request, visitor: Visitor, *, problem: str = "", done: str = "", status: int = 200
    ) -> Response:
        person = canonical(visitor.caller.identity.dn)
        after = request.query_params.get("after", "")
        start = await self._own(visitor, after) if after else None
        place = (start.created, start.id) if start is not None else None
        found = await self._transfers.listed(person, after=place, most=_SHOWN + 1)
        now = time.time()
        view = TransfersView(
            person=visitor.caller.identity.dn,
            token=visitor.token,
            transfers=[TransferView.of(transfer, now) for transfer in found[:_SHOWN]],
            after=found[_SHOWN - 1].id if len(found) > _SHOWN else "",
            first=start is None,
            shares=self._services.config.shares.enabled,
            problem=problem,
            done=done,
            base=self._base,
        )
        return self._reply(request, visitor, view, status)

    async def _one_page(
        self, request: Request, visitor: Visitor, transfer: Transfer, *, problem: str = "", status: int = 200
    ) -> Response:
        text = request.query_params.get("first", "")
        first = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
        errors = await self._transfers.errors(transfer.id, first, _ERRORS_SHOWN + 1)
        view = OneTransferView(
            person=visitor.caller.identity.dn,
            token=visitor.token,
            transfer=TransferView.of(transfer, time.time()),
            errors=[error for _, error in errors[:_ERRORS_SHOWN]],
            first=first,
            following=errors[_ERRORS_SHOWN][0] if len(errors) > _ERRORS_SHOWN else 0,
            reference=f"{base_url(request, self._services.config)}/rest/transfers/{transfer.id}",
            shares=self._services.config.shares.enabled,
            problem=problem,
            base=self._base,
        )
        return self._reply(request, visitor, view, status)

    def _reply(
        self, request: Request, visitor: Visitor, view: TransfersView | OneTransferView, status: int
    ) -> Response:
        reply = reply_with(request, view, status=status)
        if not _is_part(request):
            self._visitors.remember(reply, visitor, request)
        return reply

    async def _own(self, visitor: Visitor, transfer_id: str) -> Transfer:
        """A transfer of this person.

        Raises:
            NotFound: there is none with this id, or it is somebody else's: both look the same.
        """
        found = await self._transfers.get(transfer_id) if is_transfer_id(transfer_id) else None
        if found is None or found.person != canonical(visitor.caller.identity.dn):
            raise NotFound(_NO_SUCH)
        return found

    def _stranger(self, request: Request) -> Response:
        if _is_part(request):
            return Response(status_code=401)  # a script cannot log in
        return self._go("/login?to=transfers")

    def _go(self, path: str) -> RedirectResponse:
        return RedirectResponse(self._base + PLACE + path, _SEE_OTHER)


def reply_with(request: Request, view: TransfersView | OneTransferView, *, status: int = 200) -> Response:
    """The page, or the part of it that changes if that is asked for: with an entity tag, and nothing but 304 if the
    script has it already."""
    if not _is_part(request):
        if isinstance(view, TransfersView):
            return transfers_page(view, status=status)
        return transfer_page(view, status=status)
    reply = transfers_part(view) if isinstance(view, TransfersView) else transfer_part(view)
    headers = {"ETag": f'"{hashlib.sha256(reply.body).hexdigest()[:32]}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    reply.headers.update(headers)
    return reply


def _is_part(request: Request) -> bool:
    return request.method == "GET" and request.query_params.get("part") == "1"
