"""How a file of a stranger is presented to a browser: type, name, and what it may do there.

The files are served from the origin on which people log in. So a browser shall show only what cannot run (images,
sound, film, plain text), in a sandbox; everything else it shall save, and it shall never guess a type.
"""

from __future__ import annotations

import mimetypes
import urllib.parse
from typing import Final

OCTETS: Final = "application/octet-stream"

# Types that browsers show without running anything in them. No SVG, no PDF, no XML: these carry scripts.
_INLINE: Final = frozenset(
    {
        "text/plain",
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "image/avif",
        "image/bmp",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
        "audio/x-wav",
        "audio/flac",
        "audio/aac",
        "video/mp4",
        "video/webm",
        "video/ogg",
    }
)
_TEXT_SUFFIXES: Final = (
    b".log", b".out", b".err", b".md", b".markdown", b".rst", b".ini", b".cfg", b".conf", b".toml", b".yaml", b".yml",
    b".dat", b".f90", b".f", b".c", b".h", b".cpp", b".hpp", b".py", b".sh", b".csv", b".tsv", b".json",
)  # fmt: skip
_PLAIN_NAMES: Final = frozenset({b"readme", b"license", b"copying", b"makefile", b"changelog", b"authors", b"news"})

# Not the machine's /etc/mime.types, so that every server gives the same answer.
_TYPES: Final = mimetypes.MimeTypes()

# For the bytes of files: nothing in them runs, loads, or is part of this origin.
FILE_POLICY: Final = "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"


def media_type(name: bytes) -> str:
    """The type of a file by its name, with a charset for text."""
    lower = name.lower()
    text = lower.decode("ascii", "replace")
    kind, encoding = _TYPES.guess_type("file:///" + urllib.parse.quote(text), strict=True)
    if encoding is not None:  # x.tar.gz is no tar archive on the wire
        return {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}.get(
            encoding, OCTETS
        )
    if kind is None:
        return "text/plain; charset=utf-8" if lower.endswith(_TEXT_SUFFIXES) or lower in _PLAIN_NAMES else OCTETS
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def shows_inline(kind: str) -> bool:
    """Whether a browser may show a file of this type in place of saving it."""
    return kind.partition(";")[0].strip() in _INLINE


def disposition(name: bytes, *, inline: bool = False) -> str:
    """The value of Content-Disposition for a file of this name, whatever is in it (RFC 6266, RFC 8187).

    The plain form has every byte that is not harmless ASCII replaced; the extended form has the name exactly, as long
    as it is UTF-8. Browsers take the second, old tools the first.
    """
    kind = "inline" if inline else "attachment"
    text = name.decode("utf-8", "replace")
    plain = "".join(c if " " <= c <= "~" and c not in '"\\%/' else "_" for c in text).strip()
    plain = plain if plain.strip("._ ") else "download"
    value = f'{kind}; filename="{plain}"'
    if plain != text:
        exact = "".join(c if c.isprintable() or c == " " else "_" for c in text).replace("/", "_")
        value += "; filename*=UTF-8''" + urllib.parse.quote(exact, safe="!#$&+-.^_`|~")
    return value
