"""`uftp get-share` with servers that are old, broken or hostile; with ours see `test_sharing`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from link_server import Shelf, serving_links
from running_uftp import Outcome, uftp

from uftp.client.share_link import parse_link, safe_name
from uftp.errors import PeerBrokeProtocol, UsageError
from uftp.transfer.share_pieces import LEAST_BYTES, Memory, Pieces, Remembered

MIB = 1024 * 1024
LARGE = os.urandom(MIB) * 40


def get(tmp_path: Path, *arguments: str | Path, code: int = 0) -> Outcome:
    """Run it in a directory of the test's."""
    here = tmp_path / "here"
    here.mkdir(exist_ok=True)
    done = uftp("get-share", "--insecure", *arguments, cwd=here, env={"XDG_STATE_HOME": str(tmp_path / "state")})
    assert done.code == code, done.err
    return done


def leftovers(tmp_path: Path) -> list[str]:
    return [path.name for path in (*(tmp_path / "here").rglob(".uftp-*"), *(tmp_path / "state").rglob("*.json"))]


@pytest.mark.slow
@pytest.mark.parametrize("ours", [True, False])
def test_a_file(tmp_path: Path, ours: bool) -> None:
    with serving_links(Shelf({"": b"content"}, ours=ours)) as shelf:
        get(tmp_path, shelf.link)
        get(tmp_path, shelf.link, "other")
        get(tmp_path, shelf.link, "made/")
        gets = [path for path, _ in shelf.asked if path.partition("?")[0] == parse_link(shelf.link).root]
        assert len(gets) == (6 if ours else 3), "on an older server the first GET is the use"
    for name in ("x.nc", "other", "made/x.nc"):
        assert (tmp_path / "here" / name).read_bytes() == b"content"
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_a_one_time_share_of_an_older_server_is_fetched_by_its_one_use(tmp_path: Path) -> None:
    with serving_links(Shelf({"": LARGE}, ours=False, once=True)) as shelf:
        get(tmp_path, shelf.link)
        assert get(tmp_path, shelf.link, "again", code=4).err.count("\n") == 1
    assert (tmp_path / "here/x.nc").read_bytes() == LARGE


@pytest.mark.slow
@pytest.mark.parametrize("cut", [0, 1, 3])
def test_a_large_file_comes_in_parts_and_goes_on_where_they_broke(tmp_path: Path, cut: int) -> None:
    with serving_links(Shelf({"": LARGE}, cut=cut)) as shelf:
        get(tmp_path, "-t", "4", shelf.link)
        ranges = [found for _, found in shelf.asked if found]
        assert len(ranges) >= 4, ranges
        assert shelf.cut == 0
    assert (tmp_path / "here/x.nc").read_bytes() == LARGE
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_what_breaks_off_on_an_older_server_is_no_file(tmp_path: Path) -> None:
    with serving_links(Shelf({"": LARGE}, ours=False, cut=1)) as shelf:
        get(tmp_path, shelf.link, code=6)
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("changed", [False, True])
def test_the_same_command_goes_on_if_the_version_is_the_same(tmp_path: Path, changed: bool) -> None:
    with serving_links(Shelf({"": LARGE}, cut=1000)) as shelf:
        get(tmp_path, "-t", "1", "--retries", "0", shelf.link, code=6)
        assert not (tmp_path / "here/x.nc").exists()
        assert len(leftovers(tmp_path)) == 2
        shelf.cut = 0
        shelf.asked.clear()
        if changed:
            shelf.files[""], shelf.etag = LARGE[::-1], '"v2"'
        get(tmp_path, "-t", "1", shelf.link)
        first = next(found for _, found in shelf.asked if found)
        assert first != "bytes=0-"
    assert (tmp_path / "here/x.nc").read_bytes() == (LARGE[::-1] if changed else LARGE)
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_a_directory_of_an_older_server(tmp_path: Path) -> None:
    tree = {"a": b"1", "sub dir/b": b"2", "sub dir/deep/c": b"3"}
    with serving_links(Shelf(dict(tree), ours=False)) as shelf:
        get(tmp_path, shelf.link, "tree")
        get(tmp_path, shelf.link + "/sub%20dir/", "sub")
    here = tmp_path / "here"
    found = {
        str(path.relative_to(here / "tree")): path.read_bytes() for path in (here / "tree").rglob("*") if path.is_file()
    }
    assert found == tree
    assert (here / "sub/deep/c").read_bytes() == b"3"


@pytest.mark.slow
def test_links_in_the_target_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    tree = tmp_path / "here/out/share"
    tree.mkdir(parents=True)
    (tree / "sub").symlink_to(outside)
    (tree / "a").symlink_to(outside / "victim")
    (outside / "victim").write_bytes(b"mine")
    with serving_links(Shelf({"a": b"1", "sub/b": b"2"}, ours=False)) as shelf:
        done = get(tmp_path, shelf.link, "out/", code=10)
        assert "a link is in the way" in done.err
    assert (outside / "victim").read_bytes() == b"mine"
    assert [path.name for path in outside.iterdir()] == ["victim"]
    assert (tree / "a").read_bytes() == b"1"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../../evil", "..", "a/b", ".", "/etc/passwd"])
def test_a_name_from_the_server_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    with serving_links(Shelf({"": b"content"}, name=name)) as shelf:
        get(tmp_path, shelf.link)
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.parent for path in found] == [tmp_path / "here"]


@pytest.mark.parametrize(
    "text",
    ["https://h/rest/auth/TEST", "https://h/rest/access/TEST", "ftp://h/rest/access/T/ID", "https://h/rest/access/T:/x",
     "https://u:p@h/rest/access/T/ID", "https://h/rest/access/T/ID/../x", "https://h/rest/access/T/ID/a%2fb", "x"],
)  # fmt: skip
def test_what_is_no_link(text: str) -> None:
    with pytest.raises(UsageError):
        parse_link(text)


def test_links_in_all_their_forms() -> None:
    link = parse_link("https://gw.example.org:8080/SITE/rest/access/TEST/G9-H_5/sub%20dir//x%3f/?download=1#top")
    assert (link.server, link.parts, link.slash) == ("TEST", (b"sub dir", b"x?"), True)
    assert link.url == "https://gw.example.org:8080/SITE/rest/access/TEST/G9-H_5/sub%20dir/x%3F/"
    assert link.service == "https://gw.example.org:8080/SITE/rest/access/TEST/G9-H_5"
    inner = link.entry("/SITE/rest/access/TEST/G9-H_5/sub%20dir/x%3F/y", False)
    assert inner.parts == (b"sub dir", b"x?", b"y")
    inside = "/SITE/rest/access/TEST/G9-H_5/sub%20dir"
    for href in (
        f"{inside}/",
        "/elsewhere",
        "/SITE/rest/access/TEST/OTHER/sub%20dir/x%3F/y",
        f"{inside}/x%3F/../../y",
        f"{inside}/x%3F/a%2Fb",
        f"{inside}/x%3F/a/b",
    ):
        with pytest.raises(PeerBrokeProtocol):
            link.entry(href, False)


def test_names_are_made_harmless() -> None:
    for name in (b"", b".", b"..", b"...", b"/"):
        assert safe_name(name) == b"share"
    assert safe_name(b"a\nb") == b"a_b"
    assert safe_name(b"../../x") == b"x"


def test_runs_are_divided_and_nothing_is_fetched_twice() -> None:
    size = 100 * LEAST_BYTES
    pieces = Pieces(size, [(0, LEAST_BYTES), (50 * LEAST_BYTES, 51 * LEAST_BYTES)])
    fetched = bytearray(100)
    fetched[0] = fetched[50] = 1
    runs = [run for run in (pieces.take() for _ in range(7)) if run is not None]
    while runs:
        run = runs.pop(0)
        if run.left:
            fetched[run.position // LEAST_BYTES] += 1
            run.position = min(run.end, (run.position // LEAST_BYTES + 1) * LEAST_BYTES)
            runs.append(run)
            continue
        pieces.give_back(run)
        if (more := pieces.take()) is not None:
            runs.append(more)
    assert pieces.is_whole
    assert pieces.moved == size
    assert set(fetched) <= {1, 2}, "a run may be divided within a block"


def test_a_note_that_makes_no_sense_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    memory = Memory("ab")
    assert memory.load() is None
    good = Remembered('"v"', 10, ((0, 5),))
    memory.save(good)
    assert memory.load() == good
    path = tmp_path / "uftp/shares/ab.json"
    assert path.stat().st_mode & 0o777 == 0o600
    for bad in (
        "",
        "[]",
        "{}",
        '{"etag": 1, "size": 1, "done": []}',
        '{"etag": "", "size": 5, "done": [[0, 6]]}',
        '{"etag": "", "size": 5, "done": [[4, 2]]}',
        '{"etag": "", "size": true, "done": []}',
        "[" * 5000,
    ):
        path.write_text(bad)
        assert memory.load() is None, bad
    memory.forget()
    assert not path.exists()
