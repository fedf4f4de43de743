"""Watches a copy that a server runs until it is over, and ends it there if nobody wants to wait any more.

What the server says of it goes into the `CopyState` of the call, next to what other copies have brought, so that it
looks like any copy. A lost connection is no end: the copy goes on without it, and another session is opened to see how.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from uftp.client import server_copies
from uftp.client.session import FTPSession
from uftp.client.wording import is_about_a_missing_file, is_about_rights, printable
from uftp.errors import AuthenticationFailed, NetworkError, NotFound, Refused, TransferFailed, UFTPError, UsageError
from uftp.protocol.server_copies import CopyStatus
from uftp.transfer.between_places import Copy
from uftp.transfer.results import CopyState, FileResult
from uftp.transfer.retrying import wait_before

_FIRST_SECONDS: Final = 0.1  # between two questions; small copies are over soon
_LONGEST_SECONDS: Final = 1.0
_REPLY_SECONDS: Final = 15.0  # for one answer; not cut short, or the session would be lost with it
_OUTAGE_TRIES: Final = 20  # about two minutes
_STOP_SECONDS: Final = 60.0  # for ending a copy, logins included

_LOGIN: Final = re.compile(r"one-time password|login refused|not logged in", re.IGNORECASE)

OpenSession = Callable[[Copy], Awaitable[FTPSession]]


class Watcher:
    """Watches one copy.

    Args:
        copy: which.
        reopen: gives a usable session on the node that runs it.
        state: of the call.
        keep: whether an interrupted copy leaves what the next one can go on with.
        last: whether nothing else comes after it: what it found is then all there is.
        lasting: whether it goes on when the wait is interrupted.

    Attributes:
        stopped: what became of the copy when the wait was interrupted, for a person; None if it was not.
    """

    def __init__(
        self,
        copy: Copy,
        reopen: OpenSession,
        state: CopyState,
        *,
        keep: bool,
        last: bool,
        lasting: bool = False,
    ) -> None:
        self._copy = copy
        self._reopen = reopen
        self._state = state
        self._keep = keep
        self._last = last
        self._lasting = lasting
        self.stopped: str | None = None
        self._before = (state.bytes_done, state.bytes_found, state.files_done, state.files_found, state.files_failed)

    async def run(self, session: FTPSession) -> str:
        """Wait until it is over.

        Args:
            session: on the node that runs it.

        Returns:
            FINISHED or FAILED; in either case failed files have been counted and told.

        Raises:
            TransferFailed: somebody else has ended it, or the server has forgotten it: nobody knows how it stands.
            NetworkError: the server cannot be reached any more. The copy may go on.
        """
        try:
            status = await self._to_the_end(session)
        except trio.Cancelled:
            if not self._lasting:
                await self._stop(session)
            raise
        copy = self._copy
        self._show(status)
        if status.word == "UNKNOWN":
            raise TransferFailed(
                f"{copy.source.display()}: {copy.server} no longer knows this copy; it may have been started again. "
                f"Look at {copy.target.display()}, or run the same command again",
                lasting=True,
            )
        if status.word == "ABORTED":
            raise TransferFailed(f"{copy.source.display()}: the copy was ended on {copy.server}", lasting=True)
        await self._failures(session, status)
        return status.word

    async def _to_the_end(self, session: FTPSession) -> CopyStatus:
        pause = _FIRST_SECONDS
        failures = 0
        while True:
            try:
                if not session.usable:
                    session = await self._reopen(self._copy)
                # Cut off in the middle of an answer, the session would be of no use for ending the copy.
                with trio.CancelScope(deadline=trio.current_time() + _REPLY_SECONDS, shield=True):
                    status = await server_copies.status(session, self._copy.id)
                    failures = 0
                    if status.is_final:
                        return status
                    self._show(status)
            except NetworkError as error:
                failures += 1
                if failures > _OUTAGE_TRIES:
                    raise NetworkError(f"{error}; copy {self._copy.id} may still go on there") from error
                await trio.sleep(wait_before(failures))
            else:
                await trio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_SECONDS)

    def _show(self, status: CopyStatus) -> None:
        state = self._state
        done, found, files, files_found, failed = self._before
        state.bytes_done = done + status.bytes
        state.bytes_found = found + max(status.total, status.bytes)
        state.files_done = files + status.files
        state.files_found = files_found + max(status.found, status.files + status.failed)
        state.files_failed = failed + status.failed
        state.planned = self._last and status.planned

    async def _failures(self, session: FTPSession, status: CopyStatus) -> None:
        """Have each failed file told; and if none is known of a failed copy, the copy."""
        if status.word == "FINISHED" and not status.failed:
            return
        copy, state = self._copy, self._state
        told = 0
        state.files_failed = self._before[4]
        if status.failed and server_copies.can_copy_trees(session):
            first = 0
            while True:
                if not session.usable:
                    session = await self._reopen(copy)
                some, first = await server_copies.errors(session, copy.id, first)
                for one in some:
                    told += 1
                    source = copy.source.display(one.source)
                    target = copy.target.display(one.target) if one.target else copy.target.display()
                    state.record(FileResult(source=source, target=target, error=error_of(one.error, source)))
                if not first:
                    break
        if not told:
            source, target = copy.source.display(), copy.target.display()
            text = status.error or f"the copy failed, and {copy.server} does not say why"
            state.record(FileResult(source=source, target=target, error=error_of(text, source)))
            state.files_found = max(state.files_found, self._before[3] + 1)
            told = 1
        # Servers keep a bounded list; what is not in it has failed all the same.
        state.files_failed += max(0, status.failed - told)

    async def _stop(self, session: FTPSession) -> None:
        """End the copy at the server, and say what came of that."""
        copy = self._copy
        self.stopped = f"copy {copy.id} could not be ended on {copy.server} in time, and may go on there"
        with trio.CancelScope(deadline=trio.current_time() + _STOP_SECONDS, shield=True):
            try:
                if not session.usable:
                    session = await self._reopen(copy)
                keep = self._keep and server_copies.can_copy_trees(session)
                word = await server_copies.abort(session, copy.id, keep=keep)
            except UFTPError as error:
                self.stopped = f"copy {copy.id} may still go on, it could not be ended: {printable(str(error))}"
            else:
                self._state.completed = self._last and word == "FINISHED"
                self.stopped = {
                    "ABORTED": f"the copy was ended on {copy.server}",
                    "FINISHED": f"the copy had just ended on {copy.server}, and is complete",
                    "FAILED": f"the copy had just failed on {copy.server}",
                }.get(word, f"{copy.server} does not know the copy any more")


def error_of(text: str, source: str) -> UFTPError:
    """The error behind a server's words: what kind it is shows only in them."""
    shown = printable(text).strip() or "no reason given"
    name = source.rpartition("/")[2].rpartition(":")[2]
    message = shown if name and name in shown else f"{source}: {shown}"
    if _LOGIN.search(text):
        return AuthenticationFailed(message)
    if "is a directory" in text:
        return UsageError(message)
    if is_about_a_missing_file(text):
        return NotFound(message)
    if is_about_rights(text):
        return Refused(message)
    return TransferFailed(message)
