"""Where uploads go."""

from __future__ import annotations

import os
from pathlib import Path

from uftp.protocol.ranges import WHOLE_FILE
from uftpd.session.filters import PathFilter
from uftpd.session.paths import FileTree
from uftpd.session.store import open_store


def test_a_session_remembers_only_so_many_directories(tmp_path: Path) -> None:
    tree = FileTree(os.fsencode(tmp_path), PathFilter(), confined=False)
    swept: set[bytes] = set()
    for number in range(1100):
        (tmp_path / f"d{number}").mkdir()
        open_store(tree, os.fsencode(tmp_path / f"d{number}" / "x"), WHOLE_FILE, "rename", swept).close()
    assert 0 < len(swept) <= 1000
    tree.close()
