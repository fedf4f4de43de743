"""The bodies of requests to /rest/share (CONTROL-PLANE 1.6), read as strictly as old clients allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from uftp.protocol.dn import InvalidName, canonical
from uftpd.auth.errors import BadRequest
from uftpd.auth.requests import boolean_field, integer_field, parse_object, text_field
from uftpd.auth.shares.model import ShareAccess
from uftpd.auth.shares.passwords import MAX_PASSWORD_BYTES
from uftpd.auth.shares.paths import normalised

NONE: Final = "NONE"
MAX_NAME_CHARACTERS: Final = 1024  # of the canonical name of a grantee; it is in an index of the store

_NUMBER_LIMIT: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareRequest:
    """What an owner asks for.

    Attributes:
        path: normalised; whether it ends with `/` is only what the client believes.
        target: canonical name of the grantee.
        access: what the grantee may do; None to end all shares of the path.
        lifetime: seconds; 0 for no end.
        one_time: it is gone once it was used.
        group: primary group asked for.
        password: None to leave it as it is, empty for none.
        max_downloads: 0 for any number.
    """

    path: str
    target: str
    access: ShareAccess | None
    lifetime: int = 0
    one_time: bool = False
    group: str | None = None
    password: str | None = field(default=None, repr=False)
    max_downloads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareUpdate:
    """What is to be changed; None leaves a thing as it is.

    Attributes:
        path: normalised.
        lifetime: seconds from now; 0 for no end.
        password: empty for none.
        max_downloads: 0 for any number.
        answers: what to say of each field of the request.
    """

    path: str | None = None
    lifetime: int | None = None
    password: str | None = field(default=None, repr=False)
    max_downloads: int | None = None
    answers: Mapping[str, str] = field(default_factory=dict)


def parse_share_request(body: bytes) -> ShareRequest:
    """Read the body of `POST /rest/share/NAME`.

    Raises:
        BadRequest: says which field is wrong.
    """
    fields = parse_object(body)
    access = text_field(fields, "access")
    if access is not None and access != NONE and access not in ShareAccess.__members__:
        raise BadRequest(f"access: expected one of {NONE}, {', '.join(ShareAccess.__members__)}")
    path = normalised(_required(fields, "path"))
    target = grantee(_required(fields, "user"))
    if access == NONE:
        return ShareRequest(path=path, target=target, access=None)
    return ShareRequest(
        path=path,
        target=target,
        access=ShareAccess[access or "READ"],
        lifetime=_not_negative(fields, "lifetime"),
        one_time=boolean_field(fields, "onetime", False),
        group=text_field(fields, "group") or None,
        password=_password(fields),
        max_downloads=_not_negative(fields, "maxDownloads"),
    )


def parse_share_update(body: bytes) -> ShareUpdate:
    """Read the body of `PUT /rest/share/NAME/ID`. What clients send along beside what can be changed has no effect:
    the old ones always send `user` and `access`, which would make private shares public (CONTROL-PLANE T13).

    Raises:
        BadRequest: says which field is wrong.
    """
    fields = parse_object(body)
    path = text_field(fields, "path")
    lifetime = integer_field(fields, "lifetime", 0) if fields.get("lifetime") is not None else None
    known = ("path", "lifetime", "password", "maxDownloads")
    return ShareUpdate(
        path=None if path is None else normalised(path),
        lifetime=None if lifetime is None else max(0, lifetime),
        password=_password(fields),
        max_downloads=_not_negative(fields, "maxDownloads") if fields.get("maxDownloads") is not None else None,
        answers={name: "OK" if name in known else "Property not found!" for name in fields},
    )


def grantee(name: str) -> str:
    """The canonical form of a name.

    Raises:
        BadRequest: it is none, or too long.
    """
    try:
        found = canonical(name)
    except InvalidName as error:
        raise BadRequest(f"user: not a valid name: {error}") from None
    if len(found) > MAX_NAME_CHARACTERS:
        raise BadRequest(f"user: at most {MAX_NAME_CHARACTERS} characters")
    return found


def _required(fields: Mapping[str, Any], name: str) -> str:
    if not isinstance(fields.get(name), str):
        raise BadRequest(f"{name}: required, a text")
    text = text_field(fields, name)
    assert text is not None  # noqa: S101 - for the type checker
    return text


def _not_negative(fields: Mapping[str, Any], name: str) -> int:
    number = integer_field(fields, name, 0)
    if number < 0:
        raise BadRequest(f"{name}: 0 or more")
    return min(number, _NUMBER_LIMIT)


def _password(fields: Mapping[str, Any]) -> str | None:
    password = text_field(fields, "password")
    if password is not None and len(password.encode()) > MAX_PASSWORD_BYTES:
        raise BadRequest(f"password: at most {MAX_PASSWORD_BYTES} bytes")
    return password
