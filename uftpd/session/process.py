"""A login session, from its settings to its end (DESIGN: data node, processes).

It has two descriptors, the control connection and the report socket. It reads its settings from the latter, becomes
the user for good, opens the session directory, says `Ready`, and answers the client from then on.
"""

from __future__ import annotations

import os
import socket
import time
import traceback
from typing import Final, cast

import msgspec
import trio

import uftp.streams.legacy  # noqa: F401 - loaded before the fork: a session may have no right to read it any more
from uftp.protocol.command_port import Access
from uftp.protocol.features import copy_features
from uftp.protocol.replies import reply
from uftp.streams import Durability, Layers
from uftpd.session import messages
from uftpd.session.control import ControlConnection
from uftpd.session.data_connection import DataConnections, DataSettings
from uftpd.session.filters import Forbidden, PathFilter
from uftpd.session.messages import Failed, Ready, SessionSettings
from uftpd.session.paths import FileTree
from uftpd.session.privileges import Account, LoginRefused, UserPolicy, become, look_up
from uftpd.session.report_socket import Front, Reporter, said
from uftpd.session.state import Session, SessionLimits, session_directory

_LOGGED_IN: Final = reply(230, "Login successful")


async def run(control: socket.socket, report: socket.socket, user: str, policy: UserPolicy) -> None:
    """Be the session. Until the user is settled nothing else runs in this process, so what blocks may block.

    Args:
        control: the control connection, whose password has been checked.
        report: to the front; the settings are its first message.
        user: the account, as the spawner was told and has checked it against its limits.
        policy: whom this node serves.
    """
    reporter = Reporter(report)
    try:
        settings = messages.decode_to_session(report.recv(messages.MAX_MESSAGE))
        if not isinstance(settings, SessionSettings) or settings.user != user:
            raise LoginRefused("internal error")
        account = look_up(user, settings.groups, policy)
        become(account, policy, settings.umask)
        tree, start = open_tree(settings, account)
        if tree.confined and not tree.confine_process():
            reporter.log("no-landlock", level="debug")
    except (LoginRefused, Forbidden) as error:
        reporter.send(Failed(reason=str(error)))
        return
    except (OSError, msgspec.MsgspecError) as error:
        # A name in it came with the request, which holds no control characters.
        name = getattr(error, "filename", None)
        which = f" '{said(os.fsdecode(name))}'" if name is not None else ""
        reporter.send(Failed(reason=f"Cannot open the session directory{which}: {getattr(error, 'strerror', error)}"))
        return
    reporter.send(Ready())
    try:
        # The control connection has an empty send buffer: this cannot block.
        control.send(_LOGGED_IN.encode())
        await serve(settings, tree, start, control, report, reporter)
    except OSError:
        pass  # the client is gone already
    except BaseException:
        reporter.log("session-crashed", level="error", traceback=traceback.format_exc())
        raise


def open_tree(settings: SessionSettings, account: Account) -> tuple[FileTree, bytes]:
    """The files of a session, and the directory it starts in. Runs as the user.

    Raises:
        OSError: the directory is not there, or not for this user.
    """
    home = account.home
    start, base = session_directory(settings.file, home, os.path.isdir(home))
    protected = [form for name in settings.write_protected for form in _forms(home, name.encode())]
    path_filter = PathFilter.create(
        start=start,
        includes=settings.includes,
        excludes=settings.excludes,
        scope=settings.scope,
        protected=protected,
    )
    restricted = path_filter.restricts or settings.access != Access.FULL
    confined = restricted or (settings.confine_links and base != b"/")
    try:
        tree = FileTree(base, path_filter, confined=confined)
    except OSError as error:
        error.filename = base  # some of its steps know it by another name
        raise
    if start != base:
        tree.is_directory(start)
    return tree, start


def _forms(home: bytes, name: bytes) -> set[bytes]:
    """The paths of a file below the home: by the home's name, where the home really is, and where the file is."""
    paths = {directory.rstrip(b"/") + b"/" + name for directory in (home, os.path.realpath(home))}
    return paths | {os.path.realpath(path) for path in paths}


async def serve(
    settings: SessionSettings,
    tree: FileTree,
    start: bytes,
    control: socket.socket,
    report: socket.socket,
    reporter: Reporter,
) -> None:
    """Serve the client on `control` until the session ends."""
    control.setblocking(False)
    connection = trio.socket.from_stdlib_socket(control)
    async with trio.open_nursery() as nursery:
        front = Front(trio.socket.from_stdlib_socket(report.dup()), reporter)
        data = DataConnections(
            DataSettings(
                local=settings.local,
                peer=settings.peer,
                advertise=settings.advertise,
                port_range=settings.port_range,
                port_wait_seconds=settings.port_wait_seconds,
                connect_seconds=settings.data_connect_seconds,
            ),
            nursery,
            front.want_port,
            front.return_port,
        )
        session = _session(settings, tree, start, data, reporter)
        session.ask_front = front.ask
        loop = ControlConnection(session, connection, settings.received)
        nursery.start_soon(front.listen, session, loop, nursery, settings.drain_seconds)
        started = time.monotonic()
        await loop.run()
        await data.close()
        reporter.log("session-ended", seconds=round(time.monotonic() - started, 3))
        connection.close()
        nursery.cancel_scope.cancel()


def _session(
    settings: SessionSettings, tree: FileTree, start: bytes, data: DataConnections, reporter: Reporter
) -> Session:
    session = Session(
        user=settings.user,
        tree=tree,
        current=start,
        access=Access(settings.access),
        data=data,
        limits=SessionLimits(settings.idle_seconds, settings.stall_seconds, settings.line_bytes, settings.streams),
        log=reporter.log,
        log_transfers=reporter.log_transfers,
        request_rate=settings.rate,
        own_rate=settings.rate,
        durability=cast(Durability, settings.durability),
        legacy_utc=settings.utc_times,
        layers=Layers(settings.compress, settings.algorithm, settings.key, pads_always=False),
        cipher_allowed=settings.cipher_allowed,
        copies=copy_features(copies=settings.copies, fetches=settings.fetches),
    )
    data.layers = session.layers
    session.apply_rate()
    return session
