"""Life of a child of the spawner, from the fork to its job: a login session, an object server, a copy
between servers, a read of key files.

Children are forked ahead of their jobs, since a fork costs as much as all the rest of a login. A spare one waits for
its job, still with the spawner's rights but with no descriptor other than the channel to it. The spawner rehearses a
session before it forks at all, so that children start with warm code and write to few of the pages they share.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import signal
import socket
import sys
from typing import Final

import trio

from uftpd.session import (
    messages,
    object_server,
    preloaded,  # noqa: F401 - for its effect
    process,
    syscalls,
    user_info,
)
from uftpd.session.filters import PathFilter
from uftpd.session.messages import SessionSettings
from uftpd.session.paths import FileTree
from uftpd.session.privileges import UserPolicy, has_capabilities
from uftpd.session.report_socket import Reporter

_MAX_JOB: Final = 8192
_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)


def run(channel: int, policy: UserPolicy) -> None:
    """Be a child: wait for the job on the descriptor `channel`, and do it.

    The channel carries one SOCK_SEQPACKET message, a `Job` with its descriptors; its end means there is none.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent, which drains
    close_all_but(channel)
    trio.run(_main, socket.socket(fileno=channel), policy)


async def _main(channel: socket.socket, policy: UserPolicy) -> None:
    data, fds, _, _ = socket.recv_fds(channel, _MAX_JOB, 2)
    channel.close()
    if not data:
        return
    job = messages.decode_job(data)
    sockets = [socket.socket(fileno=fd) for fd in fds]
    if job.kind == "session":
        await process.run(sockets[0], sockets[1], job.user, policy)
    elif job.kind == "object":
        await object_server.run(sockets[0], sockets[1], job.user, policy)
    elif job.kind == "copy":
        # Only here: the copy engine is half as large again as all that sessions need, and they share what we hold.
        from uftpd.session.copy_job import run as run_copy

        await run_copy(sockets[0], job.user, policy)
    else:
        user_info.run(sockets[0], job.user, policy)


def rehearse(times: int = 16) -> None:
    """Run sessions about nothing: no thread is started, no file opened, and nobody hears of it.

    The interpreter adapts code to what it meets in the first dozen runs, by writing to it; what is written here is
    not written in every child again.
    """
    pwd.getpwnam("root")  # in the local files everywhere, so no directory service is asked
    grp.getgrgid(0)
    has_capabilities()
    syscalls.landlock_abi()
    for _ in range(times):
        trio.run(_rehearse)


async def _rehearse() -> None:
    client, control = socket.socketpair()
    front, report = messages.report_pair()
    with client, control, front, report:
        settings = SessionSettings(
            session_id="", user="", local="127.0.0.1", peer="127.0.0.1", received=b"NOOP\r\nFEAT\r\nQUIT\r\n"
        )
        front.send(messages.encode(settings))
        messages.decode_to_session(report.recv(messages.MAX_MESSAGE))
        tree = FileTree(b"/", PathFilter(), confined=False)
        await process.serve(settings, tree, b"/", control, report, Reporter(report))
        tree.close()


def close_all_but(*keep: int) -> None:
    """Close every descriptor except 0, 1, 2 and those given; the first three become /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    previous = 2
    for fd in sorted({*keep, os.sysconf("SC_OPEN_MAX")}):
        with contextlib.suppress(OSError):
            os.closerange(previous + 1, fd)
        previous = fd
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process


def preload_name_services() -> None:
    """Load what account look-ups will load, without looking anything up: that could hang."""
    import ctypes

    services = {"files"}
    with contextlib.suppress(OSError), open("/etc/nsswitch.conf", encoding="utf-8", errors="replace") as config:
        for line in config:
            database, _, rest = line.partition("#")[0].partition(":")
            if database.strip() in ("passwd", "group", "initgroups"):
                services.update(word for word in rest.split() if word.isalnum())
    for service in services:
        with contextlib.suppress(OSError):
            ctypes.CDLL(f"libnss_{service}.so.2")
