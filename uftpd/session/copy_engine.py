"""Loads all that a copy between servers needs, before its process becomes the user.

The user may have no right to read the installation, and the kernel may confine the process to the session's base: what
is not there by then cannot be loaded. The client's modules load some of theirs late, to start quickly.
"""

from __future__ import annotations

import importlib
from typing import Final

_ALWAYS: Final = (
    "encodings.idna",  # host names, where they are looked at at all
    "uftp.client.record_mode",
    "uftp.client.record_moving",
    "uftp.client.record_pipeline",
    "uftp.client.record_transfers",
    "uftp.streams.delta",
    "uftp.streams.legacy",
    "uftp.streams.records",
    "uftp.transfer.server_copy",
)
_FETCH: Final = (
    "httpx2",
    "uftp.client.http_errors",
    "uftp.transfer.url_fetch",
    "uftp.client.share_link",
    "uftp.client.vetted_http",
    "uftp.transfer.share_download",
    "uftp.transfer.share_pieces",
)


def load(*, fetch: bool) -> None:
    """Load the copy engine, and for a fetch the client for HTTPS. Before the user is settled."""
    for name in (*_ALWAYS, *_FETCH) if fetch else _ALWAYS:
        importlib.import_module(name)
