"""The configured ways of logging in, tried in order; the first that yields an identity wins (CONTROL-PLANE 5.1)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from uftp.protocol.dn import InvalidName, canonical
from uftpd.auth.errors import Refused, RequestError
from uftpd.auth.events import event, logger
from uftpd.auth.identity.base import (
    ANONYMOUS_DN,
    Authenticator,
    Credentials,
    Identity,
    LoginEnded,
    LoginRefused,
    Rechecking,
)

# One text for every reason: a client learns whether it is in, not how far it came.
_REFUSAL = "Authentication failed: wrong or missing credentials"


class LoginChain:
    """Asks each authenticator; a broken one never lets anybody in, nor keeps the others from being asked."""

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = tuple(authenticators)

    async def authenticate(self, credentials: Credentials) -> Identity:
        """The identity these credentials prove.

        Raises:
            Refused: none of the authenticators accepts them, or none knows their kind.
            RequestError: this server cannot check them now.
        """
        reasons = []
        for authenticator in self._authenticators:
            try:
                identity = await authenticator.authenticate(credentials)
                if identity is not None:
                    _check_name(identity)
                    return identity
            except LoginRefused as refusal:
                reasons.append(str(refusal))
                if isinstance(refusal, LoginEnded):
                    break
            except RequestError:
                raise
            except Exception:
                name = type(authenticator).__name__
                logger.exception("authenticator failed", extra={"facts": {"authenticator": name}})
        event(
            "login refused",
            level=logging.WARNING,
            id=credentials.request_id,
            peer=str(credentials.address),
            scheme=credentials.scheme or "none",
            reason="; ".join(reasons) or "no method for these credentials",
        )
        raise Refused(_REFUSAL)

    def still_accepts(self, identity: Identity) -> bool:
        """Whether what somebody logged in with before still counts, as far as the method can tell."""
        own = [each for each in self._authenticators if isinstance(each, Rechecking) and each.method == identity.method]
        return not own or any(each.still_accepts(identity) for each in own)


def _check_name(identity: Identity) -> None:
    try:
        name = canonical(identity.dn)
    except InvalidName as error:
        raise LoginRefused(f"not a valid name: {error}") from None
    if identity.method and name == canonical(ANONYMOUS_DN):
        raise LoginRefused("nobody can log in as the anonymous user")
