"""Links to objects of a data node, and an HTTP client that shows a server's exact bytes, for tests."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import trustme
from data_node import Node
from raw_ftp import TIMEOUT

from uftp.protocol.command_port import Access, PingRequest, Purpose
from uftp.protocol.command_replies import parse_ping_reply


def object_url(node: Node) -> str:
    """Where the node says that its object server is."""
    url = parse_ping_reply(node.request(PingRequest())).objects
    assert url, "the node has no object server"
    return url


def link(node: Node, path: Path, **fields: Any) -> str:
    """A link to a file or directory, as an auth server makes it; the fields are those of a transfer request."""
    fields.setdefault("file", f"{path.parent}/")
    fields.setdefault("scope", bytes(path.name, "utf-8", "surrogateescape"))
    fields.setdefault("expires", 120.0)
    fields.setdefault("purpose", Purpose.SHARE)
    fields.setdefault("access", Access.READ)
    return f"{object_url(node)}/o/{node.expect(http=True, **fields)}"


class Answer:
    """What came back.

    Attributes:
        status: of it.
        headers: names in lower case.
        body: of it.
    """

    def __init__(self, head: bytes, body: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.version, status, self.reason = first.split(" ", 2)
        self.status = int(status)
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.body = body


class RawHttp:
    """A connection. Answers are read to the end that they announce."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self.path = parts.path
        plain = socket.create_connection((parts.hostname, parts.port), TIMEOUT)
        self.socket = tls.wrap_socket(plain, server_hostname=parts.hostname) if tls else plain
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, *lines: str, method: str = "GET", path: str | None = None) -> None:
        """Send a request, without waiting."""
        first = f"{method} {self.path if path is None else path} HTTP/1.1"
        self.socket.sendall("\r\n".join([first, "Host: h", *lines, "", ""]).encode("latin-1"))

    def get(self, *lines: str, method: str = "GET", path: str | None = None) -> Answer:
        """Send a request, and its answer."""
        self.send(*lines, method=method, path=path)
        return self.answer(has_body=method != "HEAD")

    def head(self) -> bytes:
        """The next head of an answer, without its end; empty at the end of the connection."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._receive():
                assert not self._buffer, self._buffer
                return b""
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return bytes(head)

    def answer(self, *, has_body: bool = True) -> Answer:
        """The next answer, whole."""
        head = self.head()
        assert head, "the connection was closed"
        answer = Answer(head, b"")
        length = int(answer.headers.get("content-length", "0")) if has_body and answer.status != 304 else 0
        answer.body = self.rest_of(length)
        return answer

    def rest_of(self, length: int) -> bytes:
        """So many bytes of a body whose head has been read."""
        while len(self._buffer) < length:
            assert self._receive(), f"the answer ended after {len(self._buffer)} bytes of {length}"
        body, self._buffer = bytes(self._buffer[:length]), self._buffer[length:]
        return body

    def rest(self) -> bytes:
        """Everything until the server closes, however it does."""
        while self._receive():
            pass
        rest, self._buffer = bytes(self._buffer), bytearray()
        return rest

    def is_closed(self) -> bool:
        """Whether the server closes now, without another word; waits for it."""
        return self.rest() == b""

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(1 << 20)
        except (ConnectionError, ssl.SSLError):
            return False
        self._buffer += data
        return bool(data)


class TlsFiles:
    """A CA, and a server's certificate and key in files.

    Attributes:
        directory: where they are.
        settings: of `[objects]`.
        client: trusts the CA.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ca = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.ca_file))
        self.certificate, self.key = directory / "objects.pem", directory / "objects.key"
        self.renew()
        self.client = ssl.create_default_context(cafile=str(self.ca_file))
        self.settings: dict[str, object] = {
            "listen_tls": ["127.0.0.1:0"],
            "certificate": str(self.certificate),
            "key": str(self.key),
        }

    def renew(self) -> int:
        """Put a new certificate in place of the old one; its serial number."""
        pair = self._ca.issue_cert("127.0.0.1", "localhost")
        self.certificate.write_bytes(pair.cert_chain_pems[0].bytes())
        self.key.write_bytes(pair.private_key_pem.bytes())
        self.key.chmod(0o600)
        return certificate_serial(pair.cert_chain_pems[0].bytes())


def certificate_serial(pem: bytes) -> int:
    """The serial number of a certificate."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(pem).serial_number
