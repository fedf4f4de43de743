"""Servers that a session names and the site does not allow: nobody is connected to, and nobody learns what is there.

The trap listens on every address of this machine. A connection to it would be complete in the kernel, whether or not
anybody accepts it, before the reply to the command comes; so that none waits there afterwards is proof.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from data_node import Node, StartNode
from raw_ftp import TIMEOUT, RawFtp, eventually

HOSTS = [
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "ip6-localhost",
    "0.0.0.0",
    "0",
    "127.1",
    "127.0.1",
    "127.0.0.1.",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.01",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[fe80::1]",
    "[fe80::1%lo]",
    "[::1%lo]",
    "[::1%1]",
    "[fec0::1]",
    "[fd00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[2001:db8::1]",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "168.63.129.16",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "8.8.8.8",
    "[2001:4860:4860::8888]",
    "public.invalid",
    "no-such-host",
    "metadata.google.internal",
]


@contextlib.contextmanager
def trap() -> Iterator[socket.socket]:
    """Listens on every address of this machine, IPv4 and IPv6."""
    with socket.socket(socket.AF_INET6) as listening:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(("::", 0))
        listening.listen(128)
        listening.setblocking(False)
        yield listening


def visitors(listening: socket.socket) -> list[str]:
    """Who has connected since the last look."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            connection, peer = listening.accept()
            connection.close()
            found.append(str(peer))
    return found


def own_addresses() -> list[str]:
    """Addresses of this machine on its networks, as users might name them."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect(("192.0.2.1", 9))  # sends nothing; the kernel chooses the address it would send from
        return [route.getsockname()[0]]
    return []


@pytest.fixture
def node(start_node: StartNode) -> Node:
    return start_node()


def test_copies_with_forbidden_servers_connect_to_nobody(node: Node) -> None:
    directory = node.directory()
    node.file(directory / "file", b"x")
    with trap() as listening, node.login(file=f"{directory}/") as ftp:
        port = listening.getsockname()[1]
        told: dict[str, bytes] = {}
        for host in [*HOSTS, *own_addresses(), socket.gethostname()]:
            for verb, local in (("SEND-FILE", "file"), ("RECEIVE-FILE", "new")):
                answer = ftp.command(f"{verb} '{local}' '/target' '{host}:{port}' 'secret'")
                assert answer.startswith(b"534 Error processing command '%s': " % verb.encode()), (host, answer)
                told[host] = answer.partition(b"': ")[2].replace(f"{host}:{port}".encode(), b"HOST")
        assert visitors(listening) == []
        assert not (directory / "new").exists()
        ftp.ok("NOOP")
    # Whoever is refused for what is there, or is not, reads the same; other texts are about how a host is written.
    same = b"HOST: this site allows no copies with it, or there is no such host\r\n"
    usual = {host for host, answer in told.items() if answer == same}
    assert usual >= {"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "8.8.8.8", "10.0.0.1", "no-such-host"}
    for host in told.keys() - usual:
        assert b"no host name or address in its usual form" in told[host], (host, told[host])


def test_urls_of_forbidden_servers_connect_to_nobody(node: Node) -> None:
    directory = node.directory()
    with trap() as listening, node.login(file=f"{directory}/") as ftp:
        port = listening.getsockname()[1]
        hosts = [host for host in HOSTS if "%" not in host]
        urls = [f"https://{host}:{port}/x" for host in hosts]
        urls += [f"https://{host}/x" for host in hosts if host not in ("8.8.8.8", "[2001:4860:4860::8888]")]
        urls += [
            f"http://127.0.0.1:{port}/x",
            f"ftp://127.0.0.1:{port}/x",
            "file:///etc/passwd",
            f"https://public.invalid@127.0.0.1:{port}/x",
            f"https://127.0.0.1:{port}@public.invalid/x",
            f"https://public.invalid\\@127.0.0.1:{port}/x",
            f"//127.0.0.1:{port}/x",
            f"https:127.0.0.1:{port}/x",
        ]
        for url in urls:
            answer = ftp.command(f"RCP-FETCH 'new' '{url}'")
            assert answer.startswith((b"534 ", b"501 ", b"500 ")), (url, answer)
        assert visitors(listening) == []
        assert not (directory / "new").exists()


def test_the_trap_would_have_caught_somebody(start_node: StartNode) -> None:
    """What is listed is connected to, at this port and no other: so the tests above would see a connection."""
    with trap() as listening, trap() as other:
        port = listening.getsockname()[1]
        node = start_node(copies={"allow": [f"127.0.0.1:{port}", f"[::1]:{port}", f"localhost:{port}"]})
        directory = node.directory()
        node.file(directory / "file", b"x")
        with node.login(file=f"{directory}/") as ftp:
            wrong = other.getsockname()[1]
            for host in ("127.0.0.1", "[::1]", "localhost", "127.0.0.2"):
                refused = f"{host}:{wrong}" if host != "127.0.0.2" else f"{host}:{port}"
                assert ftp.command(f"SEND-FILE 'file' '/t' '{refused}' 's'").startswith(b"534 ")
            assert visitors(listening) == []
            for host in ("127.0.0.1", "[::1]", "localhost", "[::ffff:127.0.0.1]"):
                ftp.ok(f"SEND-FILE 'file' '/t' '{host}:{port}' 's'", 299)
                eventually(lambda: visitors(listening), what=f"a connection for {host}")
            assert visitors(other) == []


def test_nodes_that_were_announced_are_allowed_to_this_session_alone(start_node: StartNode) -> None:
    with trap() as listening:
        peer = f"127.0.0.1:{listening.getsockname()[1]}"
        node, untrusting = start_node(), start_node(copies={"announced": False})
        for where, code in ((node, 299), (untrusting, 534)):
            directory = where.directory()
            where.file(directory / "file", b"x")
            with where.login(file=f"{directory}/", peers=(peer,)) as ftp:
                ftp.ok(f"SEND-FILE 'file' '/t' '{peer}' 's'", code)
                if code == 299:
                    eventually(lambda: visitors(listening), what="the connection")
            with where.login(file=f"{directory}/") as ftp:
                ftp.ok(f"SEND-FILE 'file' '/t' '{peer}' 's'", 534)
        assert visitors(listening) == []


def test_copies_that_are_switched_off(start_node: StartNode) -> None:
    with trap() as listening:
        port = listening.getsockname()[1]
        node = start_node(copies={"enabled": False, "allow": ["127.0.0.1"]})
        directory = node.directory()
        node.file(directory / "file", b"x")
        with node.login(file=f"{directory}/") as ftp:
            assert b"RCP" not in ftp.command("FEAT")
            ftp.ok(f"SEND-FILE 'file' '/t' '127.0.0.1:{port}' 's'", 502)
            ftp.ok(f"RCP-FETCH 'new' 'https://127.0.0.1:{port}/'", 502)
        assert visitors(listening) == []


class _LyingPeer:
    """An FTP server that sends its clients' data connections elsewhere.

    Attributes:
        address: of its control connection, as `host:port`.
        commands: that came.
    """

    def __init__(self, elsewhere: str) -> None:
        self._elsewhere = elsewhere
        self._control = socket.create_server(("127.0.0.1", 0))
        self._data = socket.create_server(("127.0.0.1", 0))
        self.data_port: int = self._data.getsockname()[1]
        self.address = f"127.0.0.1:{self._control.getsockname()[1]}"
        self.commands: list[str] = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> _LyingPeer:  # noqa: PYI034 - never subclassed
        for listening in (self._control, self._data):
            listening.settimeout(TIMEOUT)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.join()
        self._control.close()
        self._data.close()

    def _serve(self) -> None:
        """One session."""
        control, _ = self._control.accept()
        control.settimeout(TIMEOUT)
        place = f"{self._elsewhere.replace('.', ',')},{self.data_port // 256},{self.data_port % 256}"
        replies = {
            "USER": "331 password",
            "PASS": "230 welcome",
            "TYPE": "200 ok",
            "FEAT": "211-Features\r\n MLST type*;size*;modify*;\r\n SIZE\r\n211 End",
            "MLST": "250-Listing\r\n type=file;size=5;modify=20261122183804; /source\r\n250 End",
            "SIZE": "213 5",
            "PASV": f"227 Entering Passive Mode ({place})",
            "RETR": "150 here it comes",
        }
        with control, control.makefile("rb") as lines:
            control.sendall(b"220 ready\r\n")
            for line in lines:
                command = line.decode().strip()
                self.commands.append(command)
                verb = command.partition(" ")[0].upper()
                control.sendall(f"{replies.get(verb, '500 no')}\r\n".encode())
                if verb == "RETR":
                    data, _ = self._data.accept()
                    with data:
                        data.sendall(b"hello")
                    control.sendall(b"226 done\r\n")


def test_a_peer_cannot_send_data_connections_elsewhere(start_node: StartNode) -> None:
    """A server that is allowed names another address in PASV: the one that was vetted is connected to all the same."""
    with _LyingPeer("127.0.0.2") as peer, socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.2", peer.data_port))
        elsewhere.listen(8)
        elsewhere.setblocking(False)
        node = start_node(copies={"allow": [peer.address]})
        directory = node.directory()
        with node.login(file=f"{directory}/") as ftp:
            started = ftp.ok(f"RECEIVE-FILE 'new' '/source' '{peer.address}' 's'", 299)
            status = b"RCP-STATUS " + started.strip().rpartition(b"=")[2]
            eventually(lambda: not ftp.ok(status, 299).startswith(b"299 RUNNING"), PATIENCE, what="the end")
            assert ftp.ok(status, 299).startswith(b"299 FINISHED "), (ftp.ok(status, 299), peer.commands)
        assert (directory / "new").read_bytes() == b"hello"
        assert visitors(elsewhere) == []


class _WebServer:
    """An HTTPS server on loopback.

    Attributes:
        port: its port.
        redirects: where paths lead; everything else is a file.
        asked: requests that came, as method and path.
    """

    def __init__(self, ca: trustme.CA) -> None:
        self.redirects: dict[str, str] = {}
        self.asked: list[str] = []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.asked.append(f"{self.command} {self.path}")
                where = web.redirects.get(self.path)
                body = b"" if where else b"hello"
                self.send_response(302 if where else 200)
                if where:
                    self.send_header("Location", where)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 -- as in the base class

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- as in the base class
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("127.0.0.1", "localhost").configure_cert(context)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> _WebServer:  # noqa: PYI034 - never subclassed
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def web() -> Iterator[_WebServer]:
    with _WebServer(CA) as server:
        yield server


CA = trustme.CA()
REDIRECTS = [  # all forms are in server_copies/test_vetted_http
    "https://127.0.0.1:{trap}/x",
    "https://127.0.0.2:{port}/x",
    "https://localhost:{trap}/x",
    "https://[::ffff:7f00:1]:{trap}/x",
    "https://2130706433:{trap}/x",
    "http://127.0.0.1:{trap}/x",
    "//127.0.0.1:{trap}/x",
    "https://127.0.0.1:{port}@127.0.0.1:{trap}/x",
    "https://169.254.169.254/latest/meta-data/",
]
PATIENCE = 60.0  # seconds for a copy to end; some are tried several times before they fail


def _fetched(ftp: RawFtp, url: str) -> bytes:
    """Fetch to `new`; the last status."""
    started = ftp.ok(f"RCP-FETCH 'new' '{url}'", 299)
    status = b"RCP-STATUS " + started.strip().rpartition(b"=")[2]
    last = b""

    def over() -> bool:
        nonlocal last
        last = ftp.ok(status, 299)
        return not last.startswith(b"299 RUNNING")

    eventually(over, PATIENCE, what="the end of the fetch")
    return last


def test_redirects_of_an_allowed_server_lead_to_no_other(
    start_node: StartNode, web: _WebServer, tmp_path: Path
) -> None:
    authority = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(str(authority))
    node = start_node(copies={"allow": [f"127.0.0.1:{web.port}"], "https_ca": str(authority)})
    directory = node.directory()
    start = f"https://127.0.0.1:{web.port}"
    with trap() as listening, node.login(file=f"{directory}/") as ftp:
        assert _fetched(ftp, f"{start}/file").startswith(b"299 FINISHED ")
        assert (directory / "new").read_bytes() == b"hello"
        (directory / "new").unlink()
        for number, template in enumerate(REDIRECTS):
            web.redirects[f"/{number}"] = template.format(trap=listening.getsockname()[1], port=web.port)
            web.asked.clear()
            last = _fetched(ftp, f"{start}/{number}")
            assert last.startswith(b"299 FAILED "), (template, last)
            assert {asked.rpartition(" ")[2] for asked in web.asked} <= {f"/{number}"}, template
            assert visitors(listening) == [], template
        web.redirects["/again"] = "/again"
        assert _fetched(ftp, f"{start}/again").startswith(b"299 FAILED ")
        web.redirects["/good"] = "/file"
        assert _fetched(ftp, f"{start}/good").startswith(b"299 FINISHED ")
        assert visitors(listening) == []
    assert [path.name for path in directory.iterdir()] == ["new"]


def test_an_authority_nobody_named_is_not_trusted(start_node: StartNode, web: _WebServer) -> None:
    node = start_node(copies={"allow": [f"127.0.0.1:{web.port}"]})
    directory = node.directory()
    with node.login(file=f"{directory}/") as ftp:
        last = _fetched(ftp, f"https://127.0.0.1:{web.port}/file")
        assert last.startswith(b"299 FAILED ")
        assert b"certificate" in last
    assert web.asked == []
    assert list(directory.iterdir()) == []


def test_the_log_says_why_somebody_was_refused(node: Node) -> None:
    directory = node.directory()
    node.file(directory / "file", b"x")
    with node.login(file=f"{directory}/") as ftp:
        ftp.ok("SEND-FILE 'file' '/t' '169.254.169.254:80' 's'", 534)
    refused = node.wait_log("copy refused")
    assert refused["user"] == node.person.name
    assert refused["peer"] == "169.254.169.254:80"
    assert refused["why"] == "169.254.169.254 (special) is not listed, or denied"
