"""Data connections outside MODE U with something between their bytes and those of the file (DATA-PLANE 6 to 8).

Per connection, from the file outwards: frames of several streams, gzip, a cipher; each may be missing. All of it
exists for peers without MODE U.
"""

from uftp.streams.legacy.incoming import LegacyIncoming
from uftp.streams.legacy.outgoing import LegacyOutgoing

__all__ = ["LegacyIncoming", "LegacyOutgoing"]
