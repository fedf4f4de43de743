"""SSH private keys in files: OpenSSH's form and PEM, encrypted or not, and the search for those a person has.

A file that others may read is not used, as with ssh. Passphrases are asked for only when there is no other way: the
public half of a key can be read without, and ssh-agent may hold the key.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from uftp.client.ssh_agent import AgentError, Reader
from uftp.errors import AuthenticationFailed, LocalFileError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

MIN_RSA_BITS: Final = 2048

_MAX_FILE_BYTES: Final = 256 * 1024
_OPENSSH = re.compile(rb"-----BEGIN OPENSSH PRIVATE KEY-----(.*?)-----END OPENSSH PRIVATE KEY-----", re.DOTALL)
_OPENSSH_MAGIC: Final = b"openssh-key-v1\0"
_PUBLIC_LINE = re.compile(rb"(?:ssh|ecdsa)-[a-z0-9@.-]+ +([A-Za-z0-9+/]+={0,2})(?:\s|$)")
_DIRECTORIES: Final = ("~/.uftp", "~/.ssh")  # where existing clients look, in this order


class PassphraseNeeded(AuthenticationFailed):
    """The key is encrypted, and the passphrase is missing or wrong."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key file as read, not decrypted.

    Attributes:
        path: where it is.
        content: all of it.
        public_blob: public half as in an SSH key line; None where it cannot be had without a passphrase.
        is_private: whether the file holds the private half, too.
    """

    path: str
    content: bytes = field(repr=False)
    public_blob: bytes | None
    is_private: bool


def read_key_file(path: str) -> KeyFile:
    """Read a private or public key file.

    Raises:
        LocalFileError: it cannot be read, is no key file, or holds a private key that others may read.
    """
    try:
        with open(path, "rb") as file:
            facts = os.fstat(file.fileno())
            content = file.read(_MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise LocalFileError(f"{path}: cannot read the key file: {reason}") from error
    if content.startswith(b"PuTTY-User-Key-File"):
        raise LocalFileError(f"{path}: a PuTTY key; write it as OpenSSH key: puttygen {path} -O private-openssh -o NEW")
    public = _PUBLIC_LINE.match(content)
    if public:
        return KeyFile(path, content, _decoded(public[1]), is_private=False)
    if b"PRIVATE KEY-----" not in content:
        raise LocalFileError(f"{path}: not an SSH private key; ssh-keygen -t ed25519 makes one")
    # As ssh does it: only for one's own files, so that a key some other account provides for a group can be used.
    if facts.st_uid == os.getuid() and stat.S_IMODE(facts.st_mode) & 0o077:
        raise LocalFileError(
            f"{path}: others may read this private key (mode {stat.S_IMODE(facts.st_mode):04o}); chmod 600 {path}"
        )
    return KeyFile(path, content, _public_blob(content) or _public_half_beside(path), is_private=True)


def decrypt(key_file: KeyFile, passphrase: str | None) -> PrivateKey:
    """The private key. Takes a second or so for an encrypted one: that is what protects it.

    Args:
        key_file: with a private half.
        passphrase: None to try without.

    Raises:
        PassphraseNeeded: it is encrypted, and the passphrase is missing or wrong.
        LocalFileError: broken, or of a kind that servers do not take.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    path, content = key_file.path, key_file.content
    is_openssh = _OPENSSH.search(content) is not None
    load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    secret = None if passphrase is None else os.fsencode(passphrase)
    try:
        key = load(content, password=secret)
    except TypeError as error:
        if secret is None:
            raise PassphraseNeeded(f"{path}: the key is encrypted; its passphrase is needed") from None
        if "not encrypted" not in str(error):
            raise LocalFileError(f"{path}: the key cannot be read: {error}") from error
        return decrypt(key_file, None)  # a passphrase for a key that needs none
    except ValueError as error:
        if secret is not None and is_encrypted(content):
            raise PassphraseNeeded(f"{path}: that is not the passphrase of this key") from None
        raise LocalFileError(f"{path}: the key cannot be read: it is broken") from error
    except UnsupportedAlgorithm as error:
        raise LocalFileError(f"{path}: the key cannot be read: {error}") from error
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < MIN_RSA_BITS:
            raise LocalFileError(f"{path}: an RSA key of {key.key_size} bits is too weak; make one of 3072 or more")
        return key
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in ("secp256r1", "secp384r1", "secp521r1"):
        return key
    raise LocalFileError(f"{path}: keys of this kind cannot be used; take Ed25519, ECDSA or RSA")


def is_encrypted(content: bytes) -> bool:
    """Whether a private key needs a passphrase."""
    match = _OPENSSH.search(content)
    if match is None:
        return b"ENCRYPTED" in content
    try:
        return _openssh_reader(match[1]).string() != b"none"
    except AgentError:
        return False


def default_key_files() -> Iterator[str]:
    """Key files in ~/.uftp and ~/.ssh named `id_...`, in the order existing clients have, by name in each."""
    for directory in _DIRECTORIES:
        place = os.path.expanduser(directory)
        try:
            names = sorted(os.listdir(place))
        except OSError:
            continue
        for name in names:
            path = os.path.join(place, name)
            if name.startswith("id_") and not name.endswith((".pub", "-cert.pub", "_sk")) and os.path.isfile(path):
                yield path


def fingerprint(blob: bytes) -> str:
    """A public key as `ssh-keygen -l` shows it."""
    import hashlib

    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).rstrip(b"=").decode()


def public_blob(key: PrivateKey) -> bytes:
    """The public half of a private key, as in an SSH key line."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return base64.b64decode(line.split()[1])


def _public_blob(content: bytes) -> bytes | None:
    """The public half, which OpenSSH's form has in the clear (PROTOCOL.key of OpenSSH)."""
    match = _OPENSSH.search(content)
    if match is None:
        return None
    try:
        reader = _openssh_reader(match[1])
        for _ in range(3):  # cipher, key derivation, its options
            reader.string()
        return reader.string() if reader.number() == 1 else None
    except AgentError:
        return None


def _openssh_reader(text: bytes) -> Reader:
    try:
        raw = base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        raw = b""
    reader = Reader(raw)
    if reader.take(len(_OPENSSH_MAGIC)) != _OPENSSH_MAGIC:
        raise AgentError("not an OpenSSH key")
    return reader


def _public_half_beside(path: str) -> bytes | None:
    try:
        with open(f"{path}.pub", "rb") as file:
            match = _PUBLIC_LINE.match(file.read(_MAX_FILE_BYTES))
    except (OSError, ValueError):
        return None
    return _decoded(match[1]) if match else None


def _decoded(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
