"""The login dialogue on the FTP port, sans I/O (DATA-PLANE section 2).

Clients in use differ in what they ask first: lftp and curl want FEAT, CLNT or AUTH answered, old UFTP clients send
the secret with USER. What is wrong is answered, and only a few times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from uftp.protocol.features import DEFAULT_HASH
from uftp.protocol.lines import split_command
from uftp.protocol.replies import Reply, reply
from uftpd.session.control_commands import features_reply, help_reply, system_reply

_MAX_MISTAKES: Final = 5
_PASSWORD_PLEASE: Final = reply(331, "Please specify the password")
_PROTOCOL_ERROR: Final = reply(500, "Protocol error")
_NOT_LOGGED_IN: Final = reply(530, "Not logged in")


@dataclass(frozen=True, slots=True)
class Answer:
    """Send this, and close if `close`."""

    reply: Reply
    close: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """The client presented this secret."""

    secret: str


class LoginDialogue:
    """One client that has not logged in yet.

    Args:
        copies: features of copies between servers that there are.
    """

    def __init__(self, copies: tuple[str, ...] = ()) -> None:
        self._copies = copies
        self._named = False
        self._mistakes = 0
        self.wants_utc = False
        """Whether this is a general FTP client (it said who it is, by CLNT), which means UTC by its times."""

    def receive_line(self, line: bytes) -> Answer | Attempt:
        """What to do about a command line."""
        verb, argument = split_command(line.strip())
        match verb:
            case "USER":
                return self._user(argument)
            case "PASS" if self._named:
                return self._password(argument)
            case "SYST":
                return Answer(system_reply())
            case "FEAT":
                return Answer(features_reply(keep_alive=False, hash_algorithm=DEFAULT_HASH, copies=self._copies))
            case "CLNT":
                self.wants_utc = True
                return Answer(reply(200, "OK"))
            case "NOOP" | "HOST":
                return Answer(reply(200, "OK"))
            case "OPTS" if argument.upper().split()[:1] in ([b"UTF8"], [b"UTF-8"]):
                return Answer(reply(200, "UTF8 is always on"))
            case "HELP":
                return Answer(help_reply())
            case "AUTH":
                return self._mistake(reply(502, "Command not implemented."))
            case "QUIT" | "BYE":
                return Answer(reply(221, "Goodbye"), close=True)
        return self._mistake(_NOT_LOGGED_IN)

    def receive_long_line(self) -> Answer:
        """What to do about a line above the limit."""
        return Answer(reply(500, "Line too long"), close=True)

    def _user(self, argument: bytes) -> Answer | Attempt:
        if argument.strip().lower() == b"anonymous":
            self._named = True
            return Answer(_PASSWORD_PLEASE)
        if self._named:
            return self._password(argument)  # old clients send the secret so
        return Answer(_PROTOCOL_ERROR, close=True)

    def _password(self, argument: bytes) -> Answer | Attempt:
        secret = argument.strip()
        if not secret or secret == b"anonymous":
            return Answer(_PROTOCOL_ERROR, close=True)
        return Attempt(secret.decode("utf-8", "surrogateescape"))

    def _mistake(self, answer: Reply) -> Answer:
        self._mistakes += 1
        if self._mistakes >= _MAX_MISTAKES:
            return Answer(reply(421, "Too many commands before login, closing the control connection"), close=True)
        return Answer(answer)
