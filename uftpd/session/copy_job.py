"""The process of one copy between servers: the copy engine, as the user, on its own until it ends (DESIGN: section 3).

It has one descriptor, its report socket. It reads what is to be copied from there, becomes the user for good, opens
this node's end of the copy, says `Ready`, and copies. How it goes on it tells the front, not oftener than twice a
second; the session that started it may be long gone. Without a front it has nobody to tell, and drains.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
import traceback
from collections import deque
from typing import Final

import msgspec
import trio

# Loaded before the user is settled, who may have no right to read the installation: so nothing is left to load later.
from uftp.client.layers import LegacyCipher, parse_cipher
from uftp.errors import Refused, UFTPError
from uftp.protocol.command_port import Access
from uftp.protocol.ranges import TransferRange
from uftp.transfer.options import ByteRange, CopyOptions
from uftp.transfer.results import CopyState, CopySummary, FileResult
from uftp.transfer.server_copy import PeerLogin, ServerCopy, run_fetch, run_server_copy
from uftpd.session import copy_engine, messages, process
from uftpd.session.copy_messages import (
    MAX_FAILURES,
    MAX_PATH,
    MAX_TEXT,
    Addresses,
    CopyEnded,
    CopyFacts,
    CopyFailure,
    CopyFailures,
    CopyProgress,
    EndCopy,
    FinalWord,
    WantAddresses,
)
from uftpd.session.copy_paths import LocalEnd, open_local
from uftpd.session.filters import Forbidden
from uftpd.session.messages import CopySettings, Drain, Failed, Rate, Ready, SessionSettings
from uftpd.session.paths import FileTree
from uftpd.session.privileges import LoginRefused, UserPolicy, become, look_up
from uftpd.session.replies import code_and_text
from uftpd.session.report_socket import Reporter

_TELL_SECONDS: Final = 0.5
_RATE_SAMPLES: Final = 10  # of `_TELL_SECONDS` each, that the rate is of
_MESSAGE_BYTES: Final = 96 * 1024  # of failures in one message, which together must fit
_RETRY_SECONDS: Final = 0.05
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]+")
_LINK: Final = re.compile(r"(https?://[^/\s]+)/\S*", re.IGNORECASE)  # may hold what opens a share
_SECRET_LENGTH: Final = 6  # a shorter one is no secret, and may be part of any word
_SHUT_DOWN: Final = "the server was shut down"


async def run(report: socket.socket, user: str, policy: UserPolicy) -> None:
    """Be the copy. Until the user is settled nothing else runs in this process, so what blocks may block.

    Args:
        report: to the front; the settings are its first message.
        user: the account, as the spawner was told and has checked it against its limits.
        policy: whom this node serves.
    """
    reporter = Reporter(report)
    try:
        settings = messages.decode_to_session(report.recv(messages.MAX_MESSAGE))
        if not isinstance(settings, CopySettings) or settings.session.user != user:
            raise LoginRefused("internal error")
        copy_engine.load(fetch=settings.order.form == "fetch")
        account = look_up(user, settings.session.groups, policy)
        become(account, policy, settings.session.umask)
        local = _open(settings, *process.open_tree(settings.session, account), reporter)
    except (LoginRefused, msgspec.MsgspecError) as error:
        reporter.send(Failed(reason=str(error), code=500))
        return
    except (Forbidden, OSError) as error:
        code, text = code_and_text("", error) or (500, "internal error")
        reporter.send(Failed(reason=text, code=code))
        return
    reporter.send(Ready())
    try:
        await CopyJob(settings, local, reporter).run(report)
    except BaseException:
        reporter.log("copy-crashed", level="error", traceback=traceback.format_exc())
        raise


def _open(settings: CopySettings, tree: FileTree, start: bytes, reporter: Reporter) -> LocalEnd:
    # A fetch is not confined by the kernel: it reads the system's certificates, which lie outside. By descriptor it
    # cannot leave the base either, and trees, which are not opened so, are refused.
    kernel_confines = settings.order.form != "fetch" and tree.confine_process()
    if tree.confined and not kernel_confines:
        reporter.log("no-landlock", level="debug")
    access = Access(settings.session.access)
    return open_local(settings.order, tree, start, access, kernel_confines=kernel_confines)


class CopyJob:
    """See the module.

    Args:
        settings: what is copied.
        local: this node's end.
        reporter: takes what there is to say.
    """

    def __init__(self, settings: CopySettings, local: LocalEnd, reporter: Reporter) -> None:
        self._settings = settings
        self._order = settings.order
        self._local = local
        self._reporter = reporter
        self._state = CopyState(on_result=self._note_result, each_file=False)
        self._unsent: deque[CopyFailure] = deque()
        self._samples: deque[tuple[float, int]] = deque(maxlen=_RATE_SAMPLES + 1)
        self._scope = trio.CancelScope()
        self._aborted = False
        self._keep = True
        self._front_gone = False
        self._questions: dict[int, _Question] = {}
        self._asked = 0
        self._most = 0
        self._user_rate = settings.user_rate

    async def run(self, report: socket.socket) -> None:
        """Copy, and say how it ended."""
        front = trio.socket.from_stdlib_socket(report.dup())
        front._sock.setblocking(False)  # type: ignore[attr-defined]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, front, nursery)
            nursery.start_soon(self._tell)
            word, error = await self._outcome()
            nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await self._take_leave(word, error)

    # -- copying ----------------------------------------------------------------------------------------------------

    async def _outcome(self) -> tuple[FinalWord, str]:
        """How the copy ended, and why it failed if it did."""
        summary: CopySummary | None = None
        with self._scope:
            try:
                summary = await self._copy()
            except UFTPError as error:
                return "FAILED", str(error)
            except Exception as error:
                if (known := _the_error(error)) is not None:
                    return "FAILED", str(known)
                self._reporter.log("copy-crashed", level="error", traceback=traceback.format_exc())
                return "FAILED", "internal error"
        if summary is None:
            return ("ABORTED", "") if self._aborted else ("FAILED", _SHUT_DOWN)
        return ("FAILED", _failures_text(summary)) if summary.failed or summary.ended_early else ("FINISHED", "")

    async def _copy(self) -> CopySummary:
        order, local = self._order, self._local
        resume = order.resume and local.may_note
        options = CopyOptions(
            recursive=order.recursive,
            preserve=order.preserve,
            threads=order.sessions or None,
            byte_range=byte_range(TransferRange(order.offset, order.length, order.ranged)),
            verify=order.verify,
            resume=None if resume else False,
            limit_rate=self._rate(),
        )
        if order.form == "fetch":
            from uftp.client.vetted_http import trust  # loaded before, and only for a fetch

            return await run_fetch(
                order.remote.decode("ascii"),
                local.path,
                not order.trees,
                options,
                self._state,
                self._addresses,
                local_name=local.name,
                resume=resume,
                keep=lambda: self._keep,
                tls=trust(self._settings.authorities),
            )
        copy = ServerCopy(
            send=order.form == "send",
            local=local.path,
            remote=order.remote,
            exact=not order.trees,
            local_name=local.name,
            options=options,
            resume=resume,
        )
        return await run_server_copy(copy, self._peer(), self._state, keep=lambda: self._keep)

    def _peer(self) -> PeerLogin:
        order, session = self._order, self._settings.session
        host = f"[{order.host}]" if ":" in order.host else order.host
        return PeerLogin(
            addresses=self._settings.addresses,
            port=order.port,
            secret=order.secret,
            logins=order.logins,
            key=session.key,
            cipher=_cipher(session),
            compress=session.compress,
            streams=order.streams,
            encrypt=order.encrypt,
            zstd=order.compress,
            name=order.named or f"{host}:{order.port}",
        )

    def _rate(self) -> int:
        rates = (self._settings.session.rate, self._order.rate, self._user_rate)
        return min((rate for rate in rates if rate > 0), default=0)

    async def _addresses(self, url: str) -> tuple[str, ...]:
        """Which addresses may be connected to for a URL: the front knows the rules."""
        self._asked += 1
        question = self._questions[self._asked] = _Question()
        if self._front_gone or not self._reporter.send(WantAddresses(number=self._asked, url=url)):
            raise Refused("this server is being restarted, and connects nowhere meanwhile")
        await question.answered.wait()
        if question.result is None or not question.result.addresses:
            raise Refused(question.result.refused if question.result else "this server is being restarted")
        return question.result.addresses

    # -- the front --------------------------------------------------------------------------------------------------

    async def _listen(self, front: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        """Do what the front says, until it is gone; then drain."""
        while data := await _receive(front):
            match messages.decode_to_session(data):
                case EndCopy(keep=keep):
                    self._aborted = True
                    self._keep = self._keep and keep
                    self._scope.cancel()
                case Drain(seconds=seconds):
                    nursery.start_soon(self._drain, seconds)
                case Addresses() as answer:
                    if (question := self._questions.pop(answer.number, None)) is not None:
                        question.answer(answer)
                case Rate(rate=rate):
                    self._user_rate = rate
                    if self._state.limit is not None:
                        self._state.limit.change(self._rate())
                case _:
                    break
        self._front_gone = True
        while self._questions:
            self._questions.popitem()[1].answer(None)
        await self._drain(self._settings.session.drain_seconds)

    async def _drain(self, seconds: float) -> None:
        """Give the copy some time; what a later one can go on with stays."""
        await trio.sleep(seconds)
        self._scope.cancel()

    # -- telling ----------------------------------------------------------------------------------------------------

    def _note_result(self, result: FileResult) -> None:
        if result.error is None:
            return
        self._unsent.append(
            CopyFailure(
                source=_raw(result.source), target=_raw(result.target), error=self._presentable(str(result.error))
            )
        )

    async def _tell(self) -> None:
        while not self._front_gone:
            self._samples.append((time.monotonic(), self._state.moved))
            self._send_failures()
            self._reporter.send(CopyProgress(facts=self._facts(self._recent_rate())))
            await trio.sleep(_TELL_SECONDS)

    def _send_failures(self) -> bool:
        """Whether the front has all of them."""
        while self._unsent:
            some: list[CopyFailure] = []
            size = 0
            for failure in self._unsent:
                size += len(failure.source) + len(failure.target) + 4 * len(failure.error)
                if len(some) >= MAX_FAILURES or (some and size > _MESSAGE_BYTES):
                    break
                some.append(failure)
            if not self._reporter.send(CopyFailures(failures=tuple(some))):
                return False
            for _ in some:
                self._unsent.popleft()
        return True

    async def _take_leave(self, word: FinalWord, error: str) -> None:
        text = self._presentable(error)
        seconds = time.monotonic() - self._state.started
        facts = self._facts(int(self._state.moved / seconds) if seconds > 0 else 0, finished=word == "FINISHED")
        self._reporter.log(
            "copy-ended",
            level="info" if word != "FAILED" else "warning",
            state=word,
            bytes=facts.bytes,
            files=facts.files,
            failed=facts.failed,
            seconds=round(seconds, 3),
            path=self._local.name.decode("utf-8", "surrogateescape"),
            reason=_LINK.sub(r"\1/...", text) if self._order.form == "fetch" else text,
        )
        ending = CopyEnded(word=word, facts=facts, error=text)
        # A front that does not listen just now must learn of the end still; one that is gone cannot.
        while not (self._send_failures() and self._reporter.send(ending)):
            if self._reporter.front_gone:
                return
            await trio.sleep(_RETRY_SECONDS)

    def _facts(self, rate: int, *, finished: bool = False) -> CopyFacts:
        state = self._state
        self._most = max(self._most, state.moved)  # transfers that are broken off count no more
        return CopyFacts(
            bytes=state.moved if finished else self._most,
            total=state.bytes_found,
            files=state.files_done,
            rate=rate,
            failed=state.files_failed,
            found=state.files_found,
            planned=state.planned,
            seconds=round(time.monotonic() - state.started, 3),
        )

    def _recent_rate(self) -> int:
        (first_at, first), (last_at, last) = self._samples[0], self._samples[-1]
        return max(0, int((last - first) / (last_at - first_at))) if last_at > first_at else 0

    def _presentable(self, text: str) -> str:
        """One line, without the one-time password, which the other server may have said in a reply."""
        secret = self._order.secret
        if len(secret) >= _SECRET_LENGTH:
            text = text.replace(secret, "...")
        return _unicode(_CONTROL.sub(" ", text)[:MAX_TEXT])


class _Question:
    def __init__(self) -> None:
        self.answered = trio.Event()
        self.result: Addresses | None = None

    def answer(self, result: Addresses | None) -> None:
        self.result = result
        self.answered.set()


def byte_range(part: TransferRange) -> ByteRange | None:
    """The part of a file that RANG, REST and ALLO have set, which is written at the same place of the target.

    A length alone, by ALLO, is that of the whole target: what is there is replaced.
    """
    if part.is_whole_file and part.expected_length is None:
        return None
    length = part.expected_length
    last = None if length is None else part.offset + length - 1
    return ByteRange(part.offset, last, in_place=not part.is_whole_file)


def _failures_text(summary: CopySummary) -> str:
    first = summary.failures[0].problem if summary.failures else ""
    if summary.files == 0 and summary.failed == 1 and not summary.ended_early:
        return first
    return f"{summary.failed} of {summary.files + summary.failed + summary.not_tried} files failed; {first}"


def _the_error(error: BaseException) -> UFTPError | None:
    """What went wrong, out of the groups that nurseries put around it."""
    if isinstance(error, UFTPError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := _the_error(inner)) is not None), None)
    return None


def _cipher(session: SessionSettings) -> LegacyCipher | None:
    return parse_cipher(session.algorithm) if session.key and session.algorithm and session.cipher_allowed else None


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")[:MAX_PATH]


def _unicode(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


async def _receive(front: trio.socket.SocketType) -> bytes:
    with contextlib.suppress(OSError):
        return await front.recv(messages.MAX_MESSAGE)
    return b""
