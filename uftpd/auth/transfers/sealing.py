"""Seals what people leave here to log in elsewhere: AES-256-GCM, with a key that is in a file, not in the store.

    sealed = 1 byte version, 8 bytes that tell which key, 12 bytes nonce, ciphertext, 16 bytes tag

The additional data say what a value belongs to, so that one cannot be put in another's place. The file has a key a
line, 64 hex digits: the first seals, all open. So a site changes the key by a new first line, and takes the old one
away when the transfers of that time have ended.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from uftpd.config.toml import ConfigError
from uftpd.files import write_private

KEY_BYTES: Final = 32
_VERSION: Final = b"\x01"
_TAG_BYTES: Final = 8  # of a key, to find it among several
_NONCE_BYTES: Final = 12  # random: 2^32 values a key are no danger, and people do not leave that many
_MAX_FILE: Final = 64 * 1024


class CannotOpen(Exception):
    """A sealed value is not for what it is taken for, was changed, or the key is another. Says nothing of the value."""


class Sealer:
    """Seals and opens."""

    __slots__ = ("_first", "_keys")

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Use `KEY_BYTES` long keys: the first to seal, all to open."""
        self._keys = {_name(key): AESGCM(key) for key in keys}
        self._first = _name(keys[0])

    def seal(self, plain: bytes, context: bytes) -> bytes:
        """Seal a value that belongs to `context`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        head = _VERSION + self._first
        return head + nonce + self._keys[self._first].encrypt(nonce, plain, head + context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """What was sealed.

        Raises:
            CannotOpen: it was not sealed with any of the keys, or not for this context.
        """
        head, rest = sealed[: 1 + _TAG_BYTES], sealed[1 + _TAG_BYTES :]
        key = self._keys.get(head[1:]) if head[:1] == _VERSION else None
        if key is None:
            raise CannotOpen("sealed with another key")
        try:
            return key.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], head + context)
        except (InvalidTag, ValueError):
            raise CannotOpen("changed, or of something else") from None


def load_key_file(path: Path) -> Sealer:
    """Read the keys, or make a file with one if there is none.

    Raises:
        ConfigError: it cannot be read or made, others may read it, or there is no key in it.
    """
    if not os.path.lexists(path):
        try:
            write_private(path, secrets.token_hex(KEY_BYTES).encode() + b"\n", replace=False)
        except FileExistsError:
            pass  # another server was quicker
        except OSError as error:
            raise ConfigError(f"transfers.key_file: {path}: cannot be made: {error.strerror}") from error
    return Sealer(read_key_file(path))


def check_key_file(path: Path) -> None:
    """Whether `load_key_file` would work, without making anything.

    Raises:
        ConfigError: it would not.
    """
    if os.path.lexists(path):
        read_key_file(path)
    elif not path.parent.is_dir():
        raise ConfigError(f"transfers.key_file: {path}: no file in a directory that exists")


def read_key_file(path: Path) -> list[bytes]:
    """The keys in a file.

    Raises:
        ConfigError: as `load_key_file`.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_FILE)
    except OSError as error:
        raise ConfigError(f"transfers.key_file: {path}: cannot be read: {error.strerror}") from error
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ConfigError(f"transfers.key_file: {path}: others may read or change it; chmod 600 it")
    try:
        lines = [line.partition("#")[0].strip() for line in data.decode("ascii").splitlines()]
        keys = [bytes.fromhex(line) for line in lines if line]
    except ValueError:
        keys = []
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        raise ConfigError(f"transfers.key_file: {path}: expected a key of {2 * KEY_BYTES} hex digits a line")
    return keys


def _name(key: bytes) -> bytes:
    return hashlib.sha256(b"uftpd transfers key name\0" + key).digest()[:_TAG_BYTES]
