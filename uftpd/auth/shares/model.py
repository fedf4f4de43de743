"""What a share is (CONTROL-PLANE 4.1)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from uftp.protocol.dn import canonical
from uftpd.auth.identity.base import ANONYMOUS_DN

ANONYMOUS: Final = canonical(ANONYMOUS_DN)
"""The grantee of a share that anybody may use who knows its id."""

ID_BYTES: Final = 18  # 144 bits, 24 characters: the id is all that protects a share for anybody
MAX_ID_CHARACTERS: Final = 64
NO_SUCH_SHARE: Final = "No such share, please check your URL"  # without the id, a secret: errors are logged


class ShareAccess(IntEnum):
    """What a grantee may do; each includes those below it. `MODIFY` has no effect beyond `WRITE`."""

    READ = 1
    WRITE = 2
    MODIFY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One path for one grantee.

    Attributes:
        id: random, URL-safe.
        server: the logical server the path is on; it means nothing on another one.
        path: absolute, normalised, ends with `/` if and only if it is a directory. Bytes that are not UTF-8 cannot be
            in it, since requests to a data node are text.
        owner: canonical name of the person who made it.
        uid, gid: account and group of the owner at that time; the group may be empty for the account's own.
        target: canonical name of the grantee, `ANONYMOUS` for anybody.
        access: what the grantee may do.
        one_time: it is gone once it was used.
        expires: Unix seconds; 0 for never.
        created: Unix seconds.
        access_count: how often it was used: a file fetched or stored, a session granted.
        last_access: Unix seconds; 0 for never.
        password_hash: as `uftpd.auth.identity.password_file` verifies it; empty for none.
        max_downloads: it is over after so many; 0 for any number.
        downloads: how many there were, each of a whole object.
        includes, excludes: what the owner's sessions on that server were restricted to at that time (CONTROL-PLANE
            5.7), as `:`-separated patterns; empty for nothing. A share gives nobody more than its owner has.
    """

    id: str
    server: str
    path: str
    owner: str
    uid: str
    gid: str = ""
    target: str = ANONYMOUS
    access: ShareAccess = ShareAccess.READ
    one_time: bool = False
    expires: int = 0
    created: int = 0
    access_count: int = 0
    last_access: int = 0
    password_hash: str = field(default="", repr=False)
    max_downloads: int = 0
    downloads: int = 0
    includes: str = ""
    excludes: str = ""

    @property
    def directory(self) -> bool:
        """Whether it is a directory; what is there now must still be one, or a file if not."""
        return self.path.endswith("/")

    @property
    def path_bytes(self) -> bytes:
        """The path as data nodes have it."""
        return self.path.encode()

    @property
    def name(self) -> str:
        """The last component of the path; empty for the root directory."""
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> str:
        """The directory that the object stands in, with a `/` at its end."""
        return self.path.rstrip("/").rpartition("/")[0] + "/"

    @property
    def uses(self) -> int:
        """How many downloads there may be altogether; 0 for any number."""
        return 1 if self.one_time else self.max_downloads

    @property
    def is_anonymous(self) -> bool:
        """Whether anybody may use it who knows its id."""
        return self.target == ANONYMOUS

    def admits(self, person: str) -> bool:
        """Whether the person with this canonical name is a grantee. The owner is not, as such (CONTROL-PLANE 4.3)."""
        return self.target in (person, ANONYMOUS)

    def is_over(self, now: float) -> bool:
        """Whether it has expired or been used up, at `now` in Unix seconds."""
        return 0 < self.expires <= now or 0 < self.uses <= self.downloads


def new_share_id() -> str:
    """An id that nobody can guess, and that stands in a URL as it is.

    It never begins with a dash or underscore, so that it can be an argument of a command.
    """
    while True:
        found = secrets.token_urlsafe(ID_BYTES)
        if found[0].isalnum():
            return found


def is_share_id(text: str) -> bool:
    """Whether `text` could be the id of a share; ids of imported shares may be shorter."""
    return 0 < len(text) <= MAX_ID_CHARACTERS and text.isascii() and text.replace("-", "a").replace("_", "a").isalnum()
