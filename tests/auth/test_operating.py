"""Running the auth server: metrics, health, request ids, administration, and other settings without a restart."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from fake_node import FakeNode
from running_auth import DEMO, Pki, Running, StartAuth

from uftp.protocol.command_replies import PingReply
from uftpd.auth import reload as reload_module
from uftpd.auth.security_sessions import HEADER
from uftpd.config.auth import AuthConfig, checked
from uftpd.config.toml import load

MONITORED = '[monitoring]\nlisten = ["127.0.0.1:0"]\n'
ADMIN = ("admin", "test123")


async def _metrics(auth: Running) -> dict[str, float]:
    reply = await auth.client.get(f"{auth.monitoring}/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain; version=")
    lines = [line for line in reply.text.splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


async def test_metrics(start_auth: StartAuth) -> None:
    async with start_auth(extra=MONITORED) as auth:
        first = await auth.post()
        await auth.post(auth=("demouser", "wrong"))
        await auth.post(auth=None, headers={HEADER: first.headers[HEADER]})
        await auth.post(auth=None, headers={HEADER: "junk"})
        await auth.info(auth=None)
        await auth.client.request("BREW", f"{auth.url}/made-up/{'x' * 50}")
        await auth.info(headers={"Authorization": "Strange x"}, auth=None)
        found = await _metrics(auth)
        post = 'uftpd_auth_requests_total{method="POST",resource="/rest/auth/{server}",status="%d"}'
        assert found[post % 200] == 2
        assert found[post % 403] == 1
        assert found[post % 432] == 1
        assert found['uftpd_auth_requests_total{method="other",resource="none",status="404"}'] == 1
        assert found['uftpd_auth_logins_total{method="PASSWORD_FILE",result="accepted"}'] == 1
        assert found['uftpd_auth_logins_total{method="basic",result="refused"}'] == 1
        assert found['uftpd_auth_logins_total{method="other",result="refused"}'] == 1
        assert found['uftpd_auth_logins_total{method="anonymous",result="accepted"}'] == 1
        assert found['uftpd_auth_security_sessions_total{event="used"}'] == 1
        assert found['uftpd_auth_security_sessions_total{event="unknown"}'] == 1
        assert found['uftpd_auth_sessions_total{result="granted",server="TEST"}'] == 2
        assert found['uftpd_auth_node_up{instance="1",server="TEST"}'] == 1
        assert found['uftpd_auth_store_seconds_count{kind="write"}'] >= 1
        assert found["uftpd_auth_store_connections_in_use"] == 0
        assert found["uftpd_auth_requests_in_flight"] == 0
        assert found["uftpd_auth_certificate_expires_timestamp_seconds"] > 1.7e9
        assert not any("made-up" in name or "Strange" in name for name in found)


async def test_metrics_are_not_for_the_world(start_auth: StartAuth) -> None:
    async with start_auth(extra=MONITORED) as auth:
        assert (await auth.client.get(f"{auth.url}/metrics", auth=ADMIN)).status_code == 404
        assert (await auth.client.get(f"{auth.monitoring}/rest/auth")).status_code == 404
        assert (await auth.client.post(f"{auth.monitoring}/metrics")).status_code == 405


async def test_readiness_says_what_is_missing_to_the_site_only(start_auth: StartAuth) -> None:
    node = FakeNode()
    async with start_auth(node, extra=MONITORED) as auth:
        await auth.post()
        assert (await auth.client.get(f"{auth.url}/readyz")).json() == {"status": "ready"}
        assert (await auth.client.get(f"{auth.monitoring}/readyz")).json() == {"status": "ready"}
        [instance] = auth.running.services.registry.servers["TEST"].instances
        instance.up = False
        with trio.fail_after(10):
            # An answer of this very second may be given again.
            await _until(lambda: _status(auth, "/readyz"), 503)
        reply = await auth.client.get(f"{auth.url}/readyz")
        assert reply.status_code == 503
        assert "TEST" not in reply.text
        told = await auth.client.get(f"{auth.monitoring}/readyz")
        assert told.status_code == 503
        assert told.json()["missing"] == ["no data node of TEST answers"]
        for place in (auth.url, auth.monitoring):
            assert (await auth.client.get(f"{place}/healthz")).json() == {"status": "ok"}


async def _status(auth: Running, path: str) -> int:
    return (await auth.client.get(auth.url + path)).status_code


async def _until(ask: Callable[[], Awaitable[int]], wanted: int) -> None:
    while True:
        if await ask() == wanted:
            return
        await trio.sleep(0.05)


async def test_a_client_may_name_its_request(start_auth: StartAuth) -> None:
    node = FakeNode(ping=PingReply(version="1", features=("MODE U",)))
    async with start_auth(node) as auth:
        reply = await auth.post(headers={"X-Request-Id": "job-17.a_B"})
        assert reply.headers["x-request-id"] == "job-17.a_B"
        assert node.transfers[-1].request_id == "job-17.a_B"
        for wrong in ("", "a b", "x" * 65, "a\tb", "-a", "ä", "a=b", '"'):
            reply = await auth.post(headers={"X-Request-Id": wrong.encode()})
            assert re.fullmatch("[0-9a-f]{16}", reply.headers["x-request-id"])
        twice = await auth.info(headers=[("X-Request-Id", "a"), ("X-Request-Id", "b")])
        assert re.fullmatch("[0-9a-f]{16}", twice.headers["x-request-id"])


async def test_every_reply_has_the_security_headers(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        replies = [
            await auth.info(),
            await auth.post(auth=None),
            await auth.client.get(f"{auth.url}/nowhere"),
            await auth.client.get(f"{auth.url}/openapi.json"),
            await auth.post(headers={HEADER: "x"}),
        ]
        for reply in replies:
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in reply.headers["content-security-policy"]
            assert reply.headers["referrer-policy"] == "no-referrer"
            assert reply.headers["cache-control"] == "no-store"
            assert "server" not in reply.headers
            assert "www-authenticate" not in reply.headers


# -- administration ---------------------------------------------------------------------------------------------------


async def _act(auth: Running, action: str, **parameters: object) -> dict[str, object]:
    reply = await auth.client.post(f"{auth.url}/rest/admin/actions/{action}", json=parameters, auth=ADMIN)
    assert reply.status_code == 200
    assert set(reply.json()) == {"success", "message", "results"}
    found: dict[str, object] = reply.json()
    return found


async def test_administration_is_for_administrators(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        nobodies: list[tuple[str | bytes, str | bytes] | None] = [None]
        nobodies += [(name, "test123") for name in ("demouser", "banned", "unmapped")]
        for login in nobodies:
            assert (await auth.client.get(f"{auth.url}/rest/admin", auth=login)).status_code == 403
            url = f"{auth.url}/rest/admin/actions/EndSecuritySessions"
            assert (await auth.client.request("POST", url, json={"subject": DEMO}, auth=login)).status_code == 403
        overview = (await auth.client.get(f"{auth.url}/rest/admin", auth=ADMIN)).json()
        assert overview["connectionStatus"] == {"UFTPD server 'TEST'": "OK"}
        assert overview["subSystemsStatus"] == {"Store": "OK"}
        for name in ("ShowUserInfo", "IssueAPIToken", "RevokeToken", "EndSecuritySessions"):
            link = overview["_links"][f"action:{name}"]
            assert link["href"] == f"{auth.url}/rest/admin/actions/{name}"
            assert link["description"]


async def test_a_token_is_issued_and_revoked(start_auth: StartAuth) -> None:
    async with start_auth(extra='[store]\npath = "store.sqlite"') as auth:
        made = await _act(auth, "IssueAPIToken", subject=DEMO, lifetime=600)
        assert made["success"] is True
        assert isinstance(made["results"], dict)
        bearer = {"Authorization": f"Bearer {made['results']['token']}"}
        info = await auth.info(auth=None, headers=bearer)
        assert info.json()["client"]["dn"] == DEMO
        shown = {HEADER: info.headers[HEADER]}
        assert (await auth.post(auth=None, headers=shown)).status_code == 200
        revoked = await _act(auth, "RevokeToken", token=made["results"]["token"])
        assert revoked["success"] is True
        assert (await auth.info(auth=None, headers=bearer)).status_code == 403
        assert (await auth.info(auth=None, headers=shown)).status_code == 432
    async with start_auth(extra='[store]\npath = "store.sqlite"') as auth:
        assert (await auth.info(auth=None, headers=bearer)).status_code == 403, "a restart changes nothing"


async def test_a_person_has_to_log_in_again(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        shown = {HEADER: (await auth.info()).headers[HEADER]}
        done = await _act(auth, "EndSecuritySessions", subject="cn=DEMO USER,o=unicore,c=eu")
        assert done == {"success": True, "message": "1 security session(s) ended", "results": {}}
        assert (await auth.info(auth=None, headers=shown)).status_code == 432


async def test_what_a_node_knows_of_a_user(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        shown = await _act(auth, "ShowUserInfo", uid="user1", serverName="TEST")
        assert shown["success"] is True
        assert isinstance(shown["results"], dict)
        assert set(shown["results"]) == {"TEST"}


@pytest.mark.parametrize(
    ("action", "parameters", "words"),
    [
        ("ShowUserInfo", {}, "'uid' is required"),
        ("ShowUserInfo", {"uid": "a b"}, "no name of an account"),
        ("ShowUserInfo", {"uid": "../x"}, "no name of an account"),
        ("ShowUserInfo", {"uid": "user1", "serverName": "NONE"}, "No such server: 'NONE'"),
        ("ShowUserInfo", {"uid": "user1", "x": 1}, "no parameter 'x'"),
        ("IssueAPIToken", {"subject": "joe"}, "not a valid name"),
        ("IssueAPIToken", {"subject": DEMO, "lifetime": "soon"}, "lifetime"),
        ("IssueAPIToken", {"subject": DEMO, "lifetime": 10**10}, "lifetime"),
        ("RevokeToken", {}, "either 'token' or 'jti'"),
        ("RevokeToken", {"token": "a.b.c"}, "no token"),
        ("RevokeToken", {"jti": "a b"}, "no id of a token"),
        ("EndSecuritySessions", {"subject": ""}, "'subject' is required"),
    ],
)
async def test_actions_that_fail_say_why(
    start_auth: StartAuth, action: str, parameters: dict[str, object], words: str
) -> None:
    async with start_auth() as auth:
        failed = await _act(auth, action, **parameters)
        assert failed["success"] is False
        assert words in str(failed["message"])


# -- other settings ---------------------------------------------------------------------------------------------------


def _load(auth: Running) -> AuthConfig:
    return checked(load(auth.directory / "auth.toml", AuthConfig), "auth.toml")


def _edit(auth: Running, old: str, new: str) -> None:
    path = auth.directory / "auth.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


async def test_settings_change_while_requests_go_on(start_auth: StartAuth) -> None:
    async with start_auth(extra="[limits]\nbody_bytes = 2000") as auth:
        assert (await auth.post(body={"serverPath": "", "x": "y" * 3000})).status_code == 413
        shown = {HEADER: (await auth.info()).headers[HEADER]}
        pings = auth.node.pings
        _edit(auth, "body_bytes = 2000", "body_bytes = 9000")
        _edit(auth, '[login]\npassword_file = "passwords"', '[login]\npassword_file = "passwords"\nanonymous = false')
        _edit(auth, 'description = "Test storage"', 'description = "New words"')
        auth.running.reload(lambda: _load(auth))
        assert (await auth.post(body={"serverPath": "", "x": "y" * 3000})).status_code == 200
        assert (await auth.info(auth=None)).status_code == 403
        info = await auth.info(auth=None, headers=shown)
        assert info.json()["TEST"]["description"] == "New words"
        assert info.json()["TEST"]["uftpdServerVersion"] == "3.5.3", "what is known of a node is kept"
        assert auth.node.pings >= pings


async def test_nodes_come_and_go(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        _edit(auth, "[nodes.TEST]", "[nodes.OTHER]")
        _edit(auth, "[[nodes.TEST.instances]]", "[[nodes.OTHER.instances]]")
        auth.running.reload(lambda: _load(auth))
        assert (await auth.post("TEST")).status_code == 404
        assert (await auth.post("OTHER")).status_code == 200


@pytest.mark.parametrize(
    "spoil",
    [
        lambda auth: (auth.directory / "auth.toml").write_text("[server"),
        lambda auth: (auth.directory / "auth.toml").unlink(),
        lambda auth: _edit(auth, "auth.key", "none.key"),
        lambda auth: _edit(auth, '"passwords"', '"nowhere"'),
        lambda auth: _edit(auth, "[nodes.TEST]", "[nodes.TEST]\ncolour = 1"),
    ],
)
async def test_what_cannot_be_used_changes_nothing_and_is_said(
    start_auth: StartAuth, caplog: pytest.LogCaptureFixture, spoil: object
) -> None:
    async with start_auth(extra=MONITORED) as auth:
        assert callable(spoil)
        spoil(auth)
        auth.running.reload(lambda: _load(auth))
        assert (await auth.post()).status_code == 200
        [record] = [r for r in caplog.records if "not taken over" in r.getMessage()]
        assert record.levelname == "ERROR"
        assert (await _metrics(auth))['uftpd_auth_reloads_total{result="failed"}'] == 1


async def test_new_certificates_are_noticed_and_connections_stay(
    start_auth: StartAuth, pki: Pki, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reload_module, "WATCH_SECONDS", 0.05)
    directory = pki.directory / "changing"
    directory.mkdir()
    _issue(pki, directory, "auth")
    mine = f'certificate = "{directory}/auth.pem"\nkey = "{directory}/auth.key"'
    async with start_auth() as auth:
        _edit(auth, f'certificate = "{pki.directory}/auth.pem"\nkey = "{pki.directory}/auth.key"', mine)
        auth.running.reload(lambda: _load(auth))
        before = await _serial(auth)
        context = ssl.create_default_context(cafile=pki.ca_path)
        stream = await trio.open_ssl_over_tcp_stream(
            "127.0.0.1", int(auth.url.rpartition(":")[2]), ssl_context=context, https_compatible=True
        )
        await stream.do_handshake()
        # The key alone does not fit: nothing may break meanwhile.
        _issue(pki, directory, "new")
        (directory / "new.key").rename(directory / "auth.key")
        with trio.fail_after(20):
            while True:
                if "certificates not taken over" in caplog.text:
                    break
                await trio.sleep(0.02)
        assert await _serial(auth) == before
        (directory / "new.pem").rename(directory / "auth.pem")
        with trio.fail_after(20):
            while True:
                if await _serial(auth) != before:
                    break
                await trio.sleep(0.02)
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200")
        await trio.aclose_forcefully(stream)
        assert (await auth.post()).status_code == 200, "data nodes are shown the new one"


def _issue(pki: Pki, directory: object, name: str) -> None:
    cert = pki.ca.issue_cert("127.0.0.1", "localhost", common_name="AUTH")
    cert.cert_chain_pems[0].write_to_path(f"{directory}/{name}.pem")
    cert.private_key_pem.write_to_path(f"{directory}/{name}.key")


async def _serial(auth: Running) -> object:
    context = ssl.create_default_context(cafile=auth.pki.ca_path)
    port = int(auth.url.rpartition(":")[2])
    stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=context, https_compatible=True)
    try:
        await stream.do_handshake()
        certificate = stream.getpeercert()
        assert certificate is not None
        return certificate["serialNumber"]
    finally:
        await trio.aclose_forcefully(stream)


async def test_the_log_has_who_did_what(start_auth: StartAuth, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with start_auth() as auth:
        made = await _act(auth, "IssueAPIToken", subject=DEMO)
        assert isinstance(made["results"], dict)
    [record] = [r for r in caplog.records if r.getMessage() == "admin action"]
    facts = record.facts  # type: ignore[attr-defined]
    assert facts["dn"] == "CN=Admin,O=x"
    assert facts["action"] == "IssueAPIToken"
    written = "\n".join(f"{r.getMessage()} {getattr(r, 'facts', '')}" for r in caplog.records)
    assert made["results"]["token"] not in written
    assert json.dumps(DEMO)[1:-1] in written, "and for whom"
