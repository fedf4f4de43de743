"""The REST interface over HTTPS, with a data node that is only a command port."""

from __future__ import annotations

import string

import pytest
from fake_node import FakeNode
from running_auth import DEMO, StartAuth

from uftp.protocol.command_port import Cipher
from uftp.protocol.command_replies import PingReply


async def test_a_session_is_granted(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        reply = await auth.post(body={"serverPath": "/work/data"})
        assert reply.status_code == 200
        result = reply.json()
        secret = result.pop("secret")
        assert result == {"success": True, "reason": "", "serverHost": "127.0.0.1", "serverPort": 64434}
        assert len(secret) == 32
        assert set(secret) <= set(string.ascii_letters + string.digits)
        [request] = auth.node.transfers
        assert request.secret == secret
        assert (request.user, request.groups, request.file) == ("user1", ("users",), "/work/data/")
        assert [str(a) for a in request.client_ip] == ["127.0.0.1"]
        # No extension fields: this node lists no features.
        assert "request-id" not in auth.node.fields[-1]
        assert auth.node.fields[-1]["client-ip"] == "127.0.0.1,::ffff:127.0.0.1"


async def test_features_are_passed_on_and_the_request_gets_its_number(start_auth: StartAuth) -> None:
    node = FakeNode(ping=PingReply(version="1", features=("MODE U", "UTC")))
    async with start_auth(node) as auth:
        reply = await auth.post()
        assert reply.json()["features"] == ["MODE U", "UTC"]
        assert node.transfers[0].request_id == reply.headers["x-request-id"]


async def test_all_fields_reach_the_node(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        body = {
            "persistent": "true",
            "serverPath": "/work/___UFTP___MULTI___FILE___SESSION___MODE___",
            "compress": "TRUE",
            "streamCount": "2",
            "encryptionKey": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
            "encryptionAlgorithm": "aes",
            "client": "192.0.2.10, [2001:DB8:0::1] ::ffff:192.0.2.11",
            "group": "hpc1",
            "unknown": [1],
        }
        assert (await auth.post(body=body)).status_code == 200
        [request] = auth.node.transfers
        assert request.persistent
        assert request.compress
        assert request.streams == 2
        assert request.file == "/work/"
        assert request.key == bytes(range(32))
        assert request.algorithm is Cipher.AES
        assert request.groups == ("hpc1",)
        assert [str(a) for a in request.client_ip] == ["192.0.2.10", "2001:db8::1", "192.0.2.11"]


async def test_info(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        await auth.post()
        for url in ("/rest/auth", "/rest/auth/"):
            reply = await auth.client.get(auth.url + url, auth=("demouser", "test123"))
            assert reply.status_code == 200
        info = reply.json()
        assert set(info) == {"TEST", "client", "server"}
        assert info["TEST"] == {
            "href": f"{auth.url}/rest/auth/TEST",
            "description": "Test storage",
            "status": "OK",
            "uftpdServerVersion": "3.5.3",
            "sessionLimit": 16,
            "uid": "user1",
            "gid": "users",
            "availableGroups": ["users", "hpc1", "project1"],
            "dataSharing": {"enabled": False},
        }
        assert info["client"] == {
            "dn": DEMO,
            "xlogin": {
                "UID": "user1",
                "availableUIDs": ["user1", "user2"],
                "group": "users",
                "availableGroups": ["users", "hpc1", "project1"],
            },
            "role": {"selected": "user", "availableRoles": ["user"]},
            "authenticationMethod": "PASSWORD_FILE",
        }
        assert info["server"]["externalConnections"] == {"UFTPD server 'TEST'": "OK"}
        assert info["server"]["credential"]["dn"].startswith("CN=AUTH")


async def test_anonymous_callers_learn_little_and_get_no_session(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        await auth.post()
        info = (await auth.info(auth=None)).json()
        assert info["client"] == {"dn": "CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN", "role": {"selected": "anonymous"}}
        assert set(info["server"]) == {"siteName", "currentTime"}
        assert info["TEST"]["uftpdServerVersion"] == "n/a"
        assert "uid" not in info["TEST"]
        assert (await auth.post(auth=None)).status_code == 403


async def test_anonymous_can_be_switched_off(start_auth: StartAuth) -> None:
    async with start_auth(login="anonymous = false") as auth:
        assert (await auth.info(auth=None)).status_code == 403


@pytest.mark.parametrize(
    ("user", "password", "status"),
    [
        ("demouser", "test123", 200),
        ("legacy", "test123", 200),
        ("üser", "pässwörd", 200),
        ("demouser", "wrong", 403),
        ("demouser", "None", 403),
        ("nobody", "test123", 403),
        ("noaccount", "test123", 401),
        ("banned", "test123", 403),
        ("unmapped", "test123", 403),
    ],
)
async def test_logins(start_auth: StartAuth, user: str, password: str, status: int) -> None:
    async with start_auth() as auth:
        reply = await auth.post(auth=(user.encode(), password.encode()))
        assert reply.status_code == status
        if status != 200:
            assert set(reply.json()) == {"errorMessage", "status"}
            assert reply.json()["status"] == status
            assert auth.node.transfers == []


@pytest.mark.parametrize(
    "header",
    ["", "Basic", "Basic !!!", "Basic dXNlcg==", "Bearer abc", "Digest x", "Basic //8=", "Basic dXNlcjo="],
)
async def test_broken_credentials_are_no_anonymous_ones(start_auth: StartAuth, header: str) -> None:
    async with start_auth() as auth:
        reply = await auth.info(auth=None, headers={"Authorization": header})
        assert reply.status_code == 403
        assert reply.json()["status"] == 403


async def test_two_authorization_headers_are_refused(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        headers = [("Authorization", "Basic ZGVtb3VzZXI6dGVzdDEyMw==")] * 2
        assert (await auth.info(auth=None, headers=headers)).status_code == 403
        assert (await auth.info(auth=None, headers=headers[:1])).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {}, 404),
        ("GET", "/rest", {}, 404),
        ("GET", "/rest/other", {}, 404),
        ("GET", "/rest/auth/TEST", {}, 405),
        ("PUT", "/rest/auth", {}, 405),
        ("DELETE", "/rest/auth/TEST", {}, 405),
        ("POST", "/rest/auth/TEST/x", {}, 404),
        ("POST", "/rest/auth/NONE", {"Content-Type": "application/json"}, 404),
        ("POST", "/rest/auth/TEST-2", {"Content-Type": "application/json"}, 404),
        ("POST", "/rest/auth/TEST-0", {"Content-Type": "application/json"}, 404),
        ("POST", "/rest/auth/TEST--1", {"Content-Type": "application/json"}, 404),
        ("POST", "/rest/auth/TEST", {"Content-Type": "text/plain"}, 415),
        ("POST", "/rest/auth/TEST", {}, 415),
        ("POST", "/rest/auth/TEST", {"Content-Type": "application/json", "Accept": "text/html"}, 406),
        ("GET", "/rest/auth", {"Accept": "text/html, text/plain"}, 406),
        ("GET", "/rest/auth", {"Accept": "application/json;q=0"}, 406),
        ("GET", "/rest/auth", {"Accept": "text/html, */*;q=0.1"}, 200),
        ("GET", "/rest/auth", {"Content-Type": "application/json"}, 200),
        ("POST", "/rest/auth/TEST-1", {"Content-Type": "application/json; charset=utf-8"}, 200),
    ],
)
async def test_methods_and_types(
    start_auth: StartAuth, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    async with start_auth() as auth:
        content = b'{"serverPath": ""}' if method != "GET" else None
        reply = await auth.client.request(
            method, auth.url + path, headers=headers, content=content, auth=("demouser", "test123")
        )
        assert reply.status_code == status
        assert reply.headers["content-type"] == "application/json"
        if status != 200:
            assert reply.json()["status"] == status
            assert isinstance(reply.json()["errorMessage"], str)


async def test_head_has_no_body(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        reply = await auth.client.head(f"{auth.url}/rest/auth", auth=("demouser", "test123"))
        assert reply.status_code == 200
        assert reply.content == b""
        assert (await auth.info()).status_code == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "serverPath"),
        ({"serverPath": None}, "serverPath"),
        ({"serverPath": []}, "serverPath"),
        ({"serverPath": "/x\nuser=root"}, "serverPath: control characters"),
        ({"serverPath": "/x\u0085"}, "serverPath: control characters"),
        ({"serverPath": "", "group": "a\rb"}, "group: control characters"),
        ({"serverPath": "", "group": "wheel"}, "Requested group <wheel> is not available"),
        ({"serverPath": "", "client": ""}, "client: none"),
        ({"serverPath": "", "client": "::1%x\n"}, "client: control characters"),
        ({"serverPath": "", "compress": 1}, "compress"),
        ({"serverPath": "", "streamCount": ""}, "streamCount"),
        ({"serverPath": "", "streamCount": 0}, "streamCount"),
        ({"serverPath": "", "streamCount": 1.5}, "streamCount"),
        ({"serverPath": "", "encryptionKey": "!"}, "encryptionKey"),
        ({"serverPath": "", "encryptionKey": "AAAA"}, "encryptionKey: Blowfish"),
        ({"serverPath": "", "encryptionKey": "AAAAAAAA", "encryptionAlgorithm": "DES"}, "encryptionAlgorithm"),
        ([], "object"),
    ],
)
async def test_malformed_requests_are_400(start_auth: StartAuth, body: object, words: str) -> None:
    async with start_auth() as auth:
        reply = await auth.post(body=body)
        assert reply.status_code == 400
        assert words in reply.json()["errorMessage"]
        assert auth.node.transfers == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"serverPath":""} x', b"\xff", b'{"serverPath":NaN}', b"[" * 60000])
async def test_bodies_that_are_no_json(start_auth: StartAuth, content: bytes) -> None:
    async with start_auth() as auth:
        reply = await auth.client.post(
            f"{auth.url}/rest/auth/TEST",
            content=content,
            headers={"Content-Type": "application/json"},
            auth=("demouser", "test123"),
        )
        assert reply.status_code == 400
        assert "JSON" in reply.json()["errorMessage"]


async def test_a_large_body_is_refused(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        reply = await auth.post(body={"serverPath": "", "x": "y" * 70000})
        assert reply.status_code == 413
        assert (await auth.post()).status_code == 200


async def test_a_refusal_of_the_node_is_shown(start_auth: StartAuth) -> None:
    node = FakeNode(refusal="Too many active sessions for 'user1' - server limit is 16")
    async with start_auth(node) as auth:
        reply = await auth.post()
        assert reply.status_code == 500
        assert reply.json() == {
            "errorMessage": "UFTPD server 'TEST': ERROR::Too many active sessions for 'user1' - server limit is 16",
            "status": 500,
        }


async def test_preferences_select_among_the_users_own(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        headers = {"X-UNICORE-User-Preferences": "uid:user2,group:hpc1,colour:red"}
        assert (await auth.post(headers=headers)).status_code == 200
        assert (auth.node.transfers[0].user, auth.node.transfers[0].groups) == ("user2", ("hpc1",))
        for wrong in ("uid:root", "uid", "role:admin", "group:wheel", "supgids:users+wheel"):
            headers = {"X-UNICORE-User-Preferences": wrong}
            assert (await auth.post(headers=headers)).status_code == 403


async def test_overrides_win_over_preferences_and_requests(start_auth: StartAuth) -> None:
    mapping = {
        "o=unicore": {"role": "admin"},
        "cn=demo user,.*": {
            "Role": "user",
            "XLOGIN": "user1",
            "group": ["users", "hpc1"],
            "uftpd.TEST.xlogin": ["user8", "user9"],
            "uftpd.TEST.group": "hpc2",
            "uftpd.TEST.rateLimit": "200 megabytes",
            "uftpd.TEST.includes": "/work/*:/tmp/*",
            "uftpd.TEST.excludes": "/work/private/*",
        },
    }
    async with start_auth(mapping=mapping, extra="", server="") as auth:
        (auth.directory / "map.json").write_text("{}")
        assert (await auth.post()).status_code == 403
    del mapping["o=unicore"]
    mapping[DEMO] = mapping.pop("cn=demo user,.*")
    async with start_auth(mapping=mapping) as auth:
        assert (await auth.post(body={"serverPath": "", "group": "hpc1"})).status_code == 200
        [request] = auth.node.transfers
        assert (request.user, request.groups) == ("user9", ("hpc2",))
        assert request.rate_limit == 200 * 1024 * 1024
        assert request.includes == ("/work/*", "/tmp/*")
        assert request.excludes == ("/work/private/*",)
        info = (await auth.info()).json()["TEST"]
        assert info["rateLimit"] == 200 * 1024 * 1024
        assert (info["uid"], info["gid"], info["allowed"]) == ("user9", "hpc2", "/work/*:/tmp/*")


async def test_only_trusted_proxies_say_who_the_client_is(start_auth: StartAuth) -> None:
    headers = {"X-UNICORE-Consignor-IP": "192.0.2.7"}
    async with start_auth() as auth:
        await auth.post(headers=headers)
        assert str(auth.node.transfers[0].client_ip[0]) == "127.0.0.1"
    async with start_auth(server='trusted_proxies = ["127.0.0.0/8"]') as auth:
        await auth.post(headers=headers)
        assert str(auth.node.transfers[0].client_ip[0]) == "192.0.2.7"


async def test_naming_other_addresses_can_be_forbidden(start_auth: StartAuth) -> None:
    async with start_auth(extra="[sessions]\nallow_client_addresses = false") as auth:
        assert (await auth.post(body={"serverPath": "", "client": "192.0.2.1"})).status_code == 400
        assert (await auth.post()).status_code == 200


async def test_a_bad_rate_limit_breaks_sessions_there_not_the_info(start_auth: StartAuth) -> None:
    mapping = {DEMO: {"role": "user", "xlogin": "user1", "uftpd.TEST.rateLimit": "1.5G"}}
    async with start_auth(mapping=mapping) as auth:
        reply = await auth.post()
        assert reply.status_code == 500
        assert "rate limit" in reply.json()["errorMessage"]
        assert "rateLimit" not in (await auth.info()).json()["TEST"]
