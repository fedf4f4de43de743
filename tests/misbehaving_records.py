"""Servers in MODE U that cut, lie, abort, stall and change bits: what they do instead of a proper RETR or STOR."""

from __future__ import annotations

import secrets
import struct

from scripted_records import Action, RecordDialogue, reply

from uftp.protocol.records import ABORT, END
from uftp.streams import Meter

CONTENT = secrets.token_bytes(3_000_000)


class Collector:
    """Stands for the connection of a writer, to have its bytes before they are sent."""

    def __init__(self) -> None:
        self.sent = bytearray()

    def sendmsg(self, views: list[memoryview], ancillary: object, flags: int) -> int:
        for view in views:
            self.sent += view
        return sum(map(len, views))


def cutting(after: int) -> Action:
    """RETR whose data connection ends after so many bytes of the records; the next one is whole."""

    def act(dialogue: RecordDialogue, argument: str) -> None:
        dialogue.server.actions["RETR"] = RecordDialogue.retrieve
        dialogue.say(f"150 OK {len(CONTENT)} bytes")
        writer, collector = dialogue.writer, Collector()
        writer._connection = collector  # type: ignore[assignment]
        outgoing = writer.begin(dialogue.number, dialogue.binding)
        outgoing.from_bytes(CONTENT, Meter())
        outgoing.end()
        writer.flush()
        assert dialogue.data is not None
        dialogue.data.sendall(collector.sent[:after])
        dialogue.close_data()
        dialogue.say("426 broken")

    return act


def raw(*parts: bytes, final: str = "226 done", announced: int = 5) -> Action:
    """RETR that sends these bytes instead of records."""

    def act(dialogue: RecordDialogue, argument: str) -> None:
        assert dialogue.writer
        assert dialogue.data is not None
        dialogue.say(f"150 OK {announced} bytes")
        number = dialogue.number
        for part in parts:
            dialogue.data.sendall(part.replace(b"NNNN", number.to_bytes(4, "big")))
        dialogue.say(final)

    return act


def records(
    data: bytes, *, number: int = 0, end: str = "END", announced: int | None = None, final: str = "226 done"
) -> Action:
    """RETR that sends proper records of the wrong thing."""

    def act(dialogue: RecordDialogue, argument: str) -> None:
        dialogue.say(f"150 OK {len(data) if announced is None else announced} bytes")
        outgoing = dialogue.writer.begin(dialogue.number + number, dialogue.binding)
        outgoing.from_bytes(data, Meter())
        if end == "END":
            outgoing.end()
        elif end == "wrong digest":
            assert outgoing._digest is not None
            outgoing._digest.update(b"more")
            outgoing.end()
        elif end == "ABORT":
            outgoing.abort("the disk is gone")
        dialogue.writer.flush()
        if end == "":
            dialogue.close_data()
        dialogue.say(final)

    return act


def flipping(place: int) -> Action:
    """RETR with one bit changed somewhere in the records."""

    def act(dialogue: RecordDialogue, argument: str) -> None:
        dialogue.say("150 OK 1000 bytes")
        writer = dialogue.writer
        outgoing = writer.begin(dialogue.number, dialogue.binding)
        outgoing.from_bytes(CONTENT[:1000], Meter())
        outgoing.end()
        writer._out[place] ^= 1 << (place % 8)
        writer.flush()
        dialogue.say("226 done")

    return act


def hanging_up(dialogue: RecordDialogue, argument: str) -> None:
    dialogue.say("150 OK 5 bytes")
    dialogue.hang_up()


HEADER = struct.Struct(">I")
BAD_RETR: dict[str, tuple[Action, str]] = {
    "ABORT": (records(b"12345", end="ABORT", final="451 read error"), "the disk is gone.*451"),
    "ABORT, yet 226": (records(b"12345", end="ABORT"), "the disk is gone"),
    "wrong digest": (records(b"12345", end="wrong digest"), "digest"),
    "END missing": (records(b"12345", end=""), "broke"),
    "END early": (records(b"123", announced=5), "after 3 of 5"),
    "too much": (records(b"1234567", announced=5), "more than it had announced"),
    "END, but 451": (records(b"12345", final="451 no"), "451 no"),
    "END, but 550": (records(b"12345", final="550 no"), "550 no"),
    "number of another": (records(b"12345", number=1), "transfer"),
    "number of the past": (records(b"12345", number=-1), "transfer"),
    "END and ABORT": (raw(HEADER.pack(END | ABORT) + b"NNNN"), "ABORT together"),
    "empty record": (raw(HEADER.pack(0) + b"NNNN"), "empty"),
    "huge record": (raw(HEADER.pack(5 << 20) + b"NNNN" + bytes(1000)), "limit"),
    "junk": (raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "transfer"),
    "no announcement": (reply("150 OK"), "no length announced"),
    "226 without 150": (reply("226 done"), "out of turn"),
    "150 twice": (reply("150 OK 5 bytes\r\n150 OK 5 bytes"), "out of turn"),
    "no reply": (lambda dialogue, argument: None, "no reply"),
    "150, then silence": (reply("150 OK 5 bytes"), "no byte moved"),
    "hangs up": (hanging_up, "closed the (data )?connection"),
    "garbage for a reply": (reply("hello"), "no FTP reply"),
    "421": (reply("421 going down"), "421 going down"),
}


def answering(begin: str | None, end: str, *, read: bool = True) -> Action:
    """STOR with these replies."""

    def act(dialogue: RecordDialogue, argument: str) -> None:
        if begin is not None:
            dialogue.say(begin)
        if read:
            dialogue._discard()
        elif dialogue.reader:
            dialogue.close_data()
        dialogue.say(end)

    return act


BAD_STOR: dict[str, tuple[Action, str]] = {
    "552 at the end": (answering("150 OK", "552 quota"), "552 quota"),
    "451 at the end": (answering("150 OK", "451 error"), "451 error"),
    "452 at the beginning": (answering(None, "452 full"), "452 full"),
    "226 in the middle": (answering("150 OK", "226 done", read=False), "broke|out of turn"),
    "226 at once": (reply("226 done"), "out of turn"),
    "connection closed": (answering("150 OK", "426 broken", read=False), "426 broken"),
    "garbage": (answering("150 OK", "fine"), "no FTP reply"),
    "silence": (reply("150 OK"), "no byte moved|no reply"),
}
