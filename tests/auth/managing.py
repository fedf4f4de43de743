"""An auth server that looks after transfers, with data nodes that run copies by script."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from copying_node import CopyNode, serving_ftp
from fake_node import FakeNode
from running_auth import Running, StartAuth

from uftpd.auth.transfers.credentials import StoredCredential
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.model import Side

PATIENCE = 30.0  # seconds; far above what anything here takes


@dataclass
class Managing:
    """The server, and what tests ask of it."""

    auth: Running
    node: CopyNode

    @property
    def managed(self) -> ManagedTransfers:
        """The transfers, without the way through HTTP."""
        found = self.auth.running.services.transfers
        assert found is not None
        return found

    async def submit(self, source: str | list[str], target: str = "TEST:/in/", **body: Any) -> str:
        """Submit a transfer; returns its id."""
        sources = [source] if isinstance(source, str) else source
        body = {"sources": sources, "target": target, **body}
        reply = await self.auth.client.post(f"{self.auth.url}/rest/transfers", json=body, auth=("demouser", "test123"))
        assert reply.status_code == 201, reply.text
        return str(reply.json()["id"])

    async def show(self, transfer: str) -> dict[str, Any]:
        """What the server says of it."""
        url = f"{self.auth.url}/rest/transfers/{transfer}"
        reply = await self.auth.client.get(url, auth=("demouser", "test123"))
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    async def errors(self, transfer: str) -> list[dict[str, str]]:
        """Its failed files."""
        url = f"{self.auth.url}/rest/transfers/{transfer}/errors"
        reply = await self.auth.client.get(url, auth=("demouser", "test123"))
        assert reply.status_code == 200, reply.text
        found: list[dict[str, str]] = reply.json()["errors"]
        return found

    async def credential(self, transfer: str, side: Side) -> StoredCredential | None:
        """What is kept for a side of it."""
        found = await self.managed.get(transfer)
        assert found is not None
        return await self.managed.credential(found, side)

    async def act(self, transfer: str, action: str, body: object = None) -> int:
        """Cancel, pause, resume or retry; returns the status."""
        url = f"{self.auth.url}/rest/transfers/{transfer}/{action}"
        reply = await self.auth.client.post(url, json=body or {}, auth=("demouser", "test123"))
        return int(reply.status_code)

    async def wait(self, transfer: str, *states: str) -> dict[str, Any]:
        """Until it is in one of these states; what the server says of it then."""
        found: dict[str, Any] = {}

        async def there() -> bool:
            found.update(await self.show(transfer))
            return found["state"] in states

        await until(there, lambda: f"{transfer} to be {states}, it is {found}")
        return found


async def until(condition: Callable[[], Awaitable[bool]], what: Callable[[], str]) -> None:
    """Wait for a condition.

    Raises:
        AssertionError: it does not come true.
    """
    with trio.move_on_after(PATIENCE):
        while not await condition():  # noqa: ASYNC110 -- it is another process's, or a row's
            await trio.sleep(0.02)
        return
    raise AssertionError(f"waited in vain for {what()}")


async def until_true(condition: Callable[[], bool], what: str) -> None:
    """The same for one that can be told at once."""

    async def asked() -> bool:
        return condition()

    await until(asked, lambda: what)


def settings(directory: Path, more: str = "", store: str = "") -> str:
    """The sections for `start_auth`; the store is a file if no URL is given."""
    place = f'url = "{store}"' if store else f'path = "{directory}/store.db"'
    return (
        f"[store]\n{place}\n"
        f'[transfers]\nenabled = true\nkey_file = "{directory}/transfers.key"\n'
        f"backoff_seconds = 0.05\nlongest_backoff_seconds = 0.1\n{more}\n"
    )


@asynccontextmanager
async def managing(
    start_auth: StartAuth,
    directory: Path,
    *nodes: CopyNode,
    others: Sequence[FakeNode] = (),
    more: str = "",
    store: str = "",
    **options: Any,
) -> AsyncIterator[Managing]:
    """Start one for the block, with one node unless there are given.

    Args:
        start_auth: the fixture.
        directory: for the store and the key.
        nodes: of the logical server TEST.
        others: further nodes of it, that run no copies.
        more: settings of `[transfers]`.
        store: URL of a database.
        options: of `start_auth`.
    """
    copying = nodes or (CopyNode(),)
    text = settings(directory, more, store)
    async with serving_ftp(*copying), start_auth(*others, *copying, extra=text, **options) as auth:
        yield Managing(auth, copying[0])
