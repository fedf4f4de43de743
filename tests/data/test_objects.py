"""The object server: one object over HTTP, for whoever has its link (EXTENSIONS section 7)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from data_node import Node, Person, StartNode, descriptors, running_node
from object_client import Answer, RawHttp, link, object_url
from raw_ftp import eventually

from uftp.protocol.command_port import Access, Purpose, TransferRequest

PLAIN: dict[str, object] = {"listen": ["127.0.0.1:0"]}
CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module", params=["all-users", "one-user"])
def node(request: pytest.FixtureRequest, people: tuple[Person, Person]) -> Iterator[Node]:
    as_root = request.param == "all-users"
    if as_root and os.geteuid() != 0:
        pytest.skip("changing user needs root")
    limits: dict[str, object] = {"sessions_per_user": 200, "share_sessions_per_user": 200}
    with running_node(people[0], as_root=as_root, limits=limits, objects=PLAIN) as running:
        yield running


@pytest.fixture
def file(node: Node) -> Path:
    return node.file(node.directory() / "data set.csv", CONTENT)


def get(url: str, *lines: str, method: str = "GET") -> Answer:
    with RawHttp(url) as client:
        return client.get(*lines, method=method)


def test_a_file(node: Node, file: Path) -> None:
    reply = get(link(node, file))
    assert (reply.status, reply.body) == (200, CONTENT)
    assert reply.headers["content-type"] == "text/csv"
    assert reply.headers["content-disposition"].startswith('attachment; filename="data set.csv"')
    assert reply.headers["x-content-type-options"] == "nosniff"
    logged = node.wait_log("object", status=200, path=str(file))
    assert (logged["user"], logged["bytes"], logged["result"], logged["peer"]) == (
        node.person.name,
        len(CONTENT),
        "ok",
        "127.0.0.1",
    )


@pytest.mark.parametrize("behind", ["/", "/any.name", "/x/y", "?download=1", "/%2e%2e/%2e%2e/etc/passwd"])
def test_what_stands_behind_the_secret_of_a_file_changes_nothing(node: Node, file: Path, behind: str) -> None:
    assert get(link(node, file) + behind).body == CONTENT


def test_a_head(node: Node, file: Path) -> None:
    url = link(node, file)
    with RawHttp(url) as client:
        head, whole = client.get(method="HEAD"), client.get()
    assert head.headers == {**whole.headers, "date": head.headers["date"]}
    assert head.body == b""
    assert head.headers["content-length"] == str(len(CONTENT))


def test_ranges_and_conditions_on_one_connection(node: Node, file: Path) -> None:
    with RawHttp(link(node, file)) as client:
        whole = client.get()
        tag, changed = whole.headers["etag"], whole.headers["last-modified"]
        part = client.get("Range: bytes=100-199")
        assert (part.status, part.body) == (206, CONTENT[100:200])
        assert part.headers["content-range"] == f"bytes 100-199/{len(CONTENT)}"
        assert client.get("Range: bytes=-5").body == CONTENT[-5:]
        several = client.get("Range: bytes=0-9,20-29")
        assert several.status == 206
        assert CONTENT[0:10] in several.body
        assert CONTENT[20:30] in several.body
        assert client.get(f"Range: bytes={len(CONTENT)}-").status == 416
        assert client.get(f"If-None-Match: {tag}").status == 304
        assert client.get(f"If-Modified-Since: {changed}").status == 304
        assert client.get('If-Match: "other"').status == 412
        assert client.get("Range: bytes=0-0", f"If-Range: {tag}").status == 206
        file.write_bytes(b"other")
        assert client.get("Range: bytes=0-0", f"If-Range: {tag}").body == b"other", "a piece of another content"
        assert client.get(f"If-Match: {tag}").status == 412


def test_requests_ahead_of_their_answers(node: Node, file: Path) -> None:
    with RawHttp(link(node, file)) as client:
        for number in range(50):
            client.send(f"Range: bytes={number}-{number + 9}")
        bodies = [client.answer().body for _ in range(50)]
    assert bodies == [CONTENT[number : number + 10] for number in range(50)]


def test_one_connection_may_ask_for_several_objects(node: Node, file: Path) -> None:
    """Browsers reuse a connection to a server for whatever they want of it next."""
    other = node.file(file.parent / "other", b"another file")
    first, second = link(node, file), link(node, other)
    with RawHttp(first) as client:
        paths = [url.removeprefix(object_url(node)) for url in (first, second, second, first)]
        for path in paths:
            client.send(path=path)  # ahead of the answers, so that some go along with the connection
        bodies = [client.answer().body for _ in paths]
        assert bodies == [CONTENT, b"another file", b"another file", CONTENT]
        assert client.get(path="/o/unknown").status == 404
        assert client.rest() == b""


def test_an_empty_file(node: Node, file: Path) -> None:
    empty = node.file(file.parent / "empty", b"")
    with RawHttp(link(node, empty)) as client:
        assert client.get().body == b""
        assert client.get("Range: bytes=0-").status == 416
        assert client.get().status == 200


def test_a_name_with_anything_in_it(node: Node, file: Path) -> None:
    name = 'a "b"\r\nSet-Cookie: c=d; größe %2F .html'
    path = node.file(file.parent / name, b"<script>")
    reply = get(link(node, path))
    assert reply.body == b"<script>"
    assert "set-cookie" not in reply.headers
    assert reply.headers["content-disposition"].startswith("attachment; ")
    assert "sandbox" in reply.headers["content-security-policy"]


def test_what_is_beneath_a_directory(node: Node) -> None:
    top = node.directory()
    shared = top / "shared"
    (shared / "sub").mkdir(parents=True)
    node.file(shared / "sub" / "ä b", b"inside")
    node.file(top / "sibling", b"outside")
    node.file(top / "shared-too", b"outside")
    (shared / "out").symlink_to(top / "sibling")
    (shared / "up").symlink_to("..")
    (shared / "in").symlink_to("sub")
    os.mkfifo(shared / "pipe")
    url = link(node, shared)
    with RawHttp(url) as client:
        base = client.path
        assert client.get(path=f"{base}/sub/%C3%A4%20b").body == b"inside"
        assert client.get(path=f"{base}/in/%C3%A4%20b").body == b"inside"
        for wrong in (
            "", "/", "/sub", "/none", "/sub/none", "/out", "/up/sibling", "/pipe", "/../sibling", "/%2e%2e/sibling",
            "/..%2fsibling", "/sub/../../sibling", "//etc/passwd", "/%2fetc%2fpasswd", "/sub%00", "/%00", "/sub//x",
        ):  # fmt: skip
            reply = client.get(path=base + wrong)
            assert (reply.status, b"outside" in reply.body) == (404, False), wrong


def test_more_files_than_are_kept_open(node: Node) -> None:
    shared = node.directory()
    for number in range(80):
        node.file(shared / f"{number}", b"%d" % number)
    with RawHttp(link(node, shared)) as client:
        for _ in range(2):
            bodies = [client.get(path=f"{client.path}/{number}").body for number in range(80)]
            assert bodies == [b"%d" % number for number in range(80)]
        if os.geteuid() == 0:
            assert len(descriptors(node.session_of(client))) < 100


def test_a_link_in_place_of_the_object(node: Node) -> None:
    top = node.directory()
    node.file(top / "secret", b"not shared")
    (top / "shared").symlink_to("secret")
    assert get(link(node, top / "shared")).status == 404


def test_a_link_in_place_of_a_directory(node: Node) -> None:
    """Like one in a home to a place with more room: the user's own is followed, and nothing leads on from there."""
    top = node.directory()
    (top / "far" / "away").mkdir(parents=True)
    node.file(top / "far" / "away" / "file", b"inside")
    node.file(top / "far" / "beside", b"outside")
    (top / "far" / "away" / "out").symlink_to("../beside")
    shared = top / "shared"
    shared.symlink_to("far/away")
    os.chown(shared, node.person.uid, node.person.gid, follow_symlinks=False)
    with RawHttp(link(node, shared)) as client:
        assert client.get(path=client.path + "/file").body == b"inside"
        for wrong in ("out", "../beside", "%2e%2e/beside", ""):
            assert client.get(path=f"{client.path}/{wrong}").status == 404


def test_somebody_elses_link_in_place_of_a_directory(two_people: tuple[Person, Person], node: Node) -> None:
    top = node.directory()
    (top / "private").mkdir()
    node.file(top / "private" / "file", b"not shared")
    shared = top / "shared"
    shared.symlink_to("private")
    os.chown(shared, two_people[1].uid, two_people[1].gid, follow_symlinks=False)
    with RawHttp(link(node, shared)) as client:
        assert client.get(path=client.path + "/file").status == 404


def test_files_of_the_user_and_of_nobody_else(two_people: tuple[Person, Person], node: Node) -> None:
    if not node.as_root:
        pytest.skip("serves one user")
    top = node.directory()
    for person, name in zip(two_people, ("mine", "others"), strict=True):
        path = node.file(top / name, name.encode(), mode=0o600)
        os.chown(path, person.uid, person.gid)
    assert get(link(node, top / "mine")).body == b"mine"
    assert get(link(node, top / "others")).status == 404
    assert get(link(node, top / "others", user=two_people[1].name)).body == b"others"


def test_an_object_that_comes_later(node: Node) -> None:
    top = node.directory()
    with RawHttp(link(node, top / "later")) as client:
        assert client.get().status == 404
        node.file(top / "later", b"now")
        assert client.get().body == b"now"


def test_a_file_stays_the_one_that_was_meant(node: Node, file: Path) -> None:
    url = link(node, file)
    assert get(url).body == CONTENT
    other = node.file(file.parent / "other", b"new")
    other.rename(file)
    assert get(url).body == CONTENT, "this link goes on; the next one is for the new file"
    assert get(link(node, file)).body == b"new"


# -- who may --------------------------------------------------------------------------------------------------------


def test_one_answer_for_every_wrong_secret(node: Node, file: Path) -> None:
    base = object_url(node)
    without_http = node.expect(file=f"{file.parent}/", scope=b"x")
    elsewhere = link(node, file, client_ip=(ip_address("192.0.2.7"),))
    answers = {
        get(url).body for url in (f"{base}/o/unknown", f"{base}/o/{without_http}", elsewhere, f"{base}/", base + "/o")
    }
    assert answers == {b"404 Not Found\n"}


def test_a_guess_costs_a_connection(node: Node) -> None:
    with RawHttp(object_url(node) + "/o/guess") as client:
        client.send()
        client.send(path="/o/another")
        assert client.answer().status == 404
        assert client.rest() == b""


def test_a_link_for_clients_from_anywhere(node: Node, file: Path) -> None:
    """A browser may come from another address than the one its auth server saw."""
    url = link(node, file, client_ip=())
    assert get(url).body == CONTENT
    secret = url.rpartition("/")[2]
    assert node.login_fails(secret=secret).startswith(b"500 "), "for FTP no address still means none"


def test_a_login_with_the_same_secret(node: Node, file: Path) -> None:
    url = link(node, file)
    assert get(url).body == CONTENT
    with node.connect() as ftp:
        ftp.log_in(url.rpartition("/")[2])
        assert ftp.retrieve(f"RETR {file.name}")[1] == CONTENT
        ftp.ok("QUIT", 221)
    assert get(url).body == CONTENT, "a login that is over ends no access over HTTP"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"scope": b""}, b"'scope' must name it"),
        ({"scope": b"x", "access": Access.INFO}, b"needs 'access-permissions' of READ"),
    ],
)
def test_requests_that_are_refused(node: Node, fields: dict[str, Any], text: bytes) -> None:
    request = TransferRequest(user=node.person.name, secret="s" * 20, http=True, file=f"{node.root}/", **fields)
    reply = node.request(request)
    assert reply.startswith(b"ERROR::")
    assert text in reply


def test_the_time_of_a_secret(start_node: StartNode) -> None:
    node = start_node(objects={**PLAIN, "idle_seconds": 0.3})
    path = node.file(node.directory() / "big", b"\0" * (64 << 20))
    url = link(node, path, expires=1.0)
    with RawHttp(url) as client, RawHttp(url) as other:
        assert other.get("Range: bytes=0-9").status == 206
        client.send()
        assert b" 200 OK" in client.head()
        # Programs fetch in pieces: while one comes, others may be asked for, also beyond the end.
        assert other.is_closed(), "a connection without a request is closed"
        asked = 0
        while not node.log("request refused") and asked < 3:
            assert get(url, "Range: bytes=0-9").status == 206
            asked += 1
        assert len(client.rest()) == 64 << 20
    node.wait_log("object-server-ended")
    eventually(lambda: get(url).status == 404)


def test_a_secret_that_has_ended_begins_nothing(start_node: StartNode) -> None:
    node = start_node(objects=PLAIN)
    path = node.file(node.directory() / "file", CONTENT)
    url = link(node, path, expires=1.0)
    with RawHttp(url) as client:
        assert client.get().status == 200
        eventually(lambda: client.get().status == 404)
        assert client.rest() == b""
    eventually(lambda: get(url).status == 404)


def test_a_process_that_nobody_asks_ends_and_comes_again(start_node: StartNode) -> None:
    node = start_node(objects={**PLAIN, "idle_seconds": 0.2}, limits={"share_sessions_per_user": 1})
    path = node.file(node.directory() / "file", CONTENT)
    url = link(node, path)
    for number in range(1, 4):
        eventually(lambda: get(url).body == CONTENT)  # 503 until the one before is gone
        eventually(lambda number=number: len(node.log("object-server-ended")) >= number)  # type: ignore[misc]
    assert len(node.log("object server started")) >= 3


def test_connections_of_one_object_are_bounded(start_node: StartNode) -> None:
    node = start_node(objects={**PLAIN, "connections": 2})
    path = node.file(node.directory() / "file", CONTENT)
    url = link(node, path)
    with RawHttp(url) as one, RawHttp(url) as two:
        assert one.get().status == two.get().status == 200
        reply = get(url)
        assert (reply.status, "retry-after" in reply.headers) == (503, True)
        assert one.get().status == 200
    eventually(lambda: get(url).status == 200)


def test_object_servers_count_as_sessions_of_shares(start_node: StartNode) -> None:
    node = start_node(objects=PLAIN, limits={"share_sessions_per_user": 2})
    path = node.file(node.directory() / "file", CONTENT)
    urls = [link(node, path) for _ in range(2)]
    assert [get(url).status for url in urls] == [200, 200]
    request = TransferRequest(
        user=node.person.name, secret="s" * 20, http=True, file=f"{node.root}/", scope=b"x", purpose=Purpose.SHARE
    )
    assert b"Too many active sessions" in node.request(request)
    with node.login() as ftp:
        ftp.ok("NOOP")


def test_a_rate_is_for_all_connections_of_an_object_together(start_node: StartNode) -> None:
    node = start_node(objects=PLAIN)
    content = os.urandom(1_000_000)
    url = link(node, node.file(node.directory() / "file", content), rate_limit=1_000_000)
    began = time.monotonic()
    with RawHttp(url) as one, RawHttp(url) as two:
        one.send("Range: bytes=0-499999")
        two.send("Range: bytes=500000-")
        assert one.answer().body + two.answer().body == content
    # An eighth of a second may be ahead, and a sixteenth in one piece; without a limit it takes milliseconds.
    assert time.monotonic() - began > 0.5


# -- processes --------------------------------------------------------------------------------------------------------


def test_an_object_server_has_no_right_but_the_users(node: Node, file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the kernel shows open files of protected processes to root only")
    url = link(node, file)
    with RawHttp(url) as client:
        client.get()
        pid = node.session_of(client)
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.partition(":\t")[::2] for line in status.splitlines())
        assert fields["Uid"].split() == [str(node.person.uid)] * 4
        assert fields["NoNewPrivs"] == "1"
        assert int(fields["CapPrm"], 16) == int(fields["CapEff"], 16) == 0
        secret = url.rpartition("/")[2].encode()
        assert secret not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_killed_object_server_is_replaced(node: Node, file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the kernel shows open files of protected processes to root only")
    url = link(node, file)
    with RawHttp(url) as client:
        client.get()
        os.kill(node.session_of(client), signal.SIGKILL)
        assert client.rest() == b""
    eventually(lambda: _answers(url))
    assert get(url).body == CONTENT


def test_a_killed_front(start_node: StartNode) -> None:
    node = start_node(objects=PLAIN)
    path = node.file(node.directory() / "big", os.urandom(1 << 20) * 32)
    url = link(node, path)
    with RawHttp(url) as client:
        client.send()
        head = client.head()
        assert b" 200 OK" in head
        os.kill(node.front(), signal.SIGKILL)
        assert client.rest() == path.read_bytes(), "what is under way goes on"
    eventually(lambda: len(node.log("front started")) == 2)
    eventually(lambda: _answers(url))
    assert get(url).status == 404, "secrets are lost with the front"
    assert get(link(node, path)).status == 200
    node.allowed.add("front died")


def _answers(url: str) -> bool:
    try:
        return bool(get(url).status)
    except (OSError, AssertionError):
        return False


def test_a_drain_lets_a_download_end(start_node: StartNode) -> None:
    node = start_node(objects=PLAIN)
    path = node.file(node.directory() / "big", os.urandom(1 << 20) * 32)
    url = link(node, path)
    with RawHttp(url) as idle, RawHttp(url) as client:
        assert idle.get("Range: bytes=0-0").status == 206
        client.send()
        assert b" 200 OK" in client.head()
        node.signal(signal.SIGTERM)
        assert idle.rest() == b"", "a connection without a request is closed"
        assert client.rest() == path.read_bytes()
    assert node.wait() == 0


def test_a_drain_has_an_end(start_node: StartNode) -> None:
    node = start_node(objects=PLAIN, limits={"drain_seconds": 0.5})
    path = node.file(node.directory() / "big", b"\0" * (64 << 20))
    with RawHttp(link(node, path)) as client:
        client.send()
        assert b" 200 OK" in client.head()
        node.signal(signal.SIGTERM)
        assert node.wait() == 0
        assert len(client.rest()) < 64 << 20, "an answer that is cut short is seen to be"
    node.wait_log("object", result="ended by the server")


def test_without_an_object_server(shared_node: Node) -> None:
    request = TransferRequest(user=shared_node.person.name, secret="s" * 20, http=True, scope=b"x", file="/tmp/")
    assert shared_node.request(request) == b"ERROR::Access over HTTP is not supported by this UFTPD server.\n"
