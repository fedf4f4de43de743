"""Style, script and icon of the pages: files beside this module, under addresses that change with what is in them."""

from __future__ import annotations

import hashlib
import mimetypes
import re
from dataclasses import dataclass
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from uftpd.auth.edge import context_of
from uftpd.auth.endpoints import ANY, Access, Caller, Endpoint
from uftpd.auth.errors import NotFound

PATH = "/ui/static"

_NAMES = ("page.css", "page.js", "live.js", "icon.svg")
_ADDRESS = re.compile(r"([a-z]+)\.([0-9a-f]{16})\.([a-z]+)")
_FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _Asset:
    content: bytes
    media_type: str
    digest: str


def _load(name: str) -> _Asset:
    content = (files(__package__) / "static" / name).read_bytes()
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return _Asset(content, media_type, hashlib.sha256(content).hexdigest()[:16])


_ASSETS = {name: _load(name) for name in _NAMES}


def asset_path(name: str) -> str:
    """The address of a file, below the path this server is reached at."""
    stem, _, extension = name.partition(".")
    return f"{PATH}/{stem}.{_ASSETS[name].digest}.{extension}"


async def serve_asset(request: Request, caller: Caller) -> Response:
    """`GET /ui/static/NAME.DIGEST.EXTENSION`.

    Raises:
        NotFound: there is no such file.
    """
    context_of(request).outcome = "page"
    match = _ADDRESS.fullmatch(request.path_params["name"])
    asset = _ASSETS.get(f"{match[1]}.{match[3]}") if match else None
    if match is None or asset is None:
        raise NotFound("No such resource, please check your URL")
    # While several servers are being updated, a page of one may ask another for its style: that has to be good enough.
    caching = _FOREVER if match[2] == asset.digest else "no-cache"
    return Response(asset.content, media_type=asset.media_type, headers={"Cache-Control": caching})


def asset_endpoints() -> list[Endpoint]:
    """Their entry in the table of resources."""
    return [
        Endpoint(
            method="GET",
            path=PATH + "/{name}",
            handler=serve_asset,
            access=Access.PUBLIC,
            summary="Style, script and icon of the pages.",
            produces=ANY,
            replies={404: "There is no such file."},
        )
    ]
