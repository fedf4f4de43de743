"""Transfers that an auth server looks after: /rest/transfers, from the side of the person whose they are.

They are queued, run between data nodes, retried and kept there; whoever submitted one need not stay. What a server says
of a transfer is read here into values with checked types, so that nothing it sends can surprise what prints it.
"""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from uftp.client.auth import AuthServer, HttpOptions
from uftp.client.credentials import Credential
from uftp.client.url import RemoteUrl, parse_url
from uftp.client.wording import printable
from uftp.errors import NetworkError, NotFound, PeerBrokeProtocol, Refused, UFTPError, UsageError

STATES: Final = ("queued", "active", "paused", "succeeded", "failed", "cancelled")
FINAL_STATES: Final = frozenset({"succeeded", "failed", "cancelled"})
ACTIONS: Final = ("cancel", "pause", "resume", "retry")

PATIENCE_SECONDS: Final = 600.0
"""How long `wait` bears with a server that does not answer: it may be restarted, and goes on with its transfers."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WORD = re.compile(r"[a-z][a-z-]{0,31}")
_MAX_TEXT: Final = 64 * 1024  # characters of a text that are kept
_PAGE: Final = 100
_FIRST_POLL_SECONDS: Final = 0.25
_SLOWEST_POLL_SECONDS: Final = 5.0
_SLOWER: Final = 1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRequest:
    """A transfer that is wanted.

    Attributes:
        sources: `NAME:/path` on a server of this auth server, `https://HOST/rest/auth/NAME:/path` on one of another,
            the link of a share, or any https URL. Paths are as in `uftp.client.url`: %XX for a byte, wildcards.
        target: a directory or file, in one of the first two ways.
        options: as JSON has them; what is left out is as the server thinks best.
        credentials: for places of other auth servers: `source` and `target` to what proves who one is there,
            `{"token"}` or `{"username", "password"}`.
        name: for people.
        callback: URL that is told of the end; empty for none.
    """

    sources: Sequence[str]
    target: str
    options: Mapping[str, object] = field(default_factory=dict)
    credentials: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    name: str = ""
    callback: str = ""

    def to_json(self) -> dict[str, object]:
        """The body of the request."""
        body: dict[str, object] = {"sources": list(self.sources), "target": self.target}
        more = {
            "options": dict(self.options),
            "credentials": {side: dict(credential) for side, credential in self.credentials.items()},
            "name": self.name,
            "callback": self.callback,
        }
        return body | {name: value for name, value in more.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What the server says of one.

    Attributes:
        id: names it.
        name: as submitted.
        state: one of `STATES`; a newer server may know others.
        wanted: what its owner has asked for while it is active, `pause` or `cancel`; empty for nothing.
        reason: why it is paused, has failed or waits for its next try, and what is needed; empty for nothing to say.
        sources, target: as submitted.
        bytes, total: moved, and to be moved as far as is known.
        files, files_failed, files_found: done, failed for good, and found so far.
        rate: bytes per second of late.
        attempts: how often it was begun.
        created, started, ended, next_try: seconds since 1970; 0 for not yet, or not at all.
        node: where it runs, or ran last.
        document: all of it as it came.
    """

    id: str
    name: str = ""
    state: str
    wanted: str = ""
    reason: str = ""
    sources: tuple[str, ...] = ()
    target: str = ""
    bytes: int = 0
    total: int = 0
    files: int = 0
    files_failed: int = 0
    files_found: int = 0
    rate: float = 0.0
    attempts: int = 0
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    next_try: float = 0.0
    node: str = ""
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen unless somebody asks for it."""
        return self.state in FINAL_STATES


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferError:
    """A file that could not be copied."""

    source: str
    target: str
    error: str


class ManagedTransfers:
    """The transfers of one person at one auth server.

    Args:
        auth: logs in.
        place: anything there; only the server matters.
    """

    def __init__(self, auth: AuthServer, place: RemoteUrl) -> None:
        self._auth = auth
        self.url = place.info_url.removesuffix("/auth") + "/transfers"

    async def submit(self, request: TransferRequest, *, key: str = "") -> Transfer:
        """Have a transfer done.

        A call whose answer was lost is repeated once, in a way that cannot make a second transfer of it.

        Args:
            request: what is wanted.
            key: another call with the same one, by the same person, makes no other transfer; random if empty.

        Raises:
            Refused: the server does not do this; it says why.
            UFTPError: as described at the top of `uftp.errors`; so for all that follow.
        """
        headers = {"Idempotency-Key": key or secrets.token_urlsafe(18)}
        body = request.to_json()

        async def call() -> Transfer:
            reply = await self._auth.call("POST", self.url, body, accepted=(200, 201), headers=headers)
            return read_transfer(reply.document, self.url)

        try:
            try:
                return await call()
            except NetworkError:
                return await call()
        except NotFound as error:
            raise self._none_here(error) from error

    async def overview(self, *, states: Iterable[str] = (), most: int = 0) -> tuple[list[Transfer], bool]:
        """One's transfers, the newest first.

        Args:
            states: only those; empty for all.
            most: how many; 0 for all.

        Returns:
            The transfers, and whether there are more.
        """
        found: list[Transfer] = []
        after = ""
        while True:
            wanted = min(_PAGE, most - len(found)) if most else _PAGE
            query = {"limit": str(wanted)} | ({"state": ",".join(states)} if states else {})
            document = await self._get(self.url, query | ({"after": after} if after else {}))
            entries = document.get("transfers")
            if not isinstance(entries, list):
                raise PeerBrokeProtocol(f"{self.url}: the reply has no list of transfers")
            page = [read_transfer(entry, self.url) for entry in entries]
            found += page
            following = document.get("next")
            if not following or not page:
                return found, False
            if not isinstance(following, str) or following == after:
                raise PeerBrokeProtocol(f"{self.url}: the list of transfers does not go on as it should")
            if most and len(found) >= most:
                return found[:most], True
            after = following

    async def get(self, transfer_id: str) -> Transfer:
        """One of them."""
        url = self._one(transfer_id)
        return read_transfer(await self._get(url), url)

    async def errors(self, transfer_id: str, *, most: int = 0) -> tuple[list[TransferError], bool]:
        """The files that could not be copied.

        Args:
            transfer_id: which.
            most: how many; 0 for all.

        Returns:
            The errors, and whether there are more.
        """
        url = f"{self._one(transfer_id)}/errors"
        found: list[TransferError] = []
        first = 0
        while True:
            document = await self._get(url, {"first": str(first)} if first else {})
            entries = document.get("errors")
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise PeerBrokeProtocol(f"{url}: the reply has no list of errors")
            found += [TransferError(**{name: _text(e.get(name)) for name in _ERROR_FIELDS}) for e in entries]
            following = document.get("next")
            if not following or not entries:
                return (found[:most], True) if most and len(found) > most else (found, False)
            if type(following) is not int or following <= first:
                raise PeerBrokeProtocol(f"{url}: the list of errors does not go on as it should")
            if most and len(found) >= most:
                return found[:most], True
            first = following

    async def act(
        self, transfer_id: str, action: str, credentials: Mapping[str, Mapping[str, str]] | None = None
    ) -> Transfer:
        """Cancel, pause, resume or retry one; returns it as it is then.

        Args:
            transfer_id: which.
            action: one of `ACTIONS`.
            credentials: new ones, as in `TransferRequest`; for resume and retry.

        Raises:
            Refused: its state does not allow that.
        """
        url = f"{self._one(transfer_id)}/{action}"
        body: dict[str, object] = {}
        if credentials:
            body["credentials"] = {side: dict(credential) for side, credential in credentials.items()}
        reply = await self._auth.call("POST", url, body, accepted=(200, 202))
        return read_transfer(reply.document, url)

    async def wait(
        self,
        transfer_id: str,
        *,
        on_change: Callable[[Transfer], None] = lambda transfer: None,
        on_silence: Callable[[UFTPError], None] = lambda error: None,
        patience: float = PATIENCE_SECONDS,
    ) -> Transfer:
        """Wait for the end of one, or until it is paused. Cancelled, it leaves the transfer alone.

        Args:
            transfer_id: which.
            on_change: told whenever it has changed.
            on_silence: told once when the server does not answer.
            patience: seconds a server may be silent.

        Raises:
            NetworkError: it was silent for longer.
        """
        last: Transfer | None = None
        delay, heard, silent = _FIRST_POLL_SECONDS, trio.current_time(), False
        while True:
            try:
                now = await self.get(transfer_id)
            except NetworkError as error:
                if trio.current_time() - heard > patience:
                    raise
                if not silent:
                    silent = True
                    on_silence(error)
            else:
                heard, silent = trio.current_time(), False
                if now != last:
                    on_change(now)
                    last = now
                if now.is_final or now.state == "paused":
                    return now
            # Many may wait for their transfers at one server: they ask less and less often, and not all at once.
            await trio.sleep(delay * random.uniform(0.8, 1.2))
            delay = min(delay * _SLOWER, _SLOWEST_POLL_SECONDS)

    def _none_here(self, error: NotFound) -> UFTPError:
        return Refused(
            f"{self.url}: this auth server runs no transfers; if that of the other side does, name it with --at",
            code=error.code,
        )

    async def _get(self, url: str, query: Mapping[str, str] | None = None) -> Mapping[str, Any]:
        try:
            document = (await self._auth.call("GET", url, query=query)).document
        except NotFound as error:
            if url == self.url:
                raise self._none_here(error) from error
            raise
        if document is None:
            raise PeerBrokeProtocol(f"{url}: the reply is not a JSON object; does this auth server run transfers?")
        return document

    def _one(self, transfer_id: str) -> str:
        return f"{self.url}/{checked_id(transfer_id)}"


@asynccontextmanager
async def open_transfers(
    server: str, credential: Credential, *, ca: str | None = None, insecure: bool = False
) -> AsyncIterator[ManagedTransfers]:
    """One's transfers at an auth server, for the block.

    Args:
        server: `https://HOST/rest/auth`, or the URL of anything there.
        credential: who one is.
        ca: file with the CA certificates to trust instead of the system's (PEM).
        insecure: do not verify the server's certificate.

    Raises:
        UsageError: no URL of an auth server.
        LocalFileError: the CA file cannot be read.
    """
    place = parse_url(server, need_server=False)
    if place.kind == "ftp":
        raise UsageError(f"{place.service}: an FTP server runs no transfers; name an auth server")
    async with AuthServer(credential, HttpOptions(ca=ca, insecure=insecure)) as auth:
        yield ManagedTransfers(auth, place)


def checked_id(text: str) -> str:
    """The id of a transfer as typed.

    Raises:
        UsageError: it can be none.
    """
    if not _ID.fullmatch(text):
        raise UsageError(f"{printable(text)}: this is no id of a transfer; `uftp transfer list` shows them")
    return text


def read_transfer(document: object, url: str) -> Transfer:
    """What a server sends of a transfer.

    Args:
        document: the JSON.
        url: where it is from, for errors.

    Raises:
        PeerBrokeProtocol: it is none.
    """
    if not isinstance(document, Mapping):
        raise PeerBrokeProtocol(f"{url}: the reply is no transfer")
    found, state = document.get("id"), document.get("state")
    if not isinstance(found, str) or not _ID.fullmatch(found):
        raise PeerBrokeProtocol(f"{url}: the reply has no id of a transfer")
    if not isinstance(state, str) or not _WORD.fullmatch(state):
        raise PeerBrokeProtocol(f"{url}: the reply does not say what state the transfer is in")
    sources = document.get("sources")
    return Transfer(
        id=found,
        name=_text(document.get("name")),
        state=state,
        wanted=_text(document.get("wanted")),
        reason=_text(document.get("reason")),
        sources=tuple(_text(source) for source in sources) if isinstance(sources, list) else (),
        target=_text(document.get("target")),
        bytes=_count(document.get("bytes")),
        total=_count(document.get("total")),
        files=_count(document.get("files")),
        files_failed=_count(document.get("filesFailed")),
        files_found=_count(document.get("filesFound")),
        rate=_number(document.get("rate")),
        attempts=_count(document.get("attempts")),
        created=_number(document.get("created")),
        started=_number(document.get("started")),
        ended=_number(document.get("ended")),
        next_try=_number(document.get("nextTry")),
        node=_text(document.get("node")),
        document=document,
    )


_ERROR_FIELDS: Final = ("source", "target", "error")


def _text(value: object) -> str:
    return value[:_MAX_TEXT] if isinstance(value, str) else ""


def _number(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < 1e18 else 0.0  # type: ignore[operator,arg-type]  # a number


def _count(value: object) -> int:
    return int(_number(value))
