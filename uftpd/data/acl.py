"""Who may use the command port: an ACL of certificate subjects, read again when it changes (DATA-PLANE 1.1)."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509

from uftp.protocol import ProtocolError
from uftp.protocol.dn import Name, parse_name, rdn_subset, same_rdns
from uftpd.config.data import CommandPort
from uftpd.config.toml import ConfigError
from uftpd.events import EventLog
from uftpd.watched import WatchedFile

_log = EventLog("front")


class AccessList:
    """The names of admitted peers.

    Args:
        path: one name a line; empty lines and lines that start with `#` do not count.
        subset: a peer with more parts than the line is admitted too.

    Raises:
        ConfigError: the file cannot be read.
    """

    def __init__(self, path: Path, *, subset: bool) -> None:
        self._file = WatchedFile(path, lambda text: _parse(text, path))
        self._subset = subset

    def admits(self, subject: str) -> bool:
        """Whether a peer with this certificate subject (RFC 4514 text) may make requests."""
        try:
            name = parse_name(subject)
        except ProtocolError:
            return False
        return any(rdn_subset(line, name) if self._subset else same_rdns(line, name) for line in self._file.current())


def _parse(text: str, path: Path) -> tuple[Name, ...]:
    names = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            names.append(parse_name(line.strip()))
        except ProtocolError as error:
            _log("line of the ACL skipped", level="error", file=str(path), line=number, reason=str(error))
    return tuple(names)


def server_context(settings: CommandPort) -> ssl.SSLContext:
    """TLS for the command port: a client certificate of the configured CA is required; no other CA counts.

    Raises:
        ConfigError: a file is missing or does not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    if settings.certificate is None or settings.key is None or settings.ca is None:
        raise ConfigError("command_port: certificate, key and ca are required for TLS")
    try:
        context.load_cert_chain(settings.certificate, settings.key)
        context.load_verify_locations(settings.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"command_port: certificate, key or ca cannot be used: {error}") from error
    return context


def peer_subject(certificate: bytes | None) -> str:
    """Subject of a DER certificate as RFC 4514 text, empty for none."""
    if not certificate:
        return ""
    try:
        return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()
    except ValueError:
        return ""
