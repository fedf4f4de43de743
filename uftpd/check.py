"""`uftpd check-config`: is this file right, and can the files it names be used?"""

from __future__ import annotations

import datetime as dt
import ipaddress
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from uftpd.config import auth, data
from uftpd.config.copies import entries
from uftpd.config.peer_entry import Network
from uftpd.config.toml import ConfigError, convert, read_table
from uftpd.files import check_readable

# What only this machine, or its cable, should reach.
_OWN_NETWORKS: tuple[Network, ...] = tuple(
    map(ipaddress.ip_network, ("127.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10"))
)

# Tables only an auth server has. Every one of its files has the first two, since they are required.
_AUTH_TABLES = frozenset({"server", "nodes", "login", "attributes", "sessions"})


EXPIRY_DAYS = 30  # before the end of a certificate it is time to see to a new one


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found, one line each.

    Attributes:
        problems: what keeps a server from starting, or from doing what the file means.
        warnings: what it starts with, and somebody should know.
    """

    problems: list[str]
    warnings: list[str]


def check_file(path: Path, now: dt.datetime | None = None) -> Checked:
    """Check a configuration file. Whether it is an auth server's or a data node's is told by its tables.

    Args:
        path: the file.
        now: the current time; for tests.
    """
    try:
        # What the parts of a server would log is in what they are asked here.
        logging.getLogger("uftpd").addHandler(logging.NullHandler())
        table = read_table(path)
        doubts: list[str] = []
        certificates: Iterable[Path | None]
        if _AUTH_TABLES & table.keys():
            config = convert(table, auth.AuthConfig, path)
            problems = _check_auth(config, path)
            doubts = _map_findings(config).warnings
            certificates = (
                config.server.certificate,
                config.command_port.certificate,
                config.command_port.ca,
                config.transfers.https_ca,
            )
        else:
            node = convert(table, data.DataConfig, path)
            problems = _check_data(node, path)
            doubts = _object_doubts(node, path) + _copy_doubts(node, path)
            certificates = (
                node.command_port.certificate,
                node.command_port.ca,
                node.objects.certificate,
                node.copies.https_ca,
            )
    except ConfigError as error:
        return Checked([str(error)], [])
    warnings = [
        f"{file}: {warning}"
        for file in dict.fromkeys(certificates)
        if file is not None
        for warning in _certificate_warnings(file, now or dt.datetime.now(dt.UTC))
    ]
    return Checked(list(dict.fromkeys(problems)), warnings + doubts)  # files may be named in several places


def _certificate_warnings(file: Path, now: dt.datetime) -> list[str]:
    """Certificates that do not hold, or not for long. A file that cannot be read is a problem, found elsewhere."""
    from cryptography import x509

    try:
        certificates = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError):
        return []
    found = []
    for certificate in certificates:
        name, end = certificate.subject.rfc4514_string(), certificate.not_valid_after_utc
        if end < now:
            found.append(f"the certificate of '{name}' expired on {end:%Y-%m-%d}; peers will refuse it")
        elif certificate.not_valid_before_utc > now:
            start = certificate.not_valid_before_utc
            found.append(
                f"the certificate of '{name}' holds from {start:%Y-%m-%d %H:%M} UTC on; peers refuse it till then"
            )
        elif end < now + dt.timedelta(days=EXPIRY_DAYS):
            found.append(f"the certificate of '{name}' expires on {end:%Y-%m-%d}")
    return found


def _check_auth(config: auth.AuthConfig, path: Path) -> list[str]:
    from uftpd.auth.identity.build import check_logins
    from uftpd.auth.identity.credential import ServerCredential
    from uftpd.auth.identity.password_file import parse_password_file
    from uftpd.auth.nodes.client import CommandPort
    from uftpd.auth.store.engine import check_settings
    from uftpd.auth.tls import tls_context
    from uftpd.auth.transfers.sealing import check_key_file
    from uftpd.peers import fetch_authorities

    found = [f"{path}: {problem}" for problem in auth.problems(config)]
    server = config.server
    found += _attempt(lambda: tls_context(config))
    found += _attempt(lambda: CommandPort(config.command_port, server.certificate, server.key))
    found += _attempt(lambda: check_settings(config.store))
    if config.transfers.enabled and (sealing_key := config.transfers.key_file) is not None:
        found += _attempt(lambda: check_key_file(sealing_key))
    found += _attempt(lambda: fetch_authorities(config.transfers.reach))
    found += _map_findings(config).problems
    if not found:
        certificate, key = server.certificate, server.key
        if certificate is not None and key is not None:
            found += _attempt(lambda: check_logins(config.login, ServerCredential(certificate, key)))
        else:
            found += _attempt(lambda: check_logins(config.login, None))
    if (password_file := config.login.password_file) is not None:
        found += _attempt(lambda: check_readable(password_file))
        if not found:
            text = password_file.read_text(errors="replace")
            found += [f"{password_file}: {mistake}" for mistake in parse_password_file(text).mistakes]
    if config.login.ssh is not None and (key_file := config.login.ssh.key_file) is not None:
        found += _key_file_mistakes(key_file)
    for node in config.nodes.values():
        if (reservations := node.reservations) is not None:
            found += _reservation_mistakes(reservations)
    return found


def _map_findings(config: auth.AuthConfig) -> Checked:
    from uftpd.auth.attributes.map_file import parse_map

    if (file := config.attributes.map_file) is None:
        return Checked([], [])
    if problems := _attempt(lambda: check_readable(file)):
        return Checked(problems, [])
    try:
        table = parse_map(file.read_text("utf-8"), config.attributes.match, config.nodes)
    except UnicodeDecodeError:
        return Checked([f"{file}: not UTF-8 text"], [])
    except ValueError as error:
        return Checked([f"{file}: {error}"], [])
    return Checked([], [f"{file}: {doubt}" for doubt in table.doubts])


def _key_file_mistakes(file: Path) -> list[str]:
    from uftpd.auth.identity.ssh_keys import parse_key_file

    if problems := _attempt(lambda: check_readable(file)):
        return problems
    return [f"{file}: {mistake}" for mistake in parse_key_file(file.read_text(errors="replace")).mistakes]


def _reservation_mistakes(file: Path) -> list[str]:
    from uftpd.auth.reservations import parse_reservations

    if not file.exists():
        return []  # it may come later, while the server runs
    if problems := _attempt(lambda: check_readable(file)):
        return problems
    try:
        _, mistakes = parse_reservations(file.read_text(errors="replace"), dt.datetime.now(dt.UTC))
    except ValueError as error:
        return [f"{file}: {error}"]
    return [f"{file}: {mistake}" for mistake in mistakes]


def _check_data(config: data.DataConfig, path: Path) -> list[str]:
    from uftpd.data.acl import acl_mistakes, server_context
    from uftpd.data.relay import tls_context
    from uftpd.data.service import check_service_user
    from uftpd.peers import fetch_authorities

    found = [f"{path}: {problem}" for problem in data.problems(config)]
    port = config.command_port
    if not (port.plain or found):
        found += _attempt(lambda: server_context(port))
        if (acl := port.acl) is not None:
            found += _attempt(lambda: found.extend(acl_mistakes(acl)))
    if config.objects.listen_tls and not found:
        found += _attempt(lambda: tls_context(config.objects))
    found += _attempt(lambda: check_service_user(config))
    found += _attempt(lambda: fetch_authorities(config.copies))
    return found


def _object_doubts(config: data.DataConfig, path: Path) -> list[str]:
    """What shared files are exposed to, without anybody having meant it perhaps."""
    far = [a for a in config.objects.listen if a.host not in ("127.0.0.1", "::1", "localhost")]
    if not far or config.objects.url.startswith("https:"):  # a proxy does the encryption
        return []
    why = "without TLS anybody on the way can read shared files, and change them; objects.listen_tls is for HTTPS"
    return [f"{path}: objects.listen: {why}"]


def _copy_doubts(config: data.DataConfig, path: Path) -> list[str]:
    """Entries of `copies.allow` that take in this machine's own services, perhaps without having been meant to."""
    found = []
    for text, entry in zip(config.copies.allow, entries(config.copies.allow), strict=True):
        inside = [own for own in _OWN_NETWORKS if entry.network is not None and _is_within(own, entry.network)]
        if inside:
            named = " and ".join(str(network) for network in inside)
            found.append(f"{path}: copies.allow: '{text}' holds {named}: users then reach services that listen there")
    return found


def _is_within(inner: Network, outer: Network) -> bool:
    same = inner.version == outer.version
    return same and inner != outer and inner.network_address in outer and inner.prefixlen >= outer.prefixlen


def _attempt(action: Callable[[], object]) -> list[str]:
    try:
        action()
    except ConfigError as error:
        return [str(error)]
    return []
