"""The command port's requests and replies: the published exchanges, limits, and nothing acted on that was not said."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uftp.protocol.command_port import (
    MAX_RATE,
    MAX_REQUEST_BYTES,
    Access,
    Cipher,
    PingRequest,
    Purpose,
    Request,
    RequestReader,
    RequestRefused,
    TransferRequest,
    UserInfoRequest,
    encode_request,
    is_peer,
    parse_addresses,
    parse_request,
    plain_address,
)
from uftp.protocol.command_replies import (
    PingReply,
    UserInfoReply,
    encode_ping_reply,
    encode_refusal,
    encode_transfer_reply,
    encode_user_info_reply,
    parse_ping_reply,
    parse_transfer_reply,
    parse_user_info_reply,
)

EXCHANGES: dict[str, dict[str, str]] = {
    exchange["note"].partition(":")[0].partition(";")[0]: exchange
    for exchange in json.loads((Path(__file__).parent.parent / "vectors" / "command-port.json").read_text())[
        "exchanges"
    ]
}
LOOPBACK, OTHER = ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("192.0.2.7")
MINIMAL = "request-type=uftp-transfer-request\nuser=alice\nsecret=s3cret\n"


def _read(data: bytes) -> Request | None:
    fields = RequestReader().receive_data(data)
    return None if fields is None else parse_request(fields)


def _transfer(lines: str) -> TransferRequest:
    request = _read(f"{MINIMAL}{lines}\nEND\n".encode())
    assert isinstance(request, TransferRequest)
    return request


# -- the published exchanges --------------------------------------------------------------------------------------

FULL_REQUEST = TransferRequest(
    user="alice",
    secret="exampleonetimepassw0",
    client_ip=(LOOPBACK, OTHER),
    persistent=True,
    file="/home/alice/base/",
    rate_limit=1048576,
    key=bytes(range(1, 57)),
    algorithm=Cipher.BLOWFISH,
    includes=("*.txt",),
    excludes=("secret*", "*.key"),
    access=Access.WRITE,
)


@pytest.mark.parametrize(
    ("note", "request_"),
    [
        ("ping", PingRequest()),
        ("user info with two accepted keys", UserInfoRequest("alice")),
        ("user info for root is refused", UserInfoRequest("root")),
        ("transfer request with every field", FULL_REQUEST),
        ("minimal transfer request",
         TransferRequest(user="alice", secret="exampleonetimepassw1", client_ip=(LOOPBACK,))),
        # A line that merely starts with END ends nothing here.
        ("a line that merely starts with END also ends the request", None),
    ],
)  # fmt: skip
def test_published_requests(note: str, request_: Request | None) -> None:
    text = EXCHANGES[note]["request"]
    assert _read(text.encode()) == request_
    assert _read(text.replace("\n", "\r\n").encode()) == request_


@pytest.mark.parametrize("note", ["missing 'user'", "unknown request type", "no request type"])
def test_published_refusals(note: str) -> None:
    exchange = EXCHANGES[note]
    with pytest.raises(RequestRefused) as refusal:
        _read(exchange["request"].encode())
    assert encode_refusal(str(refusal.value)) == exchange["reply"].encode()


def test_published_replies_are_read() -> None:
    ping = parse_ping_reply(EXCHANGES["ping"]["reply"].encode())
    assert ping == PingReply(version="3.5.3", listen_port=64434, listen_address="127.0.0.1", max_sessions=16)
    info = parse_user_info_reply(EXCHANGES["user info with two accepted keys"]["reply"].encode())
    assert (info.version, info.user, info.home) == ("3.5.3", "alice", "/home/alice")
    assert info.accepted_keys == ("ssh-ed25519 AAAAC3Nz demo@example", "ssh-rsa AAAAB3 two words")
    for note in ("user info for root is refused", "user info for an unknown user"):
        with pytest.raises(RequestRefused, match=r"^500 No"):
            parse_user_info_reply(EXCHANGES[note]["reply"].encode())


# -- framing ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(min_value=0)))
def test_a_request_is_the_same_however_it_is_cut_and_never_there_before_its_end(cuts: list[int]) -> None:
    data = encode_request(FULL_REQUEST)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    reader = RequestReader()
    results = [reader.receive_data(data[start:end]) for start, end in itertools.pairwise(places) if start < end]
    assert all(result is None for result in results[:-1])
    assert results[-1] is not None
    assert parse_request(results[-1]) == FULL_REQUEST


def test_a_request_cut_off_before_its_end_is_none() -> None:
    # The restricting fields come last.
    data = encode_request(FULL_REQUEST)
    for length in range(len(data)):
        assert RequestReader().receive_data(data[:length]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"user=a\nuser=b\nEND\n",
        b"user=a\0b\nEND\n",
        b"us\x1ber=a\nEND\n",
        b"user=a\rsecret=x\nEND\n",
        "user=a\u2028secret=x\nEND\n".encode(),
        "user=a\x85b\nEND\n".encode(),
        b"user=\xff\nEND\n",
        b"x" * (MAX_REQUEST_BYTES + 1),
        b"x=1\n" * (MAX_REQUEST_BYTES // 4 + 1),
    ],
)
def test_bytes_that_are_refused(data: bytes) -> None:
    with pytest.raises(RequestRefused):
        RequestReader().receive_data(data)


def test_an_endless_request_is_refused_at_its_limit() -> None:
    reader = RequestReader(max_bytes=100)
    for _ in range(100):
        assert reader.receive_data(b"x") is None
    with pytest.raises(RequestRefused, match="larger than 100 bytes"):
        reader.receive_data(b"x")


def test_quirks_of_the_framing_that_are_kept() -> None:
    fields = RequestReader().receive_data(b" a = b \n\nno equals\nc=d=e\t\r\n=f\nEND \nignored\0\xff")
    assert fields == {"a ": " b", "c": "d=e", "": "f"}


# -- fields -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("persistent=TRUE", {"persistent": True}),
        ("persistent=yes", {"persistent": False}),
        ("compress=True", {"compress": True}),
        ("streams=4", {"streams": 4}),
        ("streams=", {"streams": 1}),
        ("rateLimit=0", {"rate_limit": 0}),
        ("group=NONE", {"groups": ()}),
        ("group=NONE:a", {"groups": ()}),
        ("group=a:DEFAULT_GID: b", {"groups": ("a", "DEFAULT_GID", "b")}),
        ("includes=a:*.b::", {"includes": ("a", "*.b")}),
        ("access-permissions=NONE", {"access": Access.NONE}),
        ("access-permissions=", {"access": Access.FULL}),
        ("purpose=share", {"purpose": Purpose.SHARE}),
        ("scope=a%20b//./c", {"scope": b"a b/c"}),
        ("expires=10", {"expires": 10.0}),
        ("max-logins=3", {"max_logins": 3}),
        ("http=true", {"http": True}),
        ("peers=d.example.org:64434,[2001:db8::1]:21,,", {"peers": ("d.example.org:64434", "[2001:db8::1]:21")}),
        ("peers=d%C3%A4ta:1", {"peers": ("d\u00e4ta:1",)}),
        ("peers=", {"peers": ()}),
        ("append=true\noffset=7\nsend=x\nunknown=1", {"append": True}),
        ("request-id=" + "x" * 200, {"request_id": "x" * 128}),
        ("client-ip=192.0.2.7, ::ffff:192.0.2.7 0:0:0:0:0:0:0:1", {"client_ip": (OTHER, ipaddress.ip_address("::1"))}),
        ("key=AQIDBA==", {"key": b"\1\2\3\4", "algorithm": Cipher.BLOWFISH}),
        ("key=AQIDBA", {"key": b"\1\2\3\4", "algorithm": Cipher.BLOWFISH}),
        ("key=" + base64.b64encode(b"\xff" * 48).decode(), {"key": b"\xff" * 48, "algorithm": Cipher.AES}),
        ("key=" + base64.urlsafe_b64encode(b"\xff" * 32).decode(), {"key": b"\xff" * 32, "algorithm": Cipher.AES}),
        ("key=" + base64.b64encode(b"k" * 48).decode() + "\nalgo=BLOWFISH",
         {"key": b"k" * 48, "algorithm": Cipher.BLOWFISH}),
    ],
)  # fmt: skip
def test_fields(line: str, expected: dict[str, object]) -> None:
    request = _transfer(line)
    assert {name: getattr(request, name) for name in expected} == expected


@pytest.mark.parametrize(
    "line",
    ["access-permissions=full", "access-permissions=ALL", "streams=0", "streams=x", "streams=1_0", "streams=\u0661",
     "rateLimit=-1", "rateLimit=-", "rateLimit=" + "9" * 5000, "expires=0", "max-logins=0", "purpose=other",
     "client-ip=localhost", "client-ip=127.0.0.1,300.0.0.1", "key=x", "key=****", "key=\u00e4", "key=AQI=",
     "key=AQIDBA==\nalgo=AES", "key=AQIDBA==\nalgo=aes", "scope=/etc", "scope=a/../b", "scope=%2e%2e", "scope=a%00",
     "scope=", "scope=.", "scope=%2e/", "scope=//", "peers=host", "peers=host:", "peers=:1", "peers=a b:1",
     "peers=a%0Ab:1", "peers=a%2Cb:1", "peers=::1:21", "peers=[a]b:1", "peers=host:123456",
     "peers=" + ",".join(["host:1"] * 101)],
)  # fmt: skip
def test_values_that_are_refused(line: str) -> None:
    with pytest.raises(RequestRefused):
        _transfer(line)


@pytest.mark.parametrize(
    "text",
    ["user=alice\nsecret=x y", "user=alice\nsecret=\u00e4", "user=alice\nsecret=anonymous", "user=alice\nsecret=",
     "user=alice\nsecret=" + "x" * 513, "user=\nsecret=x", "user=-rf\nsecret=x", "user=a/b\nsecret=x",
     "user=a:b\nsecret=x", "user=" + "a" * 257 + "\nsecret=x", "secret=x"],
)  # fmt: skip
def test_accounts_and_secrets_that_are_refused(text: str) -> None:
    with pytest.raises(RequestRefused):
        _read(f"request-type=uftp-transfer-request\n{text}\nEND\n".encode())


def test_secrets_and_keys_do_not_show_in_logs() -> None:
    shown = repr(replace(FULL_REQUEST, secret="s3cret", key=b"k3y!"))
    assert "s3cret" not in shown
    assert "k3y!" not in shown


# -- what one end writes the other reads --------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20).map(lambda t: t.rstrip(" "))
word = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)
items = st.lists(word, max_size=3).map(tuple).filter(lambda found: found[:1] != ("NONE",))
# An upstream node gets IPv4 addresses in two forms, which are one here; so plain ones, each once, come back.
addresses = st.lists(st.ip_addresses().map(plain_address), max_size=3, unique=True).map(tuple)
keys = st.one_of(
    st.tuples(st.none(), st.none()),
    st.tuples(st.binary(min_size=4, max_size=56), st.just(Cipher.BLOWFISH)),
    st.tuples(st.sampled_from([32, 40, 48]).flatmap(lambda n: st.binary(min_size=n, max_size=n)), st.just(Cipher.AES)),
)
transfers = st.builds(
    lambda key, **fields: TransferRequest(key=key[0], algorithm=key[1], **fields),
    key=keys,
    user=word,
    secret=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1).filter("anonymous".__ne__),
    client_ip=addresses,
    persistent=st.booleans(),
    file=text,
    append=st.booleans(),
    streams=st.integers(1, 100),
    compress=st.booleans(),
    groups=items,
    rate_limit=st.integers(0, MAX_RATE),
    includes=items,
    excludes=items,
    access=st.sampled_from(Access),
    request_id=text,
    purpose=st.sampled_from(Purpose),
    scope=st.lists(
        st.binary(min_size=1).filter(lambda part: part not in (b".", b"..") and not set(part) & set(b"\0/"))
    ).map(b"/".join),
    expires=st.none() | st.integers(1, 10**6).map(float),
    max_logins=st.none() | st.integers(1, 1000),
    http=st.booleans(),
    peers=st.lists(
        st.one_of(
            st.from_regex(r"[a-z0-9.-]{1,20}:[0-9]{1,5}", fullmatch=True),
            st.ip_addresses(v=6).map(lambda address: f"[{plain_address(address)}]:21"),
            st.from_regex(r"[\w%;=+]{1,20}:[0-9]{1,5}", fullmatch=True),
        ).filter(is_peer),
        max_size=5,
    ).map(tuple),
)


@pytest.mark.slow
@given(transfers | st.builds(UserInfoRequest, word) | st.just(PingRequest()))
def test_requests_are_read_back(request: Request) -> None:
    assert _read(encode_request(request, extensions=True)) == request


def test_the_length_of_a_key_decides_on_both_ends() -> None:
    for length, cipher in ((48, Cipher.AES), (56, Cipher.BLOWFISH)):
        sent = replace(FULL_REQUEST, key=b"k" * length, algorithm=None)
        received = _read(encode_request(sent))
        assert received == replace(sent, algorithm=cipher)


def test_fields_are_written_in_the_order_of_the_reference_auth_server() -> None:
    lines = encode_request(replace(FULL_REQUEST, groups=("users",))).decode().splitlines()
    assert [line.partition("=")[0] for line in lines] == [
        "request-type", "client-ip", "user", "secret", "persistent", "file", "append", "streams", "compress", "group",
        "rateLimit", "key", "algo", "includes", "excludes", "access-permissions", "END",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"file": "a\nuser=root"}, {"user": "a\rb"}, {"file": "/a\0"}, {"file": "/a/\udcff/"}, {"file": "/a /b "},
     {"includes": ("a:b",)}, {"includes": ("",)}, {"excludes": ("a", "")}, {"includes": ("a ",)},
     {"groups": ("a:b",)}, {"request_id": "x\ny=z"}],
)  # fmt: skip
def test_a_value_that_would_arrive_as_another_is_not_sent(change: dict[str, str]) -> None:
    with pytest.raises(RequestRefused):
        encode_request(replace(FULL_REQUEST, **change), extensions=True)  # type: ignore[arg-type]


def test_a_limit_no_network_reaches_is_cut_to_what_the_kernel_takes() -> None:
    assert _transfer("rateLimit=99999999999999999999").rate_limit == MAX_RATE


def test_a_zone_is_no_part_of_an_address() -> None:
    assert plain_address(ipaddress.ip_address("fe80::1%eth0")) == ipaddress.ip_address("fe80::1")
    assert parse_addresses("[fe80::1%eth0],fe80::1") == (ipaddress.ip_address("fe80::1"),)


@pytest.mark.parametrize("change", [{"scope": b"a"}, {"http": True}, {"max_logins": 1}])
def test_a_restriction_is_not_sent_to_a_node_that_would_ignore_it(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="does not know"):
        encode_request(replace(FULL_REQUEST, **change))  # type: ignore[arg-type]


@settings(max_examples=50)
@given(
    st.builds(
        PingReply,
        version=word,
        listen_port=st.integers(0, 65535),
        listen_address=st.ip_addresses().map(str),
        max_sessions=st.integers(0, 999_999),
        advertise_address=st.just("") | st.ip_addresses().map(str),
        objects=st.sampled_from(["", "https://data1.example.org:9443", "http://[2001:db8::1]:80"]),
        features=st.lists(word).map(tuple),
    )
)
def test_ping_replies_are_read_back(sent: PingReply) -> None:
    assert parse_ping_reply(encode_ping_reply(sent)) == sent


@given(
    st.builds(
        UserInfoReply,
        version=word,
        user=word,
        home=text.map(str.strip),
        accepted_keys=st.lists(text.map(str.strip).filter(bool)).map(tuple),
        status=text.map(str.strip),
    )
)
def test_user_info_replies_are_read_back(sent: UserInfoReply) -> None:
    assert parse_user_info_reply(encode_user_info_reply(sent)) == sent


def test_a_reply_is_one_line_a_fact_whatever_a_key_file_holds() -> None:
    sent = encode_user_info_reply(UserInfoReply(user="a", accepted_keys=("ssh-rsa A\nHome: /root", "b\u2028c")))
    assert parse_user_info_reply(sent).accepted_keys == ("ssh-rsa A?Home: /root", "b?c")
    assert encode_refusal("no\nOK::1") == b"ERROR::no?OK::1\n"


@given(st.integers(1, 65535))
def test_transfer_replies_are_read_back(port: int) -> None:
    assert parse_transfer_reply(encode_transfer_reply(port)) == port


@pytest.mark.parametrize(
    ("data", "port"), [(b"OK::64434\n", 64434), (b"OK :: 1 \r\n", 1), (b"OK whatever::21::more", 21)]
)
def test_transfer_replies_of_other_nodes(data: bytes, port: int) -> None:
    assert parse_transfer_reply(data) == port


@pytest.mark.parametrize(
    "data", [b"", b"OK", b"OK::", b"OK::x", b"OK::0", b"OK::65536", b"OK::" + b"9" * 5000, b"ERROR::no", b"500::x"]
)
def test_transfer_replies_that_grant_nothing(data: bytes) -> None:
    with pytest.raises(RequestRefused):
        parse_transfer_reply(data)


# -- junk ---------------------------------------------------------------------------------------------------------

fragments = [b"user=", b"secret=", b"request-type=uftp-transfer-request", b"\n", b"END", b"\r", b"key=", b"a", b"=",
             b"\xff", b"client-ip=", b"1", b":", b"scope=%", b"streams=", b"expires=", b"group="]  # fmt: skip


@given(st.binary() | st.lists(st.sampled_from(fragments)).map(b"".join))
def test_any_junk_is_a_request_or_refused(data: bytes) -> None:
    for whole in (data, MINIMAL.encode() + data + b"\nEND\n"):
        with contextlib.suppress(RequestRefused):
            _read(whole)


@given(st.binary() | st.lists(st.sampled_from([b"OK", b"::", b"User:", b"\n", b"1", b"Accepted key"])).map(b"".join))
def test_any_junk_is_a_reply_or_refused(data: bytes) -> None:
    parse_ping_reply(data)
    with contextlib.suppress(RequestRefused):
        parse_transfer_reply(data)
    with contextlib.suppress(RequestRefused):
        parse_user_info_reply(data)


@given(st.text())
def test_any_junk_is_addresses_or_refused(junk: str) -> None:
    with contextlib.suppress(RequestRefused):
        parse_addresses(junk)


def test_the_object_server_of_a_node_is_no_feature_that_clients_look_for() -> None:
    reply = PingReply(version="1", features=("UTC", "MODE U"), objects="https://data1.example.org:9443")
    encoded = encode_ping_reply(reply)
    assert b"Features: UTC; MODE U; OBJECTS https://data1.example.org:9443\n" in encoded
    assert parse_ping_reply(encoded) == reply
    assert parse_ping_reply(encode_ping_reply(PingReply(objects="http://h:1"))).objects == "http://h:1"
