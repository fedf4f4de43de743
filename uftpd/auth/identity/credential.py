"""The server's own certificate and key, as far as tokens need them: its name, signing, checking."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from uftp.protocol.dn import canonical
from uftpd.auth.identity.jwt import PrivateKey, PublicKey, sign
from uftpd.config.toml import ConfigError

_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_LEAST_RSA_BITS = 2048


class ServerCredential:
    """What a server signs tokens with.

    Attributes:
        dn: its name, as text of RFC 4514: `iss` and `aud` of its tokens.
        canonical_dn: the same as it is compared.
        key: the public key.
        pem: the certificate, without its chain.
        ends: Unix seconds at which the certificate does.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        """Load both; nothing is read again.

        Raises:
            ConfigError: a file cannot be read, or is of a kind tokens cannot be signed with.
        """
        chain = _read(certificate)
        try:
            own = x509.load_pem_x509_certificates(chain)[0]
        except ValueError:
            raise ConfigError(f"{certificate}: no certificate in PEM form") from None
        self.dn = own.subject.rfc4514_string()
        self.canonical_dn = canonical(self.dn) if self.dn else ""
        self.key = usable_key(own, certificate)
        self.pem = own.public_bytes(Encoding.PEM).decode("ascii")
        self.ends = own.not_valid_after_utc.timestamp()
        try:
            private = load_pem_private_key(_read(key), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ConfigError(f"{key}: no unencrypted private key in PEM form") from None
        form = PublicFormat.SubjectPublicKeyInfo
        if private.public_key().public_bytes(Encoding.DER, form) != self.key.public_bytes(Encoding.DER, form):
            raise ConfigError(f"{certificate}, {key}: they do not belong together")
        assert isinstance(private, PrivateKey)  # noqa: S101 - its public half is of a usable kind
        self._private = private

    def sign(self, payload: bytes) -> str:
        """A token with this payload in compact form."""
        return sign(payload, self._private)


def usable_key(certificate: x509.Certificate, path: Path) -> PublicKey:
    """The public key of a certificate.

    Raises:
        ConfigError: neither RSA from 2048 bits, nor P-256, P-384, P-521, nor Ed25519.
    """
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _LEAST_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise ConfigError(f"{path}: for tokens the key must be RSA ({_LEAST_RSA_BITS} bits), P-256/384/521 or Ed25519")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
