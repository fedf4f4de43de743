"""From a command line to its row in the table: what is refused before a handler runs, and what its failure answers."""

from __future__ import annotations

import traceback

from uftp.protocol.replies import Reply, reply
from uftpd.session.line_queue import Line
from uftpd.session.replies import error_reply
from uftpd.session.state import Session
from uftpd.session.table import COMMANDS, Command


def refusal(session: Session, line: Line, command: Command | None) -> Reply | None:
    """The reply to a line whose handler must not run."""
    if line.too_long:
        return reply(500, f"Command line is longer than {session.limits.line_bytes} bytes")
    if command is None:
        return reply(502, "Command not implemented.")
    if command.right > session.access:
        return reply(534, f"Error processing command '{line.verb}': Access denied")
    if command.argument and not line.argument.strip():
        return reply(501, f"Error processing command '{line.verb}': Argument missing")
    return None


def command_of(line: Line) -> Command | None:
    """Its row; None for an unknown verb."""
    return None if line.too_long else COMMANDS.get(line.verb)


def failure(session: Session, verb: str, error: Exception) -> Reply:
    """The reply for a handler that raised `error`; what nobody foresaw is logged."""
    answer = error_reply(verb, error, record_mode=session.record_mode is not None)
    if answer is None:
        text = "".join(traceback.format_exception(error))
        session.log("internal-error", level="error", verb=verb, traceback=text)
        answer = reply(500, f"Error processing command '{verb}': internal error")
    return answer
