"""Paths of shares, by text alone: what is stored, what is asked for, what is beneath what (CONTROL-PLANE 4.2, 4.6)."""

from __future__ import annotations

from typing import Final

from uftpd.auth.errors import BadRequest, NotFound

MAX_PATH_BYTES: Final = 4096  # of the kernel


def normalised(path: str) -> str:
    """`path`, absolute, without `.`, `..` and `//`; a `/` at its end stays. `\\` is a character as any other.

    Raises:
        BadRequest: it is not absolute, leads above the root, or is too long.
    """
    if not path.startswith("/"):
        raise BadRequest(f"path: '{path[:200]}' is not absolute")
    return "/" + _steps(path)


def normalised_below(path: str) -> str:
    """The same for a path that counts from a shared directory; empty for that directory itself.

    Raises:
        BadRequest: it leads out of the directory, or is too long.
    """
    return _steps(path)


def _steps(path: str) -> str:
    if len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        raise BadRequest(f"path: at most {MAX_PATH_BYTES} bytes")
    found: list[str] = []
    for step in path.split("/"):
        if step == "..":
            if not found:
                raise BadRequest("path: '..' leads too far up")
            found.pop()
        elif step not in ("", "."):
            found.append(step)
    if not found:
        return ""
    is_directory = path.rpartition("/")[2] in ("", ".", "..")
    return "/".join(found) + ("/" if is_directory else "")


def and_above(path: str) -> list[str]:
    """A normalised path and the directories above it, the longest first."""
    found = [path]
    above = path.rstrip("/").rpartition("/")[0]
    while above:
        found.append(above + "/")
        above = above.rpartition("/")[0]
    return found if path == "/" else [*found, "/"]


def other_form(path: str) -> str:
    """The same path with its last `/` removed, or with one added."""
    return path.removesuffix("/") if path.endswith("/") and path != "/" else path + "/"


def below(path: str, directory: str) -> str:
    """What of a normalised path is beneath a directory that it is in.

    Raises:
        NotFound: it is not.
    """
    if not path.startswith(directory):
        raise NotFound("No such path in this share")
    return path[len(directory) :]
