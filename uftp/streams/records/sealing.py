"""AES-256-GCM over records: the counter, the additional data, and whose first record it is (EXTENSIONS section 1)."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from uftp.protocol.records import MAX_RECORDS, TAG_BYTES, RecordError, nonce


class Sealer:
    """Encrypts the records of one direction of a connection, in order."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._count = 0

    def seal(self, content: memoryview | bytes, additional: bytes, target: memoryview) -> None:
        """Encrypt `content` into `target`, which is as long as it and the tag.

        Raises:
            RecordError: the connection has carried all the records its keys are good for.
        """
        self._cipher.encrypt_into(self._next(), content, additional, target)

    def skip(self, records: int) -> None:
        """Go on `records` further, or back: to open a record again. Never to seal one again."""
        self._count += records

    def _next(self) -> bytes:
        if self._count >= MAX_RECORDS:
            raise RecordError("a new data connection is due")
        value = nonce(self._count)
        self._count += 1
        return value

    def open(self, payload: memoryview, additional: bytes, target: memoryview) -> memoryview | None:
        """Decrypt `payload`, tag included.

        Returns:
            The content, at the start of `target`. None if the tag is wrong: what is in `target` then must not be used.

        Raises:
            RecordError: as for `seal`.
        """
        content = target[: len(payload) - TAG_BYTES]
        try:
            self._cipher.decrypt_into(self._next(), payload, additional, content)
        except InvalidTag:
            return None
        return content
