"""The user-info process: reads a user's accepted SSH keys, as that user (DATA-PLANE 1.4)."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import Final

import msgspec

from uftpd.session import messages
from uftpd.session.messages import Failed, KeyFileRequest, KeyFiles
from uftpd.session.privileges import LoginRefused, UserPolicy, become, look_up

_MAX_FILE_BYTES: Final = 64 * 1024
_MAX_KEYS_BYTES: Final = 128 * 1024


def run(report: socket.socket, user: str, policy: UserPolicy) -> None:
    """Be the process: read the request from `report`, become the user, answer."""
    try:
        request = messages.decode_to_session(report.recv(messages.MAX_MESSAGE))
        if not isinstance(request, KeyFileRequest) or request.user != user:
            return
        account = look_up(user, (), policy)
        become(account, policy, 0o077)
    except LoginRefused as error:
        report.send(messages.encode(Failed(reason=str(error))))
        return
    except (OSError, msgspec.MsgspecError) as error:
        report.send(messages.encode(Failed(reason=f"internal error: {type(error).__name__}")))
        return
    report.send(messages.encode(read_keys(account.home, request.key_files)))


def read_keys(home: bytes, names: tuple[str, ...]) -> KeyFiles:
    """All keys of the files `names` below `home`; comments and blank lines are left out."""
    keys: list[str] = []
    status: list[str] = []
    size = 0
    for name in names:
        path = os.path.join(home, name.encode())
        shown = os.fsdecode(path)
        try:
            text = _read(path)
        except OSError as error:
            status.append(f"keyfile {shown} : {error.strerror}")
            continue
        for line in text.splitlines():
            key = line.strip()
            length = len(key.encode())  # longer than in the file, where that is no text
            if key and not key.startswith("#") and size + length <= _MAX_KEYS_BYTES:
                keys.append(key)
                size += length
        status.append(f"keyfile {shown} : OK")
    return KeyFiles(home=os.fsdecode(home), keys=tuple(keys), status=" ".join(status))


def _read(path: bytes) -> str:
    # A pipe or a device in place of the file must not hang us.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with contextlib.closing(os.fdopen(fd, "rb")) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise PermissionError(1, "Not a regular file")
        return file.read(_MAX_FILE_BYTES).decode("utf-8", "replace")
