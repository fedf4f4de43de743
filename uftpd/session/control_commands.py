"""Commands that only touch the session's state: they run on the event loop and never block.

Each takes the session and the argument, and returns the reply. Replies are upstream's, to the letter where a client
reads them (DATA-PLANE 4 and 4.5).
"""

from __future__ import annotations

import re
from dataclasses import replace

from uftp.protocol import ranges
from uftp.protocol.features import EXTENSION_FEATURES, HASH_ALGORITHMS, feature_lines
from uftp.protocol.hashing import find_algorithm
from uftp.protocol.names import quote
from uftp.protocol.replies import Reply, multi_line, reply
from uftpd.session.copy_commands import set_copy_words
from uftpd.session.record_commands import set_options as set_record_options
from uftpd.session.replies import OK, CommandError
from uftpd.session.state import Session

_TRUE = (b"true", b"yes", b"1", b"on")
_INTEGER = re.compile(rb"-?[0-9]{1,18}")
# Options of upstream that tune its buffers: kept and listed, since clients pass them on, without effect here.
_BUFFER_OPTIONS = ("FILE_READ_BUFFER_SIZE", "FILE_WRITE_BUFFER_SIZE", "BUFFER_SIZE")


def syst(session: Session, argument: bytes) -> Reply:
    """SYST."""
    return system_reply()


def system_reply() -> Reply:
    """The same before and after login."""
    return reply(215, "Unix Type: L8")


def feat(session: Session, argument: bytes) -> Reply:
    """FEAT (RFC 2389)."""
    # Who asks is none of those that cannot take a whole block of padding (DATA-PLANE 7.1).
    session.data.layers = replace(session.data.layers, pads_always=True)
    cipher = session.layers.cipher if session.cipher_allowed else None
    return features_reply(
        keep_alive=session.layers.plain,
        cipher=cipher,
        hash_algorithm=session.hash_algorithm,
        copies=session.copies,
    )


def features_reply(
    *, keep_alive: bool, hash_algorithm: str, cipher: str | None = None, copies: tuple[str, ...] = ()
) -> Reply:
    """The same before and after login, but for KEEP-ALIVE and the cipher, which depend on the session."""
    lines = feature_lines(keep_alive=keep_alive, cipher=cipher, hash_algorithm=hash_algorithm, copies=copies)
    return multi_line(211, "Features:", lines, "END")


def client_name(session: Session, argument: bytes) -> Reply:
    """CLNT: general FTP clients say who they are, UFTP's own never do; so this one means UTC by its times."""
    session.legacy_utc = True
    return OK


def noop(session: Session, argument: bytes) -> Reply:
    """NOOP, and UFTP's `NOOP n`: how many data connections the next transfer shall have (DATA-PLANE 6.3)."""
    if not _INTEGER.fullmatch(argument.strip()):
        return OK
    wanted = int(argument)
    if wanted < 1:
        raise CommandError(501, "At least one data connection is needed")
    if session.record_mode is not None:
        if wanted > 1:
            raise CommandError(504, "In MODE U one data connection serves all transfers")
        return reply(222, "Opening 1 data connections")
    granted = min(wanted, session.limits.streams)
    session.data.want(granted)
    return reply(222 if granted == wanted else 223, f"Opening {granted} data connections")


def quit_session(session: Session, argument: bytes) -> Reply:
    """QUIT and BYE."""
    session.quitting = True
    return reply(221, "Goodbye")


def print_directory(session: Session, argument: bytes) -> Reply:
    """PWD."""
    return reply(257, quote(session.say(session.current)))


def transfer_type(session: Session, argument: bytes) -> Reply:
    """TYPE: A changes no bytes either; ARCHIVE and NORMAL switch UFTP's archive mode, which A and I leave as it is."""
    words = argument.upper().split()
    if words in ([b"ARCHIVE"], [b"NORMAL"]):
        session.archive = words == [b"ARCHIVE"]
        return OK
    if words[:1] in ([b"A"], [b"I"]) or words == [b"L", b"8"]:
        return OK
    raise CommandError(504, "Type not supported")


def file_structure(session: Session, argument: bytes) -> Reply:
    """STRU: file only."""
    if argument.strip().upper() == b"F":
        return OK
    raise CommandError(504, "Structure not supported")


def restart(session: Session, argument: bytes) -> Reply:
    """REST (RFC 3659 section 5)."""
    session.range, text = ranges.rest(argument)
    return reply(350, text)


def set_range(session: Session, argument: bytes) -> Reply:
    """RANG, with UFTP's exclusive end."""
    session.range, text = ranges.rang(argument)
    return reply(350, text)


def allocate(session: Session, argument: bytes) -> Reply:
    """ALLO: how many bytes the next store brings."""
    session.range, text = ranges.allo(session.range, argument)
    return reply(200, text)


def keep_alive(session: Session, argument: bytes) -> Reply:
    """KEEP-ALIVE: data connections outlive transfers of known length (DATA-PLANE 6.5)."""
    _set_keep_alive(session, argument.strip().lower() in _TRUE)
    return OK


def _set_keep_alive(session: Session, flag: bool) -> None:
    # Where the end of a transfer is the end of its connection, a 200 would make the Java client go on with a dead one.
    if flag and not session.layers.plain:
        raise CommandError(504, "Compressed or encrypted data connections carry one transfer each")
    if flag and session.data.wanted > 1:
        raise CommandError(504, "Several data connections carry one transfer only")
    session.keep_alive = flag


def no_active_mode(session: Session, argument: bytes) -> Reply:
    """PORT and EPRT: the server connects to nobody."""
    raise CommandError(502, "Only passive data connections (EPSV, PASV) are supported")


def options(session: Session, argument: bytes) -> Reply:
    """OPTS (RFC 2389; DATA-PLANE section 10)."""
    name, _, value = argument.strip().partition(b" ")
    value = value.strip()
    key = name.decode("ascii", "replace").upper()
    if not name or (not value and key not in ("HASH", "UTC", "NAMES", "MLST", "RCP", "UTF8", "UTF-8")):
        return _options_listing(session)
    if key == "HASH" and not value:
        return reply(200, session.hash_algorithm)  # the Java client needs 200 here, and an algorithm
    return _set_option(session, key, value)


def _set_option(session: Session, key: str, value: bytes) -> Reply:
    flag = value.lower() in _TRUE
    match key:
        case "UTF8" | "UTF-8":
            return reply(200, "UTF8 is always on")
        case "MLST" if value.upper().split()[:1] == [b"LINKS"]:
            return _set_links(session, value.upper().split()[1:])
        case "MLST":
            # Facts cannot be deselected: every known client copes with all of them.
            return reply(200, "MLST OPTS size;modify;type;perm;UNIX.mode;")
        case "UTC":
            session.utc = flag
            return reply(200, f"UTC {'ON' if flag else 'OFF'}")
        case "NAMES":
            return _set_names(session, value)
        case "LINKS":
            return _set_store_through_links(session, value.upper())
        case "MODE":
            return set_record_options(session, value)
        case "RCP":
            return set_copy_words(session, value)
        case "HASH":
            _set_hash(session, value)
        case "KEEP_ALIVE":
            _set_keep_alive(session, flag)
        case "ARCHIVE":
            session.archive = flag
        case "RATE_LIMIT":
            _set_rate(session, _number(value))
        case "SENDFILE_ENABLED":
            session.options[key] = "True" if flag else "False"
        case _ if key in _BUFFER_OPTIONS:
            if (size := _number(value)) == 0:
                raise CommandError(501, f"{key} must be at least 1")
            session.options[key] = str(size)
        case _:
            raise CommandError(500, f"No such option: '{key}'")
    return reply(200, key.encode() + b"=" + value)


def _set_names(session: Session, value: bytes) -> Reply:
    if value.upper() not in (b"PCT", b"RAW"):
        raise CommandError(501, "Names are PCT or RAW")
    session.pct = value.upper() == b"PCT"
    session.links = session.links and session.pct
    return reply(200, f"NAMES {'PCT' if session.pct else 'RAW'}")


def _set_links(session: Session, words: list[bytes]) -> Reply:
    if words not in ([b"ON"], [b"OFF"]):
        raise CommandError(501, "MLST LINKS is ON or OFF")
    if words == [b"ON"] and not session.pct:
        raise CommandError(503, "OPTS NAMES PCT must come first")  # the target of a link can be any text
    session.links = words == [b"ON"]
    return reply(200, f"MLST LINKS {'ON' if session.links else 'OFF'}")


def _set_store_through_links(session: Session, value: bytes) -> Reply:
    if value not in (b"REPLACE", b"FOLLOW"):
        raise CommandError(501, "Links are REPLACE or FOLLOW")
    session.replaces_links = value == b"REPLACE"
    return reply(200, f"LINKS {value.decode()}")


def _set_hash(session: Session, value: bytes) -> None:
    name = value.decode("ascii", "replace")
    if (algorithm := find_algorithm(name)) is None:
        raise CommandError(500, f"Unsupported hash algorithm '{name.upper()}'; there are {', '.join(HASH_ALGORITHMS)}")
    session.hash_algorithm = algorithm


def _set_rate(session: Session, rate: int) -> None:
    # A client may slow itself down, never lift or loosen what the request set.
    limits = [limit for limit in (rate, session.request_rate) if limit > 0]
    session.own_rate = min(limits, default=0)
    session.apply_rate()


def _number(value: bytes) -> int:
    if not _INTEGER.fullmatch(value) or int(value) < 0:
        raise CommandError(501, "A number is needed")
    return int(value)


def _options_listing(session: Session) -> Reply:
    values = {"RATE_LIMIT": str(session.own_rate)}
    values |= {name: session.options.get(name, "1048576") for name in _BUFFER_OPTIONS}
    values |= {"SENDFILE_ENABLED": session.options.get("SENDFILE_ENABLED", "True"), "HASH": session.hash_algorithm}
    return multi_line(211, "OPTS", [f" {key} {value}".encode() for key, value in values.items()], "END")


def help_text(session: Session, argument: bytes) -> Reply:
    """HELP."""
    return help_reply()


def help_reply() -> Reply:
    """The same before and after login."""
    lines = [
        b" UFTP server: RFC 959, 2389, 2428 and 3659, with UFTP's RANG, KEEP-ALIVE, HASH and NOOP n.",
        b" Extensions: " + "; ".join(EXTENSION_FEATURES).encode(),
    ]
    return multi_line(214, "Help", lines, "FEAT lists what this server can")


def abort_idle(session: Session, argument: bytes) -> Reply:
    """ABOR when its turn comes: what ran has been stopped when it was read; close the data connection.

    In MODE U it stays: its sequences of records have been read or ended, and it serves the next transfer.
    """
    if session.record_mode is None or session.data.connection is None:
        session.data.give_up()
    return reply(226, "Abort successful")


def rename_from(session: Session, argument: bytes) -> Reply:
    """RNFR; whether the file exists shows at RNTO, as upstream has it."""
    session.rename_from = session.path(argument)
    return reply(350, "File action OK Please send rename-to")
