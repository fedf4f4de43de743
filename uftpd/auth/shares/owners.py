"""Whether the owner of a share still is who may share it, as far as the map file says so without a login.

A share is used with the account its owner had when it was made. Who is banned since, or has another account, does not
go on to give away what is in the old one. Of people the map file does not know nothing can be said here: what a login
itself brings along is known only when they log in.
"""

from __future__ import annotations

from collections.abc import Sequence

from uftpd.auth.attributes.base import ACCOUNT, Attributes, AttributeSource, entitlements
from uftpd.auth.edge import RequestContext
from uftpd.auth.errors import NotFound
from uftpd.auth.shares.model import NO_SUCH_SHARE, Share


async def check_owner(share: Share, sources: Sequence[AttributeSource], context: RequestContext) -> None:
    """See that a share is still in force.

    Args:
        share: that somebody wants to use.
        sources: of attributes, later ones overriding.
        context: of the request; its log line says why.

    Raises:
        NotFound: it is not, which strangers are told as of one that is gone.
    """
    known = await attributes_of(share.owner, sources)
    if known and not _may_still(share, known):
        context.facts["reason"] = "the owner of the share is banned or has another account"
        raise NotFound(NO_SUCH_SHARE)


async def attributes_of(name: str, sources: Sequence[AttributeSource]) -> Attributes:
    """What is known of the person with this canonical name, without a login."""
    known: dict[str, tuple[str, ...]] = {}
    for source in sources:
        known.update(await source.attributes(name))
    return known


def _may_still(share: Share, known: Attributes) -> bool:
    granted = entitlements(known)
    if granted.role == "banned":
        return False
    only = granted.override(share.server, ACCOUNT)
    accounts = granted.accounts if only is None else (only,)
    return not accounts or share.uid in accounts
