"""The pages where people share, as the configuration of the auth server makes them."""

from __future__ import annotations

import re

import httpx2
import pytest
from running_auth import Running, StartAuth

BROWSER = {"Accept": "text/html"}
SHARES = "[shares]\nservers = []\n"


async def ask(auth: Running, path: str, **options: object) -> httpx2.Response:
    return await auth.client.request("GET", f"{auth.url}{path}", headers=BROWSER, **options)  # type: ignore[arg-type]


async def log_in(auth: Running, user: str = "demouser", password: str = "test123") -> httpx2.Response:
    """Send the login form as a browser would; cookies are ours to carry, since their paths are the proxy's."""
    page = await ask(auth, "/ui/login")
    token = re.search('name="token" value="([^"]+)"', page.text)
    assert token is not None
    form = {"token": token[1], "user": user, "password": password}
    cookie = page.headers["set-cookie"].partition(";")[0]
    return await auth.client.post(f"{auth.url}/ui/login", data=form, headers=BROWSER | {"Cookie": cookie})


async def test_behind_a_path_of_a_proxy_everything_begins_with_it(start_auth: StartAuth) -> None:
    url = "https://data.example.org/uftp"
    async with start_auth(server=f'external_url = "{url}"', extra=SHARES) as auth:
        assert (await ask(auth, "/ui")).headers["location"] == "/uftp/ui/shares"
        page = await ask(auth, "/ui/login")
        addresses = re.findall('(?:href|src|action)="([^"]+)"', page.text)
        assert {address for address in addresses if not address.startswith(("/uftp/ui/", "#"))} == set()
        reply = await log_in(auth)
        assert reply.headers["location"] == "/uftp/ui/shares"
        assert "Path=/uftp/ui;" in reply.headers["set-cookie"]
        missing = await ask(auth, "/rest/access/TEST/nothing")
        assert missing.status_code == 404
        assert 'href="/uftp/ui/static/' in missing.text


async def test_where_nothing_is_shared_there_are_no_pages_to_share(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        for path in ("/ui", "/ui/login", "/ui/shares", "/rest/access/TEST/x"):
            reply = await ask(auth, path)
            assert reply.status_code == 404
        assert (await ask(auth, "/")).status_code == 404


async def test_nobody_logs_in_by_a_form_without_security_sessions(start_auth: StartAuth) -> None:
    async with start_auth(extra=f"{SHARES}[security_sessions]\nenabled = false\n") as auth:
        reply = await log_in(auth)
        assert reply.status_code == 503
        assert "security sessions are off" in reply.text
        assert "uftp-login" not in str(reply.headers.get_list("set-cookie"))


@pytest.mark.parametrize("user", ["banned", "unmapped"])
async def test_who_may_not_use_the_server_is_not_let_in_by_a_form(start_auth: StartAuth, user: str) -> None:
    async with start_auth(extra=SHARES) as auth:
        # Their password is right; what they may is decided as for programs.
        program = await auth.client.get(f"{auth.url}/rest/share", auth=(user, "test123"))
        reply = await log_in(auth, user)
        assert reply.status_code == program.status_code == 403
        assert "uftp-login" not in str(reply.headers.get_list("set-cookie"))


async def test_the_end_of_credentials_in_the_password_file_ends_the_visit(start_auth: StartAuth) -> None:
    async with start_auth(extra=SHARES) as auth:
        cookie = (await log_in(auth)).headers["set-cookie"].partition(";")[0]
        headers = BROWSER | {"Cookie": cookie}
        seen = await auth.client.get(f"{auth.url}/ui/shares", headers=headers)
        assert "My shares" in seen.text
        passwords = auth.directory / "passwords"
        lines = [line for line in passwords.read_text().splitlines() if not line.startswith("demouser")]
        passwords.write_text("\n".join(lines) + "\n")
        auth.running.reload()
        gone = await auth.client.get(f"{auth.url}/ui/shares", headers=headers)
        assert gone.headers["location"] == "/ui/login"
