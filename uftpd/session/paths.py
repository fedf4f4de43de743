"""The file tree of a session: the one object that all file operations go through (DESIGN: data node, paths).

Paths are bytes, absolute and normalised, as the client sees them. The base stops `..` and siblings in every session.
In a *confined* one (the request restricts it, or the site confines links) every path is resolved by the kernel
beneath the base's directory descriptor, so links that leave it are refused; where a filter is in force, what a link
really leads to must pass it too. In others links are followed with the user's own rights.

Everything here blocks, and runs in worker threads; there is no state but the descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from uftp.protocol.facts import FileInfo
from uftp.protocol.names import is_part_name
from uftpd.session import syscalls
from uftpd.session.filters import Forbidden, PathFilter, is_beneath

_MAX_LINKS: Final = 40
_DEAD_LINK: Final = (errno.ELOOP, errno.EXDEV, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG)
_DEV_NULL: Final = os.makedev(1, 3)
_DEV_ZERO: Final = os.makedev(1, 5)


def normalise(path: bytes) -> bytes:
    """`path`, absolute, without `.`, `..` and double slashes, by text alone."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/" + b"/".join(parts)


def split(path: bytes) -> tuple[bytes, bytes]:
    """Directory and base name of a normalised path; the base name of the root is empty."""
    directory, _, name = path.rpartition(b"/")
    return directory or b"/", name


def is_null(info: os.stat_result) -> bool:
    """Whether this is /dev/null, by device number."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == _DEV_NULL


def is_zero(info: os.stat_result) -> bool:
    """Whether this is /dev/zero, by device number."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == _DEV_ZERO


@dataclass(slots=True)
class Place:
    """Where a name stands: an open directory (the holder closes it), the base name in it, and what is there."""

    directory: int
    name: bytes
    path: bytes
    info: os.stat_result | None

    def __enter__(self) -> Place:  # noqa: PYI034 - a Place is never subclassed
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.directory)


class FileTree:
    """See the module.

    Args:
        base: the session may not leave it, by `..` or by name; `/` for no limit.
        path_filter: rules on paths.
        confined: links are followed only beneath the base.

    Raises:
        OSError: the base is no directory that this user can enter.
    """

    def __init__(self, base: bytes, path_filter: PathFilter, *, confined: bool) -> None:
        self.base = base
        self.filter = path_filter
        self.confined = confined
        self._base_fd = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.stat(b".", dir_fd=self._base_fd)  # fails where the user may not enter
        self._real_base = os.readlink(b"/proc/self/fd/%d" % self._base_fd)
        self._openat2 = confined and syscalls.has_openat2()
        self._groups = frozenset((os.getegid(), *os.getgroups()))

    def confine_process(self) -> bool:
        """Have the kernel forbid this process all files outside the base; whether it did. Single-threaded only."""
        return self.confined and self.base != b"/" and syscalls.landlock_confine(self._base_fd)

    def close(self) -> None:
        """Release the descriptor; a session's ends with its process."""
        os.close(self._base_fd)

    def resolve(self, argument: bytes, current: bytes) -> bytes:
        """The path an argument means, seen from the directory `current`.

        Raises:
            Forbidden: it lies outside the base.
        """
        if b"\0" in argument:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        path = normalise(argument if argument.startswith(b"/") else current + b"/" + argument)
        if not is_beneath(path, self.base):
            raise Forbidden(f"{os.fsdecode(path)} not in {os.fsdecode(self.base)}")
        return path

    # -- opening ----------------------------------------------------------------------------------------------------

    def _open(self, path: bytes, flags: int, mode: int = 0) -> int:
        """Open `path` under the rules on links."""
        if not self.confined:
            return os.open(path, flags | os.O_CLOEXEC, mode)
        relative = path[len(self.base) :].lstrip(b"/") or b"."
        if self._openat2:
            rules = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
            fd = syscalls.openat2(self._base_fd, relative, flags, rules, mode)
        else:
            fd = self._open_stepwise(relative, flags, mode)
        try:
            self._check_real(fd, path)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _open_stepwise(self, relative: bytes, flags: int, mode: int) -> int:
        """Without openat2: one component at a time, and no link at all."""
        *steps, last = relative.split(b"/")
        directory = os.dup(self._base_fd)
        try:
            for step in steps:
                below = os.open(step, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                os.close(directory)
                directory = below
            fd = os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=directory)
        finally:
            os.close(directory)
        if flags & os.O_PATH and stat.S_ISLNK(os.fstat(fd).st_mode):  # the one way to open a link itself
            os.close(fd)
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return fd

    def _check_real(self, fd: int, path: bytes) -> None:
        """What was opened must pass the filter under its real path too; only directories are ever on the way."""
        if not self.filter.restricts:
            return
        real = self._seen(os.readlink(b"/proc/self/fd/%d" % fd))
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            self.filter.check_enter(real)
        else:
            self.filter.check_read(path)
            self.filter.check_read(real)

    def _seen(self, real: bytes) -> bytes:
        """The path under which the client sees what really lies at `real`."""
        if is_beneath(real, self._real_base):
            return normalise(self.base + b"/" + real[len(self._real_base) :])
        return real

    def open_directory(self, path: bytes) -> int:
        """A descriptor (O_PATH) of a directory that may be entered."""
        self.filter.check_enter(path)
        return self._open(path, os.O_PATH | os.O_DIRECTORY)

    def place(self, path: bytes, *, follow: bool = False) -> Place:
        """Find the directory a name stands in, and what the name is now.

        Args:
            path: what to find.
            follow: if the name is a link, go to where it leads; a link to nothing is an error.
        """
        for _ in range(_MAX_LINKS):
            above, name = split(path)
            if not name:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            directory = self._open(above, os.O_PATH | os.O_DIRECTORY)
            try:
                if self.filter.restricts:
                    self.filter.check_read(self._real_path(directory, name))
                info = _lstat(name, directory)
                if info is None or not follow or not stat.S_ISLNK(info.st_mode):
                    return Place(os.dup(directory), name, path, info)
            finally:
                os.close(directory)
            path = self._link_target(path)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    def _link_target(self, path: bytes) -> bytes:
        fd = self._open(path, os.O_PATH)
        try:
            return self._seen(os.readlink(b"/proc/self/fd/%d" % fd))
        finally:
            os.close(fd)

    def open_read(self, path: bytes) -> tuple[int, os.stat_result]:
        """Open a regular file, /dev/null or /dev/zero for reading."""
        self.filter.check_read(path)
        fd = self._open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        return fd, _check_kind(fd)

    def open_write(self, place: Place, *, create: bool, append: bool = False) -> tuple[int, os.stat_result]:
        """Open what is at `place` for writing in place, or create it empty.

        With `append` every write goes to the end, whatever its offset: so two sessions that append at once do not
        overwrite each other.
        """
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
        flags |= (os.O_CREAT if create else 0) | (os.O_APPEND if append else 0)
        fd = os.open(place.name, flags, 0o666, dir_fd=place.directory)
        return fd, _check_kind(fd)

    # -- looking ----------------------------------------------------------------------------------------------------

    def stat(self, path: bytes) -> os.stat_result:
        """What is at `path`, links followed."""
        self.filter.check_enter(path)
        fd = self._open(path, os.O_PATH)
        try:
            return os.stat(fd)
        finally:
            os.close(fd)

    def info(self, path: bytes, *, links: bool = False, unique: bool = False) -> FileInfo:
        """What listings say of `path`; `links` and `unique` as in `scan`."""
        name = split(path)[1]
        if links and name and path != self.base:
            with self.place(path) as place:
                if place.info is not None and stat.S_ISLNK(place.info.st_mode):
                    self.filter.check_read(path)
                    return self._describe_link(name, place.info, os.readlink(name, dir_fd=place.directory))
        return self._describe(name or b"/", self.stat(path), unique=unique)

    def is_directory(self, path: bytes) -> bool:
        """Whether a directory that may be entered is at `path`."""
        fd = self.open_directory(path)
        try:
            os.stat(b".", dir_fd=fd)
        finally:
            os.close(fd)
        return True

    @contextlib.contextmanager
    def scan(self, path: bytes, *, links: bool = False, unique: bool = False) -> Iterator[Iterator[FileInfo]]:
        """The entries of a directory, one after the other: unfinished uploads and what cannot be examined left out.

        Args:
            path: the directory.
            links: describe symbolic links themselves, and not what they point to.
            unique: tell of directories which one it is, so that a walk sees when a link has led it in a circle.
        """
        self.filter.check_enter(path)
        fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            prefixes = [path.rstrip(b"/") + b"/"]
            if self.filter.restricts:
                # A link may have led here: the rules hold for what lies here under its real name as well.
                prefixes.append(self._real_path(fd, b""))
            with os.scandir(fd) as entries:
                yield self._entries(entries, prefixes, links=fd if links else None, unique=unique)
        finally:
            os.close(fd)

    def _entries(
        self, entries: Iterator[os.DirEntry[str]], prefixes: Sequence[bytes], *, links: int | None, unique: bool
    ) -> Iterator[FileInfo]:
        """See `scan`; `links` is the directory's descriptor if links are to be described."""
        for entry in entries:
            name = os.fsencode(entry.name)
            if is_part_name(name):
                continue
            try:
                if links is not None and entry.is_symlink():
                    if self.confined:
                        # One that leads out is not there at all: its text would tell of what is outside.
                        self._stat_entry(entry, [prefix + name for prefix in prefixes])
                    yield self._describe_link(name, entry.stat(follow_symlinks=False), os.readlink(name, dir_fd=links))
                    continue
                info = self._stat_entry(entry, [prefix + name for prefix in prefixes])
            except Forbidden:
                continue
            except OSError as error:
                # Links to nowhere, or to where this session may not go, are left out, and so is what has just been
                # removed. A file system that fails must not make a listing shorter than it is.
                if error.errno == errno.ENOENT or (entry.is_symlink() and error.errno in _DEAD_LINK):
                    continue
                raise
            yield self._describe(name, info, unique=unique)

    def _stat_entry(self, entry: os.DirEntry[str], paths: Sequence[bytes]) -> os.stat_result:
        if self.filter.restricts:
            check = self.filter.check_enter if entry.is_dir() else self.filter.check_read
            for path in paths:
                check(path)
        if entry.is_symlink():
            return self.stat(paths[0]) if self.confined else entry.stat()
        return entry.stat(follow_symlinks=False)

    def _describe_link(self, name: bytes, info: os.stat_result, target: bytes) -> FileInfo:
        return FileInfo(name=name, size=info.st_size, mtime_ns=info.st_mtime_ns, mode=info.st_mode, link=target)

    def _describe(self, name: bytes, info: os.stat_result, *, unique: bool = False) -> FileInfo:
        if info.st_uid == os.geteuid():
            rights = info.st_mode >> 6
        elif info.st_gid in self._groups:
            rights = info.st_mode >> 3
        else:
            rights = info.st_mode
        return FileInfo(
            name=name,
            size=info.st_size,
            mtime_ns=info.st_mtime_ns,
            is_dir=stat.S_ISDIR(info.st_mode),
            mode=info.st_mode,
            readable=bool(rights & 4),
            writable=bool(rights & 2),
            executable=bool(rights & 1),
            unique=b"%xg%x" % (info.st_dev, info.st_ino) if unique and stat.S_ISDIR(info.st_mode) else None,
        )

    # -- changing ---------------------------------------------------------------------------------------------------

    def mkdir(self, path: bytes) -> None:
        """Create one directory."""
        self.filter.check_change(path)
        if path == self.base:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        with self.place(path) as place:
            self.filter.check_change(self._real_path(place.directory, place.name))
            os.mkdir(place.name, 0o777, dir_fd=place.directory)

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        with self._movable(path) as place:
            os.rmdir(place.name, dir_fd=place.directory)

    def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link with the text `target`; nothing may be at `path`.

        Raises:
            Forbidden: links are confined here: they could lead others out, or this session where it may not go.
        """
        if self.confined:
            raise Forbidden("no links can be made in this session")
        self.filter.check_change(path)
        with self.place(path) as place:
            self.filter.check_change(self._real_path(place.directory, place.name))
            os.symlink(target, place.name, dir_fd=place.directory)

    def unlink(self, path: bytes) -> None:
        """Remove a file, or a link itself."""
        with self._movable(path) as place:
            os.unlink(place.name, dir_fd=place.directory)

    def rename(self, source: bytes, target: bytes) -> None:
        """Give a file or directory another name, replacing a file of that name."""
        with self._movable(source) as old, self._movable(target) as new:
            if old.info is not None and stat.S_ISDIR(old.info.st_mode):
                self.filter.check_move_tree(source)
                self.filter.check_move_tree(self._real_path(old.directory, old.name))
            os.rename(old.name, new.name, src_dir_fd=old.directory, dst_dir_fd=new.directory)

    def set_facts(self, path: bytes, *, mtime_ns: int | None = None, permissions: int | None = None) -> None:
        """Set time of last change and permission bits, links followed."""
        self.filter.check_change(path)
        fd = self._open(path, os.O_PATH)
        try:
            self.filter.check_change(self._seen(os.readlink(b"/proc/self/fd/%d" % fd)))
            link = b"/proc/self/fd/%d" % fd  # O_PATH descriptors take neither fchmod nor futimens
            if permissions is not None:
                os.chmod(link, permissions & 0o7777)
            if mtime_ns is not None:
                os.utime(link, ns=(os.stat(fd).st_atime_ns, mtime_ns))
        finally:
            os.close(fd)

    def check_write(self, place: Place) -> None:
        """Raise `Forbidden` unless the file a store really goes to may be written."""
        self.filter.check_change(place.path)
        self.filter.check_change(self._real_path(place.directory, place.name))

    def protected_in(self, path: bytes, directory: int) -> frozenset[bytes]:
        """Names in the directory `path`, opened as `directory`, that the site protects from writing."""
        return self.filter.protected_in(path) | self.filter.protected_in(self.seen_path(directory))

    def seen_path(self, directory: int) -> bytes:
        """The path under which the client sees what the descriptor `directory` really is."""
        return self._seen(os.readlink(b"/proc/self/fd/%d" % directory))

    def _real_path(self, directory: int, name: bytes) -> bytes:
        return self._seen(os.readlink(b"/proc/self/fd/%d" % directory)).rstrip(b"/") + b"/" + name

    def _movable(self, path: bytes) -> Place:
        """The place of a name that may be removed, renamed or replaced, by whatever way it is reached."""
        if path == self.base:
            raise Forbidden("the session's own directory")
        self.filter.check_move(path)
        place = self.place(path)
        try:
            self.filter.check_move(self._real_path(place.directory, place.name))
        except BaseException:
            os.close(place.directory)
            raise
        return place


def _lstat(name: bytes, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _check_kind(fd: int) -> os.stat_result:
    """Regular files and the two harmless devices pass; a pipe or a tape could block, or do worse."""
    try:
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not (stat.S_ISREG(info.st_mode) or is_null(info) or is_zero(info)):
            raise PermissionError(errno.EACCES, "Not a regular file")
        os.set_blocking(fd, True)
    except BaseException:
        os.close(fd)
        raise
    return info
