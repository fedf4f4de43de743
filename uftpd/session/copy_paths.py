"""This node's end of a copy between servers: what the copy engine may open, as the session's rules have it.

The engine opens files by path. A single file is therefore found by the session's file tree, and handed to the engine
by descriptor: `/proc/self/fd/N` of a file to read, `/proc/self/fd/N/NAME` of one to write. So what a session may not
reach, or the site protects, is out of the engine's reach too. Trees go by their paths; in a session that is confined
to its base only where the kernel holds this process to it, and no rule on paths is left to keep.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, replace
from typing import Final

from uftp.protocol.command_port import Access
from uftpd.session.copy_messages import CopyOrder
from uftpd.session.filters import Forbidden
from uftpd.session.paths import FileTree, is_null, is_zero
from uftpd.session.write_guard import guard

_WILDCARDS: Final = (b"*", b"?", b"[")


@dataclass(frozen=True, slots=True)
class LocalEnd:
    """What the engine is given.

    Attributes:
        path: to open.
        name: what messages call it.
        may_note: whether this session's rules let a copy keep notes in the home directory, for a later one to go on.
    """

    path: bytes
    name: bytes
    may_note: bool = True


def open_local(order: CopyOrder, tree: FileTree, start: bytes, access: Access, *, kernel_confines: bool) -> LocalEnd:
    """Find this node's end, and check what the session may do with it. Runs as the user.

    Args:
        order: what is copied.
        tree: the session's files.
        start: the directory relative names count from.
        access: what the session may do.
        kernel_confines: whether this process can open nothing outside the session's base.

    Raises:
        Forbidden: the session may not.
        OSError: there is no such file, or no directory for it.
    """
    if access < (Access.READ if order.form == "send" else Access.WRITE):
        raise Forbidden("Access denied")
    path = tree.resolve(order.local, start)
    single_only = tree.confined and (tree.filter.restricts or not kernel_confines)
    if not order.trees:
        end = _readable(tree, path) if order.form == "send" else _writable(tree, path)
        return replace(end, may_note=not single_only)
    if single_only:
        raise Forbidden("this session is restricted to some paths: only single files can be copied")
    if order.form != "send":
        guard(tree.filter.protected)  # what is in the tree is not known before it comes
    elif not any(sign in path for sign in _WILDCARDS):
        tree.stat(path)
    if order.local.endswith(b"/") and path != b"/":
        path += b"/"
    return LocalEnd(path, path)


def _readable(tree: FileTree, path: bytes) -> LocalEnd:
    fd, _ = tree.open_read(path)  # open from now on: what it leads to stays the file that was meant
    return LocalEnd(b"/proc/self/fd/%d" % fd, path)


def _writable(tree: FileTree, path: bytes) -> LocalEnd:
    place = tree.place(path, follow=True)
    tree.check_write(place)
    info = place.info
    if info is not None and stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if info is not None and not (stat.S_ISREG(info.st_mode) or is_null(info) or is_zero(info)):
        raise PermissionError(errno.EACCES, "Not a regular file")
    if info is not None and not stat.S_ISREG(info.st_mode):
        return LocalEnd(b"/dev/null", path)  # both devices swallow what comes; there is no name to be replaced
    return LocalEnd(b"/proc/self/fd/%d/" % place.directory + place.name, path)
