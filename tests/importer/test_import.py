"""Whole imports: what an upstream installation becomes, what is said of the rest, and what is never lost."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from upstream import KEYS, PASSWORDS, Upstream, issue, make_upstream, to_pem, to_pkcs12

from uftpd.auth.identity.password_file import parse_password_file, verify_password
from uftpd.config.auth import AuthConfig
from uftpd.config.data import DataConfig
from uftpd.config.toml import ConfigError, load
from uftpd.importer.notes import Kind
from uftpd.importer.run import Imported, run_import

UFTPD = Path(sys.executable).parent / "uftpd"
LOGIN, ATTRIBUTES = "container.security.rest.authentication", "container.security.attributes"
SECRETS = ("the!auth", "secret of the node", "PRIVATE", "7a066bbc4c14cd9d7fb869f8cb3ecee2")


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return make_upstream(tmp_path / "upstream")


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "new" / "uftp"


def bring(upstream: Upstream, into: Path, **options: object) -> Imported:
    return run_import(upstream.properties, upstream.uftpd, into, **options)  # type: ignore[arg-type]


def lost(imported: Imported) -> list[str]:
    return [f"{note.place.file.name}:{note.place.line} {note.subject}" for note in imported.notes.of(Kind.LOST)]


def problems(imported: Imported) -> list[str]:
    return [problem for checked in imported.checks.values() for problem in checked.problems]


# -- all is well ------------------------------------------------------------------------------------------------------


def test_an_auth_server(upstream: Upstream, into: Path) -> None:
    imported = bring(upstream, into)
    assert lost(imported) == []
    assert problems(imported) == []
    config = load(into / "auth.toml", AuthConfig)
    assert [str(address) for address in config.server.listen] == ["[::]:9001"]
    assert config.server.site_name == "MY-SITE"
    assert config.server.external_url == "https://gateway.example.org:8080/AUTH"
    assert config.login.methods == ("ssh", "password")
    assert config.login.ssh is not None
    assert config.login.ssh.key_file == into / "ssh-keys"
    assert (into / "ssh-keys").read_text() == KEYS
    assert (into / "passwords").read_text() == PASSWORDS
    table = parse_password_file((into / "passwords").read_text())
    assert verify_password(table.accounts["demouser"], b"test123", table.decoy)
    assert config.attributes.match == "strict"
    assert config.attributes.map_file == into / "map.json"
    one, two = config.nodes["CLUSTER"].instances
    assert (one.host, str(one.command), one.plain) == ("ftp1.example.org", "ftp1.internal:64435", False)
    assert (two.host, str(two.command)) == ("ftp2.example.org", "[2001:db8::2]:64436")
    assert config.nodes["CLUSTER"].description == "Big storage"
    assert config.nodes["CLUSTER"].reservations == into / "reservations-CLUSTER.json"
    assert config.nodes["TEST"].instances[0].plain
    assert config.nodes["TEST"].description == "n/a"


def test_a_data_node(upstream: Upstream, into: Path) -> None:
    imported = bring(upstream, into)
    assert problems(imported) == []
    config = load(into / "data.toml", DataConfig)
    assert [str(address) for address in config.ftp.listen] == ["[::]:64434"]
    assert str(config.command_port.listen) == "localhost:64435"
    assert (config.limits.sessions_per_user, config.limits.streams) == (8, 2)
    assert str(config.ftp.port_range) == "50000:50050"
    assert config.ftp.advertise == "203.0.113.5"
    assert config.files.key_files == (".ssh/authorized_keys", ".uftp/keys")
    assert config.files.write_protected == (".ssh/authorized_keys", ".profile")
    assert config.users.check_groups is False
    assert config.log.level == "debug"
    assert not config.command_port.plain
    assert (into / "data.acl").read_text() == f"# auth servers\n{upstream.auth_subject}\n"


def test_keys_fit_their_certificates_and_are_for_their_owner(upstream: Upstream, into: Path) -> None:
    old = os.umask(0)
    try:
        imported = bring(upstream, into)
    finally:
        os.umask(old)
    assert imported.secrets == ["auth.key", "data.key", "passwords"]
    for name in imported.written:
        mode = stat.S_IMODE((into / name).stat().st_mode)
        assert mode == (0o600 if name in imported.secrets else 0o644), name
    for name in ("auth", "data"):
        key = load_pem_private_key((into / f"{name}.key").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((into / f"{name}.pem").read_bytes())
        assert certificate.public_key() == key.public_key()
    assert not [name for name in os.listdir(into) if name.startswith(".")], "no temporary files"


def test_each_part_alone(upstream: Upstream, tmp_path: Path) -> None:
    auth = run_import(upstream.properties, None, tmp_path / "a")
    data = run_import(None, upstream.uftpd, tmp_path / "b")
    assert problems(auth) == problems(data) == []
    assert "data.toml" not in auth.written
    assert "auth.toml" not in data.written


def test_the_root_of_an_installation_can_be_told(upstream: Upstream, tmp_path: Path, into: Path) -> None:
    for name in ("container.properties", "uftpd.conf"):
        (upstream.conf / name).rename(tmp_path / name)
    imported = run_import(tmp_path / "container.properties", tmp_path / "uftpd.conf", into, root=upstream.directory)
    assert problems(imported) == []


def test_sharing_stays_on_where_it_was(upstream: Upstream, into: Path) -> None:
    upstream.add(
        upstream.properties, "share.servers=TEST GONE\nshare.allowWriteAccess=true\nshare.clientIP=192.0.2.7\n"
    )
    run_import(upstream.properties, upstream.uftpd, into, root=upstream.directory)
    shares = load(into / "auth.toml", AuthConfig).shares
    assert (shares.servers, shares.allow_write, shares.client_address) == (("TEST",), True, ("192.0.2.7",))
    assert not shares.anonymous_by_path


@pytest.mark.parametrize(
    "line", ["", "share.servers=\n", "share.servers=TEST\ncontainer.feature.DataSharing.enable=false\n"]
)
def test_sharing_stays_off_where_it_was(upstream: Upstream, into: Path, line: str) -> None:
    upstream.add(upstream.properties, line)
    run_import(upstream.properties, upstream.uftpd, into, root=upstream.directory)
    assert not load(into / "auth.toml", AuthConfig).shares.enabled


# -- what is not carried over -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "subject"),
    [
        (f"{LOGIN}.order=PASSWORD UNITY", f"{LOGIN}.order"),
        (f"{ATTRIBUTES}.order=FILE XUUDB", f"{ATTRIBUTES}.order"),
        ("share.servers=TEST", "share.servers"),
        ("container.security.rest.jwt.hmacSecret=SECRET-VALUE", "container.security.rest.jwt.hmacSecret"),
        ("container.security.gateway.enable=true", "container.security.gateway.enable"),
        ("something.else=1", "something.else"),
        ("authservice.servers=TEST my-server", "authservice.servers"),
        ("authservice.server.TEST.host=a.example.org b.example.org", "authservice.server.TEST.host"),
        ("authservice.server.TEST.commandHost=far.example.org", "authservice.server.TEST.ssl"),
        (f"{ATTRIBUTES}.combiningPolicy=FIRST_APPLICABLE", f"{ATTRIBUTES}.combiningPolicy"),
        ("container.security.truststore.crlLocations.1=x.crl", "container.security.truststore.crlLocations.1"),
        (f"{LOGIN}.SSHKEY.dnTemplate=Joe", f"{LOGIN}.SSHKEY.dnTemplate"),
        ("container.port=many", "container.port"),
    ],
)  # fmt: skip
def test_what_is_lost_is_named_with_its_line(upstream: Upstream, into: Path, line: str, subject: str) -> None:
    key = line.partition("=")[0]
    kept = [old for old in upstream.properties.read_text().splitlines() if not old.startswith(f"{key}=")]
    upstream.properties.write_text("\n".join([*kept, line, ""]))
    imported = bring(upstream, into)
    number = next(
        n for n, text in enumerate(upstream.properties.read_text().splitlines(), 1) if text.startswith(f"{subject}=")
    )
    assert lost(imported) == [f"container.properties:{number} {subject}"]
    assert problems(imported) == []
    assert "SECRET-VALUE" not in "\n".join(imported.notes.lines())


@pytest.mark.parametrize(
    ("line", "subject"),
    [
        ("export DISABLE_IP_CHECK=true", "DISABLE_IP_CHECK"),
        ("export OPEN_USER_SESSIONS=true", "OPEN_USER_SESSIONS"),
        ("export USER_NAME=unicore", "USER_NAME"),
        ("export ADVERTISE_HOST=ftp.example.org", "ADVERTISE_HOST"),
        ("export PORT_RANGE=high", "PORT_RANGE"),
        ("export MAX_CONNECTIONS=0", "MAX_CONNECTIONS"),
        ("export MAX_CONNECTIONS=$(nproc)", "MAX_CONNECTIONS"),
        ("export UFTP_NO_WRITE=*.key", "UFTP_NO_WRITE"),
        ("export UFTP_KEYFILES=/etc/keys", "UFTP_KEYFILES"),
        ("export SOMETHING=1", "SOMETHING"),
        ("ulimit -n 4096", "a command"),
    ],
)
def test_what_is_lost_of_a_node_is_named_with_its_line(upstream: Upstream, into: Path, line: str, subject: str) -> None:
    upstream.add(upstream.uftpd, f"{line}\n")
    imported = bring(upstream, into)
    assert lost(imported) == [f"uftpd.conf:{len(upstream.uftpd.read_text().splitlines())} {subject}"]
    assert problems(imported) == []


def test_what_is_needless_is_no_alarm(upstream: Upstream, into: Path) -> None:
    upstream.add(
        upstream.properties,
        "container.client.serverHostnameChecking=NONE\npersistence.directory=data\n"
        "container.security.gateway.enable=false\nauthservice.server.OLD.host=x\n",
    )
    upstream.add(upstream.uftpd, "export SETPRIV=/usr/bin/setpriv\nexport OPEN_USER_SESSIONS=false\n")
    imported = bring(upstream, into)
    assert lost(imported) == []
    assert len(imported.notes.of(Kind.NEEDLESS)) == 5


def test_secrets_are_in_no_note(upstream: Upstream, into: Path) -> None:
    for file in ("auth.p12", "uftpd.pem"):
        (upstream.conf / file).write_bytes(b"broken")
    upstream.add(upstream.properties, "container.security.credential.keyPassword=the!auth\n")
    shown = "\n".join(bring(upstream, into).notes.lines())
    assert not [secret for secret in SECRETS if secret in shown]


def test_control_characters_do_not_reach_the_terminal(upstream: Upstream, into: Path) -> None:
    upstream.add(upstream.properties, "odd\\u001b[2J=1\n")
    assert all(line.isprintable() for line in bring(upstream, into).notes.lines())


# -- key stores -------------------------------------------------------------------------------------------------------


def test_a_pem_file_with_a_key_of_its_own(upstream: Upstream, into: Path) -> None:
    key, certificate = issue(upstream.ca, "AUTH")
    (upstream.conf / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (upstream.conf / "key.pem").write_bytes(to_pem(key))
    upstream.change(upstream.properties, "credential.path=conf/auth.p12", "credential.path=conf/cert.pem")
    upstream.add(upstream.properties, "container.security.credential.keyPath=conf/key.pem\n")
    upstream.change(
        upstream.conf / "uftpd-ssl.conf", "credential.path=conf/uftpd.pem", "credential.certificate=conf/cert.pem"
    )
    upstream.add(upstream.conf / "uftpd-ssl.conf", "credential.key=conf/key.pem\n")
    imported = bring(upstream, into)
    assert (lost(imported), problems(imported)) == ([], [])
    assert (into / "auth.key").read_bytes() == (into / "data.key").read_bytes() == to_pem(key)


def test_a_chain_is_put_in_order(upstream: Upstream, into: Path) -> None:
    middle = upstream.ca.create_child_ca()
    pair = middle.issue_cert("localhost", common_name="AUTH")
    own, between = (block.bytes() for block in pair.cert_chain_pems[:2])
    root = upstream.ca.cert_pem.bytes()
    (upstream.conf / "auth.p12").write_bytes(root + between + pair.private_key_pem.bytes() + own)
    bring(upstream, into)
    assert x509.load_pem_x509_certificates((into / "auth.pem").read_bytes()) == [
        x509.load_pem_x509_certificate(own),
        x509.load_pem_x509_certificate(between),
    ]


def test_trust_stores(upstream: Upstream, into: Path) -> None:
    other = trustme.CA()
    certificates = [x509.load_pem_x509_certificate(ca.cert_pem.bytes()) for ca in (upstream.ca, other)]
    (upstream.conf / "ca-other.pem").write_bytes(certificates[1].public_bytes(Encoding.DER))
    bring(upstream, into)
    assert set(x509.load_pem_x509_certificates((into / "auth-ca.pem").read_bytes())) == set(certificates)
    # A key store with a key in it serves as well, and so does a directory.
    (upstream.conf / "trust.p12").write_bytes(to_pkcs12(*issue(other, "x"), "pw"))
    upstream.change(upstream.properties, "type=directory", "type=keystore")
    upstream.add(
        upstream.properties,
        "container.security.truststore.keystorePath=conf/trust.p12\n"
        "container.security.truststore.keystorePassword=pw\n",
    )
    imported = bring(upstream, into, force=True)
    assert problems(imported) == []
    assert len(x509.load_pem_x509_certificates((into / "auth-ca.pem").read_bytes())) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xfe\xed\xfe\xed\0\0\0\2junk", "is a Java key store; convert it first: keytool"),
        (b"\xce\xce\xce\xcejunk", "is a Java key store; convert it first: keytool"),
        (b"junk", "is neither PEM nor a PKCS #12 file"),
        (b"", "is neither PEM nor a PKCS #12 file"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "holds a certificate that cannot be read"),
        (b"-----BEGIN X-----\n-----END X-----\n", "there is no private key in it"),
        (b"-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n", "its key cannot be read"),
        (None, "is not there"),
    ],
)
def test_key_stores_that_cannot_be_used(upstream: Upstream, into: Path, data: bytes | None, reason: str) -> None:
    """They are named; all else is written, and the check says what is missing."""
    for name in ("auth.p12", "uftpd.pem"):
        (upstream.conf / name).unlink()
        if data is not None:
            (upstream.conf / name).write_bytes(data)
    imported = bring(upstream, into)
    notes = [str(note) for note in imported.notes.of(Kind.LOST)]
    assert len(notes) == 2
    assert all(reason in note for note in notes)
    assert [problem.partition(": ")[2].partition(" (")[0] for problem in problems(imported)] == [
        "server.certificate, server.key: required for HTTPS",
        "command_port.certificate, command_port.key: required for TLS to node 'CLUSTER'",
        "command_port.certificate, command_port.key: required for TLS",
    ]
    assert (into / "passwords").read_text() == PASSWORDS


def test_a_wrong_password_and_a_key_of_another(upstream: Upstream, into: Path) -> None:
    upstream.change(upstream.properties, "the!auth", "wrong")
    upstream.change(upstream.conf / "uftpd-ssl.conf", "secret of the node", "wrong")
    texts = [note.text for note in bring(upstream, into).notes.of(Kind.LOST)]
    assert ["opens with its password" in texts[0], "the password is wrong" in texts[1]] == [True, True]
    upstream.change(upstream.conf / "uftpd-ssl.conf", "credential.password=wrong\n", "")
    (upstream.conf / "auth.p12").write_bytes(
        to_pem(issue(upstream.ca, "a")[0]) + issue(upstream.ca, "b")[1].public_bytes(Encoding.PEM)
    )
    texts = [note.text for note in bring(upstream, into, force=True).notes.of(Kind.LOST)]
    assert "no certificate in it that belongs to its key" in texts[0]
    assert "its key is encrypted, and no password is set" in texts[1]


# -- what is there already --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auth.toml", "auth.key", "passwords", "data.acl"])
def test_nothing_is_overwritten(upstream: Upstream, into: Path, name: str) -> None:
    into.mkdir(parents=True)
    (into / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"{name}: there already, nothing was written; --force replaces"):
        bring(upstream, into)
    assert os.listdir(into) == [name]
    assert (into / name).read_text() == "mine"
    (into / name).unlink()
    (into / name).symlink_to(into / "elsewhere")
    with pytest.raises(ConfigError, match="there already"):
        bring(upstream, into)
    imported = bring(upstream, into, force=True)
    assert problems(imported) == []
    assert not (into / "elsewhere").exists(), "a link is replaced, not followed"


def test_a_directory_that_cannot_be_written(upstream: Upstream, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file: cannot be written"):
        bring(upstream, tmp_path / "file")


# -- the command ------------------------------------------------------------------------------------------------------


def _uftpd(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([UFTPD, *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.slow
def test_the_command(upstream: Upstream, into: Path) -> None:
    upstream.add(upstream.properties, "share.servers=TEST\n")
    count = len(upstream.properties.read_text().splitlines())
    command = ("import-config", "--auth", upstream.properties, "--data", upstream.uftpd, "--into", into)
    done = _uftpd(*command)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "Not carried over, and to be done by hand:"
    assert lines[1].startswith(f"  {upstream.properties}:{count}: share.servers: ")
    assert lines[-2:] == [f"{into}/auth.toml: ok", f"{into}/data.toml: ok"]
    assert not [secret for secret in SECRETS if secret in done.stdout]
    assert _uftpd("check-config", into / "auth.toml", into / "data.toml").returncode == 0
    again = _uftpd(*command)
    assert (again.returncode, again.stdout, len(again.stderr.splitlines())) == (2, "", 1)
    assert _uftpd(*command, "--force").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--into", "/nonexistent/x"], "--auth FILE or --data FILE is needed"),
        (["--auth", "/nonexistent/x"], "--into"),
        (["--auth", "/nonexistent/x", "--into", "/nonexistent/y"], "/nonexistent/x: is not there"),
        (["--data", "/dev/null", "--into", "/nonexistent/y"], "/dev/null: is no file"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], expected: str) -> None:
    done = _uftpd("import-config", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1
