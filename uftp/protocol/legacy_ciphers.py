"""The ciphers of data connections outside MODE U (DATA-PLANE section 8). They keep nothing from being changed.

One state a data connection, which carries one file: Blowfish in ECB mode, or AES in CBC mode with the first 16 bytes
of the key as its start value; padded at the end as PKCS #7 says. They are here for old peers only.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.decrepit.ciphers.algorithms import Blowfish
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from uftp.protocol._errors import ProtocolError

BLOCK_BYTES: Final = {"AES": 16, "BLOWFISH": 8}
_IV_BYTES: Final = 16


def _cipher(name: str, key: bytes) -> Cipher[modes.CBC] | Cipher[modes.ECB]:
    if name == "AES":
        return Cipher(algorithms.AES(key[_IV_BYTES:]), modes.CBC(key[:_IV_BYTES]))
    return Cipher(Blowfish(key), modes.ECB())  # noqa: S305 - what old peers speak


def check_key(name: str, key: bytes) -> None:
    """Whether a key fits its cipher.

    Args:
        name: "AES" or "BLOWFISH".
        key: for AES 16 bytes of start value and 16, 24 or 32 of key; for Blowfish 4 to 56.

    Raises:
        ProtocolError: it does not.
    """
    if name not in BLOCK_BYTES:
        raise ProtocolError(f"no such cipher: {name}")
    if name == "AES" and len(key) not in (32, 40, 48):
        raise ProtocolError("an AES key has 32, 40 or 48 bytes (16 of them the IV)")
    if name == "BLOWFISH" and not 4 <= len(key) <= 56:
        raise ProtocolError("a Blowfish key has 4 to 56 bytes")


class Encryptor:
    """One direction of one connection.

    Args:
        name, key: see `check_key`.

    Raises:
        ProtocolError: the key does not fit.
    """

    def __init__(self, name: str, key: bytes) -> None:
        check_key(name, key)
        self._block = BLOCK_BYTES[name]
        self._context: CipherContext = _cipher(name, key).encryptor()
        self._length = 0

    @property
    def partial(self) -> int:
        """Plain bytes that wait for the rest of their block."""
        return self._length % self._block

    def update(self, data: bytes | memoryview) -> bytes:
        """The whole blocks so far."""
        self._length += len(data)
        return self._context.update(data)

    def finish(self) -> bytes:
        """Padding, and the last block."""
        missing = self._block - self.partial
        return self.update(bytes([missing]) * missing)


class Decryptor:
    """The other end of `Encryptor`: gives every block as soon as it is whole, padding included."""

    def __init__(self, name: str, key: bytes) -> None:
        check_key(name, key)
        self.block = BLOCK_BYTES[name]
        self._context: CipherContext = _cipher(name, key).decryptor()
        self._length = 0

    def update(self, data: bytes | memoryview) -> bytes:
        """The whole blocks so far."""
        self._length += len(data)
        return self._context.update(data)

    def finish(self) -> None:
        """The end of the connection.

        Raises:
            ProtocolError: it lies inside a block.
        """
        if self._length % self.block:
            raise ProtocolError("the encrypted data ends inside a cipher block")


def padding_length(last: bytes, block: int) -> int:
    """How many bytes at the end of `last` are padding.

    Args:
        last: the end of what was decrypted, at least its last block.
        block: bytes of a cipher block.

    Raises:
        ProtocolError: it does not end with padding: cut, changed, or never finished.
    """
    count = last[-1] if last else 0
    if not 1 <= count <= min(block, len(last)) or last[-count:] != bytes([count]) * count:
        raise ProtocolError("the encrypted data has no padding at its end")
    return count
