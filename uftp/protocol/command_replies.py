"""Replies of the command port (DATA-PLANE section 1): what a data node writes, and what an auth server reads.

Without sockets, as `command_port`, which has the requests. A reply is read to the end of the stream before it is
parsed. Nodes differ in what they tell, so reading is lenient; a refusal is raised, never returned.
"""

from __future__ import annotations

from dataclasses import dataclass

from uftp.protocol.command_port import RequestRefused, is_clean

_OBJECTS = "OBJECTS "


@dataclass(frozen=True, slots=True, kw_only=True)
class PingReply:
    """What a node says of itself. Legacy nodes send no features.

    Attributes:
        features: FEAT lines of ours that clients find there again (EXTENSIONS, introduction).
        objects: address of the node's object server, such as `https://host:port`; empty without one. It travels among
            the features, as `OBJECTS <address>`, but is none: FEAT does not list it.
    """

    version: str = "n/a"
    listen_port: int = 0
    listen_address: str = ""
    max_sessions: int = 0
    advertise_address: str = ""
    features: tuple[str, ...] = ()
    objects: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserInfoReply:
    """Accepted keys are authorized_keys lines, options and comment included."""

    version: str = "n/a"
    user: str = ""
    home: str = ""
    accepted_keys: tuple[str, ...] = ()
    status: str = ""


# -- the node's side ------------------------------------------------------------------------------------------------


def encode_ping_reply(reply: PingReply) -> bytes:
    """A ping reply as upstream orders it, the features behind."""
    lines = [
        f"Version: {reply.version}",
        f"ListenPort: {reply.listen_port}",
        f"ListenAddress: {reply.listen_address}",
        f"MaxSessionsPerClient: {reply.max_sessions}",
    ]
    if reply.advertise_address:
        lines.append(f"AdvertiseAddress: {reply.advertise_address}")
    told = [*reply.features, *([_OBJECTS + reply.objects] if reply.objects else [])]
    if told:
        lines.append(f"Features: {'; '.join(told)}")
    return _encode_lines(lines)


def encode_user_info_reply(reply: UserInfoReply) -> bytes:
    """A user-info reply; keys are numbered over all files."""
    lines = [f"Version: {reply.version}", f"User: {reply.user}", f"Home: {reply.home}"]
    lines += [f"Accepted key {number}: {key}" for number, key in enumerate(reply.accepted_keys)]
    lines.append(f"Status: {reply.status}")
    return _encode_lines(lines)


def encode_transfer_reply(ftp_port: int) -> bytes:
    """The request is granted; the login is expected at this port."""
    return b"OK::%d\n" % ftp_port


def encode_refusal(text: str) -> bytes:
    """The request is refused, in upstream's form."""
    return _encode_lines([f"ERROR::{text}"])


def _encode_lines(lines: list[str]) -> bytes:
    clean = ("".join(c if is_clean(c) else "?" for c in line) for line in lines)
    return "".join(line + "\n" for line in clean).encode("utf-8", "replace")


# -- the auth server's side -----------------------------------------------------------------------------------------


def parse_transfer_reply(data: bytes) -> int:
    """The FTP port of a granted transfer request.

    Raises:
        RequestRefused: the node's own words, trimmed, for any other reply.
    """
    text = data.decode("utf-8", "replace").strip()
    parts = text.split("::")
    if parts[0].startswith("OK") and len(parts) > 1 and parts[1].strip().isascii() and parts[1].strip().isdigit():
        port = int(parts[1].strip()[:6])
        if 0 < port < 65536:
            return port
    raise RequestRefused(text)


def parse_ping_reply(data: bytes) -> PingReply:
    """Read a ping reply leniently: any reply means alive, every field is optional."""
    values = dict(_key_values(data))
    told = [f.strip() for f in values.get("Features", "").split(";") if f.strip()]
    return PingReply(
        version=values.get("Version", "n/a"),
        listen_port=_number(values.get("ListenPort")),
        listen_address=values.get("ListenAddress", ""),
        max_sessions=_number(values.get("MaxSessionsPerClient")),
        advertise_address=values.get("AdvertiseAddress", ""),
        features=tuple(f for f in told if not f.startswith(_OBJECTS)),
        objects=next((f.removeprefix(_OBJECTS).strip() for f in told if f.startswith(_OBJECTS)), ""),
    )


def parse_user_info_reply(data: bytes) -> UserInfoReply:
    """Read a user-info reply.

    Raises:
        RequestRefused: the node answered with an error, or with nothing that looks like a reply.
    """
    pairs = _key_values(data)
    values = dict(pairs)
    if "User" not in values:
        raise RequestRefused(data.decode("utf-8", "replace").strip() or "empty reply")
    keys = tuple(value for key, value in pairs if key.startswith("Accepted key") and value)
    return UserInfoReply(
        version=values.get("Version", "n/a"),
        user=values["User"],
        home=values.get("Home", ""),
        accepted_keys=keys,
        status=values.get("Status", ""),
    )


def _key_values(data: bytes) -> list[tuple[str, str]]:
    lines = data.decode("utf-8", "replace").splitlines()
    split = (line.partition(":") for line in lines)
    return [(key.strip(), value.strip()) for key, colon, value in split if colon]


def _number(text: str | None) -> int:
    return int(text) if text and len(text) < 10 and text.isascii() and text.isdigit() else 0
