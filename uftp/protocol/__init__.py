"""The protocol, sans I/O: bytes to values and values to bytes. No sockets, files, clocks, tasks or logging here.

Each module is one part of it: `lines`, `replies`, `ranges`, `names`, `facts`, `features`, `passive`, `hashing` for
the control connection, `command_port` for what an auth server says to a data node, `dn` for X.500 names.
"""

from uftp.protocol._errors import LineTooLong, ProtocolError

__all__ = ["LineTooLong", "ProtocolError"]
