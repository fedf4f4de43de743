"""How many bytes a node announces in its 150 (DATA-PLANE 5.1)."""

from __future__ import annotations

import re

from uftp.client.wording import printable
from uftp.errors import PeerBrokeProtocol
from uftp.protocol.replies import Reply

_ANNOUNCED = re.compile(r"OK ([0-9]{1,19}) bytes")


def announced_length(reply: Reply) -> int:
    """The number.

    Raises:
        PeerBrokeProtocol: there is none.
    """
    match = _ANNOUNCED.search(reply.text)
    if match is None:
        raise PeerBrokeProtocol(f"no length announced: {printable(reply.text)}")
    return int(match[1])
