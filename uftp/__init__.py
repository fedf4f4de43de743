"""Fast, safe transfer of research data over UFTP (UNICORE FTP) and plain FTP.

For scripts and notebooks `connect` and `copy`; for trio programs `open_session` and `copy_files`:

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
    from uftp.client.oidc_agent import OidcAgentCredential
    from uftp.client.oidc_login import OidcLogin
    from uftp.client.session import FTPSession
    from uftp.client.ssh_login import SshIdentity
    from uftp.errors import UFTPError
    from uftp.protocol.facts import FileInfo
    from uftp.transfer.blocking import Connection, connect, copy
    from uftp.transfer.copy import Access, copy_files
    from uftp.transfer.options import ByteRange, CopyOptions
    from uftp.transfer.results import CopyState, CopySummary, FileResult

    __version__: str

__all__ = [
    "Access",
    "Anonymous",
    "BearerToken",
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
    "OidcAgentCredential",
    "OidcLogin",
    "SessionOptions",
    "SshIdentity",
    "TokenFile",
    "UFTPError",
    "UsernamePassword",
    "__version__",
    "connect",
    "copy",
    "copy_files",
    "endpoint_credential",
    "find_endpoint",
    "open_ftp_session",
    "open_session",
]

_HOMES = {
    "Access": "transfer.copy",
    "Anonymous": "client.credentials",
    "BearerToken": "client.credentials",
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
    "OidcAgentCredential": "client.oidc_agent",
    "OidcLogin": "client.oidc_login",
    "SessionOptions": "client.login",
    "SshIdentity": "client.ssh_login",
    "TokenFile": "client.credentials",
    "UFTPError": "errors",
    "UsernamePassword": "client.credentials",
    "connect": "transfer.blocking",
    "copy": "transfer.blocking",
    "copy_files": "transfer.copy",
    "endpoint_credential": "client.choosing",
    "find_endpoint": "client.endpoints",
    "open_ftp_session": "client.login",
    "open_session": "client.connect",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("uftp")
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"uftp.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
