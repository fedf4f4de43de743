"""Runs `uftpd standalone` for tests: `site_runner.py UID GID ARGUMENTS`.

A uid other than -1 is taken first, for good: a server started by an ordinary user. The modules are loaded before,
since the tests' environment may be readable by root only.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import sys

from uftpd.cli import main

_PACKAGES = ("uftpd", "hypercorn", "h11", "h2", "wsproto", "cryptography", "argon2", "encodings")
_NOT = ("asyncio", "__main__", "migrations.env")  # the last runs inside alembic only


def _load_everything() -> None:
    for name in _PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not any(word in module.name for word in _NOT):
                with contextlib.suppress(ImportError):  # parts for other systems, or whose libraries nobody asked for
                    importlib.import_module(module.name)


if __name__ == "__main__":
    uid, gid = int(sys.argv[1]), int(sys.argv[2])
    if uid != -1:
        _load_everything()
        os.setgroups([gid])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    sys.argv[:3] = ["uftpd"]
    main()
