"""What the decoders of this package raise, whatever bytes they are fed.

ProtocolError            the bytes do not follow the protocol
  LineTooLong            a line above its limit; the connection can go on after a 500
"""

from __future__ import annotations


class ProtocolError(Exception):
    """The peer sent something the protocol does not allow. The message is fit for a log and for the peer."""


class LineTooLong(ProtocolError):
    """A line was longer than the limit; what came of it has been dropped."""
