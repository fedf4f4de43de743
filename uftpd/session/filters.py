"""Which paths a session may touch: includes, excludes, scope and write protection (DATA-PLANE 3.4).

Works on absolute, normalised paths as bytes; that links cannot lead around it is the file tree's business.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass, field


class Forbidden(Exception):
    """The path is outside what this session may touch. The message is for the client: it names no pattern."""


def _compile(pattern: bytes) -> re.Pattern[bytes]:
    # Shell rules over the whole path: `*` runs across slashes.
    return re.compile(fnmatch.translate(pattern.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape"))


def _absolute(patterns: Iterable[str], start: bytes) -> list[bytes]:
    raw = (pattern.encode("utf-8", "surrogateescape") for pattern in patterns)
    return [pattern if pattern.startswith(b"/") else start.rstrip(b"/") + b"/" + pattern for pattern in raw]


def is_beneath(path: bytes, directory: bytes) -> bool:
    """Whether `path` is `directory` or below it."""
    return path == directory or directory == b"/" or path.startswith(directory + b"/")


@dataclass(frozen=True, slots=True)
class PathFilter:
    """The rules of one session.

    Attributes:
        scope: only this path and what is beneath it; None for no such limit.
        restricts: whether anything beyond write protection is in force.
    """

    scope: bytes | None = None
    _includes: tuple[tuple[bytes, re.Pattern[bytes]], ...] = ()
    _excludes: tuple[tuple[bytes, re.Pattern[bytes]], ...] = ()
    _protected: tuple[bytes, ...] = field(default=())

    @classmethod
    def create(
        cls,
        *,
        start: bytes,
        includes: Iterable[str] = (),
        excludes: Iterable[str] = (),
        scope: bytes = b"",
        protected: Iterable[bytes] = (),
    ) -> PathFilter:
        """Make the rules; relative patterns count from `start`, the session directory."""
        wanted = _absolute(includes, start)
        return cls(
            start.rstrip(b"/") + b"/" + scope if scope else None,
            tuple((pattern, _compile(pattern)) for pattern in wanted),
            tuple((pattern, _compile(pattern)) for pattern in _absolute(excludes, start)),
            tuple(protected),
        )

    @property
    def restricts(self) -> bool:
        """Whether anything beyond write protection is in force."""
        return bool(self._includes or self._excludes or self.scope is not None)

    @property
    def protected(self) -> frozenset[bytes]:
        """Paths of files that nobody may write."""
        return frozenset(self._protected)

    def admits(self, path: bytes) -> bool:
        """Whether content and metadata of `path` may be read."""
        if self.scope is not None and not is_beneath(path, self.scope):
            return False
        if any(self._matches(pattern, path) for _, pattern in self._excludes):
            return False
        return not self._includes or any(self._matches(pattern, path) for _, pattern in self._includes)

    def leads(self, path: bytes) -> bool:
        """Whether `path` may be entered: it is admitted, or is on the way to something that may be."""
        if self.admits(path):
            return True
        if any(self._matches(pattern, path) for _, pattern in self._excludes):
            return False
        if self.scope is not None and not is_beneath(self.scope, path):
            return False
        return not self._includes or any(_on_the_way(path, text) for text, _ in self._includes)

    @staticmethod
    def _matches(pattern: re.Pattern[bytes], path: bytes) -> bool:
        # A pattern that names a directory covers all beneath it.
        while len(path) > 1:
            if pattern.match(path):
                return True
            path = path[: path.rfind(b"/")]
        return pattern.match(b"/") is not None

    def check_read(self, path: bytes) -> None:
        """Raise `Forbidden` unless `path` may be read."""
        if not self.admits(path):
            raise Forbidden("path is not part of this session")

    def check_enter(self, path: bytes) -> None:
        """Raise `Forbidden` unless `path` may be entered and listed."""
        if not self.leads(path):
            raise Forbidden("path is not part of this session")

    def check_change(self, path: bytes) -> None:
        """Raise `Forbidden` unless `path` may be written, created, or have its metadata changed."""
        self.check_read(path)
        if path in self._protected:
            raise Forbidden("file is write-protected by the site")

    def protected_in(self, directory: bytes) -> frozenset[bytes]:
        """Base names of the write-protected files in a directory."""
        inside = directory.rstrip(b"/") + b"/"
        return frozenset(path[len(inside) :] for path in self._protected if path.rpartition(b"/")[0] + b"/" == inside)

    def check_move(self, path: bytes) -> None:
        """Raise `Forbidden` unless `path` may be renamed or removed: no protected file may be beneath it."""
        self.check_change(path)
        if any(is_beneath(protected, path) for protected in self._protected):
            raise Forbidden("directory holds a file that is write-protected by the site")

    def check_move_tree(self, path: bytes) -> None:
        """Raise `Forbidden` if something beneath the directory `path` may be excluded by the name it has there."""
        if any(_may_match_beneath(path, text) for text, _ in self._excludes):
            raise Forbidden("directory may hold files that are not part of this session")


def _may_match_beneath(directory: bytes, pattern: bytes) -> bool:
    """Whether `pattern` might match something beneath `directory`; in doubt it does: wild cards match slashes too."""
    inside = directory.rstrip(b"/") + b"/"
    literal = re.split(rb"[*?\[]", pattern, maxsplit=1)[0]
    return literal.startswith(inside) or (literal != pattern and inside.startswith(literal))


def _on_the_way(path: bytes, pattern: bytes) -> bool:
    """Whether `path` is a directory above what `pattern` can match, component by component."""
    components = pattern.split(b"/")
    steps = [] if path == b"/" else path.split(b"/")[1:]
    for step, component in zip(steps, components[1:], strict=False):
        if b"*" in component:
            # `*` runs across slashes, so from here on anything may lie on the way.
            return _compile(component[: component.index(b"*")] + b"*").match(step) is not None
        if not _compile(component).match(step):
            return False
    return len(steps) < len(components) - 1
