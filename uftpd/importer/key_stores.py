"""Keys and certificates of an upstream installation, as PEM: from PEM, DER and PKCS #12 files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import pkcs12

_JAVA_MAGIC = (b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce")  # JKS and JCEKS
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_TO_PKCS12 = "convert it first: keytool -importkeystore -srckeystore FILE -destkeystore FILE.p12 -deststoretype PKCS12"


class Unusable(Exception):
    """Nothing can be made of a file; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A key with its certificates.

    Attributes:
        certificates: PEM, the key's own first, those that issued it behind.
        key: PEM, not encrypted.
    """

    certificates: bytes
    key: bytes


def read_credential(data: bytes, password: str | None, *, key_data: bytes | None = None) -> Credential:
    """Key and certificates of a server.

    Args:
        data: of the file; PEM or PKCS #12.
        password: of key or file.
        key_data: of the file with the key, if that is one of its own (PEM).

    Raises:
        Unusable: of another kind, the password is wrong, or there is no key with its certificate.
    """
    if b"-----BEGIN " in data:
        certificates = _pem_certificates(data)
        key = _pem_key(key_data if key_data is not None else data, password)
    else:
        _refuse_java(data)
        key, certificates = _pkcs12(data, password)
    if key is None:
        raise Unusable("there is no private key in it")
    own = [found for found in certificates if found.public_key() == key.public_key()]
    if not own:
        raise Unusable("there is no certificate in it that belongs to its key")
    chain = _chain(own[0], certificates)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Credential(to_pem(chain), pem)


def read_certificates(data: bytes, password: str | None) -> list[x509.Certificate]:
    """All certificates of a trust store: PEM, DER, or PKCS #12.

    Raises:
        Unusable: of another kind, or the password is wrong.
    """
    if b"-----BEGIN " in data:
        return _pem_certificates(data)
    _refuse_java(data)
    try:
        return [x509.load_der_x509_certificate(data)]
    except ValueError:
        return _pkcs12(data, password)[1]


def to_pem(certificates: Iterable[x509.Certificate]) -> bytes:
    """PEM of certificates, each once."""
    return b"".join(found.public_bytes(serialization.Encoding.PEM) for found in dict.fromkeys(certificates))


def _refuse_java(data: bytes) -> None:
    if data.startswith(_JAVA_MAGIC):
        raise Unusable(f"is a Java key store; {_TO_PKCS12}")


def _pem_certificates(data: bytes) -> list[x509.Certificate]:
    found = []
    for block in _BLOCK.finditer(data):
        if block[1] in (b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"):
            if block[1] == b"TRUSTED CERTIFICATE":
                raise Unusable("holds an OpenSSL trusted certificate; convert it with: openssl x509 -in FILE")
            try:
                found.append(x509.load_pem_x509_certificate(block[0].replace(b"X509 CERTIFICATE", b"CERTIFICATE")))
            except ValueError:
                raise Unusable("holds a certificate that cannot be read") from None
    return found


def _pem_key(data: bytes, password: str | None) -> PrivateKeyTypes | None:
    for block in _BLOCK.finditer(data):
        if block[1].endswith(b"PRIVATE KEY"):
            return _load_key(block[0], password)
    return None


def _load_key(pem: bytes, password: str | None) -> PrivateKeyTypes:
    encrypted = b"ENCRYPTED" in pem
    if encrypted and not password:
        raise Unusable("its key is encrypted, and no password is set; decrypt it with: openssl pkey -in FILE")
    try:
        return serialization.load_pem_private_key(pem, password.encode() if encrypted and password else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        reason = "the password is wrong, or it is of an unknown kind" if encrypted else "it is of an unknown kind"
        raise Unusable(f"its key cannot be read: {reason}") from None


def _pkcs12(data: bytes, password: str | None) -> tuple[PrivateKeyTypes | None, list[x509.Certificate]]:
    try:
        store = pkcs12.load_pkcs12(data, password.encode() if password is not None else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Unusable(
            "is neither PEM nor a PKCS #12 file that opens with its password; one with old ciphers is converted by: "
            "openssl pkcs12 -legacy -in FILE -nodes -out FILE.pem"
        ) from None
    certificates = [found.certificate for found in (store.cert, *store.additional_certs) if found is not None]
    return store.key, certificates


def _chain(own: x509.Certificate, others: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """The certificate and its issuers, as a server sends them: without the self-signed one at the end."""
    chain = [own]
    while chain[-1].issuer != chain[-1].subject:
        issuer = next((c for c in others if c.subject == chain[-1].issuer and c not in chain), None)
        if issuer is None or issuer.issuer == issuer.subject:
            break
        chain.append(issuer)
    return chain
