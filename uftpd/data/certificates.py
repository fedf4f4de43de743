"""Loads a server's certificate and key into a TLS context, with errors that name the files."""

from __future__ import annotations

import ssl
from pathlib import Path

from uftpd.config.toml import ConfigError
from uftpd.files import check_readable


def load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Give `context` a certificate with its unencrypted key.

    Raises:
        ConfigError: a file is missing, or they do not belong together.
    """
    for path in (certificate, key):
        check_readable(path)  # OpenSSL's errors do not name the file
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise ConfigError(f"{certificate}, {key}: no certificate with its unencrypted key: {reason}") from error


def _no_password() -> str:
    # Without it OpenSSL would ask on the terminal.
    raise ValueError("the key is encrypted")
