"""The logical servers by name: which data nodes they have, whose turn it is, what their status is (CONTROL-PLANE 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import trio

from uftp.protocol.command_port import MAX_PEERS, is_peer
from uftpd.auth.errors import NotFound
from uftpd.auth.nodes.client import CommandPort
from uftpd.auth.nodes.instance import NodeInstance
from uftpd.auth.reservations import Reservations
from uftpd.config.auth import AuthConfig


class LogicalServer:
    """One name, one data node or several equal ones.

    Attributes:
        name, description: shown to clients.
        instances: the data nodes.
        reservations: those of this server; None if it has no file of them.
    """

    def __init__(
        self,
        name: str,
        description: str,
        instances: Sequence[NodeInstance],
        reservations: Reservations | None = None,
    ) -> None:
        self.name = name
        self.description = description
        self.instances = tuple(instances)
        self.reservations = reservations
        self._turn = -1

    def candidates(self, number: int | None) -> Iterator[NodeInstance]:
        """The instances to try, best first.

        A selected one has no fail-over. Otherwise the turn moves on by one for every instance that is tried, and
        after one more than there are nobody is left.
        """
        if number is not None:
            yield self.instances[number - 1]
            return
        for _ in range(len(self.instances) + 1):
            self._turn = (self._turn + 1) % len(self.instances)
            yield self.instances[self._turn]

    def is_left_alone(self) -> bool:
        """Whether every instance failed so shortly ago that none is contacted."""
        return all(instance.is_left_alone() for instance in self.instances)

    @property
    def is_up(self) -> bool:
        """Whether at least one instance answered when last asked."""
        return any(instance.up for instance in self.instances)

    def connection(self) -> str:
        """`OK`, `DOWN`, or `UNKNOWN` while no node has answered or failed yet that could tell (CONTROL-PLANE 1.3)."""
        if any(instance.up and instance.ping_reply is not None for instance in self.instances):
            return "OK"
        return "UNKNOWN" if self.is_up else "DOWN"

    def status(self) -> str:
        """For people: `OK`, `DOWN`, or how many of several answer."""
        word = "OK" if self.is_up else "DOWN"
        total = len(self.instances)
        if total == 1:
            return word
        up = sum(instance.up for instance in self.instances)
        return f"{word} [{up} of {total} UFTPD servers available]"

    def session_limit(self) -> int:
        """The smallest limit an instance has named; 0 if none has."""
        replies = [instance.ping_reply for instance in self.instances]
        return min((reply.max_sessions for reply in replies if reply and reply.max_sessions > 0), default=0)

    def version(self) -> str:
        """Of the first instance that has named one."""
        replies = [instance.ping_reply for instance in self.instances]
        return next((r.version for r in replies if r is not None and r.version != "n/a"), "n/a")


class NodeRegistry:
    """All logical servers."""

    def __init__(self, servers: Mapping[str, LogicalServer]) -> None:
        self.servers = dict(servers)

    def find(self, segment: str) -> tuple[LogicalServer, int | None]:
        """The server and the instance number that a path segment `NAME` or `NAME-N` means.

        Raises:
            NotFound: no such server or instance.
        """
        name, number = segment, None
        dash = segment.rfind("-")
        if dash >= 2 and segment[dash + 1 :].isascii() and segment[dash + 1 :].isdigit():
            name, number = segment[:dash], int(segment[dash + 1 :][:9])
        server = self.servers.get(name)
        if server is None:
            raise NotFound(f"No such server: '{segment}', please check your URL")
        if number is not None and not 1 <= number <= len(server.instances):
            raise NotFound(f"No such server instance: '{segment}', please check your URL")
        return server, number

    async def peers(self, background: trio.Nursery, *, wait_seconds: float) -> tuple[str, ...]:
        """`host:port` of the data nodes, as clients are told them: each may copy with every other one.

        Args:
            background: nodes nobody has heard of yet, shortly after the start, are asked here.
            wait_seconds: how long to wait for these.

        Returns:
            Those whose port is known, at most as many as a request can name.
        """
        instances = [instance for server in self.servers.values() for instance in server.instances]
        await _wait([i.background_ping(background) for i in instances if i.was_never_heard()], wait_seconds)
        known = (str(instance.ftp_address) for instance in instances if instance.ftp_address is not None)
        return tuple(dict.fromkeys(peer for peer in known if is_peer(peer)))[:MAX_PEERS]

    async def watch(self) -> None:
        """Keep knowing which nodes live, for ever."""
        async with trio.open_nursery() as nursery:
            for server in self.servers.values():
                for instance in server.instances:
                    nursery.start_soon(instance.watch)

    async def refresh(self, background: trio.Nursery, *, wait_seconds: float) -> None:
        """Have every node pinged that has not answered just now, and wait a little for the answers.

        Args:
            background: pings that take longer go on here, and show in the next status.
            wait_seconds: how long to wait.
        """
        instances = [instance for server in self.servers.values() for instance in server.instances]
        asked = [
            instance.background_ping(background)
            for instance in instances
            if not (instance.is_left_alone() or instance.is_known_to_live())
        ]
        await _wait(asked, wait_seconds)


async def _wait(events: Sequence[trio.Event], seconds: float) -> None:
    """Wait for all of them, but not longer than that."""
    with trio.move_on_after(seconds):
        for event in events:
            await event.wait()


def build_registry(
    config: AuthConfig,
    port: CommandPort,
    clock: Callable[[], float] = trio.current_time,
    *,
    previous: NodeRegistry | None = None,
) -> NodeRegistry:
    """The registry a configuration describes.

    Args:
        config: its nodes and the settings of the command port.
        port: speaks with the nodes.
        clock: seconds, monotonic.
        previous: of the former configuration; what it knows of nodes that stay is kept.
    """
    known = {
        (instance.server, instance.settings): instance
        for server in (previous.servers.values() if previous is not None else ())
        for instance in server.instances
    }
    servers = {}
    for name, node in config.nodes.items():
        instances = []
        for number, settings in enumerate(node.instances, start=1):
            instance = NodeInstance(name, number, settings, port, config.command_port, clock)
            if (former := known.get((name, settings))) is not None:
                instance.take_over(former)
            instances.append(instance)
        reservations = Reservations(node.reservations) if node.reservations is not None else None
        servers[name] = LogicalServer(name, node.description, instances, reservations)
    return NodeRegistry(servers)
