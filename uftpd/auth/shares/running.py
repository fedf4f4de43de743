"""What is being delivered by shares now, so that it can be stopped when a share is withdrawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Deliveries:
    """Transfers under way in this process, by share."""

    def __init__(self) -> None:
        self._scopes: dict[str, set[trio.CancelScope]] = {}

    @contextmanager
    def running(self, share_id: str) -> Iterator[trio.CancelScope]:
        """Around the delivery of something of a share. The block is cancelled when the share is stopped.

        Yields:
            The scope; `cancelled_caught` says afterwards whether that happened.
        """
        with trio.CancelScope() as scope:
            scopes = self._scopes.setdefault(share_id, set())
            scopes.add(scope)
            try:
                yield scope
            finally:
                scopes.discard(scope)
                if not scopes and self._scopes.get(share_id) is scopes:
                    del self._scopes[share_id]

    def stop(self, share_id: str) -> int:
        """Cancel all deliveries of a share; returns how many there were."""
        scopes = self._scopes.pop(share_id, set())
        for scope in scopes:
            scope.cancel()
        return len(scopes)

    def count(self, share_id: str | None = None) -> int:
        """How many there are, of one share or of all."""
        if share_id is not None:
            return len(self._scopes.get(share_id, ()))
        return sum(map(len, self._scopes.values()))

    def shares(self) -> list[str]:
        """The ids of shares of which something is being delivered."""
        return list(self._scopes)
