"""System calls that Python does not wrap: openat2, Landlock, prctl and capset. Nothing here decides anything.

Numbers and structures are those of the kernel's headers for 64-bit Linux (the numbers from 424 on are the same on
every architecture).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)

_OPENAT2: Final = 437
_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_ADD_RULE: Final = 445
_LANDLOCK_RESTRICT_SELF: Final = 446
_CAPSET: Final = 91 if platform.machine() in ("aarch64", "riscv64") else 126

RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_BENEATH: Final = 0x08

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

_CAPABILITY_VERSION_3: Final = 0x20080522


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def openat2(directory: int, path: bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """Open `path` below `directory` under the rules of `resolve`.

    Raises:
        OSError: ENOSYS on kernels before 5.6; EXDEV or ELOOP if the path leaves the rules.
    """
    if b"\0" in path:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    while True:
        try:
            return _check(_libc.syscall(_OPENAT2, directory, path, ctypes.byref(how), ctypes.sizeof(how)))
        except OSError as error:
            # EAGAIN: a rename elsewhere crossed the walk; the kernel asks to try again.
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                raise


def has_openat2() -> bool:
    """Whether the kernel knows openat2."""
    try:
        os.close(openat2(-100, b"/", os.O_PATH, 0))
    except OSError:
        return False
    return True


def landlock_abi() -> int:
    """Version of the kernel's Landlock, 0 if there is none."""
    version = int(_libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, 1))
    return max(0, version)


def landlock_confine(directory: int) -> bool:
    """Forbid this thread, and threads it starts from now on, every file that is not beneath `directory`.

    Needs no_new_privs. Cannot be undone.

    Returns:
        Whether the kernel has Landlock and the rules are in force.
    """
    abi = landlock_abi()
    if abi == 0:
        return False
    # Version 1 knows 13 file rights; 2 adds linking across directories, 3 truncation, 5 device ioctls.
    rights = 0x1FFF | (0x2000 if abi >= 2 else 0) | (0x4000 if abi >= 3 else 0) | (0x8000 if abi >= 5 else 0)
    attr = _RulesetAttr(rights)
    ruleset = _check(_libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(attr), ctypes.sizeof(attr), 0))
    try:
        rule = _PathBeneathAttr(rights, directory)
        _check(_libc.syscall(_LANDLOCK_ADD_RULE, ruleset, 1, ctypes.byref(rule), 0))
        _check(_libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process `signal_number` when its parent dies. Cleared by every change of user."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0))


def no_new_privileges() -> None:
    """No program started from here can gain rights by set-uid bits or file capabilities."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def not_dumpable() -> None:
    """No core file, and no other process of the same user may look into this one."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def drop_capabilities() -> None:
    """Give up every capability of this thread, ambient ones included."""
    # Kernels before 4.3 have no ambient set; then there is nothing to clear.
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)()
    _check(_libc.syscall(_CAPSET, ctypes.byref(header), ctypes.byref(data)))
