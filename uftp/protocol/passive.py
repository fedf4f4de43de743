"""PASV and EPSV replies (RFC 959, RFC 2428; DATA-PLANE 4.5 says who parses them how)."""

from __future__ import annotations

import re

from uftp.protocol._errors import ProtocolError
from uftp.protocol.replies import Reply, reply

_EPSV = re.compile(r"\((.)\1\1([0-9]{1,5})\1\)")
_PASV = re.compile(r"([0-9]{1,3}),([0-9]{1,3}),([0-9]{1,3}),([0-9]{1,3}),([0-9]{1,3}),([0-9]{1,3})")


def extended_passive(port: int) -> Reply:
    """The 229 reply. No digit but the port's stands in it: the Java client takes the first it finds."""
    return reply(229, f"Entering Extended Passive Mode (|||{port}|)")


def passive(host: str, port: int) -> Reply:
    """The 227 reply for an IPv4 address; exactly four words before the parenthesis, `)` last."""
    numbers = ",".join([*host.split("."), str(port >> 8), str(port & 255)])
    return reply(227, f"Entering Passive Mode ({numbers})")


def parse_extended_passive(received: Reply) -> int:
    """The port of a 229 reply.

    Raises:
        ProtocolError: no such reply.
    """
    match = _EPSV.search(received.text) if received.code == 229 else None
    if not match or not 0 < int(match[2]) < 65536:
        raise ProtocolError(f"no EPSV reply: {received.code} {received.text}")
    return int(match[2])


def parse_passive(received: Reply) -> tuple[str, int]:
    """Address and port of a 227 reply. Clients should connect to the control peer, not to this address.

    Raises:
        ProtocolError: no such reply.
    """
    match = _PASV.search(received.text) if received.code == 227 else None
    numbers = [int(number) for number in match.groups()] if match else []
    if not numbers or max(numbers) > 255 or not (port := numbers[4] * 256 + numbers[5]):
        raise ProtocolError(f"no PASV reply: {received.code} {received.text}")
    return ".".join(map(str, numbers[:4])), port
