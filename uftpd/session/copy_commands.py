"""SEND-FILE, RECEIVE-FILE, RCP-FETCH, and what asks about the copies they start (DATA-PLANE 12, EXTENSIONS 3).

The copy itself is another process, which the front starts and knows: so it outlives this session, and the session
never handles another server's bytes. What the copy may do follows from the session's own request, which the front has;
what is said here only narrows it.
"""

from __future__ import annotations

from uftp.protocol.features import COPY_FEATURES, FETCH_FEATURE
from uftp.protocol.ranges import WHOLE_FILE, TransferRange
from uftp.protocol.replies import Reply, multi_line, reply
from uftp.protocol.server_copies import (
    MAX_ERRORS,
    CopyError,
    CopyStatus,
    format_copy_error,
    format_copy_started,
    format_copy_status,
    format_copy_words,
    format_errors_end,
    parse_abort_arguments,
    parse_copy_arguments,
    parse_copy_words,
    parse_errors_arguments,
    parse_host_port,
    parse_status_arguments,
)
from uftpd.session.copy_messages import AbortCopy, AskCopy, AskCopyErrors, CopyAnswer, CopyForm, CopyOrder, StartCopy
from uftpd.session.replies import CommandError
from uftpd.session.state import Session


async def send_file(session: Session, argument: bytes) -> Reply:
    """SEND-FILE."""
    return await _copy_with_server(session, argument, "send")


async def receive_file(session: Session, argument: bytes) -> Reply:
    """RECEIVE-FILE."""
    return await _copy_with_server(session, argument, "receive")


async def _copy_with_server(session: Session, argument: bytes, form: CopyForm) -> Reply:
    part = session.take_range()  # good once, whatever comes of it
    _require(session, COPY_FEATURES[0])
    local, remote, server, secret = parse_copy_arguments(argument, pct=session.pct)
    host, port = parse_host_port(server)
    try:
        password = secret.decode("ascii")
    except UnicodeDecodeError:
        raise CommandError(501, "A one-time password is plain ASCII") from None
    if not password.isprintable() or len(password) > 512:
        raise CommandError(501, "A one-time password has no control characters, and at most 512 characters")
    return await _start(session, form, local, remote, part, host=host, port=port, secret=password)


async def fetch(session: Session, argument: bytes) -> Reply:
    """RCP-FETCH."""
    part = session.take_range()
    _require(session, FETCH_FEATURE)
    if part != WHOLE_FILE:
        raise CommandError(504, "A URL is fetched as a whole")
    local, url = parse_copy_arguments(argument, pct=session.pct, count=2)
    if not url.isascii() or not url.lower().startswith(b"https://"):
        raise CommandError(501, "A URL begins with https://")
    return await _start(session, "fetch", local, url, part)


async def _start(
    session: Session,
    form: CopyForm,
    local: bytes,
    remote: bytes,
    part: TransferRange,
    *,
    host: str = "",
    port: int = 0,
    secret: str = "",
) -> Reply:
    words = session.copy_words
    path = session.tree.resolve(local, session.current)
    if words.trees and local.endswith(b"/"):
        path = path.rstrip(b"/") + b"/"  # says that it is a directory, or in one
    order = CopyOrder(
        form=form,
        local=path,
        remote=remote,
        host=host,
        port=port,
        secret=secret,
        trees=words.trees,
        recursive=words.recursive,
        preserve=words.preserve,
        encrypt=words.encrypt,
        compress=words.compress,
        verify=words.verify,
        resume=words.resume,
        logins=words.logins,
        sessions=words.sessions,
        offset=part.offset,
        length=part.expected_length,
        ranged=part.ranged,
        streams=session.data.wanted,
        rate=min((rate for rate in (words.rate, session.own_rate) if rate > 0), default=0),
        named=words.named,
    )
    answer = await session.ask_front(lambda number: StartCopy(number=number, order=order))
    return reply(299, format_copy_started(answer.copy))


async def status(session: Session, argument: bytes) -> Reply:
    """RCP-STATUS."""
    copy = parse_status_arguments(argument)
    answer = await session.ask_front(lambda number: AskCopy(number=number, copy=copy))
    return reply(299, format_copy_status(_status_of(answer)))


async def abort(session: Session, argument: bytes) -> Reply:
    """RCP-ABORT; answered when the copy has ended."""
    copy, keep = parse_abort_arguments(argument)
    answer = await session.ask_front(lambda number: AbortCopy(number=number, copy=copy, keep=keep))
    return reply(299, answer.word)


async def errors(session: Session, argument: bytes) -> Reply:
    """RCP-ERRORS."""
    copy, first = parse_errors_arguments(argument)
    answer = await session.ask_front(lambda number: AskCopyErrors(number=number, copy=copy, first=first))
    lines = [
        format_copy_error(CopyError(source=failure.source, target=failure.target, error=failure.error))
        for failure in answer.failures[:MAX_ERRORS]
    ]
    return multi_line(299, str(copy), lines, format_errors_end(answer.following))


def set_copy_words(session: Session, value: bytes) -> Reply:
    """OPTS RCP."""
    _require(session, COPY_FEATURES[1])
    session.copy_words = parse_copy_words(value)
    return reply(200, b" ".join((b"RCP", format_copy_words(session.copy_words))).rstrip())


def _status_of(answer: CopyAnswer) -> CopyStatus:
    facts = answer.facts
    return CopyStatus(
        word=answer.word,
        bytes=facts.bytes,
        total=facts.total,
        files=facts.files,
        rate=facts.rate,
        failed=facts.failed,
        found=facts.found,
        planned=facts.planned,
        seconds=facts.seconds,
        error=answer.error,
    )


def _require(session: Session, feature: str) -> None:
    if feature not in session.copies:
        raise CommandError(502, "This server makes no such copies")
