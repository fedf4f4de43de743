"""Lines of an authorized_keys file: the key, and what the options in front of it allow (sshd(8)).

What a key opens here is what a login with it would: all files of its owner. So options are honoured or the key is not
taken; none is passed over:

    from="…"              honoured; addresses only, names are never looked up
    expiry-time="…"       honoured
    restrict, no-…, environment=, permitopen=, …   do not narrow what can be done with files: taken
    command="…"           the owner gave this key one command, not all files: not taken
    cert-authority, principals=, and unknown options: not taken

Ed25519, ECDSA on the three NIST curves, and RSA from 2048 bits. Keys of security tokens (sk-…) sign something else
than tokens.
"""

from __future__ import annotations

import ipaddress
import re
import time
from calendar import timegm
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from uftp.protocol.command_port import IPAddress
from uftpd.auth.identity.jwt import PublicKey

MAX_LINE_CHARACTERS = 16 * 1024
MAX_PATTERNS = 64  # in one from=
_RSA_BITS = range(2048, 16385)

_KINDS = frozenset({"ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"})
_HARMLESS = frozenset(
    {
        "restrict",
        "agent-forwarding",
        "no-agent-forwarding",
        "port-forwarding",
        "no-port-forwarding",
        "pty",
        "no-pty",
        "user-rc",
        "no-user-rc",
        "x11-forwarding",
        "no-x11-forwarding",
        "environment",
        "permitopen",
        "permitlisten",
        "tunnel",
    }
)
_OPTION = re.compile(r'([A-Za-z0-9-]+)(?:="((?:[^"\\]|\\.)*)")?(,|$)', re.ASCII)
_EXPIRY = re.compile(r"(\d{8})(?:(\d{4})(\d{2})?)?(Z?)", re.ASCII)


class UnusableKey(ValueError):
    """A line that gives no key to log in with. The message is for the log."""


@dataclass(frozen=True, slots=True)
class AuthorizedKey:
    """One usable line.

    Attributes:
        key: the public key.
        sources: address patterns of `from`; empty for no restriction. Several options must all admit.
        ends: Unix seconds; None without `expiry-time`.
    """

    key: PublicKey
    sources: tuple[str, ...] = ()
    ends: float | None = None

    def admits(self, address: IPAddress, now: float) -> bool:
        """Whether the options allow a login from this address at this time."""
        if self.ends is not None and now >= self.ends:
            return False
        return all(_matches(address, patterns) for patterns in self.sources)


def parse_line(line: str) -> AuthorizedKey:
    """Read one line: options, kind, key, comment.

    Raises:
        UnusableKey: not a key this module takes; says why, without the key.
    """
    text = line.strip()
    if len(text) > MAX_LINE_CHARACTERS:
        raise UnusableKey("the line is too long")
    options = ""
    if text.partition(" ")[0] not in _KINDS:
        options, text = _split_options(text)
    words = text.split()
    if len(words) < 2 or words[0] not in _KINDS:
        raise UnusableKey(f"no key of a known kind: {', '.join(sorted(_KINDS))}")
    sources, ends = _read_options(options)
    return AuthorizedKey(_load(words[0], words[1]), sources, ends)


def _split_options(text: str) -> tuple[str, str]:
    quoted = False
    for at, c in enumerate(text):
        if c == '"' and text[at - 1 : at] != "\\":
            quoted = not quoted
        elif c in " \t" and not quoted:
            return text[:at], text[at:].strip()
    raise UnusableKey("no key behind the options")


def _read_options(text: str) -> tuple[tuple[str, ...], float | None]:
    sources: list[str] = []
    ends: float | None = None
    at = 0
    while at < len(text):
        found = _OPTION.match(text, at)
        if found is None or (found[3] == "," and found.end() == len(text)):
            raise UnusableKey("the options cannot be read")
        at = found.end()
        name, value = found[1].lower(), found[2]
        if name == "from" and value:
            if value.count(",") >= MAX_PATTERNS:
                raise UnusableKey(f"more than {MAX_PATTERNS} patterns in from=")
            sources.append(value)
        elif name == "expiry-time" and value:
            end = _expiry(value)
            ends = end if ends is None else min(ends, end)
        elif name not in _HARMLESS:
            raise UnusableKey(f"the option '{name[:40]}' stands in front of it")
    return tuple(sources), ends


def _expiry(value: str) -> float:
    found = _EXPIRY.fullmatch(value)
    if found is None:
        raise UnusableKey("expiry-time is no time")
    stamp = f"{found[1]}{found[2] or '0000'}{found[3] or '00'}"
    try:
        moment = time.strptime(stamp, "%Y%m%d%H%M%S")
        return float(timegm(moment)) if found[4] else time.mktime(moment)
    except (ValueError, OverflowError):
        raise UnusableKey("expiry-time is no time") from None


def _load(kind: str, encoded: str) -> PublicKey:
    try:
        key = load_ssh_public_key(f"{kind} {encoded}".encode("ascii"))
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableKey(f"a broken {kind} key") from None
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size not in _RSA_BITS:
            raise UnusableKey(f"an RSA key of {key.key_size} bits; {_RSA_BITS.start} is the least")
        return key
    if isinstance(key, (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)):
        return key
    raise UnusableKey(f"a key of a kind that is not taken: {kind}")


def _matches(address: IPAddress, patterns: str) -> bool:
    """An address against a pattern list of sshd: commas between, `!` excludes, networks or `*` and `?`."""
    admitted = False
    for item in patterns.split(","):
        pattern = item.strip()
        excludes = pattern.startswith("!")
        if _matches_one(address, pattern[1:] if excludes else pattern):
            if excludes:
                return False
            admitted = True
    return admitted


def _matches_one(address: IPAddress, pattern: str) -> bool:
    if "/" in pattern:
        try:
            return address in ipaddress.ip_network(pattern)
        except ValueError:
            return False
    try:
        return address == ipaddress.ip_address(pattern.strip("[]"))
    except ValueError:
        return _matches_wildcards(str(address), pattern.lower())


def _matches_wildcards(text: str, pattern: str) -> bool:
    """`*` and `?`; on a mismatch only the last `*` is stretched, so the work is bounded by the product of lengths."""
    at, star, taken = 0, -1, 0
    for_text = 0
    while for_text < len(text):
        c = pattern[at : at + 1]
        if c == "*":
            star, taken = at, for_text
            at += 1
        elif c and (c == "?" or c == text[for_text]):
            at += 1
            for_text += 1
        elif star >= 0:
            taken += 1
            at, for_text = star + 1, taken
        else:
            return False
    return not pattern[at:].strip("*")
