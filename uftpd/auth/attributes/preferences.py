"""The header X-UNICORE-User-Preferences: a choice among the user's own attributes (CONTROL-PLANE 5.8)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from uftpd.auth.attributes.base import ACCOUNT, GROUP, ROLE, SUPPLEMENTARY, Entitlements
from uftpd.auth.errors import Refused

HEADER = "x-unicore-user-preferences"

_KEYS = {"uid": ACCOUNT, "xlogin": ACCOUNT, "role": ROLE, "group": GROUP, "pgid": GROUP}
_KEYS |= {"supgids": SUPPLEMENTARY, "supplementarygroups": SUPPLEMENTARY}


def apply_preferences(headers: Iterable[str], granted: Entitlements) -> Entitlements:
    """Select what the headers ask for.

    Raises:
        Refused: wrong syntax, or a value that is not among the user's own.
    """
    for kind, value in _pairs(headers):
        if kind == ROLE:
            granted = replace(granted, role=_choose("role", value, granted.roles))
        elif kind == ACCOUNT:
            granted = replace(granted, account=_choose("account", value, granted.accounts))
        elif kind == GROUP:
            granted = replace(granted, group=_choose("group", value, granted.groups))
        else:
            chosen = tuple(_choose("group", item, granted.groups) for item in value.split("+"))
            granted = replace(granted, supplementary=chosen)
    return granted


def _pairs(headers: Iterable[str]) -> Iterable[tuple[str, str]]:
    for header in headers:
        for item in header.split(","):
            key, colon, value = (part.strip() for part in item.partition(":"))
            if not colon or not key or not value:
                raise Refused("X-UNICORE-User-Preferences: expected key:value, separated by commas")
            if kind := _KEYS.get(key.lower()):
                yield kind, value


def _choose(what: str, value: str, permitted: tuple[str, ...]) -> str:
    if value not in permitted:
        raise Refused(f"X-UNICORE-User-Preferences: {what} <{value}> is not available")
    return value
