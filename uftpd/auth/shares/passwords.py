"""Passwords of shares: made into hashes, and checked, with guessing slowed as at logins."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from typing import Final

import argon2
import trio

from uftp.protocol.command_port import IPAddress
from uftpd.auth.errors import Unavailable
from uftpd.auth.identity.password_file import hash_password
from uftpd.auth.identity.throttle import Throttle
from uftpd.auth.shares.model import Share
from uftpd.config.login import Login

MAX_QUEUED: Final = 64
MAX_REMEMBERED: Final = 4096
MAX_PASSWORD_BYTES: Final = 1024

_HASHER = argon2.PasswordHasher()


class SharePasswords:
    """Checks passwords.

    Args:
        settings: of `[login]`: how many threads, how guessing is slowed.
    """

    def __init__(self, settings: Login) -> None:
        self._throttle = Throttle(settings)
        self._threads = trio.CapacityLimiter(settings.hash_threads)
        self._secret = secrets.token_bytes(32)
        self._verified: OrderedDict[bytes, None] = OrderedDict()
        self._running: dict[bytes, trio.Event] = {}

    async def hash(self, password: str) -> str:
        """What is kept of a password; empty for an empty one."""
        if not password:
            return ""
        return await trio.to_thread.run_sync(hash_password, password, limiter=self._threads)

    async def admits(self, share: Share, password: bytes, address: IPAddress) -> bool:
        """Whether a share has no password, or this one. A wrong one is answered later and later.

        Args:
            share: what is to be used.
            password: what the client sent; empty for none, which costs nothing.
            address: of the client.

        Raises:
            Unavailable: too many passwords are being checked.
            RequestError: 429, too many failures from that address.
        """
        if not share.password_hash:
            return True
        if not password or len(password) > MAX_PASSWORD_BYTES:
            return False
        key = hmac.new(self._secret, share.password_hash.encode() + b"\0" + password, hashlib.sha256).digest()
        while key in self._running:  # of several requests with the same words at once, one does the work
            await self._running[key].wait()
        if key in self._verified:
            self._verified.move_to_end(key)
            return True
        if self._threads.statistics().tasks_waiting >= MAX_QUEUED:
            raise Unavailable("Too many passwords at once, try again later")
        self._running[key] = trio.Event()
        try:
            return await self._verify(share, password, address, key)
        finally:
            self._running.pop(key).set()

    async def _verify(self, share: Share, password: bytes, address: IPAddress, key: bytes) -> bool:
        user = f"share {share.id}"
        await self._throttle.wait(address, self._throttle.attempt(address, user))
        if not await trio.to_thread.run_sync(_matches, share.password_hash, password, limiter=self._threads):
            return False
        self._throttle.succeeded(address, user)
        self._verified[key] = None
        while len(self._verified) > MAX_REMEMBERED:
            self._verified.popitem(last=False)
        return True


def _matches(digest: str, password: bytes) -> bool:
    try:
        return _HASHER.verify(digest, password)
    except argon2.exceptions.Argon2Error:
        return False
