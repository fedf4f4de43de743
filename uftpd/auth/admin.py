"""Administration over REST, for callers with the role admin (CONTROL-PLANE section 6).

An action takes texts and is answered 200, whether it went well or not: the reply says so. What is logged is who did
what; a token that an action makes is in the reply and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from uftp._version import __version__
from uftp.protocol.command_port import RequestRefused
from uftp.protocol.command_replies import encode_user_info_reply
from uftp.protocol.dn import InvalidName, canonical
from uftpd.auth.attributes.base import collect, entitlements
from uftpd.auth.attributes.preferences import apply_preferences
from uftpd.auth.edge import context_of, read_body
from uftpd.auth.endpoints import JSON, Access, Caller, Endpoint
from uftpd.auth.errors import BadRequest, NotFound, RequestError
from uftpd.auth.events import event
from uftpd.auth.identity import tokens
from uftpd.auth.identity.accounts import is_account_name
from uftpd.auth.identity.base import Identity, LoginRefused
from uftpd.auth.identity.jwt import NoToken, parse_jwt
from uftpd.auth.identity.tokens import read_lifetime
from uftpd.auth.info import JsonObject, show_time
from uftpd.auth.nodes.client import NodeUnreachable
from uftpd.auth.nodes.registry import LogicalServer
from uftpd.auth.requests import parse_object, text_field
from uftpd.auth.resources import base_url
from uftpd.auth.services import Services
from uftpd.auth.shares.owner_requests import grantee
from uftpd.auth.shares.paths import normalised

Parameters = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an action.

    Attributes:
        message: for people.
        success: whether it was done.
        results: by what they are about.
    """

    message: str
    success: bool = True
    results: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Action:
    """One action: what it does, with which parameters; the required ones come first."""

    description: str
    run: Callable[[Parameters], Awaitable[Outcome]]
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


class _Failed(Exception):
    """Ends an action without effect; the message is for people."""


class AdminActions:
    """`/rest/admin` and the actions below it."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.actions = {
            "ShowUserInfo": Action(
                "What a data node knows of an account: its home, its keys.",
                self._show_user_info,
                ("uid",),
                ("serverName",),
            ),
            "IssueAPIToken": Action(
                "A token for any person.",
                self._issue_token,
                ("subject",),
                ("lifetime", "renewable", "preferences"),
            ),
            "RevokeToken": Action(
                "Refuse a token of this server from now on, and end the security sessions that began with it.",
                self._revoke_token,
                (),
                ("token", "jti"),
            ),
            "ModifyShare": Action(
                "Change a share, such as after an account got another name.",
                self._modify_share,
                ("id", "serverName"),
                ("uid", "gid", "path", "owner", "target"),
            ),
            "EndSecuritySessions": Action(
                "Have a person log in again.",
                self._end_sessions,
                ("subject",),
            ),
        }

    def endpoints(self) -> list[Endpoint]:
        """The table of them."""
        return [
            Endpoint(
                method="GET",
                path="/rest/admin",
                handler=self.overview,
                access=Access.ADMINISTRATORS,
                summary="How the server does, and which actions there are.",
                schema={"type": "object", "required": ["upSince", "containerVersion", "connectionStatus", "_links"]},
            ),
            Endpoint(
                method="POST",
                path="/rest/admin/actions/{action}",
                handler=self.act,
                access=Access.ADMINISTRATORS,
                summary="Do something.",
                consumes=JSON,
                body={"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
                schema={
                    "type": "object",
                    "required": ["success", "message", "results"],
                    "properties": {
                        "success": {"type": "boolean"},
                        "message": {"type": "string"},
                        "results": {"type": "object", "additionalProperties": {"type": "string"}},
                    },
                },
                replies={404: "There is no such action.", 408: "The body is late.", 413: "The body is too large."},
            ),
        ]

    async def overview(self, request: Request, caller: Caller) -> Response:
        """`GET /rest/admin`."""
        services = self._services
        try:
            await services.store.check()
            store = "OK"
        except RequestError:
            store = "DOWN"
        url = base_url(request, services.config)
        links: JsonObject = {
            f"action:{name}": {"href": f"{url}/rest/admin/actions/{name}", "description": action.description}
            for name, action in self.actions.items()
        }
        reply = {
            "upSince": show_time(services.facts.up_since),
            "containerVersion": __version__,
            "connectionStatus": {
                f"UFTPD server '{name}'": server.status() for name, server in services.registry.servers.items()
            },
            "subSystemsStatus": {"Store": store},
            "_links": links,
        }
        return JSONResponse(reply)

    async def act(self, request: Request, caller: Caller) -> Response:
        """`POST /rest/admin/actions/NAME`."""
        context = context_of(request)
        context.outcome = "admin action refused"
        name = request.path_params["action"]
        action = self.actions.get(name)
        if action is None:
            raise NotFound(f"No such action: '{name}'")
        given = parse_object(await read_body(request, self._services.config.limits))
        parameters = {key: text for key in given if (text := text_field(given, key)) is not None}
        try:
            _check_parameters(action, parameters)
            outcome = await action.run(parameters)
        except _Failed as failure:
            outcome = Outcome(str(failure), success=False)
        except BadRequest as error:
            outcome = Outcome(str(error), success=False)
        context.outcome = "admin action"
        context.facts |= {"action": name, "success": outcome.success}
        reply: dict[str, Any] = {
            "success": outcome.success,
            "message": outcome.message,
            "results": dict(outcome.results),
        }
        return JSONResponse(reply)

    # -- actions ------------------------------------------------------------------------------------------------------

    async def _show_user_info(self, parameters: Parameters) -> Outcome:
        account = parameters["uid"]
        if not is_account_name(account):
            raise _Failed(f"'{account}' is no name of an account")
        servers = self._services.registry.servers
        if (wanted := parameters.get("serverName")) is not None:
            if wanted not in servers:
                raise _Failed(f"No such server: '{wanted}'")
            servers = {wanted: servers[wanted]}
        results = {name: await _user_info(server, account) for name, server in servers.items()}
        return Outcome(f"Account '{account}' on {len(results)} server(s)", results=results)

    async def _issue_token(self, parameters: Parameters) -> Outcome:
        subject = parameters["subject"]
        _canonical(subject)
        lines = (parameters["preferences"],) if parameters.get("preferences") else ()
        identity = Identity(subject, tokens.METHOD)
        apply_preferences(lines, entitlements(await collect(identity, self._services.sources)))
        token = self._services.issuer.issue(
            identity,
            lines,
            lifetime=read_lifetime(parameters.get("lifetime")),
            renewable=parameters.get("renewable", "").lower() == "true",
        )
        return Outcome(f"A token for '{subject}'", results={"token": token})

    async def _revoke_token(self, parameters: Parameters) -> Outcome:
        jti, expires = token_to_revoke(parameters, self._services.config.login.tokens.longest_renewal_seconds)
        ended = await self._services.revocations.revoke(jti, expires)
        self._services.sessions.forget()
        event("token revoked", jti=jti, sessions_ended=ended)
        return Outcome(f"Token {jti} is refused from now on; {ended} security session(s) ended")

    async def _end_sessions(self, parameters: Parameters) -> Outcome:
        ended = await self._services.sessions.end_of_person(_canonical(parameters["subject"]))
        return Outcome(f"{ended} security session(s) ended")

    async def _modify_share(self, parameters: Parameters) -> Outcome:
        grants = self._services.grants
        share = await grants.get(parameters["id"], parameters["serverName"])
        if share is None:
            raise _Failed(f"No such share on '{parameters['serverName']}'")
        values: dict[str, object] = {name: parameters[name] for name in ("uid", "gid") if name in parameters}
        if not is_account_name(str(values.get("uid", share.uid))):
            raise _Failed(f"uid: '{values['uid']}' is no name of an account")
        if "path" in parameters:
            values["path"] = normalised(parameters["path"])
        values |= {name: grantee(parameters[name]) for name in ("owner", "target") if name in parameters}
        changed = await grants.overwrite(share, values)
        if changed is None:
            raise _Failed(f"No such share on '{parameters['serverName']}'")
        event("share changed by an administrator", share=share.id[:6], changed=",".join(sorted(values)))
        kind = "one-time share" if changed.one_time else "share"
        return Outcome(
            f"{changed.access.name} {kind} of '{changed.path}' on '{changed.server}' by {changed.owner} "
            f"as {changed.uid}:{changed.gid} for {changed.target}"
        )


def _check_parameters(action: Action, parameters: Parameters) -> None:
    for name in action.required:
        if not parameters.get(name):
            raise _Failed(f"Parameter '{name}' is required")
    for name in parameters:
        if name not in (*action.required, *action.optional):
            raise _Failed(f"There is no parameter '{name}'; nothing has been done")


def _canonical(subject: str) -> str:
    try:
        return canonical(subject)
    except InvalidName as error:
        raise _Failed(f"subject: not a valid name: {error}") from None


def token_to_revoke(parameters: Parameters, longest_seconds: float) -> tuple[str, float]:
    """What to revoke, and until when it matters.

    A token that is given whole is revoked with all that were renewed from the same login; an id, with those renewed
    from that token if it was the first. Renewals outlive the token, so the end is as late as any token's can be.

    Whoever may revoke tokens may write any id there, so the signature is not looked at.

    Raises:
        BadRequest: neither or both are given, or it has no id.
    """
    token, jti = parameters.get("token", "").strip(), parameters.get("jti", "").strip()
    if bool(token) == bool(jti):
        raise BadRequest("Give either 'token' or 'jti'")
    latest = time.time() + longest_seconds
    if jti:
        return jti, latest
    try:
        claims = parse_jwt(token)
        expires = claims.number("exp")
    except (NoToken, LoginRefused):
        raise BadRequest("token: this is no token of an auth server") from None
    found = claims.text("chain") or claims.text("jti")
    if not found:
        raise BadRequest("token: it has no id to revoke it by")
    alone = not claims.flag("renewable") and not claims.text("chain")
    return found, min(expires, latest) if alone and expires is not None else latest


async def _user_info(server: LogicalServer, account: str) -> str:
    for instance in server.instances:
        if instance.is_left_alone():
            continue
        try:
            reply = await instance.user_info(account)
        except NodeUnreachable as error:
            return str(error)
        except RequestRefused as refusal:
            return str(refusal)
        return encode_user_info_reply(reply).decode()
    return server.status()
