"""The front's part of copies between servers: starts them for sessions, and answers what sessions ask about them.

A session names what is to be copied and with whom. As whom, beneath which directory and with which rights follows from
the session's own request, which never came by the session; with whom, is for `uftpd.peers` to allow. A question about
a copy is answered from the books, but for the end of one, which is waited for.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from typing import Final

import trio

from uftp.errors import NetworkError, UFTPError
from uftp.protocol.command_port import Access, Purpose, TransferRequest
from uftp.protocol.features import copy_features
from uftp.protocol.server_copies import CopyWord
from uftpd.config.data import DataConfig
from uftpd.data.children import Child, Children, Job, OutOfPlace, SessionRefused
from uftpd.data.copy_books import Book, CopyBooks
from uftpd.data.ledger import Ledger, LoginError
from uftpd.events import EventLog
from uftpd.peers import PeerRefused, PeerRules
from uftpd.session.copy_messages import (
    MAX_TEXT,
    AbortCopy,
    Addresses,
    AskCopy,
    AskCopyErrors,
    CopyAnswer,
    CopyEnded,
    CopyFailures,
    CopyOrder,
    CopyProgress,
    EndCopy,
    StartCopy,
    WantAddresses,
)
from uftpd.session.messages import CopySettings, Drain, FromSession, SessionSettings

_log = EventLog("copies")

_ADMIT_SECONDS: Final = 15.0  # to look a name up
_END_SECONDS: Final = 20.0  # for a copy to leave in good order once it is told to
_KILL_SECONDS: Final = 10.0
_QUESTIONS: Final = 4  # of one session at a time; ours asks one
_LOOK_UPS: Final = 32  # of one copy at a time
_NOT_FOUND: Final = "This server does not connect there"
_DIED: Final = "the process of the copy ended"

Question = StartCopy | AskCopy | AbortCopy | AskCopyErrors


def site_features(config: DataConfig) -> tuple[str, ...]:
    """What is listed of copies between servers."""
    return copy_features(copies=config.copies.enabled, fetches=config.copies.https != "none")


class _Refused(Exception):
    """A copy that does not start; the message is for the client."""

    def __init__(self, code: int, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.code = code
        self.passing = passing


class Copies:
    """See the module.

    Args:
        config: settings, current ones at each call.
        ledger: counts copies.
        children: to start processes.
        settings: of a session like that of a request, for a child of this id.
        share_rate: told of a user with one more copy.

    Attributes:
        draining: whether no more copies start.
        authorities: that https URLs are trusted by, see `uftpd.peers.fetch_authorities`.
    """

    def __init__(
        self,
        config: Callable[[], DataConfig],
        ledger: Ledger,
        children: Children,
        settings: Callable[[str, TransferRequest], SessionSettings],
        share_rate: Callable[[str], None],
    ) -> None:
        self.draining = False
        self.authorities = ""
        self._config = config
        self._ledger = ledger
        self._children = children
        self._settings = settings
        self._share_rate = share_rate
        self._books = CopyBooks(trio.current_time)
        self._asking: Counter[str] = Counter()

    # -- what children say ------------------------------------------------------------------------------------------

    def take(self, child: Child, message: FromSession) -> None:
        """A message of a child.

        Raises:
            OutOfPlace: none that such a child sends.
        """
        if child.kind == "session" and isinstance(message, Question):
            self._start_task(child, message)
            return
        book = self._books.of_child(child.id) if child.kind == "copy" else None
        match message:
            case CopyProgress(facts=facts) if book is not None:
                if book.ended_at is None:
                    book.facts = facts
            case CopyFailures(failures=failures) if book is not None:
                self._books.fail(book, failures)
            case CopyEnded(word=word, facts=facts, error=error) if book is not None:
                self._books.end(book, word, facts, error[:MAX_TEXT])
            case WantAddresses() if book is not None:
                self._start_task(child, message)
            case _:
                raise OutOfPlace(type(message).__name__)

    def gone(self, child: Child) -> None:
        """A child is gone."""
        if child.kind != "copy" or (book := self._books.of_child(child.id)) is None:
            return
        if book.ended_at is None:
            self._books.end(book, "ABORTED" if book.abort_wanted else "FAILED", book.facts, self._why(book))
            _log("copy ended", level="warning", **_facts_of(child, book), state=book.word, error=book.error)
        self._books.left(book)

    @staticmethod
    def _why(book: Book) -> str:
        return "" if book.abort_wanted else _DIED

    def _start_task(self, child: Child, message: Question | WantAddresses) -> None:
        is_question = not isinstance(message, WantAddresses)
        if self._children.nursery is None or self._asking[child.id] >= (_QUESTIONS if is_question else _LOOK_UPS):
            raise OutOfPlace("too many questions at a time")
        self._asking[child.id] += 1
        self._children.nursery.start_soon(self._reply, child, message)

    async def _reply(self, child: Child, message: Question | WantAddresses) -> None:
        try:
            if isinstance(message, WantAddresses):
                child.tell(await self._addresses(child, message))
            else:
                child.tell(await self._answer(child, message))
        finally:
            self._asking[child.id] -= 1
            if not self._asking[child.id]:
                del self._asking[child.id]

    # -- what sessions ask ------------------------------------------------------------------------------------------

    async def _answer(self, child: Child, message: Question) -> CopyAnswer:
        number = message.number
        if isinstance(message, StartCopy):
            try:
                book = await self._start(child, message.order)
            except _Refused as refused:
                return CopyAnswer(number=number, code=refused.code, reason=str(refused), passing=refused.passing)
            return CopyAnswer(number=number, copy=book.id, word=book.word)
        found = self._books.find(message.copy, child.user)
        if isinstance(message, AskCopyErrors):
            if found is None:
                return CopyAnswer(number=number, code=550, reason="There is no such copy")
            failures, following = found.page(message.first)
            return CopyAnswer(number=number, failures=failures, following=following)
        if found is None:
            return CopyAnswer(number=number)
        if isinstance(message, AbortCopy):
            return CopyAnswer(number=number, word=await self._abort(found, keep=message.keep))
        return CopyAnswer(number=number, word=found.word, facts=found.facts, error=found.error)

    async def _abort(self, book: Book, *, keep: bool) -> CopyWord:
        """How the copy stands once it has ended."""
        if book.ended_at is None:
            book.abort_wanted = True
            if (child := self._children.get(book.child)) is not None:
                child.tell(EndCopy(keep=keep))
        with trio.move_on_after(_END_SECONDS):
            await book.gone.wait()
        if not book.gone.is_set():
            _log("copy killed", level="warning", user=book.user, copy=str(book.id))
            await self._children.kill(book.child)
            with trio.move_on_after(_KILL_SECONDS):
                await book.gone.wait()
        return book.word

    # -- starting ---------------------------------------------------------------------------------------------------

    async def _start(self, session: Child, order: CopyOrder) -> Book:
        request = session.request
        if request is None:
            raise _Refused(500, "internal error")
        child_id = secrets.token_hex(4)
        facts: dict[str, str | None] = {
            "session": session.id,
            "user": session.user,
            "request": session.request_id or None,
        }
        with_whom = f"{order.host}:{order.port}" if order.form != "fetch" else "https"
        try:
            self._check(request, order)
            self._count(child_id, session.user)
            book = await self._begin(child_id, request, order)
        except _Refused as refused:
            why = {"why": refused.__cause__.why} if isinstance(refused.__cause__, PeerRefused) else {}
            _log("copy refused", level="warning", **facts, form=order.form, peer=with_whom, reason=str(refused), **why)
            raise
        which = {"copy": str(book.id), "process": child_id, "form": order.form, "peer": with_whom}
        _log("copy started", level="info", **facts, **which)
        return book

    def _check(self, request: TransferRequest, order: CopyOrder) -> None:
        """What the session's own request and the site say to it, whatever the session has checked."""
        copies = self._config().copies
        if not copies.enabled or (order.form == "fetch" and copies.https == "none"):
            raise _Refused(502, "This server makes no such copies")
        if request.access < (Access.READ if order.form == "send" else Access.WRITE):
            raise _Refused(534, "Access denied")
        if order.form != "fetch" and not 0 < order.port < 65536:
            raise _Refused(501, "A port is a number from 1 to 65535")
        if order.encrypt and not request.key:
            raise _Refused(504, "ENCRYPT needs a session key, which this session was not given")
        if self.draining:
            raise _Refused(500, "The server is shutting down", passing=True)

    def _count(self, child_id: str, user: str) -> None:
        try:
            self._ledger.begin_copy(child_id, user)
        except LoginError as error:
            raise _Refused(500, str(error), passing=True) from error

    async def _begin(self, child_id: str, request: TransferRequest, order: CopyOrder) -> Book:
        """Have the process started. The slot is this method's care.

        Raises:
            _Refused: there is no copy.
        """
        book = self._books.open(request.user, child_id)
        try:
            addresses = await self._admit(request, order)
            settings = CopySettings(
                session=self._settings(child_id, request),
                order=order,
                addresses=addresses if order.host else (),
                user_rate=self._user_rate(request.user),
                authorities=self.authorities if order.form == "fetch" else "",
            )
            job = Job(
                id=child_id,
                kind="copy",
                user=request.user,
                first=settings,
                purpose=Purpose.COPY,
                request=request,
            )
            try:
                child = await self._children.spawn(job)
            except SessionRefused as error:
                raise _Refused(500, str(error), passing=True) from error
        except BaseException:
            self._ledger.end(child_id)
            self._books.drop(book)
            raise
        try:
            await self._children.outcome(child)
        except SessionRefused as error:
            self._books.drop(book)
            # 530 is what a refused login has, and nothing is wrong with this session's.
            raise _Refused(500 if error.code == 530 else error.code, str(error)) from error
        self._share_rate(request.user)
        if self.draining:
            child.tell(Drain(seconds=self._config().limits.drain_seconds))
        return book

    def _user_rate(self, user: str) -> int:
        rate = self._config().limits.rate_per_user
        return max(1, rate // max(1, len(self._ledger.active(user)))) if rate else 0

    async def _admit(self, request: TransferRequest, order: CopyOrder) -> tuple[str, ...]:
        """The addresses of the other end.

        Raises:
            _Refused: it is not to be connected to. What a name leads to does not show.
        """
        rules = PeerRules(self._config().copies, request.peers)
        try:
            with trio.fail_after(_ADMIT_SECONDS):
                if order.form == "fetch":
                    return await rules.admit_url(order.remote.decode("ascii", "replace"))
                return await rules.admit(order.host, order.port)
        except UFTPError as error:
            raise _Refused(534, str(error), passing=isinstance(error, NetworkError)) from error
        except trio.TooSlowError as error:
            raise _Refused(534, _NOT_FOUND) from error

    async def _addresses(self, child: Child, message: WantAddresses) -> Addresses:
        request = child.request
        if request is None:
            return Addresses(number=message.number, refused=_NOT_FOUND)
        rules = PeerRules(self._config().copies, request.peers)
        try:
            with trio.fail_after(_ADMIT_SECONDS):
                return Addresses(number=message.number, addresses=await rules.admit_url(message.url))
        except UFTPError as error:
            why = {"why": error.why} if isinstance(error, PeerRefused) else {}
            _log("url refused", level="warning", session=child.id, user=request.user, reason=str(error), **why)
            return Addresses(number=message.number, refused=str(error) or _NOT_FOUND)
        except trio.TooSlowError:
            return Addresses(number=message.number, refused=_NOT_FOUND)


def _facts_of(child: Child, book: Book) -> dict[str, str]:
    request = {"request": child.request_id} if child.request_id else {}
    return {"session": child.id, **request, "user": book.user, "copy": str(book.id)}
