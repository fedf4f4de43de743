"""Logging in with an SSH key: short-lived tokens signed by it (CONTROL-PLANE 5.3).

    header   {"alg": "EdDSA", "typ": "JWT"}
    payload  {"sub": "joe", "iss": "joe", "iat": 1852790400, "exp": 1852790700, "etd": "false"}

A token is used for some requests and made anew before it ends, so a long copy never runs out of it.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import trio

from uftp.client import ssh_agent, ssh_keys
from uftp.client.credentials import Ask
from uftp.client.ssh_agent import AgentError, AgentKey
from uftp.client.ssh_keys import KeyFile, PassphraseNeeded
from uftp.errors import UsageError

if TYPE_CHECKING:
    from uftp.client.ssh_keys import PrivateKey

TOKEN_SECONDS: Final = 300  # as existing clients have it
_MARGIN_SECONDS: Final = 60  # clocks differ, and a request may have to wait
_PROMPTS: Final = 3  # as ssh
# By SSH key type: the algorithm's name in a token (RFC 7518, RFC 8037), and the bytes of a number of its curve.
_CURVES: Final = {
    b"ecdsa-sha2-nistp256": ("ES256", 32),
    b"ecdsa-sha2-nistp384": ("ES384", 48),
    b"ecdsa-sha2-nistp521": ("ES512", 66),
}


class Signer(Protocol):
    """A key that can sign.

    Attributes:
        algorithm: as in a token's header.
        name: of the key, for people.
    """

    @property
    def algorithm(self) -> str: ...

    @property
    def name(self) -> str: ...

    async def sign(self, data: bytes) -> bytes:
        """The signature in the form tokens have it (RFC 7515, RFC 7518 section 3).

        Raises:
            AuthenticationFailed: the agent does not.
        """


@dataclass(frozen=True, slots=True)
class FileSigner:
    """A private key in memory."""

    key: PrivateKey = field(repr=False)
    name: str

    @property
    def algorithm(self) -> str:
        return algorithm_of(ssh_keys.public_blob(self.key))

    async def sign(self, data: bytes) -> bytes:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            digest = {"ES256": hashes.SHA256(), "ES384": hashes.SHA384(), "ES512": hashes.SHA512()}[self.algorithm]
            r, s = decode_dss_signature(self.key.sign(data, ec.ECDSA(digest)))
            size = (self.key.key_size + 7) // 8
            return r.to_bytes(size, "big") + s.to_bytes(size, "big")
        return self.key.sign(data)


@dataclass(frozen=True, slots=True)
class AgentSigner:
    """A key in ssh-agent; it never leaves it."""

    socket_path: str
    key: AgentKey

    @property
    def name(self) -> str:
        return f"{self.key.comment or ssh_keys.fingerprint(self.key.blob)} in ssh-agent"

    @property
    def algorithm(self) -> str:
        return algorithm_of(self.key.blob)

    async def sign(self, data: bytes) -> bytes:
        kind, value = await ssh_agent.sign(self.socket_path, self.key.blob, data)
        expected = {"EdDSA": b"ssh-ed25519", "RS256": b"rsa-sha2-256"}.get(self.algorithm, _key_type(self.key.blob))
        if kind != expected:
            said = kind.decode("ascii", "replace")
            raise AgentError(f"ssh-agent: it signs with {said} where {expected.decode()} is needed; is it very old?")
        if kind not in _CURVES:
            return value
        # RFC 5656 section 3.1.2 has two integers with signs, RFC 7518 section 3.4 two of fixed length.
        size = _CURVES[kind][1]
        reader = ssh_agent.Reader(value)
        numbers = [int.from_bytes(reader.string(), "big") for _ in range(2)]
        if any(number.bit_length() > 8 * size for number in numbers):
            raise AgentError("ssh-agent: a signature that is none")
        return b"".join(number.to_bytes(size, "big") for number in numbers)


def algorithm_of(blob: bytes) -> str:
    """What a key signs tokens with, by its public half; empty if it cannot.

    Certificates and keys on security tokens are among those that cannot: what they sign is not just the data.
    """
    kind = _key_type(blob)
    if kind in _CURVES:
        return _CURVES[kind][0]
    return {b"ssh-ed25519": "EdDSA", b"ssh-rsa": "RS256"}.get(kind, "")


def _key_type(blob: bytes) -> bytes:
    try:
        return ssh_agent.Reader(blob).string()
    except AgentError:
        return b""


class SshKeyCredential:
    """Proves who one is with an SSH key.

    Args:
        username: account name the server knows the key by.
        signer: the key.
        audience: DN of the one server that is to take the tokens; None for any that knows the key.
        clock: Unix seconds.

    Raises:
        UsageError: the key cannot sign tokens.
    """

    method = "SSHKEY"

    def __init__(
        self,
        username: str,
        signer: Signer,
        *,
        audience: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not signer.algorithm:
            raise UsageError(f"{signer.name}: keys of this kind cannot be used; take Ed25519, ECDSA or RSA")
        self._username = username
        self._signer = signer
        self._audience = audience
        self._clock = clock
        self._token = ""
        self._made = 0.0

    def __repr__(self) -> str:
        return f"SshKeyCredential({self._username!r}, {self._signer.name!r})"

    @property
    def description(self) -> str:
        return f"the key {self._signer.name} as {self._username!r}"

    async def authorization(self) -> str:
        """`Bearer` and a token that is good for a minute at least.

        Raises:
            AuthenticationFailed: the agent does not sign.
        """
        now = self._clock()
        # A clock that was set back would leave a token in use that the server calls expired.
        if not self._token or not 0 <= now - self._made < TOKEN_SECONDS - _MARGIN_SECONDS:
            self._token = await self._signed(int(now))
            self._made = now
        return f"Bearer {self._token}"

    async def renew(self, refused: str) -> bool:
        """Make a new token if the one refused is not from just now: then it is the key that is refused."""
        if self._token and refused == f"Bearer {self._token}":
            if 0 <= self._clock() - self._made < _MARGIN_SECONDS / 2:
                return False
            self._token = ""
        return True

    async def _signed(self, now: int) -> str:
        claims: dict[str, object] = {
            "sub": self._username,
            "iss": self._username,
            "iat": now,
            "exp": now + TOKEN_SECONDS,
            "etd": "false",
        }
        if self._audience is not None:
            claims["aud"] = self._audience
        head = _segment({"alg": self._signer.algorithm, "typ": "JWT"}) + b"." + _segment(claims)
        return (head + b"." + _base64url(await self._signer.sign(head))).decode()


def _segment(value: dict[str, object]) -> bytes:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


async def load_signer(path: str, *, passphrase: str | None = None, ask: Ask | None = None) -> Signer:
    """The key in a file, as -i names it: from ssh-agent if that has it, else decrypted.

    Args:
        path: private key, or its public half if ssh-agent has the other.
        passphrase: of an encrypted key.
        ask: asks for the passphrase; None where nobody can be asked.

    Raises:
        LocalFileError: no key there, or one that others may read.
        PassphraseNeeded: the passphrase is missing or wrong.
        AgentError: only the public half is there, and no agent has the other.
    """
    found = ssh_keys.read_key_file(path)
    if found.is_private and not ssh_keys.is_encrypted(found.content):
        return FileSigner(ssh_keys.decrypt(found, None), path)
    socket_path = ssh_agent.agent_socket()
    if socket_path is not None and found.public_blob is not None:
        try:
            for key in await ssh_agent.list_keys(socket_path):
                if key.blob == found.public_blob:
                    return AgentSigner(socket_path, key)
        except AgentError:
            if not found.is_private:
                raise
    if not found.is_private:
        raise AgentError(f"{path}: that is the public half, and ssh-agent does not have the other; ssh-add the key")
    return FileSigner(await _decrypted(found, passphrase, ask), path)


async def _decrypted(found: KeyFile, passphrase: str | None, ask: Ask | None) -> PrivateKey:
    async def attempt(secret: str) -> PrivateKey:
        return await trio.to_thread.run_sync(ssh_keys.decrypt, found, secret)  # a second of arithmetic

    if passphrase is not None:
        return await attempt(passphrase)
    if ask is None:
        raise PassphraseNeeded(
            f"{found.path}: the key is encrypted; ssh-add it, or put its passphrase into UFTP_KEY_PASSPHRASE"
        )
    for left in reversed(range(_PROMPTS)):
        secret = await ask(f"Passphrase for {found.path}: ")
        if not secret:
            break
        try:
            return await attempt(secret)
        except PassphraseNeeded:
            if not left:
                raise
    raise PassphraseNeeded(f"{found.path}: no passphrase was given")


class SshIdentity:
    """The key of one file, read when it is first needed; otherwise as `SshKeyCredential`.

    Args:
        username: account name the server knows the key by.
        path: key file; `~` is the home directory.
        passphrase, ask: see `load_signer`.
        audience: see `SshKeyCredential`.
    """

    method = "SSHKEY"

    def __init__(
        self,
        username: str,
        path: str,
        *,
        passphrase: str | None = None,
        ask: Ask | None = None,
        audience: str | None = None,
    ) -> None:
        self._username = username
        self._path = os.path.expanduser(path)
        self._passphrase = passphrase
        self._ask = ask
        self._audience = audience
        self._credential: SshKeyCredential | None = None
        self._loading = trio.Lock()

    def __repr__(self) -> str:
        return f"SshIdentity({self._username!r}, {self._path!r})"

    @property
    def description(self) -> str:
        return f"the key {self._path} as {self._username!r}"

    async def authorization(self) -> str:
        """As that of `SshKeyCredential`.

        Raises:
            AuthenticationFailed, LocalFileError: see `load_signer`.
        """
        async with self._loading:  # one question, however many sessions begin at once
            if self._credential is None:
                signer = await load_signer(self._path, passphrase=self._passphrase, ask=self._ask)
                self._credential = SshKeyCredential(self._username, signer, audience=self._audience)
        return await self._credential.authorization()

    async def renew(self, refused: str) -> bool:
        """As that of `SshKeyCredential`."""
        return self._credential is not None and await self._credential.renew(refused)
