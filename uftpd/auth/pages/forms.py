"""Forms of pages: read, and known to come from our own page.

Each form carries a token made from a cookie that only this server and the browser know (RFC 6265; the cookie is
HttpOnly and SameSite=Strict). Another site can make a browser send a form, but not one with the right token.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request

from uftpd.auth.edge import read_body
from uftpd.auth.errors import BadRequest, Refused
from uftpd.config.auth import Limits

FORM = "application/x-www-form-urlencoded"
TOKEN_FIELD = "token"  # noqa: S105 - the name of a field

_MAX_FIELDS = 50
_OWN = frozenset({"same-origin", "none"})


async def read_form(request: Request, limits: Limits) -> dict[str, str]:
    """The fields of a form.

    Raises:
        BadRequest: it is none, or names a field twice.
        RequestError: it is too large or too slow.
    """
    body = await read_body(request, limits)
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise BadRequest("The form cannot be read") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BadRequest("The form names a field twice")
    return fields


def form_token(secret: str) -> str:
    """What a form carries for somebody whose cookie is `secret`."""
    return hmac.new(secret.encode(), b"uftp form", hashlib.sha256).hexdigest()


def check_origin(request: Request, form: Mapping[str, str], secret: str) -> None:
    """Refuse a form that another site made somebody send.

    Args:
        request: it came with.
        form: its fields.
        secret: the cookie; empty if there is none.

    Raises:
        Refused: it is, or the page it was on is too old.
    """
    shown = form.get(TOKEN_FIELD, "").encode()
    told = request.headers.get("sec-fetch-site", "same-origin")
    if not secret or told not in _OWN or not hmac.compare_digest(shown, form_token(secret).encode()):
        raise Refused("This page was open for too long. Go back, load it again, and try once more.")
