"""The small certificate authority: what it issues works with real TLS, is private, and is renewed in time."""

from __future__ import annotations

import datetime as dt
import os
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509

from uftpd.files import write_private
from uftpd.pki import CERTIFICATE_DAYS, RENEW_DAYS, Authority, KeyPair

_HOSTS: tuple[str, ...] = ("127.0.0.1", "::1", "localhost")
_NOW = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)


def _certificate(pair: KeyPair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate.read_bytes())


def _handshake(authority: Authority, server: KeyPair, client: KeyPair, host: str) -> None:
    """A TLS handshake with certificates on both sides, checked as strictly as Python can."""
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.certificate_path)
    ours.load_cert_chain(server.certificate, server.key)
    ours.verify_mode = ssl.CERT_REQUIRED
    theirs = ssl.create_default_context(cafile=authority.certificate_path)
    theirs.load_cert_chain(client.certificate, client.key)
    for context in (ours, theirs):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    left, right = socket.socketpair()

    def serve() -> None:
        with ours.wrap_socket(left, server_side=True) as stream:
            stream.sendall(stream.recv(5))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with theirs.wrap_socket(right, server_hostname=host) as stream:
            stream.sendall(b"hello")
            assert stream.recv(5) == b"hello"
    finally:
        left.close()
        right.close()
        thread.join()


@pytest.mark.parametrize("host", _HOSTS)
def test_what_is_issued_works_on_both_sides(tmp_path: Path, host: str) -> None:
    authority = Authority(tmp_path)
    server = authority.ensure(tmp_path, "node", "uftpd data", _HOSTS)
    client = authority.ensure(tmp_path, "auth", "uftpd auth", _HOSTS)
    _handshake(authority, server, client, host)


def test_keys_are_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        Authority(tmp_path).ensure(tmp_path, "node", "uftpd data", _HOSTS)
    finally:
        os.umask(old)
    for name in ("ca.key", "node.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.key", "ca.pem", "node.key", "node.pem"]


def test_pairs_are_used_again(tmp_path: Path) -> None:
    first = _certificate(Authority(tmp_path).ensure(tmp_path, "node", "uftpd data", _HOSTS))
    ca = (tmp_path / "ca.pem").read_bytes()
    assert _certificate(Authority(tmp_path).ensure(tmp_path, "node", "uftpd data", _HOSTS)) == first
    assert (tmp_path / "ca.pem").read_bytes() == ca


def test_a_certificate_is_renewed_before_it_ends(tmp_path: Path) -> None:
    first = _certificate(Authority(tmp_path, _NOW).ensure(tmp_path, "node", "uftpd data", _HOSTS))
    last_good = _NOW + dt.timedelta(days=CERTIFICATE_DAYS - RENEW_DAYS)
    kept = _certificate(Authority(tmp_path, last_good).ensure(tmp_path, "node", "uftpd data", _HOSTS))
    assert kept == first
    later = last_good + dt.timedelta(days=1)
    renewed = _certificate(Authority(tmp_path, later).ensure(tmp_path, "node", "uftpd data", _HOSTS))
    assert renewed.not_valid_after_utc > later + dt.timedelta(days=300)


def test_a_new_authority_replaces_everything(tmp_path: Path) -> None:
    first = _certificate(Authority(tmp_path, _NOW).ensure(tmp_path, "node", "uftpd data", _HOSTS))
    later = _NOW + dt.timedelta(days=3650 - RENEW_DAYS + 1)
    authority = Authority(tmp_path, later)
    renewed = _certificate(authority.ensure(tmp_path, "node", "uftpd data", _HOSTS))
    assert renewed.issuer != first.issuer


@pytest.mark.parametrize("change", ["hosts", "name", "key", "certificate"])
def test_what_no_longer_fits_is_made_anew(tmp_path: Path, change: str) -> None:
    authority = Authority(tmp_path)
    pair = authority.ensure(tmp_path, "node", "uftpd data", _HOSTS)
    first = _certificate(pair)
    hosts, name = _HOSTS, "uftpd data"
    if change == "hosts":
        hosts = (*_HOSTS, "ftp.example.org")
    elif change == "name":
        name = "other"
    elif change == "key":
        pair.key.write_bytes((tmp_path / "ca.key").read_bytes())
    else:
        pair.certificate.write_text("junk")
    second = authority.ensure(tmp_path, "node", name, hosts)
    assert _certificate(second) != first
    _handshake(authority, second, second, "localhost")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, b"one")
    with pytest.raises(TypeError):
        write_private(path, "two")  # type: ignore[arg-type]
    assert path.read_bytes() == b"one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]
