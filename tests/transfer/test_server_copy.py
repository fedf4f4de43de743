"""Copies that a server runs with another one: our data node, and one like upstream's, on the other side."""

# ruff: noqa: ASYNC240 -- small local files, looked at before and after the step that a test is about

from __future__ import annotations

import contextlib
import os
import pwd
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from data_node import Node, Person, made_accounts, running_node
from scripted_ftp import OURS, reply, scripted_server
from upstream_layers import Layers
from upstream_node import UpstreamNode, upstream_node

from uftp.errors import AuthenticationFailed, LocalFileError, NetworkError, NotFound, Refused, UFTPError, UsageError
from uftp.protocol.command_port import Cipher
from uftp.transfer import pieces
from uftp.transfer.options import ByteRange, CopyOptions
from uftp.transfer.results import CopyState, CopySummary, FileResult
from uftp.transfer.server_copy import PeerLogin, ServerCopy, run_server_copy

KIB = 1024
MIB = 1024 * KIB
SECONDS = 120
KEYS: dict[str, bytes] = {"AES": bytes(range(48)), "BLOWFISH": bytes(range(56))}
CONTENT = os.urandom(3 * MIB + 17)


@pytest.fixture(autouse=True)
def _no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the process of a copy."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    if os.geteuid() != 0:
        with running_node(Person.find(pwd.getpwuid(os.geteuid()).pw_name), as_root=False) as running:
            yield running
        return
    with made_accounts("sc") as (person, _), running_node(person, as_root=True) as running:
        yield running


@pytest.fixture
def old(tmp_path: Path) -> Iterator[UpstreamNode]:
    root = tmp_path / "old"
    root.mkdir()
    with upstream_node(root) as running:
        yield running


def peer(node: Node, logins: int = 1, **fields: Any) -> PeerLogin:
    """The test's node; `fields` are for both ends as far as both have them."""
    known = ("key", "compress", "streams", "encrypt", "zstd", "name", "cipher")
    mine = {name: fields[name] for name in known if name in fields}
    theirs = {name: value for name, value in fields.items() if name not in ("encrypt", "zstd", "name", "cipher")}
    if logins > 1:
        theirs |= {"persistent": True, "max_logins": logins}
    secret = node.expect(**theirs)
    return PeerLogin(addresses=(node.ftp[0],), port=node.ftp[1], secret=secret, logins=logins, **mine)


def old_peer(node: UpstreamNode, layers: Layers | None = None, *, streams: int = 1, logins: int = 1) -> PeerLogin:
    layers = layers or Layers()
    return PeerLogin(
        addresses=(node.host,),
        port=node.port,
        secret=node.expect(layers=layers, streams=streams, persistent=logins > 1),
        logins=logins,
        key=layers.key,
        cipher=layers.cipher or None,  # type: ignore[arg-type]
        compress=layers.compress,
        streams=streams,
    )


def run(
    copy: ServerCopy, login: PeerLogin, state: CopyState | None = None, **more: Any
) -> tuple[CopySummary, CopyState]:
    state = state or CopyState()

    async def main() -> CopySummary:
        with trio.fail_after(SECONDS):
            return await run_server_copy(copy, login, state, **more)

    return trio.run(main), state


def done(summary: CopySummary, files: int = 1) -> None:
    summary.raise_for_failures()
    assert (summary.files, summary.failed) == (files, 0)


def sending(local: Path, remote: Path | str, **more: Any) -> ServerCopy:
    return ServerCopy(send=True, local=os.fsencode(local), remote=os.fsencode(remote), **more)


def receiving(local: Path, remote: Path | str, **more: Any) -> ServerCopy:
    return ServerCopy(send=False, local=os.fsencode(local), remote=os.fsencode(remote), **more)


def tree(top: Path, count: int = 300) -> dict[str, bytes]:
    """Some small files, an empty directory and a larger file."""
    files = {f"d{number % 7}/f{number}": os.urandom(number * 13 % 5000) for number in range(count)}
    files["large"] = os.urandom(3 * MIB)
    for name, content in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)
    (top / "empty").mkdir()
    return files


def contents(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


# -- our own node on the other side ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65537, len(CONTENT)])
@pytest.mark.parametrize("fields", [{}, {"key": KEYS["AES"], "encrypt": True}, {"zstd": True}], ids=str)
def test_one_file_with_one_login(node: Node, tmp_path: Path, size: int, fields: dict[str, Any]) -> None:
    there, source = node.directory(), tmp_path / "source"
    source.write_bytes(CONTENT[:size])
    sessions: list[str] = []
    state = CopyState(on_session=sessions.append)
    summary, _ = run(sending(source, there / "up"), peer(node, **fields), state)
    done(summary)
    assert (there / "up").read_bytes() == CONTENT[:size]
    assert summary.unverified == 0
    assert len(sessions) == 1
    assert ("AES-256-GCM" in sessions[0]) == ("encrypt" in fields)
    assert ("zstd" in sessions[0].lower()) == ("zstd" in fields)
    summary, _ = run(receiving(tmp_path / "down", there / "up"), peer(node, **fields))
    done(summary)
    assert (tmp_path / "down").read_bytes() == CONTENT[:size]


def test_without_encryption_nothing_is_copied(old: UpstreamNode, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"secret")
    login = old_peer(old, Layers(cipher="AES", key=KEYS["AES"]))
    login = PeerLogin(**{name: getattr(login, name) for name in PeerLogin.__slots__} | {"encrypt": True})
    with pytest.raises(Refused, match="MODE U"):
        run(sending(tmp_path / "source", old.root / "target"), login)
    assert list(old.root.iterdir()) == []


@pytest.mark.parametrize("logins", [1, 4])
def test_trees_in_both_directions(node: Node, tmp_path: Path, logins: int) -> None:
    (tmp_path / "source").mkdir()
    files = tree(tmp_path / "source")
    there = node.directory()
    options = CopyOptions(recursive=True, preserve=True)
    summary, state = run(
        sending(tmp_path / "source", f"{there}/", exact=False, options=options), peer(node, logins=logins)
    )
    done(summary, len(files))
    assert contents(there / "source") == files
    assert (there / "source/empty").is_dir()
    assert state.sessions <= logins
    summary, state = run(
        receiving(tmp_path / "back", there / "source", exact=False, options=options), peer(node, logins=logins)
    )
    done(summary, len(files))
    assert contents(tmp_path / "back") == files
    assert state.sessions <= logins
    assert (tmp_path / "back/large").stat().st_mtime_ns == (tmp_path / "source/large").stat().st_mtime_ns


def test_wildcards(node: Node, tmp_path: Path) -> None:
    there = node.directory()
    for name in ("a1", "a2", "b1", "a[1]"):
        node.file(there / name, name.encode())
    (tmp_path / "target").mkdir()
    options = CopyOptions(recursive=True)
    summary, _ = run(receiving(tmp_path / "target", there / "a*", exact=False, options=options), peer(node))
    done(summary, 3)
    assert sorted(contents(tmp_path / "target")) == ["a1", "a2", "a[1]"]
    # A name that looks like a pattern is taken as it is, if it is there.
    summary, _ = run(receiving(tmp_path / "one", there / "a[1]", exact=False, options=options), peer(node))
    done(summary)
    assert (tmp_path / "one").read_bytes() == b"a[1]"
    (tmp_path / "target/zz").write_bytes(b"zz")
    up = node.directory()
    summary, _ = run(sending(tmp_path / "target/a?", f"{up}/", exact=False, options=options), peer(node))
    done(summary, 2)
    assert sorted(contents(up)) == ["a1", "a2"]


def test_exact_names_are_no_patterns_and_no_directories(node: Node, tmp_path: Path) -> None:
    there = node.directory()
    node.file(there / "a[1]*", b"x")
    node.file(there / "a1", b"other")
    summary, _ = run(receiving(tmp_path / "b?", there / "a[1]*"), peer(node))
    done(summary)
    assert (tmp_path / "b?").read_bytes() == b"x"
    summary, _ = run(sending(tmp_path / "b?", there / "c*"), peer(node))
    done(summary)
    assert (there / "c*").read_bytes() == b"x"
    (tmp_path / "directory").mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        run(receiving(tmp_path / "directory", there / "a1"), peer(node))
    with pytest.raises(UsageError, match="is a directory"):
        run(sending(tmp_path / "directory", there / "x"), peer(node))
    with pytest.raises(UFTPError, match="is a directory"):
        run(receiving(tmp_path / "x", there), peer(node))
    with pytest.raises(Refused, match="directory"):
        run(sending(tmp_path / "b?", there), peer(node))
    assert list((tmp_path / "directory").iterdir()) == []
    assert sorted(contents(there)) == ["a1", "a[1]*", "c*"]


def test_a_dash_is_a_file(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = node.directory()
    Path("-").write_bytes(b"dash")
    for exact in (True, False):
        copy = ServerCopy(send=True, local=b"-", remote=os.fsencode(there / f"x{exact}"), exact=exact)
        done(run(copy, peer(node))[0])
        assert (there / f"x{exact}").read_bytes() == b"dash"
        Path("-").write_bytes(b"old")
        copy = ServerCopy(send=False, local=b"-", remote=os.fsencode(there / f"x{exact}"), exact=exact)
        done(run(copy, peer(node))[0])
        assert Path("-").read_bytes() == b"dash"


def test_what_is_replaced_keeps_its_mode_and_stays_until_the_copy_is_whole(node: Node, tmp_path: Path) -> None:
    there = node.directory()
    node.file(there / "f", CONTENT)
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "old").chmod(0o640)
    done(run(receiving(tmp_path / "old", there / "f"), peer(node))[0])
    assert (tmp_path / "old").read_bytes() == CONTENT
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o640
    with pytest.raises(NotFound):
        run(receiving(tmp_path / "old", there / "missing"), peer(node))
    assert (tmp_path / "old").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


# -- ranges ---------------------------------------------------------------------------------------------------------

RANGES = [
    (0, 0),
    (0, 99),
    (5, 5),
    (100, 65635),
    (0, len(CONTENT) - 1),
    (len(CONTENT) - 1, len(CONTENT) - 1),
    (17, None),
]
LAYERS: list[Any] = [
    pytest.param(1, Layers(), id="plain"),
    pytest.param(3, Layers(), id="streams"),
    pytest.param(1, Layers(compress=True), id="gzip"),
    pytest.param(3, Layers(compress=True), id="streams-gzip"),
    pytest.param(1, Layers(cipher="AES", key=KEYS["AES"]), id="aes"),
    pytest.param(1, Layers(cipher="BLOWFISH", key=KEYS["BLOWFISH"]), id="blowfish"),
    pytest.param(1, Layers(compress=True, cipher="AES", key=KEYS["AES"]), id="gzip-aes"),
]


@pytest.mark.parametrize("first_last", RANGES, ids=str)
@pytest.mark.parametrize("kind", ["ours", "old"])
@pytest.mark.parametrize("before", [None, b"z" * 200], ids=["new", "old"])
def test_a_range_is_written_in_place(
    node: Node, old: UpstreamNode, tmp_path: Path, kind: str, first_last: tuple[int, int | None], before: bytes | None
) -> None:
    first, last = first_last
    wanted = CONTENT[first : len(CONTENT) if last is None else last + 1]
    expected = bytearray(before or b"")
    expected.extend(bytes(max(0, first + len(wanted) - len(expected))))
    expected[first : first + len(wanted)] = wanted
    there = node.directory() if kind == "ours" else old.root
    options = CopyOptions(byte_range=ByteRange(first, last, in_place=True))
    here = tmp_path / "here"
    here.mkdir()
    (here / "source").write_bytes(CONTENT)
    if before is not None:
        (there / "target").write_bytes(before)
        (there / "target").chmod(0o666)
        (here / "target").write_bytes(before)

    def login() -> PeerLogin:
        return peer(node) if kind == "ours" else old_peer(old)

    done(run(sending(here / "source", there / "target", options=options), login())[0])
    assert (there / "target").read_bytes() == expected
    (there / "source").write_bytes(CONTENT)
    (there / "source").chmod(0o644)
    done(run(receiving(here / "target", there / "source", options=options), login())[0])
    assert (here / "target").read_bytes() == expected
    assert sorted(contents(there)) == ["source", "target"]


@pytest.mark.parametrize(("streams", "layers"), LAYERS)
@pytest.mark.parametrize("size", [0, 1, 16384, 70000, MIB])
def test_an_old_peer_with_its_layers(
    old: UpstreamNode, tmp_path: Path, streams: int, layers: Layers, size: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT[:size])
    done(run(sending(source, old.root / "up"), old_peer(old, layers, streams=streams))[0])
    assert contents(old.root) == {"up": CONTENT[:size]}
    done(run(receiving(tmp_path / "down", old.root / "up"), old_peer(old, layers, streams=streams))[0])
    assert (tmp_path / "down").read_bytes() == CONTENT[:size]
    options = CopyOptions(byte_range=ByteRange(1, 4000, in_place=True))
    if size > 4001:
        (tmp_path / "down").write_bytes(b"")
        done(
            run(receiving(tmp_path / "down", old.root / "up", options=options), old_peer(old, layers, streams=streams))[
                0
            ]
        )
        assert (tmp_path / "down").read_bytes() == b"\0" + CONTENT[1:4001]
    assert old.logins == old.verbs().count("FEAT")


@pytest.mark.parametrize(("streams", "layers"), LAYERS)
def test_our_node_as_if_it_were_old(node: Node, tmp_path: Path, streams: int, layers: Layers) -> None:
    """What a key, gzip or streams of the session come to where the other side has MODE U."""
    there = node.directory()
    (tmp_path / "source").write_bytes(CONTENT)
    fields: dict[str, Any] = {"streams": streams, "compress": layers.compress}
    if layers.key:
        fields |= {"key": layers.key, "algorithm": Cipher[layers.cipher], "cipher": layers.cipher}
    done(run(sending(tmp_path / "source", there / "up"), peer(node, **fields))[0])
    assert (there / "up").read_bytes() == CONTENT
    done(run(receiving(tmp_path / "down", there / "up"), peer(node, **fields))[0])
    assert (tmp_path / "down").read_bytes() == CONTENT


def test_an_old_peer_never_has_a_partial_file_under_its_name(old: UpstreamNode, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    done(run(sending(tmp_path / "source", old.root / "target"), old_peer(old))[0])
    stored = [line for line in old.lines if line.startswith("STOR")]
    assert len(stored) == 1
    assert ".part" in stored[0]
    assert f"RNTO {old.root}/target" in old.lines


def test_a_tree_to_and_from_an_old_peer(old: UpstreamNode, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    files = tree(tmp_path / "source", 20)
    options = CopyOptions(recursive=True)
    done(
        run(sending(tmp_path / "source", old.root / "tree", exact=False, options=options), old_peer(old))[0], len(files)
    )
    assert contents(old.root / "tree") == files
    copy = receiving(tmp_path / "back", old.root / "tree", exact=False, options=options)
    done(run(copy, old_peer(old, logins=3))[0], len(files))
    assert contents(tmp_path / "back") == files


# -- logins ---------------------------------------------------------------------------------------------------------


def test_a_dead_secret_is_a_clear_error(node: Node, old: UpstreamNode, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x")
    login = peer(node)
    done(run(sending(tmp_path / "source", node.directory() / "x"), login)[0])
    with pytest.raises(AuthenticationFailed, match="one-time password") as caught:
        run(sending(tmp_path / "source", node.directory() / "x"), login)
    assert login.secret not in str(caught.value)
    assert login.secret not in repr(login)
    used = old_peer(old)
    done(run(sending(tmp_path / "source", old.root / "x"), used)[0])
    with pytest.raises(AuthenticationFailed, match="one-time password"):
        run(sending(tmp_path / "source", old.root / "x"), used)


def test_a_lone_login_is_used_once(tmp_path: Path) -> None:
    """The connection breaks in the middle: what it was is said, and nobody logs in again with a dead password."""

    async def main() -> None:
        async def cut(dialogue: Any, argument: str) -> None:
            await dialogue.say("150 OK 1000 bytes available for reading.")
            await (await dialogue.data()).aclose()
            await dialogue.control.aclose()

        async with scripted_server({"RETR": cut}, features=OURS) as server:
            login = PeerLogin(addresses=("127.0.0.1",), port=server.port, secret="once")
            with trio.fail_after(SECONDS):
                summary = await run_server_copy(receiving(tmp_path / "target", "/a"), login, CopyState())
            assert server.lines.count("USER anonymous") == 1
        assert (summary.files, summary.failed) == (0, 1)
        with pytest.raises(AuthenticationFailed, match=r"session was lost .*no further login"):
            summary.raise_for_failures()
        assert list(tmp_path.iterdir()) == []

    trio.run(main)


def test_each_login_is_counted(tmp_path: Path) -> None:
    async def main() -> None:
        async def cut(dialogue: Any, argument: str) -> None:
            await dialogue.control.aclose()

        async with scripted_server({"RETR": cut}, features=OURS) as server:
            login = PeerLogin(addresses=("127.0.0.1",), port=server.port, secret="thrice", logins=3)
            with trio.fail_after(SECONDS):
                summary = await run_server_copy(receiving(tmp_path / "target", "/a"), login, CopyState())
            assert server.lines.count("USER anonymous") == 3
        assert summary.failed == 1

    trio.run(main)


def test_a_transfer_that_fails_is_tried_again_on_the_lone_session(tmp_path: Path) -> None:
    tries = 0

    async def main() -> CopySummary:
        async def once_busy(dialogue: Any, argument: str) -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                await dialogue.say("150 OK 1000 bytes available for reading.")
                await (await dialogue.data()).aclose()
                await dialogue.say("426 broken")
                return
            await dialogue.say("150 OK 1000 bytes available for reading.")
            async with await dialogue.data() as data:
                await data.send_all(bytes(1000))
            await dialogue.say("226 done")

        async with scripted_server({"RETR": once_busy, "HASH": reply("500 no")}, features=OURS) as server:
            login = PeerLogin(addresses=("127.0.0.1",), port=server.port, secret="once")
            with trio.fail_after(SECONDS):
                summary = await run_server_copy(receiving(tmp_path / "target", "/a"), login, CopyState())
            assert server.lines.count("USER anonymous") == 1
            return summary

    done(trio.run(main))
    assert (tmp_path / "target").read_bytes() == bytes(1000)
    assert tries == 2


def test_addresses_are_tried_in_order_and_nothing_else_is_connected_to(node: Node, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x")
    there = node.directory()
    login = peer(node, name="node.example:2121")
    fields = {name: getattr(login, name) for name in PeerLogin.__slots__}
    # Nobody listens there: the password is not spent.
    login = PeerLogin(**fields | {"addresses": ("127.0.0.2", node.ftp[0])})
    done(run(sending(tmp_path / "source", there / "x"), login)[0])
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        login = PeerLogin(**fields | {"port": closed.getsockname()[1]})
        with pytest.raises(NetworkError, match=r"node\.example:2121: cannot connect"):
            run(sending(tmp_path / "source", there / "x"), login)


# -- what stays -----------------------------------------------------------------------------------------------------


def cancelled_in_the_middle(
    copy: ServerCopy, login: PeerLogin, *, keep: bool, enough: Callable[[CopyState], bool]
) -> CopyState:
    """Run a copy until `enough`, and cancel it."""
    state = CopyState()

    async def main() -> None:
        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:

                async def work() -> None:
                    await run_server_copy(copy, login, state, keep=lambda: keep)
                    raise AssertionError("it was done before it was cancelled")

                nursery.start_soon(work)
                while not enough(state):  # noqa: ASYNC110 -- totals tell nobody that they change
                    await trio.sleep(0.02)
                nursery.cancel_scope.cancel()

    trio.run(main)
    return state


@pytest.mark.parametrize("send", [True, False], ids=["send", "receive"])
@pytest.mark.parametrize("resume", [True, False], ids=["resume", "no-resume"])
@pytest.mark.parametrize("keep", [True, False], ids=["keep", "drop"])
def test_an_aborted_copy_leaves_what_it_is_told_to(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, send: bool, resume: bool, keep: bool
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(pieces, "SMALLEST_PIECE", MIB)  # so that some are there long before the end is in sight
    there, here = node.directory(), tmp_path / "here"
    here.mkdir()
    source, target = (here / "s", there / "t") if send else (there / "s", here / "t")
    source.write_bytes(os.urandom(MIB) * 64)
    source.chmod(0o644)
    options = CopyOptions(limit_rate=12 * MIB)
    copy = (sending if send else receiving)(
        here / source.name if send else target,
        there / (target if send else source).name,
        options=options,
        resume=resume,
    )
    state = cancelled_in_the_middle(copy, peer(node, logins=2), keep=keep, enough=lambda state: state.moved > 6 * MIB)
    assert state.files_done == 0
    assert not target.exists()
    left = [path for path in target.parent.iterdir() if path != source]
    assert len(left) == (1 if resume and keep else 0), left
    assert bool(list((tmp_path / "state").rglob("*.journal"))) == (resume and keep)
    again = ServerCopy(send=send, local=copy.local, remote=copy.remote, resume=resume)
    summary, _ = run(again, peer(node, logins=2))
    done(summary)
    assert target.read_bytes() == source.read_bytes()
    assert (summary.taken_over > 0) == (resume and keep)
    assert not list((tmp_path / "state").rglob("*.journal"))
    assert {path.name for path in there.iterdir()} == {"t" if send else "s"}


# -- a session that is confined to its base -------------------------------------------------------------------------


def test_a_source_may_be_an_open_file(node: Node, tmp_path: Path) -> None:
    there = node.directory()
    (tmp_path / "secret-place").write_bytes(CONTENT)
    results: list[FileResult] = []
    with (tmp_path / "secret-place").open("rb") as file:
        copy = ServerCopy(
            send=True,
            local=b"/proc/self/fd/%d" % file.fileno(),
            local_name=b"/data/in",
            remote=os.fsencode(there / "up"),
        )
        done(run(copy, peer(node), CopyState(on_result=results.append))[0])
    assert (there / "up").read_bytes() == CONTENT
    assert [result.source for result in results] == ["/data/in"]


@pytest.mark.parametrize("in_place", [True, False])
def test_a_target_may_be_a_name_in_an_open_directory(node: Node, tmp_path: Path, in_place: bool) -> None:
    there = node.directory()
    node.file(there / "f", CONTENT)
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    directory = tmp_path / "secret-place"
    directory.mkdir()
    (directory / "link").symlink_to(outside)
    results: list[FileResult] = []
    byte_range = ByteRange(2, 5, in_place=True) if in_place else None
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)

    def copy(name: bytes) -> CopySummary:
        wanted = ServerCopy(
            send=False,
            local=b"/proc/self/fd/%d/%b" % (fd, name),
            local_name=b"/data/" + name,
            remote=os.fsencode(there / "f"),
            options=CopyOptions(byte_range=byte_range),
        )
        return run(wanted, peer(node), CopyState(on_result=results.append))[0]

    try:
        done(copy(b"new"))
        assert (directory / "new").read_bytes() == (b"\0\0" + CONTENT[2:6] if in_place else CONTENT)
        assert results[-1].target == "/data/new"
        summary = copy(b"link")
        assert outside.read_bytes() == b"precious"
        if in_place:
            assert summary.failed == 1
            assert "/data/link" in results[-1].problem
        else:
            assert not (directory / "link").is_symlink()
        with contextlib.suppress(UFTPError):
            copy(b"..")
        assert results[-1].error is not None or results[-1].target != "/data/.."
    finally:
        os.close(fd)
    said = " ".join(f"{result.source} {result.target} {result.error}" for result in results)
    assert "secret-place" not in said
    assert "/proc/" not in said
    assert sorted(path.name for path in directory.iterdir()) == ["link", "new"]


def test_an_open_file_is_written_in_place(node: Node, tmp_path: Path) -> None:
    there = node.directory()
    node.file(there / "f", CONTENT)
    (tmp_path / "t").write_bytes(b"0123456789")
    with (tmp_path / "t").open("r+b") as file:
        local = b"/proc/self/fd/%d" % file.fileno()
        options = CopyOptions(byte_range=ByteRange(2, 5, in_place=True))
        copy = ServerCopy(send=False, local=local, remote=os.fsencode(there / "f"), options=options)
        done(run(copy, peer(node))[0])
        assert (tmp_path / "t").read_bytes() == b"01" + CONTENT[2:6] + b"6789"
        with pytest.raises(UsageError, match="in place"):
            run(ServerCopy(send=False, local=local, remote=os.fsencode(there / "f")), peer(node))


def test_messages_name_local_files_as_the_person_does(node: Node, tmp_path: Path) -> None:
    real = tmp_path / "real-root"
    real.mkdir()
    (real / "tree").mkdir()
    (real / "tree" / "good").write_bytes(b"g")
    os.mkfifo(real / "tree" / "pipe")
    said: list[str] = []
    results: list[FileResult] = []
    state = CopyState(on_note=said.append, on_result=results.append)
    copy = ServerCopy(
        send=True,
        local=os.fsencode(real / "tree"),
        local_name=b"/tree",
        remote=os.fsencode(node.directory()),
        exact=False,
        options=CopyOptions(recursive=True),
    )
    run(copy, peer(node), state)
    assert any(text.startswith("/tree/pipe") for text in said)
    assert [result.source for result in results] == ["/tree/good"]
    with pytest.raises(LocalFileError, match=r"^/tree/missing: ") as caught:
        run(
            ServerCopy(
                send=True, local=os.fsencode(real / "tree/missing"), local_name=b"/tree/missing", remote=b"/x/y"
            ),
            peer(node),
        )
    assert "real-root" not in f"{said} {results} {caught.value}"


def test_nothing_is_printed(node: Node, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    done(run(sending(tmp_path / "source", node.directory() / "x"), peer(node))[0])
    with pytest.raises(NotFound):
        run(receiving(tmp_path / "x", node.directory() / "missing"), peer(node))
    assert capfd.readouterr() == ("", "")
