"""oidc-agent: access tokens from the agent a person runs (its "IPC-API" documentation; -O of existing clients).

One JSON object each way over the Unix socket that OIDC_SOCK names. The agent keeps tokens fresh; it is asked again
when the one it gave is about to end.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio

from uftp.client.credentials import checked_token
from uftp.client.wording import printable
from uftp.errors import AuthenticationFailed, UsageError

SOCKET_VARIABLE: Final = "OIDC_SOCK"

_MIN_VALID_SECONDS: Final = 60
_ANSWER_SECONDS: Final = 120.0  # the agent may ask the person, or the provider, first
_MAX_ANSWER_BYTES: Final = 256 * 1024


class OidcAgentCredential:
    """Tokens of an account of oidc-agent.

    Args:
        account: short name of a loaded account, or URL of an issuer.
        environment: variables, those of the process by default.
        clock: Unix seconds.
    """

    method = "OIDC"

    def __init__(
        self,
        account: str,
        *,
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._account = account
        self._environment = os.environ if environment is None else environment
        self._clock = clock
        self._token = ""
        self._expires = 0.0

    def __repr__(self) -> str:
        return f"OidcAgentCredential({self._account!r})"

    @property
    def description(self) -> str:
        return f"the token of oidc-agent's account {self._account!r}"

    async def authorization(self) -> str:
        """`Bearer` and a token that is good for a minute at least.

        Raises:
            AuthenticationFailed: no agent, or it has no token for this account.
        """
        if not self._token or self._expires - self._clock() < _MIN_VALID_SECONDS:
            await self._fetch(_MIN_VALID_SECONDS)
        return f"Bearer {self._token}"

    async def renew(self, refused: str) -> bool:
        """Have the agent get a new token if it gave the one refused a while ago."""
        if refused == f"Bearer {self._token}":
            # Asking for more life than the token has is the one way to make the agent fetch another.
            await self._fetch(int(max(self._expires - self._clock(), 0)) + _MIN_VALID_SECONDS)
        return refused != f"Bearer {self._token}"

    async def _fetch(self, seconds: int) -> None:
        which = "issuer" if "://" in self._account else "account"
        request = {
            "request": "access_token",
            which: self._account,
            "min_valid_period": seconds,
            "application_hint": "uftp",
        }
        answer = await self._ask(request)
        if answer.get("status") != "success" or not isinstance(answer.get("access_token"), str):
            told = [answer.get(member) for member in ("error", "info") if isinstance(answer.get(member), str)]
            said = printable(" ".join(" ".join(map(str, told)).split()))[:300] or "no token, and no reason"
            raise AuthenticationFailed(f"oidc-agent, {which} {self._account}: {said}")
        try:
            self._token = checked_token(answer["access_token"])
        except UsageError as error:
            raise AuthenticationFailed(f"oidc-agent, {which} {self._account}: {error}") from None
        expires = answer.get("expires_at")
        # Without a time the agent is asked for every session; it remembers for itself.
        self._expires = float(expires) if isinstance(expires, int | float) else 0.0

    async def _ask(self, request: Mapping[str, object]) -> Mapping[str, Any]:
        path = self._environment.get(SOCKET_VARIABLE)
        if not path:
            raise AuthenticationFailed(
                f"no oidc-agent: {SOCKET_VARIABLE} is not set; start one with: eval `oidc-agent-service use`"
            )
        try:
            with trio.fail_after(_ANSWER_SECONDS):
                stream = await trio.open_unix_socket(path)
                async with stream:
                    await stream.send_all(json.dumps(request).encode())
                    return await _receive_object(stream)
        except trio.TooSlowError:
            raise AuthenticationFailed(f"oidc-agent: no answer within {_ANSWER_SECONDS:.0f} s") from None
        except (OSError, trio.BrokenResourceError) as error:
            reason = getattr(error, "strerror", None) or "the connection broke"
            raise AuthenticationFailed(f"oidc-agent at {path}: {reason}; is it running?") from error


async def _receive_object(stream: trio.SocketStream) -> Mapping[str, Any]:
    # Neither a length nor an end marks an answer: agents differ in whether they close the connection behind it.
    data = bytearray()
    while chunk := await stream.receive_some(65536):
        data += chunk
        if len(data) > _MAX_ANSWER_BYTES:
            break
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            continue
        if isinstance(answer, dict):
            return answer
        break
    raise AuthenticationFailed("oidc-agent: its answer is no JSON object; is that an oidc-agent?")
