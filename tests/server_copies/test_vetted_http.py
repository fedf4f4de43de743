"""HTTPS to servers that a stranger has named: where to, whose certificate counts, what is too much.

Real sockets and TLS; host names that nothing could resolve show that nobody tries.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2
import pytest
import trio
import trustme

from uftp.client.vetted_http import exchange, open_vetted_client, trust
from uftp.errors import LocalFileError, NetworkError, PeerBrokeProtocol, Refused, TimedOut, UFTPError, UsageError
from uftpd.config.copies import Copies
from uftpd.config.toml import PortRange
from uftpd.peers import PeerRefused, PeerRules

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LIMIT_SECONDS = 30.0


def redirect(where: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode()


@dataclass
class Server:
    """An HTTPS server on loopback.

    Attributes:
        reply: to a request; gets its head.
        names: SNI of the handshakes.
        heads: requests that came.
        connections: that were accepted, whatever came of them.
    """

    address: str
    port: int
    reply: Callable[[str], bytes]
    names: list[str | None] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    connections: int = 0

    def url(self, host: str, path: str = "/") -> str:
        return f"https://{host}:{self.port}{path}"

    async def serve(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self.connections += 1
        try:
            await self._serve(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        head = b""
        while True:
            data = await stream.receive_some(4096)
            if not data:
                return
            head += data
            while b"\r\n\r\n" in head:
                request, _, head = head.partition(b"\r\n\r\n")
                self.heads.append(request.decode())
                reply = self.reply(request.decode())
                await stream.send_all(reply)
                if reply and not reply.startswith(b"HTTP/"):
                    return


@dataclass
class Site:
    """Where servers are started, and what is trusted."""

    ca: trustme.CA
    nursery: trio.Nursery

    async def server(
        self, *names: str, reply: Callable[[str], bytes] = lambda head: OK, address: str = "127.0.0.1", port: int = 0
    ) -> Server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*names).configure_cert(context)
        listener = (await trio.open_tcp_listeners(port, host=address))[0]
        server = Server(address, listener.socket.getsockname()[1], reply)

        def named(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            server.names.append(name)

        context.sni_callback = named
        listeners = [trio.SSLListener(listener, context, https_compatible=True)]
        self.nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        return server

    def tls(self) -> ssl.SSLContext:
        return trust(self.ca.cert_pem.bytes().decode())


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with trio.open_nursery() as nursery:
        yield Site(trustme.CA(), nursery)
        nursery.cancel_scope.cancel()


@dataclass
class Gate:
    """Admits as a table says, and remembers what it was asked."""

    table: dict[str, tuple[str, ...]]
    asked: list[str] = field(default_factory=list)

    async def __call__(self, url: str) -> tuple[str, ...]:
        self.asked.append(url)
        host = httpx2.URL(url).host
        if host not in self.table:
            raise Refused(f"{host}: not here")
        return self.table[host]


@asynccontextmanager
async def client(site: Site, admit: Callable[[str], Awaitable[tuple[str, ...]]]) -> AsyncIterator[httpx2.AsyncClient]:
    opened = open_vetted_client(admit, tls=site.tls(), connect_seconds=LIMIT_SECONDS, reply_seconds=LIMIT_SECONDS)
    async with opened:
        yield opened


# -- the address ----------------------------------------------------------------------------------------------------


async def test_the_vetted_address_is_connected_to_and_the_name_is_checked(site: Site) -> None:
    server = await site.server("data.invalid")
    gate = Gate({"data.invalid": ("127.0.0.1",)})
    async with client(site, gate) as http:
        answer = await exchange(http, "GET", server.url("data.invalid", "/a?b=c"))
    assert (answer.status, answer.body) == (200, b"ok")
    assert server.names == ["data.invalid"]
    assert server.heads[0].startswith("GET /a?b=c HTTP/1.1\r\n")
    assert f"\r\nHost: data.invalid:{server.port}\r\n" in server.heads[0]
    assert gate.asked == [f"https://data.invalid:{server.port}/"], "asked once, and with nothing that may be secret"


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")])
async def test_a_url_with_an_address(site: Site, host: str, address: str) -> None:
    server = await site.server(address, address=address)
    gate = Gate({address: (address,)})
    async with client(site, gate) as http:
        assert (await exchange(http, "GET", server.url(host))).body == b"ok"
    assert gate.asked == [f"https://{host}:{server.port}/"]


async def test_a_certificate_for_another_name_is_refused(site: Site) -> None:
    server = await site.server("other.invalid", "127.0.0.1")
    async with client(site, Gate({"data.invalid": ("127.0.0.1",)})) as http:
        with pytest.raises(NetworkError, match="certificate is not trusted"):
            await exchange(http, "GET", server.url("data.invalid"))
        with pytest.raises(httpx2.ConnectError):
            await http.get(server.url("data.invalid"), extensions={"sni_hostname": "other.invalid"})
    assert server.heads == []


async def test_a_connection_serves_no_other_name_at_the_same_address(site: Site) -> None:
    server = await site.server("one.invalid")
    async with client(site, Gate({"one.invalid": ("127.0.0.1",), "two.invalid": ("127.0.0.1",)})) as http:
        for _ in range(2):
            await exchange(http, "GET", server.url("one.invalid"))
        with pytest.raises(NetworkError, match="certificate"):
            await exchange(http, "GET", server.url("two.invalid"))
    assert server.connections == 2, "the first one was used again"


async def test_an_authority_nobody_named_is_not_trusted(site: Site) -> None:
    server = await site.server("data.invalid")
    async with open_vetted_client(Gate({"data.invalid": ("127.0.0.1",)})) as http:
        with pytest.raises(NetworkError, match="certificate is not trusted"):
            await exchange(http, "GET", server.url("data.invalid"))
    with pytest.raises(LocalFileError):
        trust("junk")


async def test_the_next_address_is_tried_where_one_does_not_answer(site: Site) -> None:
    with socket.socket() as nobody:  # bound, so that nobody else listens there
        nobody.bind(("127.0.0.1", 0))
        server = await site.server("data.invalid", address="127.0.0.2", port=nobody.getsockname()[1])
        async with client(site, Gate({"data.invalid": ("127.0.0.1", "127.0.0.2")})) as http:
            assert (await exchange(http, "GET", server.url("data.invalid"))).body == b"ok"
        async with client(site, Gate({"data.invalid": ("127.0.0.1",)})) as http:
            with pytest.raises(NetworkError, match="connection refused"):
                await exchange(http, "GET", server.url("data.invalid"))
    async with client(site, Gate({"data.invalid": ()})) as http:
        with pytest.raises(NetworkError, match="no address"):
            await exchange(http, "GET", server.url("data.invalid"))


async def test_proxies_of_the_environment_are_left_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server = await site.server("data.invalid")
    async with client(site, Gate({"data.invalid": ("127.0.0.1",)})) as http:
        assert (await exchange(http, "GET", server.url("data.invalid"))).body == b"ok"


async def test_what_is_not_https_is_not_fetched(site: Site) -> None:
    server = await site.server("data.invalid")
    gate = Gate({"data.invalid": ("127.0.0.1",), "127.0.0.1": ("127.0.0.1",)})
    async with client(site, gate) as http:
        for url in (f"http://127.0.0.1:{server.port}/", "ftp://data.invalid/", "file:///etc/passwd", "data.invalid"):
            with pytest.raises(UFTPError):
                await exchange(http, "GET", url)
        with pytest.raises(UsageError, match="user or password"):
            await exchange(http, "GET", f"https://user:word@data.invalid:{server.port}/")
    assert gate.asked == []
    assert server.connections == 0


# -- rules of a site ------------------------------------------------------------------------------------------------


async def test_a_name_that_changes_its_address(site: Site) -> None:
    """What was vetted is connected to, though the name leads elsewhere a moment later."""
    wanted = await site.server("data.invalid", address="127.0.0.2")
    trap = await site.server("data.invalid", address="127.0.0.3", port=wanted.port)
    answers = [["127.0.0.2"], ["127.0.0.3"]]
    asked = 0

    async def rebinding(name: str) -> list[str]:
        nonlocal asked
        asked += 1
        return answers[min(asked, 2) - 1]

    rules = PeerRules(Copies(allow=("data.invalid", "127.0.0.2")), look_up=rebinding)
    async with client(site, rules.admit_url) as http:
        assert (await exchange(http, "GET", wanted.url("data.invalid"))).body == b"ok"
        assert asked == 1
    async with client(site, rules.admit_url) as http:  # another connection, another question
        with pytest.raises(PeerRefused):
            await exchange(http, "GET", wanted.url("data.invalid"))
    assert asked == 2
    assert wanted.connections == 1
    assert trap.connections == 0


FORBIDDEN = [
    "https://127.0.0.1:{port}/",
    "https://[::1]:{port}/",
    "https://[::ffff:127.0.0.1]:{port}/",
    "https://[::ffff:7f00:1]:{port}/",
    "https://[::127.0.0.1]:{port}/",
    "https://[64:ff9b::7f00:1]:{port}/",
    "https://[2002:7f00:1::]:{port}/",
    "https://127.1:{port}/",
    "https://2130706433:{port}/",
    "https://0x7f000001:{port}/",
    "https://0177.0.0.1:{port}/",
    "https://127.0.0.1.:{port}/",
    "https://\uff11\uff12\uff17.0.0.1:{port}/",
    "https://127\u30020\u30020\u30021:{port}/",
    "https://0:{port}/",
    "https://0.0.0.0:{port}/",
    "https://[::]:{port}/",
    "https://localhost:{port}/",
    "https://LOCALHOST:{port}/",
    "https://localhost.:{port}/",
    "https://hidden.invalid:{port}/",
    "https://half.invalid:{port}/",
    "//127.0.0.1:{port}/",
    "\\\\127.0.0.1:{port}\\",
    "http://127.0.0.1:{port}/",
    "https://start.invalid@127.0.0.1:{port}/",
    "https://start.invalid:x@127.0.0.1:{port}/",
]


@pytest.mark.parametrize("target", FORBIDDEN)
async def test_redirects_to_forbidden_places(site: Site, target: str) -> None:
    """Only the server that was allowed is ever connected to; the trap listens on every address of loopback."""
    trap = await site.server("localhost", "127.0.0.1", "::1", "hidden.invalid", "half.invalid", address="::")
    where = target.format(port=trap.port)
    start = await site.server("start.invalid", reply=lambda head: redirect(where), address="127.0.0.9")
    names = {
        "start.invalid": ["127.0.0.9"],
        "hidden.invalid": ["127.0.0.1"],
        "half.invalid": ["127.0.0.9", "127.0.0.1"],
        "localhost": ["127.0.0.1", "::1"],
    }

    async def look_up(name: str) -> list[str]:
        return names.get(name, [])

    rules = PeerRules(Copies(allow=(f"127.0.0.9:{start.port}",), https_ports=(PortRange(1, 65535),)), look_up=look_up)
    async with client(site, rules.admit_url) as http:
        with pytest.raises(UFTPError):
            await exchange(http, "GET", start.url("start.invalid"), max_redirects=5)
        with pytest.raises(UFTPError):
            await exchange(http, "GET", where)
        await exchange(http, "GET", start.url("start.invalid"))  # without redirects the answer is all there is
    assert len(start.heads) >= 2
    assert trap.connections == 0


# -- one exchange ---------------------------------------------------------------------------------------------------


async def test_redirects_are_admitted_anew_and_take_no_credentials_along(site: Site) -> None:
    end = await site.server("end.invalid")
    start = await site.server("start.invalid", reply=lambda head: redirect(end.url("end.invalid", "/there"), 307))
    gate = Gate({"start.invalid": ("127.0.0.1",), "end.invalid": ("127.0.0.1",)})
    async with client(site, gate) as http:
        answer = await exchange(
            http,
            "POST",
            start.url("start.invalid"),
            headers={"authorization": "Bearer x", "X-Other": "y"},
            content=b"",
            max_redirects=1,
        )
    assert answer.body == b"ok"
    assert len(gate.asked) == 2
    assert "Bearer x" in start.heads[0]
    assert "Bearer x" not in end.heads[0]
    assert end.heads[0].startswith("POST /there ")
    assert "X-Other: y" in end.heads[0]


async def test_redirects_end(site: Site) -> None:
    server = await site.server("data.invalid", reply=lambda head: redirect("/again"))
    async with client(site, Gate({"data.invalid": ("127.0.0.1",)})) as http:
        with pytest.raises(PeerBrokeProtocol, match="again and again"):
            await exchange(http, "GET", server.url("data.invalid"), max_redirects=3)
        assert len(server.heads) == 4
        assert (await exchange(http, "GET", server.url("data.invalid"))).status == 302
        assert (await exchange(http, "POST", server.url("data.invalid"), max_redirects=3)).status == 302


@pytest.mark.parametrize("where", ["", "https://[", "https://a b/", "https://data.invalid:x/", "\u00ff://"])
async def test_redirects_to_nowhere(site: Site, where: str) -> None:
    server = await site.server("data.invalid", reply=lambda head: redirect(where))
    async with client(site, Gate({"data.invalid": ("127.0.0.1",)})) as http:
        if where:
            with pytest.raises(UFTPError):
                await exchange(http, "GET", server.url("data.invalid"), max_redirects=1)
        else:
            assert (await exchange(http, "GET", server.url("data.invalid"), max_redirects=1)).status == 302


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b"x" * 4096 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"220 ready\r\n",
        b"\0" * 200_000,
    ],
    ids=["long", "chunks without end", "long header", "many headers", "no http", "zeros"],
)
async def test_answers_that_are_too_much(site: Site, reply: bytes) -> None:
    if b"chunked" in reply:
        reply += (b"1000\r\n" + b"x" * 4096 + b"\r\n") * 32
    server = await site.server("data.invalid", reply=lambda head: reply)
    async with client(site, Gate({"data.invalid": ("127.0.0.1",)})) as http:
        with pytest.raises(UFTPError):
            await exchange(http, "GET", server.url("data.invalid"), seconds=LIMIT_SECONDS)


async def test_a_server_that_says_nothing_costs_bounded_time(site: Site) -> None:
    server = await site.server("data.invalid", reply=lambda head: b"")
    async with client(site, Gate({"data.invalid": ("127.0.0.1",)})) as http:
        with pytest.raises(TimedOut, match=r"no answer within 0\.2 s"):
            await exchange(http, "GET", server.url("data.invalid", "/x?secret=1"), seconds=0.2)


async def test_errors_show_nothing_that_may_be_secret(site: Site) -> None:
    server = await site.server("data.invalid", reply=lambda head: b"junk")
    async with client(site, Gate({"data.invalid": ("127.0.0.1",)})) as http:
        with pytest.raises(UFTPError) as caught:
            await exchange(http, "GET", server.url("data.invalid", "/x?secret=1"), seconds=0.5)
        assert "secret" not in str(caught.value)
        with pytest.raises(Refused) as refused:
            await exchange(http, "GET", server.url("elsewhere.invalid", "/x?secret=1"))
        assert "secret" not in str(refused.value)
