"""Thousands of malformed requests: made from the server's own description, and by hand below HTTP.

No answer is 500 unless the description says so, none shows a traceback, and the server goes on afterwards.
"""

from __future__ import annotations

import json
import logging
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from running_auth import Running, StartAuth
from schemathesis.core.result import Ok

_RUNNER = Path(__file__).with_name("serving_for_others.py")


@contextmanager
def _served(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """An auth server with a fake node in a process of its own, since these tests wait in ways trio does not."""
    with (tmp_path / "log").open("w") as log_file:
        process = subprocess.Popen(
            [sys.executable, str(_RUNNER), str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
            text=True,
        )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        assert process.poll() is None
    finally:
        process.communicate("", timeout=30)
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "request failed" not in log


def _looks_fine(status: int, text: str, *, expected: set[int]) -> None:
    assert status in expected, f"{status}: {text[:300]}"
    assert "Traceback" not in text
    assert 'File "' not in text
    if status >= 400 and status != 432 and text:
        error = json.loads(text)
        assert isinstance(error["errorMessage"], str)


@pytest.mark.slow
def test_what_the_description_allows_and_what_it_does_not(tmp_path: Path) -> None:
    with _served(tmp_path) as server:
        context = ssl.create_default_context(cafile=server["ca"])
        with httpx2.Client(verify=context, timeout=30) as client:
            document = client.get(f"{server['url']}/openapi.json").json()
            schema = schemathesis.openapi.from_dict(document)
            asked = 0
            for result in schema.get_all_operations():
                assert isinstance(result, Ok)
                operation = result.ok()
                expected = {int(status) for status in operation.definition.raw["responses"]} | {405, 408, 413, 404}
                for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
                    asked += _exercise(client, server, operation, mode, expected)
            assert asked > 1_000, asked
            assert client.get(f"{server['url']}/rest/auth", auth=("demouser", "test123")).status_code == 200


def _exercise(client: httpx2.Client, server: dict[str, Any], operation: Any, mode: Any, expected: set[int]) -> int:
    try:
        strategy = operation.as_strategy(generation_mode=mode)
    except Exception as error:  # an operation without parameters cannot be got wrong
        logging.getLogger(__name__).debug("no %s requests: %s", mode, error)
        return 0
    asked = 0

    @settings(max_examples=25, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=strategy, login=st.sampled_from([("demouser", "test123"), ("admin", "test123"), None]))
    def ask(case: Any, login: tuple[str, str] | None) -> None:
        nonlocal asked
        words = case.as_transport_kwargs(base_url=server["url"])
        headers = {key: value for key, value in dict(words.get("headers") or {}).items() if key != "Authorization"}
        body = words.get("data")
        content = json.dumps(words["json"]).encode() if "json" in words else body
        if "json" in words:
            headers["Content-Type"] = "application/json"
        request = {
            "method": words["method"],
            "url": words["url"],
            "params": words.get("params") or None,
            "headers": headers,
            "content": content if isinstance(content, bytes | str) or content is None else str(content),
            "auth": login,
        }
        try:
            try:
                reply = client.request(**request)
            except httpx2.RemoteProtocolError:
                # The reply before came ahead of the end of its request, and so ended the connection.
                reply = client.request(**request)
        except (httpx2.InvalidURL, httpx2.LocalProtocolError, UnicodeError, ValueError):
            return  # the client itself will not send it; the tests below do
        asked += 1
        _looks_fine(reply.status_code, reply.text if words["method"] != "HEAD" else "", expected=expected)

    try:
        ask()
    except schemathesis.errors.SchemathesisError:
        return asked
    except Exception as error:
        if type(error).__name__ in ("Unsatisfiable", "InvalidArgument"):
            return asked
        raise
    return asked


# -- below HTTP -------------------------------------------------------------------------------------------------------

_STATUSES = {200, 204, 400, 401, 403, 404, 405, 406, 408, 413, 414, 415, 426, 429, 431, 432, 501, 503, 505}
_token = st.text("GETPOSDLUTHAX \x00é", min_size=0, max_size=10)
_path = st.one_of(
    st.sampled_from(
        [
            "/rest/auth", "/rest/auth/TEST", "/rest/auth/%00", "/rest/auth/%ff%fe", "/rest/auth/%ZZ", "/rest/auth/%",
            "/rest/auth/%2e%2e/%2e%2e", "/rest/auth/../../etc", "/rest/auth/TEST%0d%0aX:y", "*", "http://x/rest/auth",
            "/rest/auth/token?lifetime=%00", "/rest/auth/token?lifetime=1&lifetime=2", "/rest/auth/%F0%9F%92%A9",
            "/rest/auth/%ED%A0%80", "//rest//auth", "/rest/auth/TEST?" + "a" * 9000, "/" + "x" * 70_000, "",
        ]
    ),
    st.text("/restauthTES%0123.-~;?&=#é\x01", max_size=40),
)  # fmt: skip
_header = st.one_of(
    st.sampled_from(
        [
            "Authorization: Basic ZGVtb3VzZXI6dGVzdDEyMw==", "Authorization: Basic \xff\xfe",
            "Authorization: Bearer a.b.c", "Authorization: Bearer " + "A" * 9000, "Content-Type: application/json",
            "Content-Type: \x00", "Accept: */*;q=", "Content-Length: 5", "Content-Length: -1",
            "Content-Length: 99999999999999999999", "Transfer-Encoding: chunked",
            "Transfer-Encoding: gzip", "Expect: 100-continue", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAAQAAP__", "Upgrade: websocket", "Host: a", "Host: b\x01", "X-Request-Id: \xe9",
            "X-UNICORE-SecuritySession: \xff", "X-UNICORE-User-Preferences: uid:\xff,,::", "X-UNICORE-Consignor-IP: x",
            " folded: x", "no colon", "X: " + "y" * 70_000,
        ]
    ),
    st.text("abcX-: \t\x00\x7fé;=", max_size=30),
)  # fmt: skip
_body = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b'{"serverPath":""}', b"5\r\nhello\r\n0\r\n\r\n", b"zz\r\n", b"{" * 3000, b'{"a":"\\ud800"}']),
)


@pytest.mark.slow
def test_what_is_hardly_http(tmp_path: Path) -> None:
    with _served(tmp_path) as server:
        context = ssl.create_default_context(cafile=server["ca"])
        host, _, port = server["url"].removeprefix("https://").rpartition(":")
        asked = 0

        @settings(max_examples=1_500, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(_token, _path, st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", ""]),
               st.lists(_header, max_size=5), _body)  # fmt: skip
        def ask(method: str, path: str, version: str, headers: list[str], body: bytes) -> None:
            nonlocal asked
            head = "\r\n".join([f"{method} {path} {version}", "Host: x", "Connection: close", *headers, "", ""])
            asked += 1
            _send(context, host, int(port), head.encode("latin-1", "replace") + body)

        ask()
        assert asked >= 1_000
        with httpx2.Client(verify=context) as client:
            assert client.get(f"{server['url']}/rest/auth", auth=("demouser", "test123")).status_code == 200


def _send(context: ssl.SSLContext, host: str, port: int, data: bytes) -> None:
    received = b""
    with socket.create_connection((host, port), timeout=30) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_hostname=host) as stream:
            try:
                stream.sendall(data)
                plain.shutdown(socket.SHUT_WR)
                while more := stream.recv(65536):
                    received += more
            except (ssl.SSLError, OSError):
                pass  # it may close while we still send
    for line in received.split(b"\r\n"):
        if line.startswith(b"HTTP/1.1 ") and not line.startswith((b"HTTP/1.1 1",)):
            assert int(line.split(b" ")[1]) in _STATUSES, (data[:300], received[:300])
    assert b"Traceback" not in received


async def test_another_protocol_is_not_spoken(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        for start in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", _H2C):
            reply = await _exchange(auth, start)
            assert b"HTTP/1.1 101" not in reply
            assert not reply or reply.startswith(b"HTTP/1.1 "), reply[:100]


_H2C = (
    b"GET /rest/auth HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
)


async def _exchange(auth: Running, data: bytes) -> bytes:
    context = ssl.create_default_context(cafile=auth.pki.ca_path)
    port = int(auth.url.rpartition(":")[2])
    stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=context, https_compatible=True)
    try:
        await stream.send_all(data)
        with trio.fail_after(20):
            return bytes(await stream.receive_some(4096))
    except trio.BrokenResourceError:
        return b""
    finally:
        await trio.aclose_forcefully(stream)
