"""FEAT: what a server can (DATA-PLANE 4.1, EXTENSIONS sections 2, 4, 5 and 8)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HASH_ALGORITHMS = ("MD5", "SHA-1", "SHA-256", "SHA-512", "BLAKE3")
DEFAULT_HASH = "MD5"

# What this project adds, as listed in FEAT and in the ping reply of the command port.
RECORD_FEATURES = (
    "MODE U",
    "MODE U CRYPT AES-256-GCM",
    "MODE U COMPRESS ZSTD",
    "MODE U DIGEST BLAKE3",
    "MODE U SPARSE",
    "MODE U FACTS",
)
EXTENSION_FEATURES = ("UTC", "NAMES PCT", "LINKS", "HASH BLAKE3", *RECORD_FEATURES)
# Of copies between servers, where the site allows them (EXTENSIONS 3): their state; trees, words on how to copy, and
# failures by file; fetches of https URLs.
COPY_FEATURES = ("RCP-PROGRESS", "RCP-TREES")
FETCH_FEATURE = "RCP-FETCH"

_BASE = (
    "PASV",
    "EPSV",
    "RANG STREAM",
    "REST STREAM",
    "MFMT",
    "MDTM",
    "SIZE",
    "MLSD",
    "MLST size*;modify*;type*;perm*;UNIX.mode*;",
    "APPE",
    "MFF Modify;UNIX.mode;",
    "ARCHIVE",
    "UTF8",
    "UTF-8",
    "CLNT",
)


def copy_features(*, copies: bool, fetches: bool) -> tuple[str, ...]:
    """What is listed of copies between servers; fetches need copies."""
    if not copies:
        return ()
    return (*COPY_FEATURES, FETCH_FEATURE) if fetches else COPY_FEATURES


def feature_lines(
    *, keep_alive: bool, cipher: str | None, hash_algorithm: str, copies: tuple[str, ...] = ()
) -> list[bytes]:
    """The inner lines of our FEAT reply, one leading blank each.

    Args:
        keep_alive: the session has neither key nor compression.
        cipher: name of the session's legacy cipher, if it has a key and is logged in.
        hash_algorithm: the current one, marked with a star.
        copies: of `copy_features`.
    """
    algorithms = ";".join(name + "*" * (name == hash_algorithm) for name in HASH_ALGORITHMS)
    lines = [*_BASE]
    if keep_alive:
        lines.append("KEEP-ALIVE")
    if cipher:
        lines.append(f"CRYPTED-{cipher}")
    lines += [f"HASH {algorithms}", "UTC", "NAMES PCT", "LINKS", *RECORD_FEATURES, *copies, "TVFS"]
    return [b" " + line.encode() for line in lines]


@dataclass(frozen=True, slots=True)
class Features:
    """A FEAT reply, read leniently: upstream runs some names together.

    Attributes:
        lines: one a feature, upper case, without blanks around.
    """

    lines: frozenset[str]

    @classmethod
    def parse(cls, inner: Iterable[bytes]) -> Features:
        """Read the inner lines of a FEAT reply."""
        lines = set()
        for raw in inner:
            line = raw.decode("ascii", "replace").strip().upper()
            if line == "REST STREAMMFMT":
                lines |= {"REST STREAM", "MFMT"}
            elif line.endswith(";KEEP-ALIVE"):
                lines |= {line.removesuffix("KEEP-ALIVE"), "KEEP-ALIVE"}
            elif line:
                lines.add(line)
        return cls(frozenset(lines))

    def __contains__(self, name: str) -> bool:
        """Whether a feature line is `name`, or starts with this word; `HASH X` asks for one algorithm of its line."""
        upper = name.upper()
        if upper.startswith("HASH "):
            return upper[5:] in self.hash_algorithms
        return any(line == upper or line.startswith(upper + " ") for line in self.lines)

    @property
    def hash_algorithms(self) -> Sequence[str]:
        """What HASH computes, in the server's order; empty without HASH."""
        for line in self.lines:
            if line.startswith("HASH "):
                return [name.strip().rstrip("*") for name in line[5:].split(";") if name.strip()]
        return []
