"""The bodies of requests to /rest/transfers, and what their replies say of a transfer. Unknown fields are errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from uftp.protocol.server_copies import MAX_SESSIONS
from uftpd.auth.attributes.rates import parse_rate
from uftpd.auth.errors import BadRequest
from uftpd.auth.info import JsonObject
from uftpd.auth.requests import boolean_field, integer_field, parse_object, text_field
from uftpd.auth.transfers.clashes import check_loops, check_names
from uftpd.auth.transfers.credentials import CREDENTIAL_SCHEMA, StoredCredential, parse_credential
from uftpd.auth.transfers.model import (
    MAX_SOURCES,
    FileError,
    Place,
    Side,
    Transfer,
    TransferOptions,
    TransferState,
    Wanted,
)
from uftpd.auth.transfers.places import host_of, parse_place

MAX_NAME: Final = 200
MAX_KEY: Final = 200
_CALLBACK_CHARACTERS: Final = 2048

_BOOLEAN: Final = {"type": ["boolean", "null"]}
_COUNT: Final = {"type": ["integer", "null"], "minimum": 0}
CREDENTIALS_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "to log in at other auth servers; kept sealed until the transfer has ended, and never shown",
    "properties": {side.value: CREDENTIAL_SCHEMA for side in Side},
    "additionalProperties": False,
}
SUBMISSION_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["sources", "target"],
    "additionalProperties": False,
    "properties": {
        "sources": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_SOURCES,
            "items": {"type": "string"},
            "description": "NAME:/path, https://HOST/rest/auth/NAME:/path, share links, https URLs",
        },
        "target": {"type": "string", "description": "NAME:/path or https://HOST/rest/auth/NAME:/path"},
        "options": {
            "type": ["object", "null"],
            "additionalProperties": False,
            "properties": {
                **dict.fromkeys(("recursive", "preserve", "encrypt", "compress", "verify", "resume"), _BOOLEAN),
                "limitRate": {"type": ["integer", "string", "null"], "description": "bytes a second, or as 200M"},
                "sessions": {**_COUNT, "maximum": MAX_SESSIONS, "description": "0 for what helps"},
                "retries": {**_COUNT, "description": "tries beside the first; left out: as the site has it"},
            },
        },
        "credentials": {**CREDENTIALS_SCHEMA, "type": ["object", "null"]},
        "callback": {"type": ["string", "null"], "description": "https URL that is told of the end"},
        "name": {"type": ["string", "null"], "maxLength": MAX_NAME},
    },
}
STEERING_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"credentials": {**CREDENTIALS_SCHEMA, "type": ["object", "null"]}},
}
_NUMBER: Final = {"type": "number"}
_TEXT: Final = {"type": "string"}
TRANSFER_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["id", "state", "sources", "target"],
    "properties": {
        "id": _TEXT,
        "name": _TEXT,
        "owner": _TEXT,
        "state": {"enum": [state.value for state in TransferState]},
        "wanted": {"enum": ["pause", "cancel", None], "description": "what an active one is about to do"},
        "reason": _TEXT,
        "sources": {"type": "array", "items": _TEXT},
        "target": _TEXT,
        "options": {"type": "object"},
        "bytes": _NUMBER,
        "total": _NUMBER,
        "files": _NUMBER,
        "filesFailed": _NUMBER,
        "filesFound": _NUMBER,
        "rate": _NUMBER,
        "attempts": _NUMBER,
        "created": _NUMBER,
        "started": _NUMBER,
        "ended": _NUMBER,
        "nextTry": _NUMBER,
        "node": _TEXT,
        "callback": _TEXT,
        "href": _TEXT,
    },
}
LIST_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["transfers", "next"],
    "properties": {
        "transfers": {"type": "array", "items": TRANSFER_SCHEMA},
        "next": {"type": ["string", "null"], "description": "for `after`; null behind the last"},
    },
}
ERRORS_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["errors", "next"],
    "properties": {
        "errors": {
            "type": "array",
            "items": {"type": "object", "properties": {"source": _TEXT, "target": _TEXT, "error": _TEXT}},
        },
        "next": {"type": ["integer", "null"], "description": "for `first`; null behind the last"},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What somebody submits, in a form that can be right; whether it is allowed is another question.

    Attributes:
        sources, target: the places.
        options: how.
        credentials: by the side they are for.
        name: for people.
        callback: https URL; empty for none.
        digest: of all of it, but for credentials.
    """

    sources: tuple[Place, ...]
    target: Place
    options: TransferOptions
    credentials: dict[Side, StoredCredential] = field(default_factory=dict, repr=False)
    name: str = ""
    callback: str = field(default="", repr=False)
    digest: bytes = b""


def parse_submission(body: bytes, own: Collection[str]) -> Submission:
    """Read the body of `POST /rest/transfers`.

    Args:
        body: JSON.
        own: URLs of this auth server, without `/rest`.

    Raises:
        BadRequest: says which field is wrong.
    """
    fields = parse_object(body)
    _only(fields, SUBMISSION_SCHEMA, "")
    given = fields.get("sources")
    if not isinstance(given, list) or not given or not all(isinstance(text, str) for text in given):
        raise BadRequest("sources: required, a list of texts")
    if len(given) > MAX_SOURCES:
        raise BadRequest(f"sources: at most {MAX_SOURCES}; name a directory, or use wildcards")
    sources = tuple(parse_place(_plain(text, "sources"), "sources", own) for text in given)
    if not isinstance(fields.get("target"), str):
        raise BadRequest("target: required, a text")
    target = parse_place(_plain(fields["target"], "target"), "target", own)
    _check_sides(sources, target)
    check_names(sources)
    options = _options(fields.get("options"))
    if options.recursive:
        check_loops(sources, target)
    return Submission(
        sources=sources,
        target=target,
        options=options,
        credentials=_credentials(fields.get("credentials")),
        name=_name(fields),
        callback=_callback(fields),
        # Without credentials: a hash of a password would let whoever has the store try passwords.
        digest=_digest({name: value for name, value in fields.items() if name != "credentials"}),
    )


def parse_steering(body: bytes) -> dict[Side, StoredCredential]:
    """Read the body of a request to resume or retry, which may be empty: new credentials.

    Raises:
        BadRequest: says which field is wrong.
    """
    fields = parse_object(body) if body.strip() else {}
    _only(fields, STEERING_SCHEMA, "")
    return _credentials(fields.get("credentials"))


def _digest(fields: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).digest()


def _only(fields: Mapping[str, Any], schema: Mapping[str, Any], prefix: str) -> None:
    known = schema["properties"]
    for name in fields:
        if name not in known:
            shown = "".join(c if c.isprintable() else "?" for c in name[:40])
            raise BadRequest(f"{prefix}{shown}: no such field; there are {', '.join(known)}")


def _plain(text: str, name: str) -> str:
    checked = text_field({name: text}, name)
    assert checked is not None  # noqa: S101 -- it is a text
    return checked


def _check_sides(sources: tuple[Place, ...], target: Place) -> None:
    if target.kind == "web":
        if "/rest/access/" in target.service:
            raise BadRequest("target: a share link cannot be the target of a transfer; name NAME:/path")
        raise BadRequest("target: a URL cannot be written to; expected NAME:/path")
    first = sources[0]
    if any(source.kind != first.kind for source in sources):
        raise BadRequest("sources: places on servers and URLs to fetch do not go together; submit two transfers")
    if first.kind != "web" and any(source.end != first.end for source in sources):
        raise BadRequest("sources: all on one server; submit a transfer for each")
    if target.kind == "auth" and first.kind == "auth":
        raise BadRequest("sources, target: one side must be on a server of this auth server")
    if target.kind == "auth" and first.kind == "web":
        raise BadRequest("target: URLs are fetched by servers of this auth server only")


def _options(given: object) -> TransferOptions:
    if given is None:
        return TransferOptions()
    if not isinstance(given, dict):
        raise BadRequest("options: expected an object")
    _only(given, SUBMISSION_SCHEMA["properties"]["options"], "options.")
    try:
        rate = parse_rate(text_field(given, "limitRate") or "0")
    except ValueError as error:
        raise BadRequest(f"options.limitRate: {error}") from None
    sessions, retries = integer_field(given, "sessions", 0), integer_field(given, "retries", -1)
    if not 0 <= sessions <= MAX_SESSIONS:
        raise BadRequest(f"options.sessions: 0 to {MAX_SESSIONS}")
    if retries < 0 and given.get("retries") is not None:
        raise BadRequest("options.retries: 0 or more")
    defaults = TransferOptions()
    names = ("recursive", "preserve", "encrypt", "compress", "verify", "resume")
    flags = {name: boolean_field(given, name, getattr(defaults, name)) for name in names}
    return TransferOptions(**flags, rate_limit=rate, sessions=sessions, attempts=retries + 1)


def _credentials(given: object) -> dict[Side, StoredCredential]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise BadRequest("credentials: expected an object")
    _only(given, CREDENTIALS_SCHEMA, "credentials.")
    return {
        Side(side): parse_credential(value, f"credentials.{side}") for side, value in given.items() if value is not None
    }


def _name(fields: Mapping[str, Any]) -> str:
    name = text_field(fields, "name") or ""
    if len(name) > MAX_NAME:
        raise BadRequest(f"name: at most {MAX_NAME} characters")
    return name


def _callback(fields: Mapping[str, Any]) -> str:
    url = text_field(fields, "callback") or ""
    if len(url) > _CALLBACK_CHARACTERS:
        raise BadRequest(f"callback: at most {_CALLBACK_CHARACTERS} characters")
    if url:
        host_of(url, "callback")
    return url


# -- replies ----------------------------------------------------------------------------------------------------------


def show(transfer: Transfer, base: str) -> JsonObject:
    """A transfer as replies have it.

    Args:
        transfer: what is known of it.
        base: URL of this server, without `/rest`.
    """
    options, progress = transfer.options, transfer.progress
    shown: JsonObject = {
        name: getattr(options, name) for name in ("recursive", "preserve", "encrypt", "compress", "verify", "resume")
    }
    shown |= {"limitRate": options.rate_limit, "sessions": options.sessions}
    if options.attempts:
        shown["retries"] = options.attempts - 1
    return {
        "id": transfer.id,
        "name": transfer.name,
        "owner": transfer.person,
        "state": transfer.state.value,
        "wanted": transfer.wanted.value if transfer.wanted is not Wanted.NOTHING else None,
        "reason": transfer.reason,
        "sources": [source.text for source in transfer.sources],
        "target": transfer.target.text,
        "options": shown,
        "bytes": progress.bytes,
        "total": progress.total,
        "files": progress.files,
        "filesFailed": progress.failed,
        "filesFound": progress.found,
        "rate": progress.rate,
        "attempts": transfer.attempts,
        "created": transfer.created,
        "started": transfer.started,
        "ended": transfer.ended,
        "nextTry": transfer.next_try,
        "node": transfer.node,
        "callback": transfer.callback,
        "href": f"{base}/rest/transfers/{transfer.id}",
    }


def show_error(error: FileError) -> JsonObject:
    """A failed file as replies have it."""
    return {"source": error.source, "target": error.target, "error": error.error}
