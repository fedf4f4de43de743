"""What an account name may look like before anything is done with it."""

from __future__ import annotations

import re

# Names come from tokens nobody has verified yet, and go into line-based requests to data nodes (CONTROL-PLANE W1).
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}", re.ASCII)
_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}", re.ASCII)


def is_account_name(text: str) -> bool:
    """Whether `text` can be an account: letters, digits, `_ . @ -`, at most 64 of them."""
    return _NAME.fullmatch(text) is not None


def is_group_name(text: str) -> bool:
    """Whether `text` can be a group: as an account, `+` too."""
    return _GROUP.fullmatch(text) is not None
