"""Requests without credentials: the anonymous user, or nobody."""

from __future__ import annotations

from uftpd.auth.identity.base import ANONYMOUS_DN, Credentials, Identity


class AnonymousAuthenticator:
    """Everybody without an `Authorization` header is the anonymous user (CONTROL-PLANE 5.1)."""

    async def authenticate(self, credentials: Credentials) -> Identity | None:
        """The anonymous identity, or None if there are credentials."""
        return None if credentials.scheme else Identity(ANONYMOUS_DN, "")
