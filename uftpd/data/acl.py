"""Who may use the command port: an ACL of certificate subjects, read again when it changes (DATA-PLANE 1.1)."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from uftp.protocol import ProtocolError
from uftp.protocol.dn import Name, parse_name, rdn_subset, same_rdns
from uftpd.config.data import CommandPort
from uftpd.config.toml import ConfigError
from uftpd.data.certificates import load_pair
from uftpd.events import EventLog
from uftpd.files import check_readable
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
    for number, line in _lines(text):
        try:
            names.append(parse_name(line))
        except ProtocolError as error:
            _log("line of the ACL skipped", level="error", file=str(path), line=number, reason=str(error))
    return tuple(names)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()


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
    load_pair(context, settings.certificate, settings.key)
    check_readable(settings.ca)
    try:
        context.load_verify_locations(settings.ca)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise ConfigError(f"{settings.ca}: no usable CA certificates: {reason}") from error
    return context


def acl_mistakes(path: Path) -> list[str]:
    """Why lines of an ACL, or all of it, would admit nobody; one line each.

    Raises:
        ConfigError: the file cannot be read.
    """
    mistakes: list[str] = []

    def parse(text: str) -> int:
        names = 0
        for number, line in _lines(text):
            try:
                parse_name(line)
                names += 1
            except ProtocolError as error:
                mistakes.append(f"{path}: line {number}: {error}")
        return names

    if not WatchedFile(path, parse).current():
        mistakes.append(f"{path}: names nobody, so no auth server can open sessions")
    return mistakes


def has_expired(certificate: bytes | None, now: dt.datetime | None = None) -> bool:
    """Whether a DER certificate is past its time. OpenSSL looks only in full handshakes, not when one is resumed."""
    if not certificate:
        return False
    try:
        ends = x509.load_der_x509_certificate(certificate).not_valid_after_utc
    except ValueError:
        return True
    return (now or dt.datetime.now(dt.UTC)) > ends


def peer_subject(certificate: bytes | None) -> str:
    """Subject of a DER certificate as RFC 4514 text, empty for none."""
    if not certificate:
        return ""
    try:
        return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()
    except ValueError:
        return ""
