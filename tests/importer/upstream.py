"""An upstream installation on disk, as its packages lay one out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

PROPERTIES = """\
container.host=0.0.0.0
container.port=9001
container.sitename=MY-SITE
container.externalurl=https://gateway.example.org:8080/AUTH
container.security.credential.path=conf/auth.p12
container.security.credential.password=the!auth
container.security.truststore.type=directory
container.security.truststore.directoryLocations.1=conf/ca*.pem
container.security.rest.authentication.order=SSHKEY PASSWORD
container.security.rest.authentication.PASSWORD.class=eu.unicore.services.rest.security.FilebasedAuthenticator
container.security.rest.authentication.PASSWORD.file=conf/user-authfile.txt
container.security.rest.authentication.SSHKEY.class=eu.unicore.services.rest.security.SSHKeyAuthenticator
container.security.rest.authentication.SSHKEY.file=conf/ssh-users.txt
container.security.attributes.order=FILE
container.security.attributes.FILE.class=eu.unicore.services.aip.file.FileAttributeSource
container.security.attributes.FILE.file=conf/user-mapfile.txt
container.security.attributes.FILE.matching=strict
authservice.servers=CLUSTER TEST
authservice.server.TEST.host=localhost
authservice.server.TEST.port=64434
authservice.server.TEST.commandHost=localhost
authservice.server.TEST.commandPort=64435
authservice.server.TEST.ssl=false
authservice.server.CLUSTER.description=Big \\
    storage
authservice.server.CLUSTER.reservations.enable=true
authservice.server.CLUSTER.reservations.file=conf/reservations.json
authservice.server.CLUSTER.1.host=ftp1.example.org
authservice.server.CLUSTER.1.commandHost=ftp1.internal
authservice.server.CLUSTER.1.commandPort=64435
authservice.server.CLUSTER.2.host=ftp2.example.org
authservice.server.CLUSTER.2.commandHost=2001:db8::2
authservice.server.CLUSTER.2.commandPort=64436
"""
PASSWORDS = "demouser:7a066bbc4c14cd9d7fb869f8cb3ecee2:09e9ba795983c2862d1fa83ad9b28959:CN=Demo User, O=UNICORE, C=EU\n"
KEYS = (
    "demouser:ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJSdfwf0CxSvPcGE1UCBsjNGK+bPmBJCDfHtFbJxSvmm key:"
    "CN=Demo User, O=UNICORE, C=EU\n"
)
MAP = '{ "CN=Demo User,O=UNICORE,C=EU": { "role": "user", "xlogin": ["user1"], "uftpd.TEST.rateLimit": "200M" } }\n'
RESERVATIONS = (
    '{"reservations": [{"name": "r", "from": "2028-09-22 08:00", "to": "2028-09-22 09:00", "uids": ["u"]}]}\n'
)
UFTPD_CONF = """\
#!/bin/bash
CONF=conf
export SERVER_HOST=0.0.0.0
export SERVER_PORT=64434
export CMD_HOST=localhost
export CMD_PORT="64435"
export SSL_CONF=$CONF/uftpd-ssl.conf
export ACL=${CONF}/uftpd.acl
export MAX_CONNECTIONS=8
export MAX_STREAMS=2
export PORT_RANGE=50000:50050
export ADVERTISE_HOST=203.0.113.5
export UFTP_KEYFILES=.ssh/authorized_keys:.uftp/keys
export UFTP_NO_WRITE=.ssh/authorized_keys:.profile
export UFTP_ENFORCE_OS_GIDS=false
export LOG_VERBOSE=true
"""
SSL_CONF = "credential.path=conf/uftpd.pem\ncredential.password=secret of the node\ntruststore=conf/cacert.pem\n"


@dataclass
class Upstream:
    """The files, and what is in the key stores."""

    directory: Path
    ca: trustme.CA
    auth_subject: str

    @property
    def conf(self) -> Path:
        return self.directory / "conf"

    @property
    def properties(self) -> Path:
        return self.conf / "container.properties"

    @property
    def uftpd(self) -> Path:
        return self.conf / "uftpd.conf"

    def change(self, file: Path, old: str, new: str) -> None:
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def add(self, file: Path, text: str) -> None:
        file.write_text(file.read_text() + text)


def issue(ca: trustme.CA, name: str) -> tuple[PrivateKeyTypes, x509.Certificate]:
    pair = ca.issue_cert("localhost", common_name=name)
    key = load_pem_private_key(pair.private_key_pem.bytes(), None)
    return key, x509.load_pem_x509_certificate(pair.cert_chain_pems[0].bytes())


def to_pkcs12(key: PrivateKeyTypes, certificate: x509.Certificate, password: str) -> bytes:
    encryption = BestAvailableEncryption(password.encode())
    return pkcs12.serialize_key_and_certificates(b"it", key, certificate, [], encryption)  # type: ignore[arg-type]


def to_pem(key: PrivateKeyTypes, password: str | None = None) -> bytes:
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def make_upstream(directory: Path) -> Upstream:
    """An installation that can be imported whole."""
    conf = directory / "conf"
    conf.mkdir(parents=True)
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(conf / "cacert.pem"))
    key, certificate = issue(ca, "AUTH")
    (conf / "auth.p12").write_bytes(to_pkcs12(key, certificate, "the!auth"))
    subject = certificate.subject.rfc4514_string()
    key, certificate = issue(ca, "UFTPD")
    pem = certificate.public_bytes(Encoding.PEM)
    (conf / "uftpd.pem").write_bytes(to_pem(key, "secret of the node") + pem)
    (conf / "container.properties").write_text(PROPERTIES)
    (conf / "user-authfile.txt").write_text(PASSWORDS)
    (conf / "ssh-users.txt").write_text(KEYS)
    (conf / "user-mapfile.txt").write_text(MAP)
    (conf / "reservations.json").write_text(RESERVATIONS)
    (conf / "uftpd.conf").write_text(UFTPD_CONF)
    (conf / "uftpd-ssl.conf").write_text(SSL_CONF)
    (conf / "uftpd.acl").write_text(f"# auth servers\n{subject}\n")
    return Upstream(directory, ca, subject)
