"""An FTP server that does what a test tells it, for the misbehaviour no real one shows on demand."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import trio

OURS = ("UTC", "NAMES PCT", "EPSV", "RANG STREAM", "REST STREAM", "SIZE", "MLST size*;modify*;type*;", "MLSD", "MFF x;")
OTHER = ("EPSV", "REST STREAM", "SIZE", "MLST size*;modify*;type*;", "MLSD")


@dataclass
class Dialogue:
    """One control connection, as a script sees it.

    Attributes:
        control: the stream.
        lines: all commands so far.
        listeners: for the data connection, after EPSV.
    """

    control: trio.SocketStream
    lines: list[str]
    listeners: list[trio.SocketListener] = field(default_factory=list)

    async def say(self, text: str) -> None:
        """Send a reply, or anything else."""
        await self.control.send_all(text.encode("latin-1") + b"\r\n")

    async def data(self) -> trio.SocketStream:
        """The data connection."""
        return await self.listeners[-1].accept()

    async def drain(self) -> bytes:
        """All that comes on the data connection."""
        async with await self.data() as data:
            return b"".join([chunk async for chunk in data])


Action = Callable[[Dialogue, str], Awaitable[None]]


def reply(text: str) -> Action:
    """Answer, and no more."""

    async def act(dialogue: Dialogue, argument: str) -> None:
        await dialogue.say(text)

    return act


async def _epsv(dialogue: Dialogue, argument: str) -> None:
    for listener in dialogue.listeners:
        await listener.aclose()
    dialogue.listeners[:] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = dialogue.listeners[0].socket.getsockname()[1]
    await dialogue.say(f"229 Entering Extended Passive Mode (|||{port}|)")


_DEFAULTS: Mapping[str, Action] = {
    "USER": reply("331 Please specify the password"),
    "PASS": reply("230 Login successful"),
    "OPTS": reply("200 OK"),
    "TYPE": reply("200 OK"),
    "PWD": reply('257 "/"'),
    "EPSV": _epsv,
    "RANG": reply("350 OK"),
    "REST": reply("350 OK"),
    "ALLO": reply("200 OK"),
    "MFF": reply("213 OK"),
    "RNFR": reply("350 OK"),
    "RNTO": reply("250 OK"),
    "DELE": reply("250 OK"),
    "MLST": reply("250-\r\n size=1000;modify=20210203040506;type=file; x\r\n250 End"),
}


@dataclass
class ScriptedServer:
    """A running one.

    Attributes:
        port: on 127.0.0.1.
        lines: all commands of all sessions.
        actions: what it does, by verb; may be changed while it runs.
    """

    port: int
    lines: list[str]
    actions: dict[str, Action]

    @property
    def url(self) -> str:
        """Its URL."""
        return f"ftp://anonymous:x@127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def scripted_server(
    actions: Mapping[str, Action], *, features: tuple[str, ...] = OURS, greeting: str = "220 UFTPD 9.9.9, test"
) -> AsyncIterator[ScriptedServer]:
    """A server for the block. What `actions` do not name succeeds; MLST tells of a file of 1000 bytes."""
    feat = "211-Features:\r\n" + "".join(f" {line}\r\n" for line in features) + "211 END"
    server = ScriptedServer(0, [], {**_DEFAULTS, "FEAT": reply(feat), **actions})

    async def serve(control: trio.SocketStream) -> None:
        dialogue = Dialogue(control, server.lines)
        await dialogue.say(greeting)
        buffer = b""
        try:
            async for chunk in control:
                buffer += chunk
                while b"\n" in buffer:
                    raw, _, buffer = buffer.partition(b"\n")
                    line = raw.decode("latin-1").rstrip("\r")
                    server.lines.append(line)
                    verb, _, argument = line.partition(" ")
                    await server.actions.get(verb.upper(), reply("502 Command not implemented."))(dialogue, argument)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            for listener in dialogue.listeners:
                await listener.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield server
        nursery.cancel_scope.cancel()
