"""`/ui/shares`: where somebody sees, makes and revokes their shares, with a browser and nothing else.

What may be shared, and by whom, is decided where `/rest/share` decides it; here are only forms and cookies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from uftp.protocol.dn import canonical
from uftpd.auth.edge import context_of
from uftpd.auth.endpoints import ANY, Access, Caller, Endpoint
from uftpd.auth.errors import BadRequest, RequestError
from uftpd.auth.identity.base import ANONYMOUS_DN
from uftpd.auth.pages.failures import base_path
from uftpd.auth.pages.forms import FORM
from uftpd.auth.pages.render import shares_page
from uftpd.auth.pages.views import OwnShare, ReceivedShare, SharesView
from uftpd.auth.pages.visitors import PLACE, Visitor, Visitors
from uftpd.auth.resources import share_base_url
from uftpd.auth.services import Services
from uftpd.auth.shares.describe import link
from uftpd.auth.shares.model import Share, ShareAccess
from uftpd.auth.shares.owner_requests import parse_share_request
from uftpd.auth.shares.owner_resource import OwnerResource, server_with_shares

_HOUR, _DAY = 3600, 86400
_LIFETIMES = (
    (_HOUR, "in an hour"),
    (_DAY, "in a day"),
    (7 * _DAY, "in a week"),
    (30 * _DAY, "in 30 days"),
    (365 * _DAY, "in a year"),
    (0, "never"),
)
_USUAL_LIFETIME = 7 * _DAY
_FIELDS = ("path", "server", "lifetime", "access", "whom", "person", "onetime")
_SEE_OTHER = 303
_REVOKED = "The share is revoked. Nobody can use its link any more."


class Account:
    """The handlers.

    Args:
        services: of the configuration in force.
        owners: makes and ends shares.
    """

    def __init__(self, services: Services, owners: OwnerResource) -> None:
        self._services = services
        self._settings = services.config.shares
        self._owners = owners
        external_url = services.config.server.external_url
        self._base = base_path(external_url)
        self._visitors = Visitors(services.callers, self._base, external_url)

    def endpoints(self) -> list[Endpoint]:
        """The table of them; empty if sharing is off."""
        if not self._settings.enabled:
            return []
        table = (
            ("GET", f"{PLACE}/shares", self.show, "What somebody shares."),
            ("POST", f"{PLACE}/shares", self.make, "Makes a share."),
            ("POST", f"{PLACE}/shares/revoke", self.revoke, "Ends a share."),
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

    async def show(self, request: Request, caller: Caller) -> Response:
        """`GET /ui/shares`."""
        context_of(request).outcome = "page"
        visitor = await self._visitors.find(request)
        if visitor is None:
            return self._go("/login")
        done = _REVOKED if request.query_params.get("done") == "revoked" else ""
        return await self._shares_page(request, visitor, done=done)

    async def make(self, request: Request, caller: Caller) -> Response:
        """`POST /ui/shares`."""
        context_of(request).outcome = "share refused"
        visitor, form = await self._visitors.sent(request, self._services.config.limits)
        if visitor is None:
            return self._go("/login")
        try:
            server = server_with_shares(self._services, form.get("server", ""))
            wanted = parse_share_request(json.dumps(_wanted(form)).encode())
            share = await self._owners.make(visitor.caller, server, wanted, request)
        except RequestError as error:
            return await self._shares_page(request, visitor, form=form, problem=str(error), status=error.status)
        return self._go(f"/shares#share-{share.id}")

    async def revoke(self, request: Request, caller: Caller) -> Response:
        """`POST /ui/shares/revoke`."""
        visitor, form = await self._visitors.sent(request, self._services.config.limits)
        if visitor is None:
            return self._go("/login")
        server = server_with_shares(self._services, form.get("server", ""))
        await self._owners.withdraw(visitor.caller, server, form.get("id", ""), request, stop=True)
        return self._go("/shares?done=revoked")

    async def _shares_page(
        self,
        request: Request,
        visitor: Visitor,
        *,
        form: Mapping[str, str] | None = None,
        problem: str = "",
        done: str = "",
        status: int = 200,
    ) -> Response:
        person = canonical(visitor.caller.identity.dn)
        names = [name for name in self._services.registry.servers if self._settings.covers(name)]
        own: list[Share] = []
        received: list[Share] = []
        for name in names:
            own += await self._services.grants.by_owner(person, name)
            received += await self._services.grants.by_target(person, name)
        own.sort(key=lambda share: (-share.created, share.path))
        base = share_base_url(request, self._services.config)
        longest = self._settings.max_lifetime_seconds
        # A lifetime of 0 is one of the longest where there is a longest.
        lifetimes = [(seconds, words) for seconds, words in _LIFETIMES if not longest or 0 < seconds <= longest]
        usual = {"lifetime": str(_USUAL_LIFETIME)}
        view = SharesView(
            person=visitor.caller.identity.dn,
            token=visitor.token,
            servers=names,
            shares=[_own(share, base) for share in own],
            received=[_received(share, base) for share in received],
            lifetimes=lifetimes or [(longest, f"in {longest} seconds")],
            may_write=self._settings.allow_write,
            may_be_for_anybody=self._settings.anonymous,
            form={name: (form if form is not None else usual).get(name, "") for name in _FIELDS},
            problem=problem,
            done=done,
            transfers=self._services.transfers is not None,
            base=self._base,
        )
        reply = shares_page(view, status=status)
        self._visitors.remember(reply, visitor, request)
        return reply

    def _go(self, path: str) -> RedirectResponse:
        return RedirectResponse(self._base + PLACE + path, _SEE_OTHER)


def _wanted(form: Mapping[str, str]) -> dict[str, Any]:
    """The form as a request to `/rest/share` (CONTROL-PLANE 4.2)."""
    if form.get("whom") == "person":
        if not form.get("person", "").strip():
            raise BadRequest("Name the person, or choose anybody")
        user = form["person"].strip()
    else:
        user = ANONYMOUS_DN
    if not form.get("path"):
        raise BadRequest("Give the path of a file or a folder")
    return {
        "path": form["path"],
        "user": user,
        "access": "WRITE" if form.get("access") == "WRITE" else "READ",
        "lifetime": form.get("lifetime", "0"),
        "onetime": form.get("onetime", "") == "true",
        "password": form.get("password", ""),
    }


def _own(share: Share, base: str) -> OwnShare:
    return OwnShare(
        id=share.id,
        server=share.server,
        path=share.path,
        link=link(share, base),
        target="" if share.is_anonymous else share.target,
        writable=share.access >= ShareAccess.WRITE,
        expires=share.expires,
        one_time=share.one_time,
        password=bool(share.password_hash),
        used=share.access_count,
        last_used=share.last_access,
        max_downloads=share.max_downloads,
        downloads=share.downloads,
    )


def _received(share: Share, base: str) -> ReceivedShare:
    return ReceivedShare(
        owner=share.owner,
        server=share.server,
        path=share.path,
        link=link(share, base),
        writable=share.access >= ShareAccess.WRITE,
        expires=share.expires,
    )
