"""What one shares with others: the owner's side of /rest/share (CONTROL-PLANE 1.6, 4)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from uftp.client.auth import AuthServer
from uftp.client.url import RemoteUrl
from uftp.client.wording import printable
from uftp.errors import PeerBrokeProtocol, Refused

ANYBODY: Final = "CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN"

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A share that is wanted.

    Attributes:
        path: absolute, on the server.
        user: name (DN) of the grantee; `ANYBODY` for everybody who has the link.
        write: the grantee may write.
        one_time: it is gone once it was used.
        lifetime: seconds; None for no end.
        group: primary group to work with.
        password: needed with the link; None leaves that of an existing share as it is, empty for none.
        downloads: how many there may be; None for any number.
    """

    path: str
    user: str = ANYBODY
    write: bool = False
    one_time: bool = False
    lifetime: int | None = None
    group: str | None = None
    password: str | None = field(default=None, repr=False)
    downloads: int | None = None

    def to_json(self) -> dict[str, object]:
        """The body of the request. Fields of ours are left out where they are not used: an older server has others."""
        body: dict[str, object] = {"path": self.path, "user": self.user, "access": "WRITE" if self.write else "READ"}
        more = {
            "onetime": self.one_time or None,
            "lifetime": self.lifetime,
            "group": self.group,
            "password": self.password,
            "maxDownloads": self.downloads,
        }
        return body | {name: value for name, value in more.items() if value is not None}


class Sharing:
    """The shares of one person on one logical server.

    Args:
        auth: logs in.
        place: on the server; its path does not matter.
    """

    def __init__(self, auth: AuthServer, place: RemoteUrl) -> None:
        self._auth = auth
        head, _, _ = place.service.rpartition("/rest/")
        self.url = f"{head}/rest/share/{place.server}"

    async def list(self) -> dict[str, Any]:
        """`shares`: one's own; `accessible`: those of others for oneself.

        Raises:
            UFTPError: as described at the top of `uftp.errors`; so for all that follow.
        """
        return self._object((await self._auth.call("GET", self.url)).document, self.url)

    async def show(self, share_id: str) -> dict[str, Any]:
        """One share."""
        url = self._one(share_id)
        document = self._object((await self._auth.call("GET", url)).document, url)
        return self._object(document.get("share"), url)

    async def make(self, wish: Wish) -> dict[str, Any]:
        """Share a path, or grant it to the same person anew; returns the share as the server shows it.

        Raises:
            Refused: the server did not take over a password or a number of downloads: it does not know of them. The
                share was removed again.
        """
        reply = await self._auth.call("POST", self.url, wish.to_json(), accepted=(200, 201))
        share_id = reply.location.rstrip("/").rpartition("/")[2]
        if not _ID.fullmatch(share_id):
            raise PeerBrokeProtocol(f"{self.url}: the reply does not say where the share is")
        share = await self.show(share_id)
        lost = [
            word
            for word, wanted, found in (
                ("passwords", bool(wish.password), bool(share.get("password"))),
                ("numbers of downloads", bool(wish.downloads), bool(share.get("maxDownloads"))),
            )
            if wanted and not found
        ]
        if lost:
            await self.remove(share_id)
            raise Refused(f"{self.url}: this server knows no {' and no '.join(lost)} of shares; nothing is shared")
        return share

    async def end_all(self, path: str) -> None:
        """Remove all shares of a path; that there is none is no error."""
        await self._auth.call("POST", self.url, {"path": path, "user": ANYBODY, "access": "NONE"})

    async def update(self, share_id: str, changes: Mapping[str, object]) -> dict[str, Any]:
        """Change a share; returns the share as it is now.

        Args:
            share_id: which.
            changes: field to value: `path`, `lifetime`, `password`, `maxDownloads`.

        Raises:
            Refused: the server does not know one of the fields.
        """
        url = self._one(share_id)
        # Old servers read texts only.
        body = {name: str(value) for name, value in changes.items()}
        answers = self._object((await self._auth.call("PUT", url, body)).document, url)
        unknown = [name for name in changes if answers.get(name) != "OK"]
        if unknown:
            raise Refused(f"{url}: this server cannot change {', '.join(map(printable, unknown))}")
        return await self.show(share_id)

    async def remove(self, share_id: str, *, stop: bool = False) -> None:
        """Withdraw a share; that there is none is no error.

        Args:
            share_id: which.
            stop: end what is being fetched by it, too.
        """
        await self._auth.call("DELETE", self._one(share_id), query={"stop": "true"} if stop else None)

    def _one(self, share_id: str) -> str:
        if not _ID.fullmatch(share_id):
            raise Refused(f"{printable(share_id)}: this is no id of a share; `uftp share --list` shows them")
        return f"{self.url}/{share_id}"

    @staticmethod
    def _object(document: object, url: str) -> dict[str, Any]:
        if not isinstance(document, dict):
            raise PeerBrokeProtocol(f"{url}: the reply is not a JSON object; is sharing on there?")
        return document
