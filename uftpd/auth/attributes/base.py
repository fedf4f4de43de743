"""The interface of attribute sources, and the merging of what they say (CONTROL-PLANE 5.6).

Attributes have a name and one or more values, the first being the default. Sources are merged attribute by attribute,
later ones overriding; what the authenticator preset comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from uftp.protocol.dn import InvalidName, canonical
from uftpd.auth.errors import BadRequest
from uftpd.auth.events import logger
from uftpd.auth.identity.base import Identity

Attributes = Mapping[str, tuple[str, ...]]

ANONYMOUS_ROLE = "anonymous"
ROLE, ACCOUNT, GROUP, SUPPLEMENTARY = "role", "xlogin", "group", "supplementaryGroups"

# A login that holds for some servers only was vouched for by those; they must not be able to make administrators.
_NOT_WITH_BOUND_LOGINS = frozenset({"admin"})


class AttributeSource(Protocol):
    """Knows attributes of people."""

    async def attributes(self, canonical_dn: str) -> Attributes:
        """The attributes of the person with this canonical name; empty if unknown."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlements:
    """What a person may be and do, and what of it is selected.

    Attributes:
        role, roles: selected, and all permitted.
        account, accounts: local account; None without mapping.
        group, groups: primary group; None for the account's own. `groups` are all permitted ones.
        supplementary: further groups the person selected; empty for the account's own.
        attributes: all of them, for the per-server overrides.
        servers: logical servers these count on; None for all.
    """

    role: str
    roles: tuple[str, ...] = ()
    account: str | None = None
    accounts: tuple[str, ...] = ()
    group: str | None = None
    groups: tuple[str, ...] = ()
    supplementary: tuple[str, ...] = ()
    attributes: Attributes
    servers: tuple[str, ...] | None = None

    def counts_on(self, server: str) -> bool:
        """Whether the login holds for a logical server at all."""
        return self.servers is None or server in self.servers

    def override(self, server: str, name: str) -> str | None:
        """The per-server setting `uftpd.SERVER.NAME`; of several values the last counts (CONTROL-PLANE 5.7)."""
        values = self.attributes.get(f"uftpd.{server}.{name}")
        return values[-1] if values else None

    def account_on(self, server: str) -> str | None:
        """The account on a logical server; None without one, and where the login does not hold."""
        if not self.counts_on(server):
            return None
        return self.override(server, "xlogin") or self.account

    def group_on(self, server: str, requested: str | None = None) -> str | None:
        """The primary group on a logical server; its override wins even over a request (CONTROL-PLANE 2.4).

        Raises:
            BadRequest: the requested group is not one of the person's.
        """
        if requested is not None and requested not in self.groups:
            raise BadRequest(f"Requested group <{requested}> is not available.")
        return self.override(server, "group") or requested or self.group


async def collect(identity: Identity, sources: Sequence[AttributeSource]) -> Attributes:
    """Merge what the authenticator preset with what each source says; a source that fails is skipped.

    Raises:
        BadRequest: the identity has no valid name.
    """
    try:
        name = canonical(identity.dn)
    except InvalidName as error:
        raise BadRequest(f"Not a valid name: {error}") from None
    merged = dict(identity.attributes)
    for source in sources:
        try:
            merged.update(await source.attributes(name))
        except Exception:
            logger.exception("attribute source failed", extra={"facts": {"source": type(source).__name__}})
    return merged


def entitlements(attributes: Attributes, servers: tuple[str, ...] | None = None) -> Entitlements:
    """The defaults among the attributes: the first value of each.

    Args:
        attributes: what `collect` found.
        servers: logical servers the login holds for; None for all.
    """
    roles = attributes.get(ROLE, ())
    if servers is not None:
        roles = tuple(role for role in roles if role not in _NOT_WITH_BOUND_LOGINS)
    accounts = attributes.get(ACCOUNT, ())
    primary = attributes.get(GROUP, ())
    groups = tuple(dict.fromkeys((*primary, *attributes.get(SUPPLEMENTARY, ()))))
    return Entitlements(
        role=roles[0] if roles else ANONYMOUS_ROLE,
        roles=roles,
        account=accounts[0] if accounts else None,
        accounts=accounts,
        group=primary[0] if primary else None,
        groups=groups,
        attributes=attributes,
        servers=servers,
    )
