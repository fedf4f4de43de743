"""Shares as the REST interface shows them (CONTROL-PLANE 1.6). Fields beyond those named there are ours."""

from __future__ import annotations

import time
from typing import Any

from uftp.protocol.dn import canonical
from uftpd.auth.endpoints import Caller
from uftpd.auth.shares.model import Share

JsonObject = dict[str, Any]


def link(share: Share, base: str) -> str:
    """The URL that HTTP tools and browsers use."""
    return f"{base}/rest/access/{share.server}/{share.id}"


def uftp_link(share: Share, base: str) -> str:
    """The place that UFTP clients name; they split it at the first `:` of its path, and take the rest as it stands."""
    return f"{base}/rest/access/{share.server}:{share.path}"


def own(share: Share, base: str, now: float) -> JsonObject:
    """For its owner."""
    return {
        "id": share.id,
        "user": share.target,
        "directory": share.directory,
        **_for_all(share, base, now),
        "server": share.server,
        "created": share.created,
        "lastAccess": share.last_access,
        "password": bool(share.password_hash),
        "downloads": share.downloads,
        **({"maxDownloads": share.max_downloads} if share.max_downloads else {}),
    }


def accessible(share: Share, base: str, now: float) -> JsonObject:
    """For the person it is for."""
    return {"owner": share.owner, **_for_all(share, base, now), "directory": share.directory}


def _for_all(share: Share, base: str, now: float) -> JsonObject:
    entry: JsonObject = {
        "path": share.path,
        "access": share.access.name,
        "onetime": share.one_time,
        "accessCount": share.access_count,
        "http": link(share, base),
        "uftp": uftp_link(share, base),
    }
    if share.expires:
        entry["lifetime"] = max(0, int(share.expires - now))
    return entry


def user_info(caller: Caller, server: str | None = None) -> JsonObject:
    """Who asked; the account is that on a server, if one is named."""
    granted = caller.granted
    account = granted.account_on(server) if server is not None else granted.account
    group = granted.group_on(server) if server is not None else granted.group
    entry: JsonObject = {"dn": canonical(caller.identity.dn)}
    if account is not None:
        entry = {"uid": account, **({"gid": group} if group else {}), "groups": list(granted.groups)} | entry
    return entry


def lists(shares: list[Share], for_me: list[Share], base: str) -> JsonObject:
    """What somebody shares, and what is shared with them."""
    now = time.time()
    return {
        "shares": [own(share, base, now) for share in shares],
        "accessible": [accessible(share, base, now) for share in for_me],
    }
