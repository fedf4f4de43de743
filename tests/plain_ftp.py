"""Real FTP servers of others, for the client: pyftpdlib in a thread, vsftpd as it runs under inetd."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

VSFTPD = shutil.which("vsftpd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class PlainServer:
    """A running server.

    Attributes:
        name: of the software.
        port: on 127.0.0.1.
        user, password: to log in.
        root: the directory that `prefix` is.
        prefix: path of a writable directory there, without slash at the end.
    """

    name: str
    port: int
    user: str
    password: str
    root: Path
    prefix: str

    @property
    def url(self) -> str:
        """URL of the writable directory."""
        return f"ftp://{self.user}:{self.password}@127.0.0.1:{self.port}{self.prefix}"


@contextlib.contextmanager
def pyftpdlib_server(root: Path) -> Iterator[PlainServer]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it uses asyncore where that is still there
        from pyftpdlib.authorizers import DummyAuthorizer  # type: ignore[import-untyped]
        from pyftpdlib.handlers import FTPHandler  # type: ignore[import-untyped]
        from pyftpdlib.ioloop import IOLoop  # type: ignore[import-untyped]
        from pyftpdlib.servers import FTPServer  # type: ignore[import-untyped]

    authorizer = DummyAuthorizer()
    authorizer.add_user("tester", "secret", str(root), perm="elradfmwMT")

    class Handler(FTPHandler):  # type: ignore[misc]
        pass

    Handler.authorizer = authorizer
    loop = IOLoop()
    server = FTPServer(("127.0.0.1", 0), Handler, ioloop=loop)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            server.serve_forever(timeout=0.02, blocking=False, handle_exit=False)
        server.close_all()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield PlainServer("pyftpdlib", server.address[1], "tester", "secret", root, "")
    finally:
        stop.set()
        thread.join()


_VSFTPD_CONFIG = """
listen=NO
background=NO
anonymous_enable=YES
no_anon_password=YES
anon_root={root}
ftp_username={account}
secure_chroot_dir={empty}
write_enable=YES
anon_upload_enable=YES
anon_mkdir_write_enable=YES
anon_other_write_enable=YES
anon_world_readable_only=NO
anon_umask=022
local_enable=NO
seccomp_sandbox=NO
xferlog_enable=NO
connect_from_port_20=NO
pasv_address=192.0.2.1
"""


_ACCOUNTS = ("daemon", "bin", "sys", "mail", "ftp")


def _has_home(name: str) -> bool:
    try:
        return Path(pwd.getpwnam(name).pw_dir).is_dir()
    except KeyError:
        return False


@contextlib.contextmanager
def vsftpd_server(directory: Path) -> Iterator[PlainServer]:
    """vsftpd started for each connection, so that it needs no port of its own. Its PASV address leads nowhere."""
    if VSFTPD is None:
        pytest.skip("vsftpd is not installed")
    if os.geteuid() != 0:
        pytest.skip("vsftpd changes its root directory, which needs root")
    account = next((name for name in _ACCOUNTS if _has_home(name)), None)
    if account is None:
        pytest.skip("vsftpd needs a system account whose home exists")
    root, empty, config = directory / "root", directory / "empty", directory / "vsftpd.conf"
    (root / "w").mkdir(parents=True)
    empty.mkdir()
    shutil.chown(root / "w", account)
    config.write_text(_VSFTPD_CONFIG.format(root=root, empty=empty, account=account))
    command = [VSFTPD, str(config)]
    children: list[subprocess.Popen[bytes]] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                children.append(subprocess.Popen(command, stdin=connection.fileno(), start_new_session=True))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield PlainServer("vsftpd", listener.getsockname()[1], "anonymous", "x", root / "w", "/w")
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, 9)
            child.wait()
