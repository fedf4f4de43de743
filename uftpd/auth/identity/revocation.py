"""Which issued tokens are no longer good."""

from __future__ import annotations

from typing import Protocol


class Revocations(Protocol):
    """Knows revoked tokens."""

    async def is_revoked(self, jti: str) -> bool:
        """Whether the token with this id has been revoked.

        Raises:
            RequestError: that cannot be found out now; then nobody gets in by a token.
        """
        ...


class NoRevocations:
    """For servers that keep no list."""

    async def is_revoked(self, jti: str) -> bool:
        """Never."""
        return False
