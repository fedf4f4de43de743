"""Who sent a request: a security session, or credentials; then what they map to (CONTROL-PLANE 5.1, 5.6, 5.8)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from starlette.requests import Request

from uftpd.auth.attributes.base import AttributeSource, collect, entitlements
from uftpd.auth.attributes.preferences import HEADER as PREFERENCES
from uftpd.auth.attributes.preferences import apply_preferences
from uftpd.auth.edge import RequestContext, context_of
from uftpd.auth.endpoints import Caller
from uftpd.auth.errors import Refused, RequestError
from uftpd.auth.identity.base import Credentials, Identity, read_authorization
from uftpd.auth.identity.chain import LoginChain
from uftpd.auth.identity.revocation import Revocations
from uftpd.auth.metrics import Metrics
from uftpd.auth.security_sessions import HEADER as SESSION
from uftpd.auth.security_sessions import SecuritySession, SecuritySessions, UnknownSession


class Callers:
    """Finds out who a caller is, and tells them a session id to show next time."""

    def __init__(
        self,
        logins: LoginChain,
        sources: Sequence[AttributeSource],
        sessions: SecuritySessions,
        revocations: Revocations,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Use what the configuration opened; `clock` gives Unix seconds."""
        self._logins = logins
        self._sources = sources
        self._sessions = sessions
        self._revocations = revocations
        self._metrics = metrics
        self._clock = clock

    async def find(self, request: Request) -> Caller:
        """Who sent the request. The reply gets the headers of the security session, whatever becomes of it.

        Raises:
            UnknownSession: it names a security session that is none, or over.
            Refused: the credentials are not accepted, or the preferences are not the person's.
            RequestError: this server cannot find that out now.
        """
        context = context_of(request)
        shown = request.headers.getlist(SESSION)
        session: SecuritySession | None
        if shown and self._sessions.enabled:
            identity, session = await self._by_session(shown, context)
        else:
            identity = await self._by_credentials(request, context)
            session = await self._sessions.give(identity, context.peer)
        if session is not None:
            context.reply_headers |= session.headers(self._clock())
        return await self._caller(identity, request)

    async def find_by_session(self, session_id: str, request: Request) -> tuple[Caller, SecuritySession]:
        """Whose security session this is; what else the request shows is not looked at.

        Raises:
            UnknownSession: nobody's, or not any more, or there are no security sessions here.
        """
        if not self._sessions.enabled:
            raise UnknownSession
        identity, session = await self._by_session([session_id], context_of(request))
        return await self._caller(identity, request), session

    async def log_in(self, authorization: str, request: Request) -> tuple[Caller, SecuritySession | None]:
        """Who these credentials belong to, and a security session for them if there is one to be had.

        Args:
            authorization: as in the header of this name.
            request: where they came from.

        Raises:
            Refused: the credentials are not accepted.
            RequestError: this server cannot find that out now.
        """
        context = context_of(request)
        credentials = read_authorization(authorization, context.peer, context.request_id)
        identity = await self._authenticate(credentials)
        return await self._caller(identity, request), await self._sessions.give(identity, context.peer)

    async def log_out(self, session: SecuritySession) -> None:
        """End a security session.

        Raises:
            StoreUnavailable: it cannot be ended now.
        """
        await self._sessions.end(session)

    async def _caller(self, identity: Identity, request: Request) -> Caller:
        context_of(request).facts["dn"] = identity.dn
        granted = entitlements(await collect(identity, self._sources), identity.servers)
        preferences = identity.preferences
        if preferences is None:
            preferences = tuple(request.headers.getlist(PREFERENCES))
        return Caller(identity, apply_preferences(preferences, granted))

    async def _by_session(self, shown: Sequence[str], context: RequestContext) -> tuple[Identity, SecuritySession]:
        try:
            if len(shown) > 1:
                raise UnknownSession
            identity, session = await self._sessions.find(shown[0], context.peer)
            if not self._logins.still_accepts(identity):
                raise UnknownSession
            for token_id in identity.token.ids() if identity.token is not None else ():
                if await self._revocations.is_revoked(token_id):
                    raise UnknownSession
        except UnknownSession:
            self._metrics.security_sessions.labels("unknown").inc()
            raise
        self._metrics.security_sessions.labels("used").inc()
        context.facts["by"] = "security session"
        return identity, session

    async def _by_credentials(self, request: Request, context: RequestContext) -> Identity:
        headers = request.headers.getlist("authorization")
        if len(headers) > 1:
            raise Refused("More than one Authorization header")
        return await self._authenticate(
            read_authorization(headers[0] if headers else None, context.peer, context.request_id)
        )

    async def _authenticate(self, credentials: Credentials) -> Identity:
        # A label must be one of few words, and the scheme is whatever a stranger wrote.
        method = credentials.scheme if credentials.scheme in ("basic", "bearer") else "other"
        try:
            identity = await self._logins.authenticate(credentials)
        except Refused:
            self._metrics.logins.labels(method, "refused").inc()
            raise
        except RequestError as error:
            self._metrics.logins.labels(method, "slowed" if error.status == 429 else "unavailable").inc()
            raise
        self._metrics.logins.labels(identity.method or "anonymous", "accepted").inc()
        return identity
