"""Direct delivery: a large download is sent on to the data node's own object server (EXTENSIONS section 7).

The node gets a secret for the shared file, or for what is beneath the shared directory, and the client an address with
it: so all files of a directory are served by one process there, and links within it lead where they do here. Shares
that count their uses are never sent on, since only this server could see how a download ends; nor are small files, for
which the way there takes longer than the file.

The address is for no certain client: browsers reach the node from another address than this server, by IPv4 or IPv6.
It is worth what the link of the share is worth, for a minute.
"""

from __future__ import annotations

import urllib.parse
from collections import OrderedDict
from dataclasses import replace
from typing import Final

import trio
from starlette.responses import Response

from uftp.protocol.command_port import RequestRefused
from uftpd.auth.errors import RequestError
from uftpd.auth.events import event
from uftpd.auth.nodes.client import NodeUnreachable
from uftpd.auth.shares.entrance import Visit
from uftpd.auth.shares.model import Share
from uftpd.auth.shares.reach import transfer_request
from uftpd.config.shares import Shares

EXPIRES_SECONDS: Final = 60.0  # until its first use


_REUSED_SECONDS: Final = 20.0  # the connections of one download share an address, and so a process on the node
_MOST: Final = 1000


class Direct:
    """See the module.

    Args:
        settings: of `[shares]`.
    """

    def __init__(self, settings: Shares) -> None:
        self._settings = settings
        self._given: OrderedDict[tuple[Share, int, str], tuple[float, str]] = OrderedDict()

    async def redirect(self, visit: Visit, version: str, request_id: str) -> Response | None:
        """The reply that sends a client on; None if this server has to deliver the file itself.

        Args:
            visit: to a file.
            version: of the file; another one gets another address.
            request_id: for the logs.
        """
        share = visit.share
        if share.uses or not self._settings.redirects(share.server):
            return None
        part = "" if _as_directory(share) else _path(visit) + version
        key = replace(share, access_count=0, last_access=0), visit.rate, part
        given, place = self._given.get(key, (0.0, ""))
        if not place or trio.current_time() > given + _REUSED_SECONDS:
            place = await _announce(visit, request_id)
            if not place:
                return None
            self._given[key] = trio.current_time(), place
            self._given.move_to_end(key)
            while len(self._given) > _MOST:
                self._given.popitem(last=False)
        return Response(None, 307, {"Location": f"{place}/{_path(visit)}", "Cache-Control": "no-store"})


def _as_directory(share: Share) -> bool:
    """Whether one secret opens all of a shared directory; patterns count from another place then, and `/` has none."""
    return share.directory and share.path != "/" and not (share.includes or share.excludes)


def _path(visit: Visit) -> str:
    """What stands behind the secret: the way below a shared directory, or a name that only programs look at."""
    return "/".join(urllib.parse.quote_from_bytes(part, safe="") for part in visit.parts or (visit.name,))


async def _announce(visit: Visit, request_id: str) -> str:
    """Where a data node has it, without what stands behind the secret; empty if there is none to be had."""
    share = visit.share
    for instance in visit.server.candidates(None):
        ping = await instance.ping(max_age=0.0)
        if ping is None or not ping.objects:
            continue
        try:
            wanted = transfer_request(
                share,
                write=False,
                client_ip=(),
                http=True,
                persistent=True,
                expires=EXPIRES_SECONDS,
                rate_limit=visit.rate,
                request_id=request_id,
            )
            if _as_directory(share):
                above, _, name = share.path.rstrip("/").rpartition("/")
                wanted = replace(wanted, file=f"{above}/", scope=name.encode())
            elif share.directory:
                # Based in the directory, so that the kernel keeps the whole way to the file beneath it.
                wanted = replace(wanted, scope=visit.path)
            announced = await instance.transfer(wanted)
        except NodeUnreachable:
            continue
        except (RequestRefused, RequestError) as error:
            event("direct delivery refused", server=share.server, instance=instance.number, reason=str(error))
            return ""
        return f"{ping.objects.rstrip('/')}/o/{announced.secret}"
    return ""
