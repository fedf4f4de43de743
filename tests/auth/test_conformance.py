"""Every resource of the REST interface but shares: status, type and body of each answer CONTROL-PLANE names.

One table for each state of the data node; the numbers are sections of that document.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from fake_node import FakeNode
from running_auth import DEMO, Running, StartAuth

from uftpd.auth.app import all_endpoints
from uftpd.auth.security_sessions import HEADER

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
ME = ("demouser", "test123")
ADMIN = ("admin", "test123")
SESSION = {"serverPath": ""}
_ANY = object()


@dataclass(frozen=True)
class Case:
    """A request, and what it is answered with.

    Attributes:
        section: of CONTROL-PLANE.
        body: sent as JSON; bytes are sent as they are, as JSON by their type.
        words: in the error text, or in the body.
        kind: content type of the reply; None: no body at all.
    """

    section: str
    method: str
    path: str
    status: int
    words: str = ""
    login: tuple[str, str] | None = ME
    body: Any = _ANY
    headers: dict[str, str] = field(default_factory=dict)
    kind: str | None = JSON


def _accept(kind: str) -> dict[str, str]:
    return {"Accept": kind}


NODE_UP: Sequence[Case] = [
    # 1.1 content negotiation
    Case("1.1", "GET", "/rest/auth", 200),
    Case("1.1", "GET", "/rest/auth/", 200),
    Case("1.1", "GET", "/rest/auth", 200, headers=_accept("*/*")),
    Case("1.1", "GET", "/rest/auth", 200, headers={"Content-Type": JSON}),  # T10
    Case("1.1", "GET", "/rest/auth", 406, "produces application/json", headers=_accept("text/plain")),
    Case("1.1", "GET", "/rest/auth/token", 406, "produces text/plain", headers=_accept(JSON)),
    Case("1.1", "GET", "/rest/auth/certificate", 406, "produces text/plain", headers=_accept(JSON)),
    Case("1.1", "POST", "/rest/auth/TEST", 406, "produces", body=SESSION, headers=_accept("text/html")),
    Case("1.1", "POST", "/rest/auth/TEST", 415, "must be application/json", headers={"Content-Type": "text/plain"}),
    Case("1.1", "POST", "/rest/auth/TEST", 415, "must be application/json"),
    Case("1.1", "POST", "/rest/admin/actions/ShowUserInfo", 415, "must be application/json", login=ADMIN),
    *[
        Case("1.1", method, path, 405, "does not have that method")
        for path, methods in {
            "/rest/auth": ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"),
            "/rest/auth/TEST": ("GET", "PUT", "DELETE", "OPTIONS"),
            "/rest/auth/token": ("POST", "PUT", "DELETE"),
            "/rest/auth/certificate": ("POST",),
            "/rest/admin": ("POST", "DELETE"),
            "/rest/admin/actions/ShowUserInfo": ("GET",),
            "/openapi.json": ("POST",),
            "/healthz": ("POST",),
            "/readyz": ("DELETE",),
        }.items()
        for method in methods
    ],
    Case("1.1", "GET", "/rest", 404, "No such resource"),
    Case("1.1", "GET", "/rest/auth/TEST/more", 404, "No such resource"),
    Case("1.1", "GET", "/rest/auth//", 404, "No such resource"),
    # 1.1 roles
    Case("1.1", "GET", "/rest/auth", 200, login=None),
    Case("1.1", "GET", "/rest/auth", 200, login=("unmapped", "test123")),
    Case("1.1", "GET", "/rest/auth", 403, "Access denied", login=("banned", "test123")),
    Case("1.1", "GET", "/rest/auth", 403, "Authentication failed", login=("demouser", "wrong")),
    Case("1.1", "GET", "/rest/auth", 403, "Authentication failed", login=("demouser", "None")),  # T6
    Case("1.1", "POST", "/rest/auth/TEST", 403, "no role", login=None, body=SESSION),
    Case("1.1", "POST", "/rest/auth/TEST", 403, "no role", login=("unmapped", "test123"), body=SESSION),
    Case("1.1", "POST", "/rest/auth/TEST", 403, "Access denied", login=("banned", "test123"), body=SESSION),
    Case("1.1", "POST", "/rest/auth/TEST", 200, login=ADMIN, body=SESSION),
    Case("1.1", "GET", "/rest/admin", 200, login=ADMIN),
    Case("1.1", "GET", "/rest/admin", 403, "administrators"),
    Case("1.1", "GET", "/rest/admin", 403, "administrators", login=None),
    Case("1.1", "GET", "/rest/auth", 432, headers={HEADER: "unknown"}, kind=None),
    Case("1.1", "POST", "/rest/auth/TEST", 432, body=SESSION, headers={HEADER: "unknown"}, kind=None),
    # 1.4 session requests: order of evaluation, and each malformed body
    Case("1.4", "POST", "/rest/auth/TEST", 200, body=SESSION),
    Case("1.4", "POST", "/rest/auth/TEST/", 200, body=SESSION),
    Case("1.4", "POST", "/rest/auth/TEST-1", 200, body=SESSION),
    Case("3", "POST", "/rest/auth/TEST-2", 404, "instance: 'TEST-2'", body=SESSION),
    Case("3", "POST", "/rest/auth/TEST-0", 404, "instance: 'TEST-0'", body=SESSION),
    Case("3", "POST", "/rest/auth/TEST--1", 404, "No such server: 'TEST--1'", body=SESSION),
    Case("3", "POST", "/rest/auth/TEST-99999999999999999999", 404, "No such server", body=SESSION),
    Case("1.4", "POST", "/rest/auth/TSET", 404, "No such server: 'TSET', please check your URL", body=SESSION),
    Case("1.4", "POST", "/rest/auth/TSET", 404, "No such server", body=b"no JSON"),
    Case("1.4", "POST", "/rest/auth/TSET", 403, "Authentication failed", body=SESSION, login=("demouser", "x")),
    Case("1.4", "POST", "/rest/auth/TEST", 401, "no account", body=SESSION, login=("noaccount", "test123")),
    Case("2.4", "POST", "/rest/auth/TEST", 400, "group <x> is not available", body=SESSION | {"group": "x"}),
    Case("2.4", "POST", "/rest/auth/TEST", 200, body=SESSION | {"group": "hpc1"}),
    *[
        Case("1.4", "POST", "/rest/auth/TEST", 400, words, body=body)
        for body, words in [
            (b"", "not valid JSON"),
            (b"{", "not valid JSON"),
            (b'{"serverPath":""} {}', "not valid JSON"),
            (b'{"serverPath":NaN}', "not valid JSON"),
            (b'{"serverPath":"\xff"}', "not valid JSON"),
            (b"\xef\xbb\xbf{}", "not valid JSON"),
            (b"[" * 60_000, "not valid JSON"),
            (b'{"serverPath":' * 4_000, "not valid JSON"),
            (b'{"serverPath":"","streamCount":' + b"9" * 5_000 + b"}", "JSON"),
            (b'{"serverPath":"","streamCount":1e999}', "streamCount"),
            (b'{"serverPath":"\\ud800"}', "control characters"),
            (b'{"serverPath":"\\u0000"}', "control characters"),
            (b'{"serverPath":"/x","serverPath":"/\\nuser=root"}', "control characters"),
            ([], "must be a JSON object"),
            ("text", "must be a JSON object"),
            (None, "must be a JSON object"),
            ({}, "serverPath: required"),
            (SESSION | {"compress": 1}, "compress: expected true or false"),
            (SESSION | {"streamCount": "x"}, "streamCount: expected an integer"),
            (SESSION | {"streamCount": 1.5}, "streamCount: expected an integer"),
            (SESSION | {"streamCount": 0}, "streamCount: 1 to"),
            (SESSION | {"encryptionKey": "%"}, "encryptionKey: not base64"),
            (SESSION | {"client": ""}, "client: none"),
            (SESSION | {"serverPath": {"a": 1}}, "serverPath: expected a text"),
        ]
    ],
    *[
        Case("1.4", "POST", "/rest/auth/TEST", 200, body=body)
        for body in [
            SESSION | {"compress": "TRUE", "persistent": "yes", "streamCount": "2", "append": None},  # T1
            SESSION | {"streamCount": 2.0, "serverPath": 17, "send": "false", "sessionMode": "x", "more": [1]},
            b'{"serverPath":[],"serverPath":"/last/counts"}',
        ]
    ],
    Case("1.4", "POST", "/rest/auth/TEST", 413, "larger than", body=b'{"x":"' + b"y" * 70_000 + b'"}'),
    # 1.5 tokens
    *[
        case
        for service in ("auth", "access", "share")
        for case in [
            Case("1.5", "GET", f"/rest/{service}/token", 200, kind=TEXT),
            Case("1.5", "GET", f"/rest/{service}/token?lifetime=60&renewable=true&limited=true", 200, kind=TEXT),
            Case("1.5", "GET", f"/rest/{service}/token?lifetime=99999999999", 400, "lifetime"),
            Case("1.5", "GET", f"/rest/{service}/token?lifetime=abc", 400, "lifetime"),
            Case("1.5", "GET", f"/rest/{service}/token?lifetime=", 400, "lifetime"),
            Case("1.5", "GET", f"/rest/{service}/token?lifetime=-1", 400, "lifetime"),
            Case("5.4", "GET", f"/rest/{service}/token", 403, login=None),
            Case("1.5", "GET", f"/rest/{service}/certificate", 200, "BEGIN CERTIFICATE", kind=TEXT),
        ]
    ],
    # 6 administration
    Case("6", "POST", "/rest/admin/actions/ShowUserInfo", 200, '"success":true', login=ADMIN, body={"uid": "u"}),
    Case("6", "POST", "/rest/admin/actions/ShowUserInfo", 200, '"success":false', login=ADMIN, body={}),
    Case("6", "POST", "/rest/admin/actions/IssueAPIToken", 200, '"token"', login=ADMIN, body={"subject": DEMO}),
    Case("6", "POST", "/rest/admin/actions/Nothing", 404, "No such action: 'Nothing'", login=ADMIN, body={}),
    Case("6", "POST", "/rest/admin/actions/Nothing", 403, "administrators", body={}),
    Case("6", "POST", "/rest/admin/actions/ShowUserInfo", 400, "not valid JSON", login=ADMIN, body=b"{"),
    Case("6", "POST", "/rest/admin/actions/ShowUserInfo", 400, "expected a text", login=ADMIN, body={"uid": []}),
    # beside the document
    Case("-", "GET", "/openapi.json", 200, '"openapi"', login=None),
    Case("-", "GET", "/healthz", 200, '"ok"', login=None),
    Case("-", "GET", "/readyz", 200, '"ready"', login=None),
]

NODE_REFUSES: Sequence[Case] = [
    Case("1.4", "POST", "/rest/auth/TEST", 500, "UFTPD server 'TEST': ERROR::Too many", body=SESSION),
    Case("1.4", "POST", "/rest/auth/TEST", 400, "JSON", body=b"{"),
]

NODE_DOWN_AT_FIRST: Sequence[Case] = [
    Case("1.4", "POST", "/rest/auth/TEST-1", 500, "Cannot connect to UFTPD server: The selected", body=SESSION),
    Case("3", "POST", "/rest/auth/TEST", 503, "DOWN", body=SESSION),
    Case("3", "POST", "/rest/auth/TEST", 503, "DOWN", body=b"{"),
    Case("1.3", "GET", "/rest/auth", 200, '"status":"DOWN"'),
]


async def _ask(auth: Running, case: Case) -> httpx2.Response:
    content: bytes | None = None
    headers = dict(case.headers)
    if case.body is not _ANY:
        content = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
        headers.setdefault("Content-Type", JSON)
    return await auth.client.request(
        case.method, auth.url + case.path, headers=headers, content=content, auth=case.login
    )


def _differences(case: Case, reply: httpx2.Response) -> list[str]:
    if reply.status_code != case.status:
        return [f"{reply.status_code} instead of {case.status}: {reply.text[:200]}"]
    if case.kind is None:
        return [] if reply.content == b"" else [f"a body: {reply.text[:200]}"]
    found = []
    if reply.headers.get("content-type") != case.kind:
        found.append(f"of type {reply.headers.get('content-type')}")
    text = reply.text
    if case.status >= 400:
        error = reply.json()
        if set(error) != {"errorMessage", "status"} or error["status"] != case.status:
            found.append(f"no error body: {text[:200]}")
        text = str(error.get("errorMessage"))
    if case.words not in text:
        found.append(f"without '{case.words}': {text[:200]}")
    if "x-request-id" not in reply.headers or "x-content-type-options" not in reply.headers:
        found.append("without the headers of every reply")
    return found


async def _check(auth: Running, cases: Sequence[Case]) -> None:
    wrong = [
        f"{case.section}: {case.method} {case.path} {str(case.body)[:60]}: {difference}"
        for case in cases
        for difference in _differences(case, await _ask(auth, case))
    ]
    assert wrong == []


@pytest.mark.slow
async def test_with_a_node_that_answers(start_auth: StartAuth) -> None:
    # Wrong logins in the table are not to be slowed.
    async with start_auth(login="longest_delay_seconds = 0") as auth:
        await _check(auth, NODE_UP)
        asked = {(case.method, case.path.partition("?")[0]) for case in NODE_UP}
        for endpoint in all_endpoints(auth.running.services):
            if endpoint.path.startswith("/ui/"):
                continue  # pages, which have tests of their own
            path = endpoint.path.replace("{server}", "TEST").replace("{action}", "ShowUserInfo")
            assert (endpoint.method, path) in asked, "a resource the table does not know"


async def test_with_a_node_that_refuses(start_auth: StartAuth) -> None:
    node = FakeNode(refusal="Too many active sessions for 'user1' - server limit is 16")
    async with start_auth(node) as auth:
        await _check(auth, NODE_REFUSES)


async def test_with_a_node_that_is_down(start_auth: StartAuth) -> None:
    node = FakeNode()
    async with start_auth(node, command_port="reuse_seconds = 0") as auth:
        await auth.post()
        node.closed = True
        await _check(auth, NODE_DOWN_AT_FIRST)


async def test_a_reply_to_head_is_that_to_get_without_its_body(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        for path in ("/rest/auth", "/rest/auth/token", "/rest/auth/certificate", "/healthz", "/openapi.json"):
            head = await auth.client.head(auth.url + path, auth=ME)
            get = await auth.client.get(auth.url + path, auth=ME)
            assert (head.status_code, head.content) == (get.status_code, b"")
            assert head.headers["content-type"] == get.headers["content-type"]
        refused = await auth.client.head(auth.url + "/rest/auth/TEST", auth=ME)
        assert (refused.status_code, refused.content) == (405, b"")
        assert refused.headers["allow"] == "POST"


async def test_a_certificate_is_not_always_there(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        pem = (await auth.client.get(f"{auth.url}/rest/auth/certificate")).text
        assert pem in (auth.pki.directory / "auth.pem").read_text()
