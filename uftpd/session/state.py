"""The state of a login session: what commands read and change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from uftp.protocol.command_port import Access
from uftp.protocol.features import DEFAULT_HASH
from uftp.protocol.names import pct_decode, pct_encode
from uftp.protocol.ranges import WHOLE_FILE, TransferRange
from uftp.protocol.record_mode import NO_OPTIONS, RecordOptions
from uftp.protocol.server_copies import LEGACY_COPY, CopyWords
from uftp.streams import NO_LAYERS, Durability, Layers, Meter, RateLimit
from uftpd.session.copy_messages import CopyAnswer
from uftpd.session.copy_messages import FromSession as CopyQuestion
from uftpd.session.data_connection import DataConnections
from uftpd.session.paths import FileTree, normalise
from uftpd.session.record_mode import RecordMode

LogEvent = Callable[..., None]
# Facts before, of each its path, bytes and seconds, facts behind.
LogTransfers = Callable[[Mapping[str, str], Sequence[tuple[str, int, float]], Mapping[str, str | bool]], None]

# Makes a question from its number; the answer to it.
AskFront = Callable[[Callable[[int], CopyQuestion]], Awaitable[CopyAnswer]]


async def _nobody_to_ask(question: Callable[[int], CopyQuestion]) -> CopyAnswer:
    raise NotImplementedError("this session has no front")


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Numbers that bound a session; see `uftpd.config.data.Limits`."""

    idle_seconds: float
    stall_seconds: float
    line_bytes: int
    streams: int = 1


@dataclass(slots=True)
class Job:
    """A command under way that ABOR can stop and STAT can show.

    Attributes:
        verb: the command.
        meter: counts its bytes and stops it.
        stop: ends its waiting, whatever it waits for.
        total: bytes it will move, None if unknown.
        aborted: whether the client asked for the end.
    """

    verb: str
    meter: Meter
    stop: Callable[[], None]
    total: int | None = None
    aborted: bool = False


@dataclass(slots=True)
class Session:
    """One login session.

    Attributes:
        current: the directory that relative names start from, as the client sees it.
        range: set by RANG, REST, ALLO for the next transfer.
        utc: times in UTC with fractions (EXTENSIONS section 4).
        pct: names percent-encoded (EXTENSIONS section 5).
        links: symbolic links are listed as such (EXTENSIONS section 6).
        replaces_links: a store takes the place of a link of its name, instead of going where it leads.
        archive: STOR unpacks into a directory.
        rename_from: set by RNFR for the next RNTO.
        own_rate: bytes a second the request, or the client, set; 0 for none.
        user_rate: this session's share of its user's rate; 0 for none.
        cipher_allowed: whether the site lets the cipher of `layers` carry data.
        layers: what lies on data connections outside MODE U; its key is the session key of MODE U as well.
        record_options: what the next MODE U applies.
        record_mode: MODE U, while it is on.
        job: what ABOR stops.
        on_job: told when a transfer or a hash has become `job`.
        copies: features of copies between servers that there are.
        copy_words: how those are done that start from now on.
        ask_front: asks about copies.
    """

    user: str
    tree: FileTree
    current: bytes
    access: Access
    data: DataConnections
    limits: SessionLimits
    log: LogEvent
    log_transfers: LogTransfers
    request_rate: int = 0
    own_rate: int = 0
    user_rate: int = 0
    durability: Durability = "rename"
    legacy_utc: bool = False
    layers: Layers = NO_LAYERS
    cipher_allowed: bool = True
    record_options: RecordOptions = NO_OPTIONS
    record_mode: RecordMode | None = None
    range: TransferRange = WHOLE_FILE
    hash_algorithm: str = DEFAULT_HASH
    utc: bool = False
    pct: bool = False
    links: bool = False
    replaces_links: bool = False
    keep_alive: bool = False
    archive: bool = False
    passive_only: bool = False
    rename_from: bytes | None = None
    options: dict[str, str] = field(default_factory=dict)
    rate: RateLimit = field(default_factory=RateLimit)
    job: Job | None = None
    on_job: Callable[[], None] = lambda: None
    copies: tuple[str, ...] = ()
    copy_words: CopyWords = LEGACY_COPY
    ask_front: AskFront = _nobody_to_ask
    quitting: bool = False
    swept: set[bytes] = field(default_factory=set)

    def path(self, argument: bytes) -> bytes:
        """The path a command's argument means.

        Raises:
            Forbidden: it lies outside the session's base.
        """
        name = pct_decode(argument.strip()) if self.pct else argument.rstrip()
        return self.tree.resolve(name, self.current)

    def say(self, path: bytes) -> bytes:
        """A path or name as it stands in replies and listings."""
        return pct_encode(path) if self.pct else path

    def take_range(self) -> TransferRange:
        """The range for the transfer that starts now; the next one starts without."""
        taken, self.range = self.range, WHOLE_FILE
        return taken

    def apply_rate(self) -> None:
        """Let the strictest limit hold, for running transfers as well."""
        rates = [rate for rate in (self.own_rate, self.user_rate) if rate > 0]
        self.rate.rate = min(rates, default=0)

    @property
    def facts_utc(self) -> bool:
        """Whether MLST, MFMT and MFF speak UTC."""
        return self.utc or self.legacy_utc


def session_directory(file: str, home: bytes, home_exists: bool) -> tuple[bytes, bytes]:
    """Start directory and base of a session, from the `file` of its request (DATA-PLANE 3.1)."""
    home = home if home_exists else b"/"
    raw = file.encode("utf-8", "surrogateescape")
    if b"/" not in raw:
        return normalise(home), b"/"
    directory = raw[: raw.rindex(b"/")] or b"/"
    base = normalise(directory if directory.startswith(b"/") else home + b"/" + directory)
    return base, base
