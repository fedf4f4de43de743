"""Logging in with name and password from the password file.

One verification costs some 50 ms of processor time, so it runs in a few threads, with a bounded queue; a client that
opens N sessions logs in N + 1 times with one password, so a verified password is remembered for a while.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from uftpd.auth.errors import Unavailable
from uftpd.auth.events import event
from uftpd.auth.identity.base import Credentials, Identity, LoginRefused
from uftpd.auth.identity.password_file import (
    MARK_CHARACTERS,
    NO_PASSWORD,
    PasswordTable,
    parse_password_file,
    verify_password,
)
from uftpd.auth.identity.throttle import Throttle
from uftpd.config.login import Login
from uftpd.watched import WatchedFile

METHOD = "PASSWORD_FILE"
MAX_QUEUED = 128  # verifications waiting for a thread; at 50 ms each the last one waits for some seconds
MAX_REMEMBERED = 4096


class PasswordFileAuthenticator:
    """Basic credentials against a password file that is read again when it changes."""

    method = METHOD

    def __init__(
        self,
        path: Path,
        settings: Login,
        clock: Callable[[], float] = trio.current_time,
        throttle: Throttle | None = None,
    ) -> None:
        """Read the file.

        Args:
            path: the password file.
            settings: of `[login]`.
            clock: for what is remembered.
            throttle: of failed logins, if it is shared with other ways to log in.

        Raises:
            ConfigError: it cannot be read at all.
        """
        self._file = WatchedFile(path, partial(_parse_and_report, str(path)))
        self._settings = settings
        self._clock = clock
        self._throttle = throttle or Throttle(settings, clock)
        self._threads = trio.CapacityLimiter(settings.hash_threads)
        self._memory = _VerifiedPasswords(settings.cache_seconds, clock)
        self._running: dict[bytes, trio.Event] = {}
        self._reported: tuple[int, set[str]] = (0, set())

    async def authenticate(self, credentials: Credentials) -> Identity | None:
        """The identity of the line with this name and password; None if the scheme is not Basic.

        Raises:
            LoginRefused: wrong name or password.
            Unavailable: too many verifications are waiting.
            RequestError: too many failed logins from that address.
        """
        basic = credentials.basic()
        if basic is None:
            return None
        user, password = basic
        if password == NO_PASSWORD:
            # Neither counted nor verified: what is never slowed must cost nothing, or one peer took all threads.
            raise LoginRefused("the client sent no password")
        table = self._file.current()
        key = self._memory.key(user, password, self._file.generation)
        # Of several logins with the same words at once, one does the work and the others look at its result.
        while key in self._running:
            await self._running[key].wait()
        if not self._memory.holds(key):
            self._running[key] = trio.Event()
            try:
                await self._verify(table, user, password, credentials)
                self._memory.add(key)
            finally:
                self._running.pop(key).set()
        account = table.accounts[user]
        return Identity(account.dn, METHOD, proof=account.mark() + user)

    def still_accepts(self, identity: Identity) -> bool:
        """Whether the line somebody logged in by is still there, unchanged."""
        mark, user = identity.proof[:MARK_CHARACTERS], identity.proof[MARK_CHARACTERS:]
        account = self._file.current().accounts.get(user)
        return account is not None and account.mark() == mark

    async def _verify(self, table: PasswordTable, user: str, password: bytes, credentials: Credentials) -> None:
        if self._threads.statistics().tasks_waiting >= MAX_QUEUED:
            raise Unavailable("Too many logins at once, try again later")
        delay = self._throttle.attempt(credentials.address, user)
        await self._throttle.wait(credentials.address, delay)
        account = table.accounts.get(user)
        if await trio.to_thread.run_sync(verify_password, account, password, table.decoy, limiter=self._threads):
            self._throttle.succeeded(credentials.address, user)
            if account is not None and account.salt is not None:
                self._report_legacy(user)
            return
        raise LoginRefused(f"wrong name or password for {user[:64]!r}")

    def _report_legacy(self, user: str) -> None:
        """Say once, for each state of the file, that somebody's line is of the old form."""
        generation, users = self._reported
        if generation != self._file.generation:
            users = set()
            self._reported = self._file.generation, users
        if user not in users:
            users.add(user)
            remedy = "uftpd auth hash-password prints a better one"
            event("password line is salted MD5", level=logging.WARNING, user=user, remedy=remedy)


class _VerifiedPasswords:
    """Which name and password were found right a short while ago, in no form that anybody could use."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._verified: OrderedDict[bytes, float] = OrderedDict()

    def key(self, user: str, password: bytes, generation: int) -> bytes:
        """Stands for name, password and state of the file; a changed file makes all earlier keys worthless."""
        name = user.encode("utf-8", "surrogatepass")
        message = b"%d:%d:%b%b" % (generation, len(name), name, password)
        return hmac.new(self._secret, message, hashlib.sha256).digest()

    def add(self, key: bytes) -> None:
        if self._seconds > 0:
            self._verified[key] = self._clock() + self._seconds
            while len(self._verified) > MAX_REMEMBERED:
                self._verified.popitem(last=False)

    def holds(self, key: bytes) -> bool:
        until = self._verified.get(key)
        if until is None:
            return False
        if until < self._clock():
            del self._verified[key]
            return False
        return True


def _parse_and_report(path: str, text: str) -> PasswordTable:
    table = parse_password_file(text)
    for mistake in table.mistakes:
        event("password line skipped", level=logging.ERROR, file=path, reason=mistake)
    if legacy := sum(account.salt is not None for account in table.accounts.values()):
        remedy = "have these people choose passwords anew, with uftpd auth hash-password"
        event("password lines are salted MD5", level=logging.WARNING, file=path, lines=legacy, remedy=remedy)
    return table
