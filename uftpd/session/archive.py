"""Archive mode: unpacks a tar or zip archive into a directory as it arrives (DATA-PLANE section 9).

Regular files and directories only. Every member is found beneath the target step by step, by descriptor, and no link
on the way is followed, whoever made it; the session's rules hold for each name. Each file goes to a part file and
gets its name when it is whole. What cannot be unpacked is counted and named, and the others go on; damage that hides
where the next member begins, and a full disk, end it.

Files get the archive's permission bits less the umask, and what the owner needs to read and write them; set-id bits,
owners and the times of directories are not kept. A file that exists is replaced, and so is a link; anything else in
the way is left alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass, field
from typing import Final, cast

from uftp.protocol.names import pct_encode
from uftp.streams import Cancelled, Incoming, Meter, PartFile
from uftpd.session.archive_input import ArchiveError, ArchiveInput, Member, Members, Parse
from uftpd.session.archive_tar import parse_tar
from uftpd.session.archive_zip import END, LOCAL, parse_zip
from uftpd.session.filters import Forbidden
from uftpd.session.replies import CommandError
from uftpd.session.state import Session

_NAMED_FAILURES: Final = 3
_SHOWN_NAME: Final = 120  # bytes of a name in a reply
_FATAL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_STEP: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MTIME_NS: Final = range(-(2**62), 2**62)  # what every file system takes as a number; it may cut it
_COMPRESSED: Final = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zX": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z": "7-Zip",
}


@dataclass(slots=True)
class Report:
    """What became of an archive.

    Attributes:
        files, directories: unpacked.
        failed: members that were not.
        reasons: the first of them, each with its name.
        forbidden: whether the first was against the session's rules.
        fatal: why unpacking ended early; empty if it did not.
    """

    files: int = 0
    directories: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)
    forbidden: bool = False
    fatal: str = ""

    def raise_for_failures(self) -> None:
        """Nothing if all has been unpacked.

        Raises:
            CommandError: 534 or 550 with the number and the first reasons.
        """
        if not self.failed and not self.fatal:
            return
        done = self.files + self.directories
        parts = []
        if self.fatal:
            parts.append(f"the archive could not be read to its end: {self.fatal}; {done} members unpacked")
        if self.failed:
            more = f"; and {self.failed - len(self.reasons)} more" if self.failed > len(self.reasons) else ""
            total = f"{self.failed} of {done + self.failed} members not unpacked"
            parts.append(f"{total}: {'; '.join(self.reasons)}{more}")
        raise CommandError(534 if self.forbidden and not self.fatal else 550, "; ".join(parts))


class ArchiveTarget:
    """The directory an archive is unpacked into; see the module.

    Args:
        session: whose files, rules and durability.
        path: the directory.

    Raises:
        Forbidden, OSError: it is not there, or is no directory that may be entered.
    """

    def __init__(self, session: Session, path: bytes) -> None:
        self._session = session
        self._tree = session.tree
        self._path = path.rstrip(b"/")
        self._fd = self._tree.open_directory(path)
        self._real = self._tree.seen_path(self._fd).rstrip(b"/")
        self._parent: tuple[bytes, int] | None = None
        self._member: Member | None = None
        self._part: PartFile | None = None
        self._meter = Meter()
        self.report = Report()

    def close(self) -> None:
        """Release descriptors; a file that is not whole is gone."""
        self._discard()
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def unpack(self, incoming: Incoming, length: int | None, meter: Meter) -> Report:
        """Unpack what comes; blocks, in a thread.

        Args:
            incoming: the archive's bytes, whatever carries them.
            length: bytes to take at most; None: all there are.
            meter: counts, and stops.

        Raises:
            StreamError, Garbled: the data connection, see `uftp.streams`. Members that were whole stay.
            OSError: the disk is full, or failed.
        """
        self._meter = meter
        source = ArchiveInput()
        parser: Parse[None] | None = _parse(source, self)

        def feed(data: memoryview | None) -> None:
            nonlocal parser
            try:
                if parser is not None:
                    parser.send(data)
            except StopIteration:
                parser = None  # what follows the end is padding
            except ArchiveError as error:
                # Read on, so that the client has nobody close on it, and learns why.
                parser = None
                self._discard()
                self.report.fatal = str(error)

        def take(data: memoryview) -> None:
            feed(data)
            self._session.rate.spend(len(data), meter)

        with contextlib.suppress(StopIteration):
            next(cast("Parse[None]", parser))
        incoming.to_chunks(take, length, meter)
        feed(None)
        return self.report

    # -- members --------------------------------------------------------------------------------------------------

    def begin(self, member: Member) -> None:
        """See `Members`."""
        self._member = member
        try:
            if member.kind == "refused":
                raise _Refused(member.reason)
            steps = _steps(member.name)
            if member.kind == "directory":
                self._make_directory(steps, member)
            elif not steps:
                raise _Refused("has no name")
            else:
                self._part = self._open(steps)
        except (_Refused, Forbidden, OSError) as error:
            self._failed(error)

    def write(self, offset: int, data: memoryview) -> None:
        """See `Members`."""
        if self._meter.cancelled:
            raise Cancelled
        if self._part is None:
            return
        try:
            while data:
                count = os.pwrite(self._part.fd, data, offset)
                data, offset = data[count:], offset + count
        except OSError as error:
            self._failed(error)

    def finish(self, size: int, problem: str = "") -> None:
        """See `Members`."""
        member, part = self._member, self._part
        if member is None:
            return
        try:
            if problem:
                raise _Refused(problem)
            if part is not None:
                self._publish(member, part, size)
                self.report.files += 1
            else:
                self.report.directories += 1
        except (_Refused, OSError) as error:
            self._failed(error)
        self._discard()

    def complain(self, name: bytes, problem: str) -> None:
        """See `Members`."""
        self._note(name, problem)

    def _failed(self, error: Exception) -> None:
        """Note it and go on with the next member, unless that would end the same way."""
        name = b"" if self._member is None else self._member.name
        self._discard()
        if isinstance(error, OSError) and error.errno in _FATAL:
            raise error
        if isinstance(error, Forbidden):
            self.report.forbidden = self.report.forbidden or not self.report.failed
        self._note(name, (error.strerror or "failed") if isinstance(error, OSError) else str(error))

    def _note(self, name: bytes, problem: str) -> None:
        self.report.failed += 1
        if len(self.report.reasons) < _NAMED_FAILURES:
            shown = pct_encode(name[:_SHOWN_NAME]).replace(b"%20", b" ").decode("ascii")
            self.report.reasons.append(f"{shown} {problem}")

    def _discard(self) -> None:
        self._member = None
        if self._part is not None:
            self._part.discard()
            self._part = None

    # -- beneath the target ---------------------------------------------------------------------------------------

    def _check_change(self, relative: bytes) -> None:
        """The rules hold for the name as the client sees it, and for what it really is."""
        self._tree.filter.check_change(self._path + b"/" + relative)
        self._tree.filter.check_change(self._real + b"/" + relative)

    def _directory(self, steps: list[bytes], mode: int = 0o777) -> int:
        """A descriptor of a directory beneath the target, made with all above it if missing. Kept until the next."""
        wanted = b"/".join(steps)
        if self._parent is not None and self._parent[0] == wanted:
            return self._parent[1]
        fd = os.dup(self._fd)
        try:
            for count, step in enumerate(steps, 1):
                relative = b"/".join(steps[:count])
                below = self._enter(fd, step, relative, mode if count == len(steps) else 0o777)
                os.close(fd)
                fd = below
        except BaseException:
            os.close(fd)
            raise
        if self._parent is not None:
            os.close(self._parent[1])
        self._parent = (wanted, fd)
        return fd

    def _enter(self, directory: int, name: bytes, relative: bytes, mode: int) -> int:
        try:
            fd = os.open(name, _STEP, dir_fd=directory)
        except FileNotFoundError:
            self._check_change(relative)
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, mode, dir_fd=directory)
            fd = os.open(name, _STEP, dir_fd=directory)
        except NotADirectoryError:
            raise _Refused("would go through a link, or through what is no directory") from None
        try:
            self._tree.filter.check_enter(self._path + b"/" + relative)
            self._tree.filter.check_enter(self._real + b"/" + relative)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _make_directory(self, steps: list[bytes], member: Member) -> None:
        self._directory(steps, 0o777 if member.mode is None else (member.mode & 0o777) | 0o700)

    def _open(self, steps: list[bytes]) -> PartFile:
        relative = b"/".join(steps)
        self._check_change(relative)
        directory = self._directory(steps[:-1])
        self._check_replaceable(directory, steps[-1])
        # A confined process may not be allowed to link a nameless file.
        return PartFile.create(directory, anonymous=not self._tree.confined)

    def _check_replaceable(self, directory: int, name: bytes) -> None:
        try:
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(info.st_mode):
            raise _Refused("is a directory here")
        if stat.S_ISREG(info.st_mode):
            # A file that may not be written may not be replaced either, though the directory would allow it.
            os.close(os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory))
        elif not stat.S_ISLNK(info.st_mode):
            raise _Refused("is something else than a file here")

    def _publish(self, member: Member, part: PartFile, size: int) -> None:
        if os.fstat(part.fd).st_size != size:
            os.ftruncate(part.fd, size)  # a hole at the end
        if member.mtime_ns is not None and member.mtime_ns in _MTIME_NS:
            os.utime(part.fd, ns=(os.fstat(part.fd).st_atime_ns, member.mtime_ns))
        mode = None
        if member.mode is not None:
            allowed = os.fstat(part.fd).st_mode & 0o666  # made with 0666, so this is what the umask leaves
            allowed |= (allowed >> 2) & 0o111  # who may read may execute
            mode = (member.mode & 0o777 & allowed) | 0o600
        part.publish(_steps(member.name)[-1], mode=mode, durability=self._session.durability)


class _Refused(Exception):
    """A member that is not unpacked; the message follows its name."""


def _steps(name: bytes) -> list[bytes]:
    """The components of a member's name; none for the target itself."""
    if name.startswith(b"/"):
        raise Forbidden("has an absolute name")
    if b"\0" in name or not name:
        raise _Refused("has no proper name")
    steps = [step for step in name.split(b"/") if step not in (b"", b".")]
    if b".." in steps:
        raise Forbidden("has a name that leads upwards")
    return steps


def _parse(source: ArchiveInput, members: Members) -> Parse[None]:
    """Find out what it is, and read it."""
    start = yield from source.peek(4)
    if start in (LOCAL, END):
        yield from parse_zip(source, members)
        return
    if not start:
        raise ArchiveError("nothing came; an archive has at least an end mark")
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise ArchiveError(f"this is compressed by {name}; send the archive uncompressed")
    yield from parse_tar(source, members)


def unpack(session: Session, path: bytes, incoming: Incoming, meter: Meter, length: int | None = None) -> Report:
    """Open the directory `path` and unpack what comes; see `ArchiveTarget`. Blocks.

    Raises:
        Forbidden, OSError: of the directory, or of the disk.
        StreamError: the data connection.
    """
    with contextlib.closing(ArchiveTarget(session, path)) as target:
        return target.unpack(incoming, length, meter)
