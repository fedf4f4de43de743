"""OPTS MODE U and MODE: agreeing on the record mode, and leaving it (EXTENSIONS section 1)."""

from __future__ import annotations

from uftp.protocol.record_mode import format_agreed, parse_options
from uftp.protocol.replies import Reply, reply
from uftpd.session.record_mode import RecordMode
from uftpd.session.replies import OK, CommandError
from uftpd.session.state import Session


def set_options(session: Session, value: bytes) -> Reply:
    """`OPTS MODE U ...`: what the next MODE U applies; options left out are off."""
    word, _, rest = value.strip().partition(b" ")
    if word.upper() != b"U":
        raise CommandError(501, "There are options for MODE U only")
    if session.record_mode is not None:
        raise CommandError(503, "Options are set before MODE U")
    options = parse_options(rest.decode("ascii", "replace"))
    if options.crypt and not session.layers.key:
        raise CommandError(504, "This session has no key to encrypt with")
    session.record_options = options
    return reply(200, "OPTS MODE U OK")


def transfer_mode(session: Session, argument: bytes) -> Reply:
    """MODE S, RFC 959's stream mode, and MODE U. Both close the data connection."""
    word = argument.strip().upper()
    if word == b"S":
        if session.record_mode is not None:
            leave(session)
        return OK
    if word != b"U":
        raise CommandError(504, "Mode not supported")
    options = session.record_options
    if session.layers.key and not options.crypt:
        raise CommandError(504, "This session has a key: OPTS MODE U CRYPT AES-256-GCM must come first")
    leave(session)
    mode = RecordMode(options, session.layers.key, session.log)
    session.record_mode = mode
    session.data.greeter = mode.greet
    return reply(200, format_agreed(options, mode.salt))


def leave(session: Session) -> None:
    """Be in MODE S, without a data connection."""
    session.data.give_up()
    session.data.greeter = None
    if session.record_mode is not None:
        session.record_mode.detach()
        session.record_mode = None
