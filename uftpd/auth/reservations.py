"""Reservations: times in which the people they are for keep their rate, and all others are slowed (CONTROL-PLANE 2.6).

    {"reservations": [{"name": "r1", "from": "2028-09-22 08:00", "to": "2028-09-22 09:00",
                       "uids": ["user1", "user2"], "rateLimit": "10m"}]}

A reservation holds strictly between its two times. Its limit counts when a session is asked for; sessions that run
keep their rate.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from uftpd.auth.attributes.rates import parse_rate
from uftpd.auth.events import event
from uftpd.config.toml import ConfigError
from uftpd.watched import WatchedFile

DEFAULT_RATE = "10m"
_MAX_RESERVATIONS = 10_000  # each is looked at for every session

_CLOCK_TIME = re.compile(r"(\d{1,2}):(\d{2})", re.ASCII)
_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Reservation:
    """One reservation.

    Attributes:
        name: shown to its owners.
        start, end: with their zone.
        accounts: local accounts of those it is for.
        rate: of all others, bytes a second and session; positive.
        rate_text: as written.
    """

    name: str
    start: dt.datetime
    end: dt.datetime
    accounts: tuple[str, ...]
    rate: int
    rate_text: str

    def is_active(self, now: dt.datetime) -> bool:
        """Whether it holds at this time."""
        return self.start < now < self.end

    def __str__(self) -> str:
        users = ", ".join(self.accounts)
        start, end = _shown(self.start), _shown(self.end)
        return f"'{self.name}': users=[{users}] from={start} to={end} other_users_limit={self.rate_text}"


def _shown(time: dt.datetime) -> str:
    return time.astimezone().strftime("%a %b %d %H:%M:%S %Z %Y")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Reservations:
    """The reservations of one logical server, as of now.

    A file that is not there, or not yet, is no reservation; one that cannot be read or understood keeps those known.

    Args:
        path: the file.
        now: tells the time; for tests.
    """

    def __init__(self, path: Path, now: Callable[[], dt.datetime] = _now) -> None:
        self._path = path
        self._now = now
        self._file: WatchedFile[tuple[Reservation, ...]] | None = None
        self._complaint = ""
        self._current()

    def limit_for(self, account: str) -> int:
        """What the active reservations leave to this account, bytes a second; 0 for no limit.

        Who owns any active reservation is not limited by others.
        """
        now = self._now()
        active = [reservation for reservation in self._current() if reservation.is_active(now)]
        if any(account in reservation.accounts for reservation in active):
            return 0
        return min((reservation.rate for reservation in active), default=0)

    def of(self, account: str) -> list[Reservation]:
        """Those that are for this account and have not ended."""
        now = self._now()
        return [found for found in self._current() if account in found.accounts and now < found.end]

    def _current(self) -> tuple[Reservation, ...]:
        if self._file is None:
            try:
                self._file = WatchedFile(self._path, partial(self._parse, str(self._path)))
            except ConfigError as error:
                if str(error) != self._complaint:
                    event("no reservations", level=logging.WARNING, reason=str(error))
                self._complaint = str(error)
                return ()
        return self._file.current()

    def _parse(self, path: str, text: str) -> tuple[Reservation, ...]:
        found, mistakes = parse_reservations(text, self._now())
        for mistake in mistakes:
            event("reservation skipped", level=logging.WARNING, file=path, reason=mistake)
        return tuple(found)


def parse_reservations(text: str, now: dt.datetime) -> tuple[list[Reservation], list[str]]:
    """The reservations in a file that have not ended, and what is wrong with entries that are none.

    Args:
        text: of the file.
        now: with its zone; times without date count from here.

    Raises:
        ValueError: the text as a whole is no list of reservations.
    """
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {error}") from None
    entries = table.get("reservations") if isinstance(table, dict) else None
    if not isinstance(entries, list):
        raise ValueError('expected {"reservations": [...]}')
    if len(entries) > _MAX_RESERVATIONS:
        raise ValueError(f"more than {_MAX_RESERVATIONS} reservations")
    found, mistakes = [], []
    for number, entry in enumerate(entries, start=1):
        try:
            reservation = _reservation(entry, now)
        except ValueError as error:
            mistakes.append(f"entry {number}: {error}")
        else:
            if now < reservation.end:
                found.append(reservation)
    return found, mistakes


def _reservation(entry: Any, now: dt.datetime) -> Reservation:
    if not isinstance(entry, dict):
        raise ValueError("expected an object")
    name = entry.get("name", secrets.token_hex(4))
    if not isinstance(name, str):
        raise ValueError("name: expected a text")
    rate_text = entry.get("rateLimit", DEFAULT_RATE)
    if isinstance(rate_text, int) and not isinstance(rate_text, bool):
        rate_text = str(rate_text)
    if not isinstance(rate_text, str) or (rate := parse_rate(rate_text)) <= 0:
        raise ValueError("rateLimit: expected a positive rate such as 10m")
    start, end = _window(_text(entry, "from"), _text(entry, "to"), now)
    if end < start:
        raise ValueError("to: before from")
    return Reservation(_printable(name), start, end, _accounts(entry), rate, _printable(rate_text))


def _accounts(entry: dict[str, Any]) -> tuple[str, ...]:
    several, one = entry.get("uids", []), entry.get("uid")
    if not isinstance(several, list) or not all(isinstance(item, str) and item for item in several):
        raise ValueError("uids: expected a list of accounts")
    if one is not None and (not isinstance(one, str) or not one):
        raise ValueError("uid: expected an account")
    accounts = tuple(dict.fromkeys([*([one] if one else []), *several]))
    if not accounts:
        raise ValueError("uids: nobody is named, so all would be slowed")
    return accounts


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name}: required, as a text")
    return value.strip()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def _window(start_text: str, end_text: str, now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """Both times. One without date is the next such time: for an end the next after the start.

    Where both have none, the window is the one that runs now, or the next.
    """
    start_clock, end_clock = _clock_time(start_text, "from"), _clock_time(end_text, "to")
    if start_clock is not None and end_clock is not None:
        for day in (now - _DAY, now):
            start = _at(day, start_clock)
            end = _next(end_clock, start)
            if end > now:
                return start, end
        start = _at(now + _DAY, start_clock)
        return start, _next(end_clock, start)
    start = _next(start_clock, now) if start_clock is not None else _date(start_text, "from")
    end = _next(end_clock, max(start, now)) if end_clock is not None else _date(end_text, "to")
    return start, end


def _clock_time(text: str, name: str) -> dt.time | None:
    match = _CLOCK_TIME.fullmatch(text)
    if match is None:
        return None
    try:
        return dt.time(int(match[1]), int(match[2]))
    except ValueError:
        raise ValueError(f"{name}: '{text}' is no time of day") from None


def _at(day: dt.datetime, time: dt.time) -> dt.datetime:
    """This time of day in the server's zone."""
    return dt.datetime.combine(day.astimezone().date(), time).astimezone()


def _next(time: dt.time, after: dt.datetime) -> dt.datetime:
    today = _at(after, time)
    return today if today >= after else _at(after + _DAY, time)


def _date(text: str, name: str) -> dt.datetime:
    for form in ("%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S%z"):
        try:
            return dt.datetime.strptime(text, form).astimezone()
        except (ValueError, OverflowError, OSError):
            continue
    raise ValueError(f"{name}: '{_printable(text)}' is no time such as 2028-09-22 08:00")
