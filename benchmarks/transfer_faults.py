"""Managed transfers that something goes wrong under: whatever it is, each ends in a true state.

Two sites: one looks after the transfers and has two data nodes, the other has an auth server and a node of its own. In
each round one transfer is submitted, within the first site or between the two, and at a random instant one thing is
broken: sessions and copy jobs, the front or all of a data node, an auth server, or both are killed with SIGKILL and
what serves is started again; or the owner pauses, resumes or cancels. A transfer that has succeeded must be the same
as its source, byte by byte, with nothing else left beside it; one that has failed must say why, and succeed when it is
asked to try again; and nothing that has its final name may be less than whole, ever.

    python -m benchmarks.transfer_faults --rounds 300
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import itertools
import json
import os
import random
import signal
import ssl
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.faults import RoundFailed, check_is_not_wrong, difference, remove
from benchmarks.measure import median, print_table
from benchmarks.stack import NAME, PASSWORD, Stack

_PATIENCE: Final = 120.0  # seconds for a transfer to end
_POLL: Final = 0.1
_CLEAN_SECONDS: Final = 10.0  # for what sessions that were cut off leave, to go
_MIB: Final = 1024 * 1024
_RATE: Final = 40 * _MIB
_OTHER_HOST: Final = "127.0.0.2"
_FINAL: Final = ("succeeded", "failed", "cancelled")
_RETRIES: Final = 5

FAULTS: Final = (
    "nothing", "children", "front", "node", "auth", "node and auth", "their children", "their node", "their auth",
    "pause", "pause, then auth", "cancel",
)  # fmt: skip
WAYS: Final = ("within", "from them", "to them")


@dataclass(frozen=True)
class Data:
    """What is copied.

    Attributes:
        name: of the file or directory below the source.
        rate: limit in bytes a second, 0 for none.
        seconds: that a copy of it takes, more or less.
    """

    name: str
    rate: int
    seconds: float


@dataclass
class Site:
    """One of the two.

    Attributes:
        stack: its servers.
        nodes: how many data nodes it has.
    """

    stack: Stack
    nodes: int

    def url(self, path: Path) -> str:
        """Of a place on its data nodes, for the other site."""
        return f"{self.stack.url}{path}"


class Manager:
    """The REST interface, as its owner uses it. A server that does not answer is asked again."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        login = base64.b64encode(f"{stack.login}:{PASSWORD}".encode()).decode()
        self._headers = {
            "Authorization": f"Basic {login}",
            "Accept": "application/json",
            "Content-Type": "application/json",
        }

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, key: str = "") -> dict[str, Any]:
        """The answer.

        Raises:
            RoundFailed: it is an error, or there is none for a long time.
        """
        url = f"{self._stack.auth_url.removesuffix('/auth')}/transfers{path}"
        headers = self._headers | ({"Idempotency-Key": key} if key else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers, method=method)
        context = ssl.create_default_context(cafile=str(self._stack.ca))
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                with urllib.request.urlopen(request, context=context, timeout=30) as reply:
                    found: dict[str, Any] = json.load(reply)
                    return found
            except urllib.error.HTTPError as error:
                said = error.read().decode()
                if error.code != 503 or time.monotonic() > deadline:
                    raise RoundFailed(f"{method} {path}: {error.code} {said}") from None
            except (OSError, json.JSONDecodeError) as error:
                if time.monotonic() > deadline:
                    raise RoundFailed(f"{method} {path}: {error!r}") from None
            time.sleep(0.2)


@dataclass
class Tally:
    """What came of the rounds of one fault."""

    rounds: int = 0
    ends: collections.Counter[str] = field(default_factory=collections.Counter)
    again: int = 0
    attempts: int = 0
    seconds: list[float] = field(default_factory=list)


class TransferFaults:
    """Servers, data, and rounds.

    Args:
        top: an empty directory, which others can enter.
        seed: of what happens when.
        small_files: how many a tree has.
        large_bytes: size of the large file.
    """

    def __init__(self, top: Path, *, seed: int, small_files: int = 300, large_bytes: int = 80 * _MIB) -> None:
        self._top = top
        self._random = random.Random(seed)
        self.tallies: dict[str, Tally] = {}
        self.source, self.target = top / "source", top / "target"
        self.data = self._make_data(small_files, large_bytes)

    def _make_data(self, small_files: int, large_bytes: int) -> list[Data]:
        self.source.mkdir()
        self.target.mkdir()
        self.target.chmod(0o777)
        (self.source / "large").write_bytes(self._random.randbytes(large_bytes))
        for name, count in (("small", small_files), ("mixed", small_files // 4)):
            for number in range(count):
                directory = self.source / name / f"sub{number % 7}"
                directory.mkdir(parents=True, exist_ok=True)
                (directory / f"file {number}").write_bytes(self._random.randbytes(self._random.randrange(9000)))
        for number in range(3):
            (self.source / "mixed" / f"medium{number}").write_bytes(self._random.randbytes(3 * _MIB + number))
        (self.source / "mixed" / "sub0" / "big").write_bytes(self._random.randbytes(66 * _MIB))
        return [
            Data("large", _RATE, large_bytes / _RATE + 0.5),
            Data("small", 0, 1.0),
            Data("mixed", 2 * _RATE, 2.0),
        ]

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """With the servers of both sites running."""
        for name in ("ours", "theirs"):
            (self._top / name).mkdir()
        theirs = Stack(
            self._top / "theirs",
            [_OTHER_HOST],
            login="jane",
            options=["--host", _OTHER_HOST, "--allow-peer", "127.0.0.1"],
        )
        ours = Stack(
            self._top / "ours",
            ["127.0.0.1", "127.0.0.1"],
            options=["--allow-peer", _OTHER_HOST],
            edit_auth=lambda text: _with_transfers(text, theirs.ca),
        )
        with theirs, ours:
            self._ours, self._theirs = Site(ours, 2), Site(theirs, 1)
            self._manager = Manager(ours)
            yield

    # -- rounds -----------------------------------------------------------------------------------------------------

    def round(self, data: Data, way: str, fault: str) -> None:
        """One round.

        Raises:
            RoundFailed: see the module.
        """
        name = f"{way}: {data.name}, {fault}"
        for old in self.target.iterdir():
            remove(old)
        source, target = self.source / data.name, self.target / data.name
        began = time.monotonic()
        submitted = self._manager.call("POST", "", self._request(data, way), key=f"{self._random.random()}")
        path = f"/{submitted['id']}"
        instant = self._random.uniform(0, data.seconds)
        time.sleep(instant)
        self._inflict(fault, path)
        found = self._wait(name, path, source, target)
        ends = [found["state"]]
        while found["state"] == "failed":
            if not found.get("reason"):
                raise RoundFailed(f"{name} at {instant:.2f} s: it failed without a word: {found}")
            if len(ends) > _RETRIES:
                raise RoundFailed(f"{name} at {instant:.2f} s: no success: {found}")
            self._manager.call("POST", f"{path}/retry", self._credentials(way))
            found = self._wait(name, path, source, target)
            ends.append(found["state"])
        if found["state"] == "cancelled" and fault != "cancel":
            raise RoundFailed(f"{name} at {instant:.2f} s: nobody cancelled it: {found}")
        self._check_result(f"{name} at {instant:.2f} s", found, source, target)
        tally = self.tallies.setdefault(fault, Tally())
        tally.rounds += 1
        tally.ends.update(ends)
        tally.again += len(ends) > 1 or found["attempts"] > 1
        tally.attempts += found["attempts"]
        tally.seconds.append(time.monotonic() - began)

    def _request(self, data: Data, way: str) -> dict[str, Any]:
        source, target = f"{NAME}:{self.source / data.name}", f"{NAME}:{self.target / data.name}"
        if way == "from them":
            source = self._theirs.url(self.source / data.name)
        elif way == "to them":
            target = self._theirs.url(self.target / data.name)
        options = {"recursive": True} | ({"limitRate": data.rate} if data.rate else {})
        return {"sources": [source], "target": target, "options": options} | self._credentials(way)

    def _credentials(self, way: str) -> dict[str, Any]:
        if way == "within":
            return {}
        login = {"username": self._theirs.stack.login, "password": PASSWORD}
        return {"credentials": {"source" if way == "from them" else "target": login}}

    def _wait(self, name: str, path: str, source: Path, target: Path, *, until: tuple[str, ...] = _FINAL) -> Any:
        """Until it is in one of some states; meanwhile nothing that has its name may be less than whole."""
        deadline = time.monotonic() + _PATIENCE
        while (found := self._manager.call("GET", path))["state"] not in until:
            if time.monotonic() > deadline:
                raise RoundFailed(f"{name}: it does not end: {found}")
            time.sleep(_POLL)
        check_is_not_wrong(name, source, target)
        return found

    # -- what goes wrong --------------------------------------------------------------------------------------------

    def _inflict(self, fault: str, path: str) -> None:
        ours, theirs = self._ours, self._theirs
        match fault:
            case "children" | "front":
                self._kill_within(ours, fault)
            case "their children":
                self._kill_within(theirs, "children")
            case "node":
                self._kill_and_start(ours, f"node{self._random.randrange(ours.nodes)}")
            case "their node":
                self._kill_and_start(theirs, "node0")
            case "auth":
                self._kill_and_start(ours, "auth")
            case "their auth":
                self._kill_and_start(theirs, "auth")
            case "node and auth":
                self._kill_and_start(ours, "auth", *(f"node{number}" for number in range(ours.nodes)))
            case "pause" | "pause, then auth":
                self._pause(path, kill=fault != "pause")
            case "cancel":
                self._act(path, "cancel")

    def _kill_within(self, site: Site, what: str) -> None:
        """Kill sessions, copy jobs and children in waiting of all nodes, or the fronts."""
        for number in range(site.nodes):
            _, front, *children = site.stack.pids(f"node{number}")
            for pid in children if what == "children" else [front]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _kill_and_start(self, site: Site, *names: str) -> None:
        for name in names:
            site.stack.kill(name)
        time.sleep(self._random.uniform(0, 1))
        for name in reversed(names):
            site.stack.start(name)

    def _pause(self, path: str, *, kill: bool) -> None:
        if not self._act(path, "pause"):
            return
        if kill:
            self._kill_and_start(self._ours, "auth")
        found = self._wait("pause", path, self.source, self.target, until=("paused", *_FINAL))
        if found["state"] == "paused":
            time.sleep(self._random.uniform(0, 0.5))
            self._manager.call("POST", f"{path}/resume", {})

    def _act(self, path: str, action: str) -> bool:
        """Ask for something; whether it was not too late."""
        try:
            self._manager.call("POST", f"{path}/{action}", {})
        except RoundFailed as error:
            if f"{path}/{action}: 409" not in str(error):
                raise
            return False
        return True

    # -- what must hold ---------------------------------------------------------------------------------------------

    def _check_result(self, name: str, found: Mapping[str, Any], source: Path, target: Path) -> None:
        if found["state"] == "succeeded":
            if different := difference(source, target):
                raise RoundFailed(f"{name}: it says it has succeeded, and {different}: {found}")
            if found["filesFailed"] or found.get("reason"):
                raise RoundFailed(f"{name}: success with failures: {found}")
        deadline = time.monotonic() + _CLEAN_SECONDS
        while left := list(self.target.rglob(".uftp-*")):
            if time.monotonic() > deadline:
                raise RoundFailed(f"{name}: left behind: {left[:5]}: {found}")
            time.sleep(_POLL)
        if (again := self._manager.call("GET", f"/{found['id']}"))["state"] != found["state"]:
            raise RoundFailed(f"{name}: a final state has changed: {found} {again}")


def _with_transfers(text: str, other_ca: Path) -> str:
    """The configuration with short waits, and the other site allowed."""
    before, section, rest = text.partition("[transfers]\n")
    lines, gap, behind = rest.partition("\n\n")
    ours = {
        "active_per_user": "8",
        "attempts": "100",
        "backoff_seconds": "0.5",
        "longest_backoff_seconds": "2.0",
        "lease_seconds": "3.0",
        "allow": f'["{_OTHER_HOST}"]',
        "https_ca": f'"{other_ca}"',
    }
    kept = [line for line in lines.splitlines() if line.partition("=")[0].strip() not in ours]
    return before + section + "\n".join([*kept, *(f"{key} = {value}" for key, value in ours.items())]) + gap + behind


def cases(faults: TransferFaults, seed: int, only: list[str] | None) -> Iterator[tuple[Data, str, str]]:
    """Every kind of data, way and fault in turn, shuffled, without end."""
    order = random.Random(seed)
    wanted = only or FAULTS
    every = [(data, way, fault) for data in faults.data for way in WAYS for fault in wanted]
    while True:
        yield from order.sample(every, len(every))


def report(tallies: Mapping[str, Tally]) -> None:
    """Print what came of the rounds, by fault."""
    rows = [
        (
            fault,
            str(tally.rounds),
            *(str(tally.ends[state]) for state in _FINAL),
            str(tally.again),
            f"{tally.attempts / tally.rounds:.1f}",
            f"{median(tally.seconds):.1f}",
            f"{max(tally.seconds):.1f}",
        )
        for fault, tally in sorted(tallies.items())
    ]
    print_table(("fault", "rounds", *_FINAL, "begun again", "attempts", "median s", "longest s"), rows)


def run_rounds(
    faults: TransferFaults, rounds: int, seed: int, only: list[str] | None, say: Callable[[str], None]
) -> int:
    """Run them; how many failed."""
    failed = 0
    for number, (data, way, fault) in enumerate(itertools.islice(cases(faults, seed, only), rounds), 1):
        began = time.monotonic()
        outcome = "good"
        try:
            faults.round(data, way, fault)
        except RoundFailed as error:
            failed += 1
            outcome = f"FAILED: {error}"
        say(f"{number}: {way} {data.name}, {fault}, {time.monotonic() - began:.1f} s: {outcome}")
    return failed


def main() -> None:
    """Run rounds, and say what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", action="append", choices=FAULTS, help="this fault; may be repeated")
    parser.add_argument("--directory", help="where to work; the default is a memory file system")
    parser.add_argument("--keep", action="store_true", help="leave the directory, with the logs")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with contextlib.ExitStack() as undo:
        directory = arguments.directory or "/dev/shm"
        name = tempfile.mkdtemp(dir=directory, prefix="uftp-transfers-")
        if not arguments.keep:
            undo.callback(remove, Path(name))
        os.chmod(name, 0o755)
        faults = TransferFaults(Path(name), seed=arguments.seed)
        undo.enter_context(faults.serving())
        failed = run_rounds(
            faults, arguments.rounds, arguments.seed, arguments.only, lambda line: print(line, flush=True)
        )
        report(faults.tallies)
        print(f"{arguments.rounds} rounds, {failed} failed{f', kept in {name}' if arguments.keep else ''}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
