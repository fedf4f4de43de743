"""What a plan changes on this side itself: directories made ahead, and links. All of it blocks.

No link below the target is followed: one that stands where a directory is due is in the way.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Sequence
from typing import Literal

from uftp.protocol.names import part_name
from uftp.transfer.local import LocalTree
from uftp.transfer.options import FileFacts
from uftp.transfer.plan import join
from uftp.transfer.walk import KeptLink

Made = Literal["new", "old"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(tree: LocalTree, relative: bytes) -> int:
    """A descriptor of a directory of the tree.

    Raises:
        OSError: it is not there, or a link stands in the way.
    """
    with tree.directory(relative) as fd:
        return os.dup(fd)


def make_directories(tree: LocalTree, relative: bytes, names: Sequence[bytes]) -> list[Made | OSError]:
    """Make directories in one of the tree.

    Returns:
        For each whether it is new or was there, or why it is not.
    """
    outcomes: list[Made | OSError] = []
    try:
        with tree.directory(relative) as fd:
            outcomes += [_make(fd, name) for name in names]
    except OSError as error:
        outcomes += [error] * (len(names) - len(outcomes))
    return outcomes


def _make(directory: int, name: bytes) -> Made | OSError:
    try:
        os.mkdir(name, 0o777, dir_fd=directory)
    except FileExistsError as error:
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                return "old"
        return error
    except OSError as error:
        return error
    return "new"


def set_facts(tree: LocalTree, relative: bytes, mtime_ns: int | None, permissions: int | None) -> None:
    """Time and permission bits of a directory of the tree; None leaves one as it is.

    Raises:
        OSError: not allowed, or it is not there any more.
    """
    with tree.directory(relative) as fd:
        if permissions is not None:
            os.fchmod(fd, permissions)
        if mtime_ns is not None:
            os.utime(fd, ns=(mtime_ns, mtime_ns))


def make_links(tree: LocalTree, relative: bytes, links: Sequence[KeptLink], *, times: bool) -> list[OSError | None]:
    """Make symbolic links in a directory of the tree. A link or file of the name is replaced, a directory is not.

    Args:
        tree, relative: which directory.
        links: what to make.
        times: whether they get their times.

    Returns:
        For each None, or why it is not there.
    """
    outcomes: list[OSError | None] = []
    try:
        with tree.directory(relative) as fd:
            for link in links:
                try:
                    _make_link(fd, link, times=times)
                except OSError as error:
                    outcomes.append(error)
                else:
                    outcomes.append(None)
    except OSError as error:
        outcomes += [error] * (len(links) - len(outcomes))
    return outcomes


def _make_link(directory: int, link: KeptLink, *, times: bool) -> None:
    part = part_name(secrets.token_bytes(8))
    os.symlink(link.target, part, dir_fd=directory)
    try:
        if times and link.mtime_ns is not None:
            os.utime(part, ns=(link.mtime_ns, link.mtime_ns), dir_fd=directory, follow_symlinks=False)
        os.rename(part, link.name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part, dir_fd=directory)
        raise


def look_at_files(root: bytes, relative: bytes, names: Sequence[bytes]) -> dict[bytes, FileFacts]:
    """The regular files of these names in a directory below `root`; no link is followed, what is not there left out."""
    found: dict[bytes, FileFacts] = {}
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return found
    try:
        for component in filter(None, relative.split(b"/")):
            below = os.open(component, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        for name in names:
            with contextlib.suppress(OSError):
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISREG(info.st_mode):
                    permissions = stat.S_IMODE(info.st_mode) & 0o777
                    found[name] = FileFacts(join(relative, name), info.st_size, info.st_mtime_ns, permissions)
    except OSError:
        pass  # no such directory yet
    finally:
        os.close(fd)
    return found
