"""A queue of transfers whose clock and settings a test sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from uftpd.auth.metrics import Metrics
from uftpd.auth.store.engine import Store
from uftpd.auth.transfers.credentials import StoredCredential
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.model import Account, Claimed, NewTransfer, Place, Side, Transfer
from uftpd.auth.transfers.sealing import Sealer
from uftpd.config.transfers import Transfers

OWNER, OTHER = "cn=owner,o=x", "cn=other,o=x"
ELSEWHERE = Place(
    kind="auth",
    text="https://b.example/rest/auth/B:/in/",
    server="B",
    service="https://b.example/rest/auth/B",
    path=b"/in/",
    host="b.example",
)
TOKEN = StoredCredential(token="t0p-secret-t0ken")


def on(server: str, path: bytes = b"/data/x") -> Place:
    """A place on a server of this auth server."""
    return Place(kind="server", text=f"{server}:{path.decode()}", server=server, path=path)


def a_transfer(person: str = OWNER, source: str = "A", target: str | Place = "B", **more: Any) -> NewTransfer:
    """One to be submitted."""
    fields: dict[str, Any] = {
        "person": person,
        "sources": (on(source),),
        "target": on(target) if isinstance(target, str) else target,
        "accounts": {Side.SOURCE: Account(uid="user1")},
    }
    return NewTransfer(**(fields | more))


class Clock:
    """Unix seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Queueing:
    """The transfers of a store, and what they depend on."""

    store: Store
    clock: Clock
    metrics: Metrics
    sealer: Sealer
    settings: Transfers = field(
        default_factory=lambda: Transfers(enabled=True, key_file=Path("none"), waiting_per_user=1000)
    )
    managed: ManagedTransfers = field(init=False)

    def change(self, **settings: Any) -> None:
        """Other settings."""
        self.settings = msgspec.structs.replace(self.settings, **settings)

    async def submit(self, person: str = OWNER, **more: Any) -> Transfer:
        """Submit one; each has its own moment."""
        credentials = more.pop("credentials", {})
        self.clock.now += 0.5
        transfer, made = await self.managed.submit(a_transfer(person, **more), credentials)
        assert made
        return transfer

    async def claim(self, worker: str = "w1") -> Claimed | None:
        """The next one, a moment later."""
        self.clock.now += 0.5
        return await self.managed.claim(worker, self.settings)

    async def claimed(self, worker: str = "w1") -> Claimed:
        """The same, where there is one."""
        found = await self.claim(worker)
        assert found is not None
        return found

    async def now(self, transfer: Transfer) -> Transfer:
        """What has become of it."""
        found = await self.managed.get(transfer.id)
        assert found is not None
        return found
