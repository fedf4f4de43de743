"""A small certificate authority of one's own, in one directory, for servers that run together on one machine.

Keys are created with mode 0600 under a temporary name and renamed, so there is no moment at which anybody else can
read them, and a crash leaves either the old pair or the new one. Certificates are used again at the next start and
renewed well before they end; a new authority replaces all certificates it did not issue.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from uftpd.files import write_private

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 397  # longer ones are refused by some clients
RENEW_DAYS = 60  # a server that is started once in two months never runs into the end

_ORGANISATION = "UFTP standalone"
_CLOCK_SKEW = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Certificate and key in files.

    Attributes:
        certificate, key: PEM files.
        subject: of the certificate, as RFC 4514 text.
    """

    certificate: Path
    key: Path
    subject: str


@dataclass(frozen=True, slots=True)
class _Issuer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class Authority:
    """The authority kept in a directory; made there at first use."""

    def __init__(self, directory: Path, now: dt.datetime | None = None) -> None:
        """Load or make the authority.

        Args:
            directory: holds `ca.pem` and `ca.key`; must exist.
            now: the current time; for tests.

        Raises:
            OSError: a file cannot be written.
        """
        self.certificate_path = directory / "ca.pem"
        self._now = now or dt.datetime.now(dt.UTC)
        loaded = _load(self.certificate_path, directory / "ca.key")
        if loaded is None or self._ends_soon(loaded.certificate):
            loaded = self._make(directory)
        self._issuer = loaded

    def ensure(self, directory: Path, name: str, common_name: str, hosts: Sequence[str]) -> KeyPair:
        """A certificate for servers and clients, made or renewed if there is none that will do.

        Args:
            directory: where `NAME.pem` and `NAME.key` are; must exist.
            name: of the files.
            common_name: of the subject.
            hosts: host names and addresses it is valid for.

        Raises:
            OSError: a file cannot be written.
        """
        paths = (directory / f"{name}.pem", directory / f"{name}.key")
        subject = _name(common_name)
        loaded = _load(*paths)
        if loaded is None or not self._will_do(loaded.certificate, subject, hosts):
            key = ec.generate_private_key(ec.SECP256R1())
            _write_pair(*paths, key, self._issue(subject, hosts, key))
        return KeyPair(*paths, subject.rfc4514_string())

    def _will_do(self, certificate: x509.Certificate, subject: x509.Name, hosts: Sequence[str]) -> bool:
        try:
            certificate.verify_directly_issued_by(self._issuer.certificate)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        return certificate.subject == subject and names == _names(hosts) and not self._ends_soon(certificate)

    def _ends_soon(self, certificate: x509.Certificate) -> bool:
        return certificate.not_valid_after_utc < self._now + dt.timedelta(days=RENEW_DAYS)

    def _make(self, directory: Path) -> _Issuer:
        key = ec.generate_private_key(ec.SECP256R1())
        # A fresh name each time: a client that trusts an older authority must not mistake one for the other.
        subject = _name(f"UFTP standalone CA {secrets.token_hex(4)}")
        usage = _usage(key_cert_sign=True, crl_sign=True)
        builder = self._builder(subject, subject, key, AUTHORITY_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage, critical=True)
        certificate = builder.sign(key, hashes.SHA256())
        _write_pair(directory / "ca.pem", directory / "ca.key", key, certificate)
        return _Issuer(certificate, key)

    def _issue(self, subject: x509.Name, hosts: Sequence[str], key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        issuer = self._issuer
        days = min(
            CERTIFICATE_DAYS,
            (issuer.certificate.not_valid_after_utc - self._now).days,
        )
        both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
        builder = self._builder(subject, issuer.certificate.subject, key, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(digital_signature=True), critical=True)
        builder = builder.add_extension(both, critical=False)
        builder = builder.add_extension(_names(hosts), critical=False)
        builder = builder.add_extension(authority_key, critical=False)
        return builder.sign(issuer.key, hashes.SHA256())

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
    ) -> x509.CertificateBuilder:
        public = key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _CLOCK_SKEW)
            .not_valid_after(self._now + dt.timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64]),
        ]
    )


def _names(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def _usage(**chosen: bool) -> x509.KeyUsage:
    every = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: chosen.get(name, False) for name in every})


def _load(certificate_path: Path, key_path: Path) -> _Issuer | None:
    """The pair, or None if it is missing, broken, or does not belong together."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        return None
    return _Issuer(certificate, key)


def _write_pair(
    certificate_path: Path, key_path: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(key_path, pem)
    write_private(certificate_path, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
