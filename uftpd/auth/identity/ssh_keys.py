"""Where the public keys of a name are found: in a file of the site's, and on the data nodes (CONTROL-PLANE 5.3).

Nodes are asked for names nobody has proven yet. So only names of a strict form get that far, the look-ups of names
that never logged in are counted by address and altogether, one name is asked for once at a time, and all that is
remembered is bounded.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from uftp.protocol.command_port import IPAddress, RequestRefused, is_clean
from uftp.protocol.dn import InvalidName, parse_name
from uftpd.auth.errors import RequestError, Unavailable
from uftpd.auth.events import event
from uftpd.auth.identity.accounts import is_account_name
from uftpd.auth.identity.authorized_keys import AuthorizedKey, UnusableKey, parse_line
from uftpd.auth.identity.budget import Budget
from uftpd.auth.nodes.client import NodeUnreachable
from uftpd.auth.nodes.registry import LogicalServer, NodeRegistry
from uftpd.config.login import SshLogin
from uftpd.watched import WatchedFile

MARK_CHARACTERS = 32
MAX_NAMES = 4096  # whose keys are remembered; the longest unused go first
MAX_LINES = 256  # of one name on one server, whether they can be used or not
MAX_PROVEN = 50_000  # names that logged in before
MAX_QUEUED = 64  # look-ups waiting for their turn
SILENT_SECONDS = 60.0  # a server that was too slow with keys is left alone this long


# -- the file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyFileEntry:
    """One line: a key, and whom it makes."""

    key: AuthorizedKey
    dn: str

    def mark(self) -> str:
        """Stands for the line: that of another key, person or restriction is different."""
        key = self.key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        said = f"{self.dn}\n{self.key.sources}\n{self.key.ends}".encode()
        return hashlib.sha256(key + said).hexdigest()[:MARK_CHARACTERS]


@dataclass(frozen=True, slots=True)
class KeyTable:
    """A whole file; `mistakes` are one line for a person each, for lines that were skipped."""

    entries: Mapping[str, tuple[KeyFileEntry, ...]]
    mistakes: tuple[str, ...]


def parse_key_file(text: str) -> KeyTable:
    """Read lines `name:authorized_keys-line:DN`; several lines may have one name.

    The name ends at the first colon and the DN begins behind the last, so options may hold colons.
    """
    found: dict[str, list[KeyFileEntry]] = {}
    mistakes = []
    for number, line in enumerate(text.split("\n"), start=1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        try:
            name, entry = _parse_key_line(content)
        except ValueError as error:
            mistakes.append(f"line {number}: {error}")
        else:
            found.setdefault(name, []).append(entry)
    return KeyTable({name: tuple(entries) for name, entries in found.items()}, tuple(mistakes))


def _parse_key_line(line: str) -> tuple[str, KeyFileEntry]:
    name, first, rest = line.partition(":")
    key, second, dn = rest.rpartition(":")
    if not first or not second:
        raise ValueError("expected name:key:DN, the key as in authorized_keys")
    if not is_account_name(name):
        raise ValueError("a name has letters, digits and _ . @ - only")
    if not is_clean(line):
        raise ValueError("there are control characters")
    try:
        parse_name(dn)
    except InvalidName as error:
        raise ValueError(f"no valid DN: {error}") from None
    try:
        return name, KeyFileEntry(parse_line(key), dn.strip())
    except UnusableKey as error:
        raise ValueError(f"the key is not taken: {error}") from None


def watch_key_file(path: Path) -> WatchedFile[KeyTable]:
    """The key file, as of now; its mistakes go to the log each time it is read.

    Raises:
        ConfigError: it cannot be read at all.
    """
    return WatchedFile(path, partial(_parse_and_report, str(path)))


def _parse_and_report(path: str, text: str) -> KeyTable:
    table = parse_key_file(text)
    for mistake in table.mistakes:
        event("key line skipped", level=logging.ERROR, file=path, reason=mistake)
    return table


# -- the nodes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """What the nodes say of one name.

    Attributes:
        found: keys, each with the logical servers that report it.
        complete: whether every server answered.
        asked: when, by the clock of the source.
    """

    found: tuple[tuple[AuthorizedKey, tuple[str, ...]], ...]
    complete: bool
    asked: float


@dataclass(slots=True)
class _Question:
    """A look-up under way."""

    done: trio.Event = field(default_factory=trio.Event)
    answer: NodeKeys | None = None


class NodeKeySource:
    """Asks one instance of each logical server for the keys of a name, and remembers the answers."""

    def __init__(
        self, registry: NodeRegistry, settings: SshLogin, clock: Callable[[], float] = trio.current_time
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._clock = clock
        self._answers: OrderedDict[str, NodeKeys] = OrderedDict()
        self._proven: OrderedDict[str, None] = OrderedDict()
        self._running: dict[str, _Question] = {}
        self._silent_until: dict[str, float] = {}
        self._places = trio.CapacityLimiter(settings.lookups_at_once)
        self._budget = Budget(settings.lookups_per_minute_and_address, settings.lookups_per_minute, clock)

    def remembered(self, name: str) -> NodeKeys | None:
        """An answer young enough to let somebody in by it."""
        answer = self._answers.get(name)
        if answer is None or self._clock() >= answer.asked + self._settings.cache_seconds:
            return None
        return answer

    def is_settled(self, answer: NodeKeys) -> bool:
        """Whether an answer is young enough to turn somebody away by it."""
        return self._clock() < answer.asked + self._settings.failure_seconds

    def proved(self, name: str) -> None:
        """Somebody has logged in with a key of this name: from now on its look-ups are not counted."""
        self._proven[name] = None
        self._proven.move_to_end(name)
        while len(self._proven) > MAX_PROVEN:
            self._proven.popitem(last=False)

    async def look_up(self, name: str, address: IPAddress) -> NodeKeys:
        """What the nodes say of a name now, or said a few seconds ago.

        Raises:
            RequestError: too many look-ups for this address or altogether.
            Unavailable: too many are waiting.
        """
        while (running := self._running.get(name)) is not None:
            await running.done.wait()
            if running.answer is not None:
                return running.answer
        answer = self._answers.get(name)
        if answer is not None and self.is_settled(answer):
            return answer
        if name not in self._proven and not self._budget.take(address):
            raise RequestError("Too many logins by SSH key with unknown names, try again later", status=429)
        if self._places.statistics().tasks_waiting >= MAX_QUEUED:
            raise Unavailable("Too many logins at once, try again later")
        question = self._running[name] = _Question()
        try:
            async with self._places:
                question.answer = await self._ask(name)
        finally:
            if self._running.get(name) is question:
                del self._running[name]
            question.done.set()
        self._answers[name] = question.answer
        self._answers.move_to_end(name)
        while len(self._answers) > MAX_NAMES:
            self._answers.popitem(last=False)
        return question.answer

    async def _ask(self, name: str) -> NodeKeys:
        replies: dict[str, tuple[str, ...] | None] = {}

        async def ask(server: LogicalServer) -> None:
            replies[server.name] = await self._ask_server(server, name)

        servers = list(self._registry.servers.values())
        async with trio.open_nursery() as nursery:
            for server in servers:
                nursery.start_soon(ask, server)
        by_line: dict[str, list[str]] = {}
        for server_name in sorted(replies):
            for line in replies[server_name] or ():
                by_line.setdefault(line, []).append(server_name)
        found = []
        for line, reporting in by_line.items():
            try:
                found.append((parse_line(line), tuple(reporting)))
            except UnusableKey as reason:
                where = ",".join(reporting)
                event("reported key not taken", level=logging.DEBUG, user=name, servers=where, why=str(reason))
        return NodeKeys(tuple(found), all(lines is not None for lines in replies.values()), self._clock())

    async def _ask_server(self, server: LogicalServer, name: str) -> tuple[str, ...] | None:
        """The key lines one server reports; None if it does not answer."""
        if self._clock() < self._silent_until.get(server.name, 0.0):
            return None
        with trio.move_on_after(self._settings.node_seconds) as scope:
            for instance in sorted(server.instances, key=lambda instance: not instance.up):
                if instance.is_left_alone():
                    continue
                try:
                    reply = await instance.user_info(name)
                except NodeUnreachable:
                    continue
                except RequestRefused as refusal:
                    shown = "".join(c if c.isprintable() else " " for c in str(refusal))[:200]
                    event("node reports no keys", level=logging.DEBUG, server=server.name, user=name, why=shown)
                    return ()
                return reply.accepted_keys[:MAX_LINES] if reply.user == name else ()
        if scope.cancelled_caught:
            self._silent_until[server.name] = self._clock() + SILENT_SECONDS
            event("node is too slow with keys", level=logging.WARNING, server=server.name, user=name)
        return None
