"""Pieces of a file that changes on the way never make one file."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import cast

import pytest

from uftp.client.session import FTPSession
from uftp.errors import TransferFailed
from uftp.protocol.facts import FileInfo
from uftp.transfer.download import Download
from uftp.transfer.local import Target, open_target
from uftp.transfer.options import CopyOptions

SECOND = 1_000_000_000


class Server:
    """Knows one file."""

    def __init__(self, size: int, mtime: int) -> None:
        self.size, self.mtime = size, mtime

    async def stat(self, path: bytes) -> FileInfo:
        return _info(self.size, self.mtime)


def _info(size: int, mtime: int) -> FileInfo:
    return FileInfo(name=b"big", size=size, mtime_ns=mtime * SECOND, is_dir=False)


@pytest.mark.parametrize(
    ("listed", "before", "after", "whole"),
    [
        (1000, (10, 1000), (10, 1000), True),
        (1000, (10, 1002), (10, 1002), True),  # the listing was less precise, or older
        (1000, (10, 1000), (10, 1002), False),
        (1000, (10, 1000), (11, 1000), False),
        (1000, (11, 1000), (11, 1000), False),
    ],
)
async def test_a_file_in_pieces(
    tmp_path: Path, listed: int, before: tuple[int, int], after: tuple[int, int], whole: bool
) -> None:
    target = tmp_path / "big"

    def open_it(part: bytes | None = None) -> Target:
        return open_target(bytes(target))

    task = Download(b"big", _info(10, listed), CopyOptions(), open_it, source="big", target="big", ranges=True)
    task.pieces = 2
    task.ranged = True
    with contextlib.nullcontext() if whole else pytest.raises(TransferFailed, match="changed"):
        await task.prepare(cast("FTPSession", Server(*before)))
        await task.finish(cast("FTPSession", Server(*after)))
    task.discard()
    assert target.exists() == whole
