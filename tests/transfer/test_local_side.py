"""Local targets and sources: nothing leads out, nothing is there before it is whole."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest

from uftp.errors import UFTPError
from uftp.streams import Cancelled, Meter, PlainIncoming, PlainOutgoing, StreamError
from uftp.transfer.local import LocalTree, Nowhere, Source, Stream, open_target
from uftp.transfer.local_side import LocalSide


def receive(receiver: object, data: bytes) -> int:
    assert callable(receiver)
    left, right = socket.socketpair()
    with left, right:
        left.sendall(data)
        left.shutdown(socket.SHUT_WR)
        count = receiver(PlainIncoming(right), None, Meter())
        assert isinstance(count, int)
        return count


def test_a_new_file_appears_when_it_is_finished(tmp_path: Path) -> None:
    target = open_target(os.fsencode(tmp_path / "f"))
    assert receive(target.receiver(2), b"cd") == 2
    assert receive(target.receiver(0), b"ab") == 2
    assert not (tmp_path / "f").exists()
    target.finish(mtime_ns=10**18, permissions=0o600)
    assert (tmp_path / "f").read_bytes() == b"abcd"
    assert (tmp_path / "f").stat().st_mtime_ns == 10**18
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


def test_a_discarded_one_leaves_nothing(tmp_path: Path) -> None:
    target = open_target(os.fsencode(tmp_path / "f"))
    receive(target.receiver(0), b"ab")
    target.discard()
    target.discard()
    assert list(tmp_path.iterdir()) == []


def test_replacing_keeps_the_mode(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"old")
    file.chmod(0o604)
    target = open_target(os.fsencode(file))
    receive(target.receiver(0), b"new")
    target.finish(mtime_ns=None, permissions=None)
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"new", 0o604)


def test_a_link_the_user_names_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    target = open_target(os.fsencode(tmp_path / "link"))
    target.finish(mtime_ns=None, permissions=None)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").is_file()


@pytest.mark.parametrize("name", [b"../x", b"a/../../x", b"link/x", b"..", b".", b"", b"a/.."])
def test_a_tree_is_not_left(tmp_path: Path, name: bytes) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    tree = LocalTree(os.fsencode(root))
    for in_place in (False, True):
        with pytest.raises(OSError, match=r"."):
            tree.open_file(name, in_place=in_place)
    assert list(outside.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "root"]


def test_a_link_in_a_tree_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.write_bytes(b"keep")
    (root / "f").symlink_to(outside)
    tree = LocalTree(os.fsencode(root))
    with pytest.raises(OSError, match=r"."):
        tree.open_file(b"f", in_place=True)
    target = tree.open_file(b"f")
    receive(target.receiver(0), b"new")
    target.finish(mtime_ns=None, permissions=None)
    assert outside.read_bytes() == b"keep"
    assert (root / "f").read_bytes() == b"new"
    assert not (root / "f").is_symlink()


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(IsADirectoryError):
        open_target(os.fsencode(tmp_path / "d"))
    with pytest.raises(IsADirectoryError):
        Source.open(os.fsencode(tmp_path / "d"))


def test_devices_and_pipes(tmp_path: Path) -> None:
    assert isinstance(open_target(b"/dev/null"), Nowhere)
    zero = Source.open(b"/dev/zero")
    assert (zero.size, zero.parallel) == (None, True)
    zero.close()
    null = Source.open(b"/dev/null")
    assert (null.size, null.parallel) == (0, False)
    null.close()
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    target = open_target(os.fsencode(tmp_path / "pipe"))
    assert isinstance(target, Stream)
    assert not target.parallel
    receive(target.receiver(0), b"x" * 100_000)
    target.finish(mtime_ns=None, permissions=None)
    reader.join()
    assert got == [b"x" * 100_000]


def test_a_pipe_is_sent_from_an_offset_and_to_a_length() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"0123456789")
    os.close(writer)
    source = Source(reader)
    left, right = socket.socketpair()
    with left, right:
        source.sender(3, 4)(PlainOutgoing(left), Meter())
        left.shutdown(socket.SHUT_WR)
        assert right.recv(100) == b"3456"
    source.close()


def test_a_pipe_is_used_once() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"first")
    source, target = Source(reader), Stream(writer, owned=False)
    left, right = socket.socketpair()
    with left, right:
        send = source.sender(0, 5)
        send(PlainOutgoing(left), Meter())
        os.write(writer, b"second")
        with pytest.raises(StreamError, match="cannot be read again"):
            send(PlainOutgoing(left), Meter())
        assert right.recv(100) == b"first"
    receive(target.receiver(0), b"data")
    with pytest.raises(StreamError, match="cannot be taken back"):
        receive(target.receiver(0), b"data")
    os.close(writer)
    assert os.read(reader, 100) == b"seconddata"
    source.close()


def test_waiting_for_the_writer_of_a_named_pipe_ends_when_told_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with contextlib.closing(Source.open(os.fsencode(tmp_path / "pipe"))) as source:
        assert source.size is None
        meter = Meter()
        meter.cancelled = True
        left, right = socket.socketpair()
        with left, right, pytest.raises(Cancelled):
            source.sender(0, None)(PlainOutgoing(left), meter)


def test_a_source_that_is_written_to_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(b"before")
    source = Source.open(os.fsencode(path))
    assert source.is_unchanged()
    os.utime(path, ns=(0, source.mtime_ns + 1))
    assert not source.is_unchanged()
    source.close()


async def test_a_link_that_leads_in_a_circle_hides_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "file").write_bytes(b"x")
    (listed,) = await LocalSide(os.fsencode(tmp_path), "follow").entries([b""])
    assert not isinstance(listed, UFTPError)
    assert [entry.name for entry in listed] == [b"a", b"b", b"file"]
