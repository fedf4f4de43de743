"""Credentials are opened with the right key for the right transfer and side, and by nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftpd.auth.transfers.sealing import CannotOpen, Sealer, check_key_file, load_key_file, read_key_file
from uftpd.config.toml import ConfigError

ONE, TWO = bytes(32), bytes([7] * 32)


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_what_is_sealed_can_be_opened(plain: bytes, context: bytes) -> None:
    sealed = Sealer([ONE]).seal(plain, context)
    assert Sealer([TWO, ONE]).open(sealed, context) == plain
    assert len(plain) < 8 or plain not in sealed


@given(st.binary(min_size=1, max_size=60), st.data())
def test_what_was_changed_is_not(plain: bytes, data: st.DataObject) -> None:
    sealer = Sealer([ONE])
    sealed = bytearray(sealer.seal(plain, b"x"))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CannotOpen):
        sealer.open(bytes(sealed), b"x")


@given(st.binary(max_size=80))
def test_junk_is_refused(junk: bytes) -> None:
    with pytest.raises(CannotOpen):
        Sealer([ONE]).open(junk, b"x")


def test_another_key_or_place_opens_nothing() -> None:
    sealed = Sealer([ONE]).seal(b"secret", b"transfer source")
    for key, context in ((TWO, b"transfer source"), (ONE, b"transfer target"), (ONE, b"")):
        with pytest.raises(CannotOpen) as caught:
            Sealer([key]).open(sealed, context)
        assert "secret" not in str(caught.value)


def test_no_two_are_alike() -> None:
    sealer = Sealer([ONE])
    assert len({sealer.seal(b"same", b"x") for _ in range(100)}) == 100


def test_a_key_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    sealed = load_key_file(path).seal(b"secret", b"x")
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key_file(path).open(sealed, b"x") == b"secret"
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_keys_are_changed_by_a_new_first_line(tmp_path: Path) -> None:
    path = tmp_path / "key"
    old = load_key_file(path)
    sealed = old.seal(b"secret", b"x")
    path.write_text(f"# new since May\n{TWO.hex()}  # in use\n\n{path.read_text()}")
    both = load_key_file(path)
    assert both.open(sealed, b"x") == b"secret"
    with pytest.raises(CannotOpen):
        old.open(both.seal(b"secret", b"x"), b"x")
    assert Sealer([TWO]).open(both.seal(b"secret", b"x"), b"x") == b"secret"


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        ("", 0o600, "64 hex digits"),
        ("# nothing\n", 0o600, "64 hex digits"),
        ("00" * 31, 0o600, "64 hex digits"),
        ("zz" * 32, 0o600, "64 hex digits"),
        ("ä" * 64, 0o600, "64 hex digits"),
        ("00" * 32, 0o604, "others may read"),
        ("00" * 32, 0o620, "others may read"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, mode: int, says: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(mode)
    for use in (load_key_file, read_key_file, check_key_file):
        with pytest.raises(ConfigError, match=says) as caught:
            use(path)
        assert content.strip() == "" or content not in str(caught.value)
    assert path.read_text() == content


def test_what_cannot_be_made_is_said(tmp_path: Path) -> None:
    missing = tmp_path / "none" / "key"
    for use in (load_key_file, check_key_file):
        with pytest.raises(ConfigError, match=r"transfers\.key_file"):
            use(missing)
    check_key_file(tmp_path / "key")
    assert not (tmp_path / "key").exists()
    os.symlink(missing, tmp_path / "link")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_key_file(tmp_path / "link")


def test_keys_do_not_show() -> None:
    assert ONE.hex() not in repr(Sealer([ONE]))
