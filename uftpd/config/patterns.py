"""Regular expressions of a configuration, matched against what strangers send.

They are RE2's: matching takes linear time whatever the pattern and the text, where Python's own can be held up for
hours by a short text. The price is that there is no look-around and no back-reference.
"""

from __future__ import annotations

from typing import Protocol, cast

import re2  # type: ignore[import-untyped]

MAX_PATTERN_CHARACTERS = 4096
_MAX_MEMORY_BYTES = 1 << 20  # of one compiled pattern with its caches


class Match(Protocol):
    """What a pattern took in."""

    def groups(self) -> tuple[str | None, ...]:
        """The texts of its parentheses; None for one that took no part."""
        ...


class Pattern(Protocol):
    """A compiled pattern."""

    def fullmatch(self, text: str) -> Match | None:
        """Match the whole text."""
        ...


def compile_pattern(text: str, *, ignore_case: bool = False) -> Pattern:
    """Compile a pattern.

    Raises:
        ValueError: not a pattern of RE2, or one that would take too much memory.
    """
    if len(text) > MAX_PATTERN_CHARACTERS:
        raise ValueError(f"a pattern has at most {MAX_PATTERN_CHARACTERS} characters")
    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = not ignore_case
    options.max_mem = _MAX_MEMORY_BYTES
    try:
        return cast("Pattern", re2.compile(text, options))
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0] if isinstance(error, re2.error) and error.args else "no text"
        shown = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"'{text}' is no regular expression of RE2's kind: {shown}") from None
