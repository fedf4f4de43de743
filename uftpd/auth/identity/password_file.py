"""The password file: `name:hash:salt:DN`, one user a line (CONTROL-PLANE 5.2).

Two kinds of hash are read: `$argon2id$…` with an empty salt field, which is what `uftpd auth hash-password` prints,
and the legacy salted MD5 in hex. Lines that cannot be used are skipped, and reported by number.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import re
from dataclasses import dataclass, field

import argon2
import argon2.exceptions
import argon2.low_level

from uftp.protocol.command_port import is_clean
from uftp.protocol.dn import InvalidName, parse_name

_MD5 = re.compile(r"[0-9a-f]{32}")
_HASHER = argon2.PasswordHasher()  # Argon2id with the parameters of RFC 9106 for limited memory: 64 MiB, 3 passes

# What pyuftp and pyunicore send if they know no password (CONTROL-PLANE T6): whoever names a user would be that user.
NO_PASSWORD = b"None"

MARK_CHARACTERS = 32

_MAX_MEMORY_KIB = 1024 * 1024  # a line asking for more is a mistake, and one login with it would hurt


@dataclass(frozen=True, slots=True)
class Account:
    """One line.

    Attributes:
        name: to log in with.
        dn: whom that makes.
        hash: Argon2id in its usual text form, or MD5 in hex.
        salt: of the MD5; None for Argon2id.
    """

    name: str
    dn: str
    hash: str = field(repr=False)
    salt: str | None = field(repr=False)

    def mark(self) -> str:
        """Stands for the line: that of a changed password or another person is different."""
        line = f"{self.name}:{self.hash}:{self.salt or ''}:{self.dn}"
        return hashlib.sha256(line.encode()).hexdigest()[:MARK_CHARACTERS]


@dataclass(frozen=True, slots=True)
class PasswordTable:
    """A whole file.

    Attributes:
        accounts: by name.
        mistakes: one line for a person each, for lines that were skipped.
        decoy: an Argon2id hash nobody has the password of, as costly to check as those of the file.
    """

    accounts: dict[str, Account]
    mistakes: tuple[str, ...]
    decoy: str = field(repr=False)


def parse_password_file(text: str) -> PasswordTable:
    """Read the text of a password file; of several lines with one name the last wins."""
    accounts: dict[str, Account] = {}
    mistakes = []
    parameters: argon2.Parameters | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        try:
            account = _parse_line(content)
        except ValueError as error:
            mistakes.append(f"line {number}: {error}")
            continue
        accounts[account.name] = account
        if parameters is None and account.salt is None:
            parameters = argon2.extract_parameters(account.hash)
    return PasswordTable(accounts, tuple(mistakes), _decoy(parameters))


def _parse_line(line: str) -> Account:
    fields = line.split(":", 3)
    if len(fields) < 4:
        raise ValueError("expected name:hash:salt:DN")
    name, digest, salt, dn = fields
    if not name or not is_clean(line):
        raise ValueError("the name is empty or there are control characters")
    try:
        parse_name(dn)
    except InvalidName as error:
        raise ValueError(f"no valid DN: {error}") from None
    if digest.startswith("$"):
        _check_argon2(digest, salt)
        return Account(name, dn.strip(), digest, None)
    if not _MD5.fullmatch(digest):
        raise ValueError("the hash is neither $argon2id$… nor 32 lower-case hex digits")
    return Account(name, dn.strip(), digest, salt)


def _check_argon2(digest: str, salt: str) -> None:
    try:
        parameters = argon2.extract_parameters(digest)
    except (argon2.exceptions.InvalidHashError, ValueError):
        raise ValueError("a broken $…$ hash; only $argon2id$ is known") from None
    if parameters.type is not argon2.low_level.Type.ID:
        raise ValueError("of the $…$ hashes only $argon2id$ is known")
    if parameters.memory_cost > _MAX_MEMORY_KIB or parameters.time_cost > 100 or parameters.parallelism > 64:
        raise ValueError("the costs of the hash are beyond all measure")
    if salt:
        raise ValueError("the salt field must be empty behind a $…$ hash")


def _decoy(parameters: argon2.Parameters | None) -> str:
    # Put together instead of computed: checking against it costs the same, making it costs nothing.
    p = parameters or argon2.profiles.RFC_9106_LOW_MEMORY
    salt, digest = (base64.b64encode(os.urandom(size)).decode().rstrip("=") for size in (p.salt_len, p.hash_len))
    return f"$argon2id$v={p.version}$m={p.memory_cost},t={p.time_cost},p={p.parallelism}${salt}${digest}"


def hash_password(password: str | bytes) -> str:
    """Argon2id in text form, for the second field of a line. Takes some 50 ms and 64 MiB."""
    return _HASHER.hash(password)


def password_line(name: str, password: str | bytes, dn: str) -> str:
    """A complete line for a password file, without line end.

    Raises:
        ValueError: the name or the DN cannot stand in such a file, or the password is none.
    """
    if not name or ":" in name or name.startswith("#") or name != name.strip() or not is_clean(name):
        raise ValueError("a login name must not be empty, hold ':' or control characters, or start with '#'")
    if password in (NO_PASSWORD, NO_PASSWORD.decode()):
        raise ValueError("'None' is no password: clients that know none send it")
    line = f"{name}:{hash_password(password)}::{dn}"
    _parse_line(line)
    return line


def verify_password(account: Account | None, password: bytes, decoy: str) -> bool:
    """Whether `password` is the account's; None is a user who does not exist.

    Exactly one Argon2id computation is done in every case, so that time tells nothing about the user.
    """
    digest = account.hash if account is not None and account.salt is None else decoy
    matches = False
    with contextlib.suppress(argon2.exceptions.VerificationError):
        matches = bool(argon2.low_level.verify_secret(digest.encode(), password, argon2.low_level.Type.ID))
    if account is None:
        return False
    if account.salt is None:
        return matches
    computed = hashlib.md5(account.salt.encode() + password, usedforsecurity=False).hexdigest()
    return hmac.compare_digest(computed, account.hash)
