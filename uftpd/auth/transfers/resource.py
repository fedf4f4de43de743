"""`/rest/transfers`: people submit transfers, look at theirs, and steer them. Administrators see everybody's."""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from uftp.client.wording import printable
from uftp.errors import NetworkError, UFTPError
from uftp.protocol.dn import canonical
from uftpd.auth.edge import context_of, read_body
from uftpd.auth.endpoints import JSON, Access, Caller, Endpoint
from uftpd.auth.errors import BadRequest, NotAllowed, NotFound, Refused
from uftpd.auth.resources import base_url, share_base_url
from uftpd.auth.services import Services
from uftpd.auth.session import group_list, path_patterns, rate_limit
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.model import (
    Account,
    Action,
    NewTransfer,
    Place,
    Side,
    Transfer,
    TransferState,
    is_transfer_id,
)
from uftpd.auth.transfers.requests import (
    ERRORS_SCHEMA,
    LIST_SCHEMA,
    MAX_KEY,
    STEERING_SCHEMA,
    SUBMISSION_SCHEMA,
    TRANSFER_SCHEMA,
    Submission,
    parse_steering,
    parse_submission,
    show,
    show_error,
)
from uftpd.auth.transfers.rows import sides_elsewhere
from uftpd.peers import PeerRules

NO_SUCH_TRANSFER: Final = "No such transfer"
PATH: Final = "/rest/transfers"

_PAGE: Final = 100
_LONGEST_PAGE: Final = 200  # each may have many sources
_ERRORS_PAGE: Final = 500
_CURSOR: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)-([a-z0-9]{1,64})", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_KEY: Final = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY}}}")
_SUMMARIES: Final = {
    Action.CANCEL: "Cancel a transfer; one that is active is stopped within seconds.",
    Action.PAUSE: "Pause a transfer; what was copied stays.",
    Action.RESUME: "Let a paused transfer go on, with new credentials if it needs some.",
    Action.RETRY: "Have a failed or cancelled transfer done again: what is missing of it.",
}
_OUTCOMES: Final = {
    Action.CANCEL: "transfer cancelled",
    Action.PAUSE: "transfer paused",
    Action.RESUME: "transfer resumed",
    Action.RETRY: "transfer retried",
}
_BODY: Final = {408: "The body did not come in time.", 413: "The body is too large."}


class TransferResource:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.config.transfers
        self._registry = services.registry

    @property
    def _transfers(self) -> ManagedTransfers:
        assert self._services.transfers is not None  # noqa: S101 -- else there are no endpoints
        return self._services.transfers

    def endpoints(self) -> list[Endpoint]:
        """The table of them; empty if there are no managed transfers here."""
        if self._services.transfers is None:
            return []
        one = f"{PATH}/{{id}}"
        unknown = {404: "The caller has no such transfer."}
        text = {"type": "string"}
        found = [
            Endpoint(
                method="GET",
                path=PATH,
                handler=self.list,
                access=Access.MEMBERS,
                summary="The caller's transfers, the newest first; with all=true everybody's, for administrators.",
                query={
                    "state": {**text, "description": "only those in one of these, with commas between"},
                    "limit": {"type": "integer", "minimum": 1, "maximum": _LONGEST_PAGE},
                    "after": {**text, "description": "`next` of the page before"},
                    "all": text,
                },
                schema=LIST_SCHEMA,
            ),
            Endpoint(
                method="POST",
                path=PATH,
                handler=self.submit,
                access=Access.MEMBERS,
                summary="Submit a transfer; with an Idempotency-Key that was used before, the one submitted then.",
                consumes=JSON,
                body=SUBMISSION_SCHEMA,
                schema=TRANSFER_SCHEMA,
                created=TRANSFER_SCHEMA,
                replies={
                    401: "The caller has no account there.",
                    409: "The Idempotency-Key was used for something else.",
                    **_BODY,
                },
            ),
            Endpoint(
                method="GET",
                path=one,
                handler=self.show,
                access=Access.MEMBERS,
                summary="One transfer.",
                schema=TRANSFER_SCHEMA,
                replies=unknown,
            ),
            Endpoint(
                method="GET",
                path=f"{one}/errors",
                handler=self.errors,
                access=Access.MEMBERS,
                summary="The files that could not be copied.",
                query={"first": {"type": "integer", "minimum": 0}},
                schema=ERRORS_SCHEMA,
                replies=unknown,
            ),
        ]
        found += [
            Endpoint(
                method="POST",
                path=f"{one}/{action.value}",
                handler=partial(self.act, action),
                access=Access.MEMBERS,
                summary=_SUMMARIES[action],
                consumes=JSON if action in (Action.RESUME, Action.RETRY) else "",
                body=STEERING_SCHEMA,
                body_required=False,
                schema=TRANSFER_SCHEMA,
                replies={**unknown, 409: "That cannot be done in its state.", **_BODY},
            )
            for action in Action
        ]
        return found

    # -- looking ----------------------------------------------------------------------------------------------------

    async def list(self, request: Request, caller: Caller) -> Response:
        """`GET /rest/transfers`."""
        query = request.query_params
        person: str | None = _person(caller)
        if query.get("all", "").lower() == "true":
            if not _is_administrator(caller):
                raise Refused("Access denied: only administrators see everybody's transfers")
            person = None
        limit = min(_LONGEST_PAGE, _number(query.get("limit"), "limit", _PAGE) or 1)
        found = await self._transfers.listed(
            person, _states(query.get("state", "")), _after(query.get("after", "")), limit + 1
        )
        base = base_url(request, self._services.config)
        shown = found[:limit]
        context_of(request).outcome = "transfers listed"
        following = f"{shown[-1].created!r}-{shown[-1].id}" if len(found) > limit else None
        return JSONResponse({"transfers": [show(transfer, base) for transfer in shown], "next": following})

    async def show(self, request: Request, caller: Caller) -> Response:
        """`GET /rest/transfers/ID`."""
        transfer = await self._found(request, caller)
        context_of(request).outcome = "transfer shown"
        return self._reply(request, transfer)

    async def errors(self, request: Request, caller: Caller) -> Response:
        """`GET /rest/transfers/ID/errors`."""
        transfer = await self._found(request, caller)
        first = _number(request.query_params.get("first"), "first", 0)
        found = await self._transfers.errors(transfer.id, first, _ERRORS_PAGE + 1)
        context_of(request).outcome = "errors of transfer shown"
        following = found[_ERRORS_PAGE][0] if len(found) > _ERRORS_PAGE else None
        return JSONResponse({"errors": [show_error(error) for _, error in found[:_ERRORS_PAGE]], "next": following})

    async def _found(self, request: Request, caller: Caller) -> Transfer:
        """The transfer that is meant, if the caller may know of it.

        Raises:
            NotFound: there is none, or it is somebody else's: both look the same.
        """
        transfer_id = request.path_params["id"]
        found = await self._transfers.get(transfer_id) if is_transfer_id(transfer_id) else None
        if found is None or (found.person != _person(caller) and not _is_administrator(caller)):
            raise NotFound(NO_SUCH_TRANSFER)
        context_of(request).facts["transfer"] = found.id
        return found

    def _reply(self, request: Request, transfer: Transfer, status: int = 200) -> JSONResponse:
        base = base_url(request, self._services.config)
        headers = {"Location": f"{base}{PATH}/{transfer.id}"} if status == 201 else None
        return JSONResponse(show(transfer, base), status, headers)

    # -- changing ---------------------------------------------------------------------------------------------------

    async def submit(self, request: Request, caller: Caller) -> Response:
        """`POST /rest/transfers`."""
        context = context_of(request)
        context.outcome = "transfer refused"
        key = _key(request)
        config = self._services.config
        own = {base_url(request, config), share_base_url(request, config), config.server.external_url} - {""}
        wanted = parse_submission(await read_body(request, config.limits), own)
        new = self._new(caller, wanted, key)
        self._check_credentials(new, wanted)
        await self._check_reach(new)
        transfer, made = await self._transfers.submit(new, wanted.credentials)
        context.outcome = "transfer submitted" if made else "transfer submitted before"
        context.facts |= {"transfer": transfer.id, "sources": len(new.sources)}
        return self._reply(request, transfer, 201 if made else 200)

    def _new(self, caller: Caller, wanted: Submission, key: str) -> NewTransfer:
        """The transfer that is asked for.

        Raises:
            RequestError: this site or the caller's account does not allow it.
        """
        if wanted.options.attempts > self._settings.attempts:
            raise BadRequest(f"options.retries: at most {self._settings.attempts - 1} on this server")
        if wanted.callback and not self._settings.callbacks:
            raise NotAllowed("callback: this server tells nobody of the end of transfers; ask it instead")
        places = {Side.SOURCE: wanted.sources[0], Side.TARGET: wanted.target}
        accounts = {
            side: self._account(caller, place, "sources" if side is Side.SOURCE else "target")
            for side, place in places.items()
            if place.kind == "server"
        }
        return NewTransfer(
            person=_person(caller),
            sources=wanted.sources,
            target=wanted.target,
            options=wanted.options,
            accounts=accounts,
            name=wanted.name,
            callback=wanted.callback,
            key=key,
            digest=wanted.digest,
        )

    def _account(self, caller: Caller, place: Place, field: str) -> Account:
        """What the caller is on a server of ours.

        Raises:
            BadRequest: there is no such server, or no transfers with it.
            NotAllowed: they have no account there.
        """
        granted = caller.granted
        server = self._registry.servers.get(place.server)
        if server is None or not self._settings.covers(server.name):
            known = ", ".join(name for name in self._registry.servers if self._settings.covers(name))
            what = "no server" if server is None else "no transfers with"
            raise BadRequest(f"{field}: {what} '{place.server}' here; there are {known or 'none'}")
        uid = granted.account_on(server.name)
        if uid is None:
            raise NotAllowed(f"{field}: you have no account on '{server.name}'")
        return Account(
            uid=uid,
            gid=":".join(group_list(granted.group_on(server.name), granted.supplementary)),
            includes=":".join(path_patterns(granted, server.name, "includes")),
            excludes=":".join(path_patterns(granted, server.name, "excludes")),
            rate_limit=rate_limit(granted, server),
        )

    def _check_credentials(self, new: NewTransfer, wanted: Submission) -> None:
        needed = sides_elsewhere(new)
        for side in Side:
            if side in needed and side not in wanted.credentials:
                raise BadRequest(f"credentials.{side}: required, to log in there; {_place_of(new, side).service}")
            if side in wanted.credentials and side not in needed:
                raise BadRequest(f"credentials.{side}: not needed, and not kept")

    async def _check_reach(self, new: NewTransfer) -> None:
        """Whether other auth servers and the callback may be connected to; looked at again whenever they are.

        Raises:
            BadRequest: not by the rules of this site.
        """
        rules = PeerRules(self._settings.reach)
        named = [(f"{side}", _place_of(new, side).service) for side in sides_elsewhere(new)]
        for field, url in [*named, *([("callback", new.callback)] if new.callback else [])]:
            try:
                await rules.admit_url(url)
            except NetworkError:
                continue  # the name service may answer when the time has come
            except UFTPError as error:
                raise BadRequest(f"{field}: {error}") from None

    async def act(self, action: Action, request: Request, caller: Caller) -> Response:
        """`POST /rest/transfers/ID/ACTION`."""
        context = context_of(request)
        context.outcome = "transfer not changed"
        transfer = await self._found(request, caller)
        # Read in any case: after a reply that comes before the end of a body the connection is closed.
        body = await read_body(request, self._services.config.limits)
        credentials = parse_steering(body) if action in (Action.RESUME, Action.RETRY) else {}
        changed = await self._transfers.act(transfer.id, action, credentials)
        if changed is None:
            raise NotFound(NO_SUCH_TRANSFER)
        context.outcome = _OUTCOMES[action]
        return self._reply(request, changed)


def _person(caller: Caller) -> str:
    return canonical(caller.identity.dn)


def _is_administrator(caller: Caller) -> bool:
    return caller.granted.role == "admin"


def _place_of(new: NewTransfer, side: Side) -> Place:
    return new.sources[0] if side is Side.SOURCE else new.target


def _key(request: Request) -> str:
    given = request.headers.getlist("idempotency-key")
    if not given:
        return ""
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise BadRequest(f"Idempotency-Key: one, of 1 to {MAX_KEY} printable characters without blanks")
    return given[0]


def _number(text: str | None, name: str, default: int) -> int:
    if text is None or text == "":
        return default
    if not _NUMBER.fullmatch(text):
        raise BadRequest(f"{name}: expected a number")
    return int(text)


def _states(text: str) -> set[TransferState]:
    named = {word.strip() for word in text.split(",")} - {""}
    if unknown := named - set(TransferState):
        shown = printable(sorted(unknown)[0][:40])
        raise BadRequest(f"state: '{shown}' is none; there are {', '.join(TransferState)}")
    return {TransferState(word) for word in named}


def _after(text: str) -> tuple[float, str] | None:
    if not text:
        return None
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise BadRequest("after: expected what the page before said as `next`")
    return float(match[1]), match[2]
