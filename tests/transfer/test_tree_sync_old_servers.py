"""Sync of trees with FTP servers of others: what they cannot tell or set costs a second look at most."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from plain_ftp import PlainServer, pyftpdlib_server, vsftpd_server

from uftp.errors import Refused
from uftp.transfer.filters import Filters, make_rules
from uftp.transfer.options import CopyOptions
from uftp.transfer.results import CopyState, CopySummary, FileResult
from uftp.transfer.tree_sync import TreeSyncOptions, sync_places

pytestmark = pytest.mark.slow

THEN = 1_600_000_000_123_456_789


@pytest.fixture(scope="module", params=["pyftpdlib", "vsftpd"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainServer]:
    start = {"pyftpdlib": pyftpdlib_server, "vsftpd": vsftpd_server}[request.param]
    with start(tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture(autouse=True)
def there(server: PlainServer) -> Iterator[Path]:
    yield server.root / "tree"
    for path in server.root.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals of what is tested are kept apart from the person's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    top = tmp_path / "here"
    for name, content in {"a/one": b"1", "a/b/two 2": b"22" * 1000, "three": b"", "large": b"l" * 2_000_000}.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)
        os.utime(top / name, ns=(THEN, THEN))
    (top / "empty").mkdir()
    return top


def run(source: str | Path, target: str | Path, **options: object) -> tuple[CopySummary, list[FileResult]]:
    copy = options.pop("copy", CopyOptions())
    assert isinstance(copy, CopyOptions)
    results: list[FileResult] = []

    async def main() -> CopySummary:
        asked = TreeSyncOptions(copy=copy, **options)  # type: ignore[arg-type]
        with trio.fail_after(60):
            found = await sync_places(
                str(source), str(target), options=asked, state=CopyState(on_result=results.append)
            )
        assert isinstance(found, CopySummary)
        return found

    summary = trio.run(main)
    return summary, results


def content(top: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(top)): path.read_bytes() if path.is_file() else None for path in top.rglob("*")}


def own(server: PlainServer, top: Path) -> None:
    """Give a tree to whoever the server is."""
    for path in (top, *top.rglob("*")):
        os.chown(path, server.root.stat().st_uid, -1, follow_symlinks=False)


def test_up_and_again(server: PlainServer, there: Path, here: Path) -> None:
    url = server.url + "/tree"
    summary, _ = run(here, url)
    assert (summary.files, summary.failed) == (4, 0)
    assert content(there) == content(here)
    again, _ = run(here, url, delete=True)
    assert (again.files, again.unchanged, again.deleted) == (0, 4, 0)
    (here / "a" / "one").write_bytes(b"!!")
    (here / "three").unlink()
    changed, results = run(here, url, delete=True)
    assert (changed.files, changed.deleted) == (1, 1)
    assert {(result.action, Path(result.target).name) for result in results} == {("copy", "one"), ("delete", "three")}
    assert content(there) == content(here)


def test_down_and_again(server: PlainServer, there: Path, here: Path, tmp_path: Path) -> None:
    shutil.copytree(here, there)
    own(server, there)
    back = tmp_path / "back"
    summary, _ = run(server.url + "/tree", back)
    assert (summary.files, summary.failed) == (4, 0)
    assert content(back) == content(here)
    (back / "extra" / "deep").mkdir(parents=True)
    (back / "extra" / "deep" / "x").write_bytes(b"x")
    again, _ = run(server.url + "/tree", back, delete=True)
    assert (again.files, again.unchanged, again.deleted) == (0, 4, 3)
    assert content(back) == content(here)


def test_trees_are_removed_without_following_links(
    server: PlainServer, there: Path, here: Path, tmp_path: Path
) -> None:
    """Such servers show a link to a directory as a directory."""
    outside = server.root / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"p")
    shutil.copytree(here, there)
    (there / "old" / "deep").mkdir(parents=True)
    (there / "old" / "deep" / "f").write_bytes(b"f")
    (there / "old" / "keep.log").write_bytes(b"k")
    (there / "gone" / "deep").mkdir(parents=True)
    for place in (there / "link", there / "gone" / "link"):
        place.symlink_to("../outside" if place.parent == there else "../../outside")
    own(server, server.root)
    filters = Filters(rules=make_rules([(False, "*.log")]))
    summary, _ = run(here, server.url + "/tree", delete=True, copy=CopyOptions(filters=filters))
    assert summary.failed == 0
    assert (outside / "precious").read_bytes() == b"p"
    assert content(there) == {**content(here), "old": None, "old/keep.log": b"k"}


def test_kinds_are_replaced(server: PlainServer, there: Path, here: Path) -> None:
    (there / "a" / "one" / "x").mkdir(parents=True)
    (there / "empty").write_bytes(b"a file")
    own(server, there)
    refused, _ = run(here, server.url + "/tree")
    assert refused.failed == 2
    assert (there / "empty").read_bytes() == b"a file"
    done, _ = run(here, server.url + "/tree", delete=True)
    assert done.failed == 0
    assert content(there) == content(here)


def test_what_they_cannot_do_is_said_before_anything_is_done(
    server: PlainServer, there: Path, here: Path, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match="checksum"):
        run(here, server.url + "/tree", checksum=True)
    shutil.copytree(here, there)
    with pytest.raises(Refused, match="links"):
        run(server.url + "/tree", tmp_path / "back", copy=CopyOptions(links="keep"))
    assert not (tmp_path / "back").exists()
