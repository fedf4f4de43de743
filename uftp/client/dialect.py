"""What kind of server this is, and so what may be said to it.

Three kinds: our own (FEAT lists `UTC` and `NAMES PCT`), upstream UFTP servers (greeting `UFTPD x.y.z` without these),
and any other FTP server. What not to use with upstream servers follows DATA-PLANE 13.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from uftp.protocol.features import Features

Kind = Literal["ours", "upstream", "other"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to talk to a server.

    Attributes:
        kind: see the module.
        version: of a UFTP server.
        features: its FEAT reply.
    """

    kind: Kind
    version: str | None
    features: Features

    @classmethod
    def of(cls, version: str | None, features: Features) -> Dialect:
        """The dialect of a server that greets with `version` and lists `features`."""
        if "UTC" in features and "NAMES PCT" in features:
            return cls("ours", version, features)
        return cls("upstream" if version is not None else "other", version, features)

    @property
    def is_uftp(self) -> bool:
        """Whether RANG, ALLO and the announcement in 150 mean what UFTP says."""
        return self.kind != "other"

    @property
    def stores_atomically(self) -> bool:
        """Whether a whole-file STOR shows under its name only when it is complete."""
        return self.kind == "ours"

    @property
    def has_links(self) -> bool:
        """Whether symbolic links can be listed as such, and made (EXTENSIONS section 6)."""
        return self.kind == "ours" and "LINKS" in self.features

    @property
    def has_ranges(self) -> bool:
        """RANG: a transfer of any part of a file, in both directions."""
        return "RANG STREAM" in self.features

    @property
    def range_end_is_inclusive(self) -> bool:
        """Some Java servers are set to the meaning of the draft standard (DATA-PLANE 5.2)."""
        return self.kind == "upstream" and "RFC_RANG" in self.features

    @property
    def has_restart(self) -> bool:
        """REST for both directions. Upstream loses the head of the file on REST and STOR."""
        return self.kind != "upstream" and "REST STREAM" in self.features

    @property
    def has_size(self) -> bool:
        """Upstream's SIZE always fails."""
        return self.kind != "upstream"

    @property
    def listing(self) -> Literal["MLSD", "STAT", "LIST"]:
        """How to list. Upstream sends listings in sessions with layers as nothing; STAT always works."""
        if self.kind == "upstream":
            return "STAT"
        return "MLSD" if "MLSD" in self.features or "MLST" in self.features else "LIST"

    @property
    def utc(self) -> bool:
        """Whether times in MLST and MFMT are UTC: upstream has the server's local time."""
        return self.kind != "upstream"

    @property
    def fractions(self) -> bool:
        """Whether times may have fractions of a second."""
        return self.kind == "ours"
