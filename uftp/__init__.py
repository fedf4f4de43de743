"""Fast, safe transfer of research data over UFTP (UNICORE FTP) and plain FTP.

For scripts and notebooks `copy`, `sync`, `rcp`, `listdir` and `connect`; to be awaited, under trio or asyncio,
`copy_async`, `sync_async`, `rcp_async` and `listdir_async`; for trio programs also `open_session`, `copy_files` and
`sync_places`:

    import uftp

    with uftp.connect("https://host:9000/rest/auth/TEST:/data/", user="alice", password=secret) as there:
        there.get("run1.nc", ".")

    async with uftp.open_session("https://host:9000/rest/auth/TEST:/data/", uftp.BearerToken(token)) as session:
        print(await session.listdir(b"/data/"))

Everything raises errors of `uftp.errors`, whose base is `UFTPError`. Importing this package loads nothing else: the
names are looked up when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uftp.client.choosing import endpoint_credential
    from uftp.client.connect import open_session
    from uftp.client.credentials import Anonymous, BearerToken, Credential, TokenFile, UsernamePassword
    from uftp.client.endpoints import Endpoint, find_endpoint
    from uftp.client.login import SessionOptions, open_ftp_session
    from uftp.client.managed import ManagedTransfers, TransferRequest, open_transfers
    from uftp.client.oidc_agent import OidcAgentCredential
    from uftp.client.oidc_login import OidcLogin
    from uftp.client.session import FTPSession
    from uftp.client.ssh_login import SshIdentity
    from uftp.errors import UFTPError
    from uftp.protocol.facts import FileInfo
    from uftp.transfer.between_places import BetweenOptions
    from uftp.transfer.blocking import Connection, connect
    from uftp.transfer.calling import Login, Progress
    from uftp.transfer.copy import Access, copy_files
    from uftp.transfer.filters import Filters, make_rules
    from uftp.transfer.one_call import copy, copy_async, listdir, listdir_async, sync, sync_async
    from uftp.transfer.options import ByteRange, CopyOptions
    from uftp.transfer.rcp_call import rcp, rcp_async
    from uftp.transfer.results import CopyState, CopySummary, FileResult
    from uftp.transfer.sync import SyncSummary
    from uftp.transfer.tree_sync import TreeSyncOptions, sync_places

    __version__: str

__all__ = [
    "Access",
    "Anonymous",
    "BearerToken",
    "BetweenOptions",
    "ByteRange",
    "Connection",
    "CopyOptions",
    "CopyState",
    "CopySummary",
    "Credential",
    "Endpoint",
    "FTPSession",
    "FileInfo",
    "FileResult",
    "Filters",
    "Login",
    "ManagedTransfers",
    "OidcAgentCredential",
    "OidcLogin",
    "Progress",
    "SessionOptions",
    "SshIdentity",
    "SyncSummary",
    "TokenFile",
    "TransferRequest",
    "TreeSyncOptions",
    "UFTPError",
    "UsernamePassword",
    "__version__",
    "connect",
    "copy",
    "copy_async",
    "copy_files",
    "endpoint_credential",
    "find_endpoint",
    "listdir",
    "listdir_async",
    "make_rules",
    "open_ftp_session",
    "open_session",
    "open_transfers",
    "rcp",
    "rcp_async",
    "sync",
    "sync_async",
    "sync_places",
]

_HOMES = {
    "Access": "transfer.copy",
    "Anonymous": "client.credentials",
    "BearerToken": "client.credentials",
    "BetweenOptions": "transfer.between_places",
    "ByteRange": "transfer.options",
    "Connection": "transfer.blocking",
    "CopyOptions": "transfer.options",
    "CopyState": "transfer.results",
    "CopySummary": "transfer.results",
    "Credential": "client.credentials",
    "Endpoint": "client.endpoints",
    "FTPSession": "client.session",
    "FileInfo": "protocol.facts",
    "FileResult": "transfer.results",
    "Filters": "transfer.filters",
    "Login": "transfer.calling",
    "ManagedTransfers": "client.managed",
    "OidcAgentCredential": "client.oidc_agent",
    "OidcLogin": "client.oidc_login",
    "Progress": "transfer.calling",
    "SessionOptions": "client.login",
    "SshIdentity": "client.ssh_login",
    "SyncSummary": "transfer.sync",
    "TokenFile": "client.credentials",
    "TransferRequest": "client.managed",
    "TreeSyncOptions": "transfer.tree_sync",
    "UFTPError": "errors",
    "UsernamePassword": "client.credentials",
    "connect": "transfer.blocking",
    "copy": "transfer.one_call",
    "copy_async": "transfer.one_call",
    "copy_files": "transfer.copy",
    "endpoint_credential": "client.choosing",
    "find_endpoint": "client.endpoints",
    "listdir": "transfer.one_call",
    "listdir_async": "transfer.one_call",
    "make_rules": "transfer.filters",
    "open_ftp_session": "client.login",
    "open_session": "client.connect",
    "open_transfers": "client.managed",
    "rcp": "transfer.rcp_call",
    "rcp_async": "transfer.rcp_call",
    "sync": "transfer.one_call",
    "sync_async": "transfer.one_call",
    "sync_places": "transfer.tree_sync",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from uftp._version import __version__

        return __version__
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"uftp.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
