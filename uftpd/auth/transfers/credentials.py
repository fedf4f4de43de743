"""What a person leaves here so that a transfer can log in at another auth server: read, kept as bytes, never shown.

Three kinds: a token (one that its server calls renewable is renewed there before it ends, CONTROL-PLANE 5.4), a name
and password, and a refresh token of an OpenID Connect provider (RFC 6749 section 6).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from uftp.client.credentials import checked_token
from uftp.errors import UsageError
from uftpd.auth.errors import BadRequest

MAX_CREDENTIAL_TEXT: Final = 16 * 1024
MAX_TOKEN: Final = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCredential:
    """What proves to another auth server who somebody is. Of the three kinds one is filled in.

    Attributes:
        token: shown as a bearer token; with a refresh token the one got last, or empty.
        username, password: of HTTP Basic.
        refresh_token: gets the next token.
        token_endpoint: where, an https URL.
        client_id, client_secret: what the program is called there that the refresh token was given to.
    """

    token: str = field(default="", repr=False)
    username: str = ""
    password: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)
    token_endpoint: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)

    def encoded(self) -> bytes:
        """For keeping; it must be sealed."""
        return json.dumps({name: value for name in self.__slots__ if (value := getattr(self, name))}).encode()

    @classmethod
    def decoded(cls, data: bytes) -> StoredCredential:
        """What `encoded` gave.

        Raises:
            ValueError: it is something else. The text tells nothing of it.
        """
        try:
            found = json.loads(data)
            return cls(**{str(name): str(value) for name, value in found.items()})
        except (ValueError, TypeError, AttributeError):
            raise ValueError("not a credential") from None


_FIELDS: Final[Mapping[str, str]] = {
    "token": "token",
    "username": "username",
    "password": "password",
    "refreshToken": "refresh_token",
    "tokenEndpoint": "token_endpoint",
    "clientId": "client_id",
    "clientSecret": "client_secret",
}

CREDENTIAL_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "a token; or username and password; or refreshToken, tokenEndpoint and clientId",
    "properties": {name: {"type": "string", "maxLength": MAX_CREDENTIAL_TEXT} for name in _FIELDS},
    "additionalProperties": False,
}


def parse_credential(value: object, name: str) -> StoredCredential:
    """Read what a request brings as the credential of one side.

    Args:
        value: `{"token"}`, `{"username", "password"}`, or `{"refreshToken", "tokenEndpoint", "clientId"}` with
            `clientSecret` and the present `token` if there are.
        name: of the field, for errors.

    Raises:
        BadRequest: which field is wrong; never what is in it.
    """
    if not isinstance(value, dict):
        raise BadRequest(f"{name}: expected an object")
    found: dict[str, str] = {}
    for key, text in value.items():
        if key not in _FIELDS:
            raise BadRequest(f"{name}: expected one of {', '.join(_FIELDS)} only")
        if not isinstance(text, str) or not text or len(text) > MAX_CREDENTIAL_TEXT:
            raise BadRequest(f"{name}.{key}: expected a text of 1 to {MAX_CREDENTIAL_TEXT} characters")
        if any(c in text for c in "\r\n\0") and key not in ("token", "refreshToken"):
            raise BadRequest(f"{name}.{key}: line breaks are not allowed")
        found[_FIELDS[key]] = text
    _check(found, name)
    return StoredCredential(**found)


def _check(found: dict[str, str], name: str) -> None:
    for key in ("token", "refresh_token"):
        if key in found:
            try:
                found[key] = checked_token(found[key])
            except UsageError as error:
                raise BadRequest(f"{name}: {error}") from None
    if "refresh_token" in found:
        wanted = {"refresh_token", "token_endpoint", "client_id"}
        if not wanted <= found.keys() or found.keys() & {"username", "password"}:
            raise BadRequest(f"{name}: with refreshToken go tokenEndpoint and clientId, and no password")
        if not found["token_endpoint"].startswith("https://"):
            raise BadRequest(f"{name}.tokenEndpoint: expected an https URL")
    elif "token" in found:
        if found.keys() != {"token"}:
            raise BadRequest(f"{name}: a token stands alone")
    elif found.keys() != {"username", "password"}:
        raise BadRequest(f"{name}: expected a token, or username and password, or a refreshToken")
    elif ":" in found["username"]:
        raise BadRequest(f"{name}.username: a colon is not allowed")
