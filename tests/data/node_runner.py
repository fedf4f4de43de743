"""Runs a data node for tests: `node_runner.py CONFIG UID GID READY_FD FTP_FDS COMMAND_FDS`.

The listening sockets come from the test, so that no port is guessed. A uid other than -1 is taken first, for good: a
node started by an ordinary user. READY_FD is -1 for a node that tells nobody. The variable TEST_WITHOUT
names what an older kernel lacks: openat2, landlock.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import uftpd.data.front  # before the user changes: the tests' environment may be readable by root only
import uftpd.data.relay
from uftpd.config.data import DataConfig
from uftpd.config.toml import load
from uftpd.data import service
from uftpd.session import syscalls


def main() -> int:
    config_path, uid, gid, ready_fd, ftp_fds, command_fds = sys.argv[1:]
    "localhost".encode("idna")  # loads what look-ups of addresses need
    if int(uid) != -1:
        os.setgroups([int(gid)])
        os.setresgid(int(gid), int(gid), int(gid))
        os.setresuid(int(uid), int(uid), int(uid))
    without = os.environ.get("TEST_WITHOUT", "").split()
    if "openat2" in without:
        syscalls.has_openat2 = lambda: False
    if "landlock" in without:
        syscalls.landlock_confine = lambda directory: False
    ftp = [socket.socket(fileno=int(fd)) for fd in ftp_fds.split(",")]
    command = [socket.socket(fileno=int(fd)) for fd in command_fds.split(",")]
    ready = int(ready_fd)
    if ready >= 0:
        os.set_inheritable(ready, False)

    def say_ready() -> None:
        os.write(ready, b"ready")
        os.close(ready)

    path = Path(config_path)
    config = load(path, DataConfig)
    return service.run(
        config,
        config_path=path,
        ftp_listeners=ftp,
        command_listeners=command,
        ready=say_ready if ready >= 0 else None,
    )


if __name__ == "__main__":
    assert uftpd.data.front
    assert uftpd.data.relay
    sys.exit(main())
