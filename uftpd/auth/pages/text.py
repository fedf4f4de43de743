"""How names, sizes and times look on a page.

A name may hold anything but `/` and NUL. What would not be seen, or would reorder what is around it (control
characters, overrides of the writing direction, bytes that are not UTF-8), is shown as a code.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

from markupsafe import Markup, escape

# Invisible, but parts of words in several scripts and of emoji, and harmless in a text isolated by <bdi>.
_JOINERS = frozenset("\u200c\u200d")
_HIDDEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
_OTHER_SPACES = frozenset("\u00a0\u1680\u202f\u205f\u3000\u2800\u3164\uffa0\u115f\u1160").union(
    map(chr, range(0x2000, 0x200B))
)
_LAST_BYTE_SURROGATE = 0xDCFF
_FIRST_BYTE_SURROGATE = 0xDC80
_YEARS = range(1, 10000)


def _code(character: str) -> str:
    """What stands for a character that is not to be seen as itself; empty if it is."""
    number = ord(character)
    if _FIRST_BYTE_SURROGATE <= number <= _LAST_BYTE_SURROGATE:
        return f"\\x{number - 0xDC00:02X}"
    if number < 0x20 or number == 0x7F:
        return {9: "\\t", 10: "\\n", 13: "\\r"}.get(number, f"\\x{number:02X}")
    if character in _OTHER_SPACES or (unicodedata.category(character) in _HIDDEN and character not in _JOINERS):
        return f"U+{number:04X}"
    return ""


def visible(name: str) -> str:
    """A name as plain text, for titles and attributes."""
    if name.isascii() and name.isprintable():
        return name
    return "".join(f"[{code}]" if (code := _code(character)) else character for character in name)


def visible_markup(name: str) -> Markup:
    """A name as HTML; codes look different from letters.

    It is isolated from the writing direction around it, and goes from left to right itself, so that the extension
    stands at its end in every script.
    """
    if name.isascii() and name.isprintable():
        return Markup('<bdi dir="ltr">{}</bdi>').format(name)
    shown: list[Markup] = []
    plain: list[str] = []
    for character in name:
        if code := _code(character):
            shown.append(escape("".join(plain)))
            shown.append(Markup('<span class="code">{}</span>').format(code))
            plain.clear()
        else:
            plain.append(character)
    shown.append(escape("".join(plain)))
    return Markup('<bdi dir="ltr">{}</bdi>').format(Markup("").join(shown))


def is_plain(text: str) -> bool:
    """Whether nothing in it is hidden."""
    return (text.isascii() and text.isprintable()) or not any(map(_code, text))


def human_size(count: int) -> str:
    """Bytes in units of 1000, as `1.5 GB`."""
    if count < 1000:
        return f"{count} B"
    size = float(count)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} EB"


def exact_size(count: int) -> str:
    """Bytes with a narrow space between thousands."""
    return f"{count:,}".replace(",", "\u202f") + (" byte" if count == 1 else " bytes")


def human_duration(seconds: float) -> str:
    """A time in its two largest units, as `2 min 5 s`."""
    left = round(seconds)
    if left >= 2 * 86400:
        return f"{left // 86400} days"
    parts = ((left // 3600, "h"), (left % 3600 // 60, "min"), (left % 60, "s"))
    shown = [f"{number} {unit}" for number, unit in parts if number]
    return " ".join(shown[:2]) or "0 s"


def _moment(seconds: float) -> datetime | None:
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return moment if moment.year in _YEARS else None


def time_markup(seconds: float) -> Markup:
    """A time as `<time>` in UTC, which the script of the page turns into the reader's own."""
    moment = _moment(seconds)
    if moment is None:
        return Markup("")
    date, clock = moment.date().isoformat(), moment.time().isoformat("seconds")
    return Markup(  # noqa: S704 - made of digits
        f'<time datetime="{date}T{clock}Z" title="{date} {clock} UTC">{date} {clock[:5]} '
        '<span class="utc">UTC</span></time>'
    )
