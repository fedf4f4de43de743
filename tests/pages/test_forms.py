"""The forms where people share: whom they believe, and what they give away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.cookies import SimpleCookie

import httpx2
import pytest
from page_site import BROWSER, client, share
from uftp_site import Site

from uftpd.config.auth import Limits

pytestmark = pytest.mark.slow

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def visitor(site: Site) -> Iterator[httpx2.Client]:
    """Somebody with a browser's manners."""
    with client(site, headers=BROWSER) as found:
        yield found


def token_of(reply: httpx2.Response) -> str:
    found = re.search(r'name="token" value="([0-9a-f]{64})"', reply.text)
    assert found is not None, reply.text
    return found[1]


def log_in(visitor: httpx2.Client, site: Site, **more: str) -> httpx2.Response:
    token = token_of(visitor.get("/ui/login"))
    fields = {"token": token, "user": site.first, "password": site.password(site.first)} | more
    return visitor.post("/ui/login", data=fields)


@pytest.fixture
def known(visitor: httpx2.Client, site: Site) -> httpx2.Client:
    """The same, logged in."""
    assert log_in(visitor, site).headers["location"] == "/ui/shares"
    return visitor


def test_the_cookie_is_for_this_server_and_no_script(visitor: httpx2.Client, site: Site) -> None:
    reply = log_in(visitor, site)
    assert reply.status_code == 303
    cookies = SimpleCookie(reply.headers["set-cookie"])
    cookie = cookies["uftp-login"]
    assert (cookie["path"], cookie["secure"], cookie["httponly"], cookie["samesite"]) == ("/ui", True, True, "strict")
    assert 0 < int(cookie["max-age"]) <= 3600
    assert "x-unicore-securitysession" not in reply.headers
    page = visitor.get("/ui/shares")
    assert cookie.value not in page.text
    assert page.headers["cache-control"] == "no-store"
    assert "form-action 'self'" in page.headers["content-security-policy"]


@pytest.mark.parametrize(
    "fields", [{"password": "wrong"}, {"user": "nobody"}, {"password": ""}, {"user": "a:b"}, {"bearer": "x y"}]
)
def test_wrong_credentials_tell_nothing(visitor: httpx2.Client, site: Site, fields: dict[str, str]) -> None:
    reply = log_in(visitor, site, **fields)
    assert reply.status_code == 403
    assert "uftp-login" not in reply.headers.get("set-cookie", "")
    assert re.search("not accepted", reply.text)
    assert visitor.get("/ui/shares").headers["location"] == "/ui/login"


def test_a_token_of_the_server_logs_in(visitor: httpx2.Client, site: Site) -> None:
    with client(site, auth=(site.first, site.password(site.first))) as program:
        token = program.get("/rest/auth/token").text
    reply = log_in(visitor, site, user="", password="", bearer=token)
    assert reply.headers["location"] == "/ui/shares"
    assert "My shares" in visitor.get("/ui/shares").text


def shares_of(known: httpx2.Client) -> int:
    return known.get("/ui/shares").text.count("<article")


@pytest.mark.parametrize("path", ["/ui/shares", "/ui/shares/revoke", "/ui/logout"])
@pytest.mark.parametrize("case", ["no token", "wrong token", "token of the login form", "other site"])
def test_a_form_of_another_site_does_nothing(known: httpx2.Client, site: Site, path: str, case: str) -> None:
    shared = site.directory()
    token = token_of(known.get("/ui/shares"))
    before = shares_of(known)
    with client(site, headers=BROWSER) as stranger:
        tokens = {
            "no token": "",
            "wrong token": "0" * 64,
            "token of the login form": token_of(stranger.get("/ui/login")),
        }
    fields = {"token": tokens.get(case, token), "path": str(shared), "server": "TEST", "id": "x"}
    headers = {"Sec-Fetch-Site": "cross-site"} if case == "other site" else {}
    reply = known.post(path, data=fields, headers=headers)
    assert reply.status_code == 403
    assert "load it again" in reply.text
    assert shares_of(known) == before


def test_a_form_needs_the_cookie_and_not_a_password(known: httpx2.Client, site: Site) -> None:
    token = token_of(known.get("/ui/shares"))
    with client(site, headers=BROWSER, auth=(site.first, site.password(site.first))) as other:
        reply = other.post("/ui/shares", data={"token": token, "path": "/tmp", "server": "TEST"})
        assert (reply.status_code, reply.headers["location"]) == (303, "/ui/login")
        assert other.get("/ui/shares").headers["location"] == "/ui/login"


def test_a_login_form_of_another_site_logs_nobody_in(site: Site) -> None:
    with client(site, headers=BROWSER) as first, client(site, headers=BROWSER) as second:
        token = token_of(first.get("/ui/login"))
        fields = {"token": token, "user": site.first, "password": site.password(site.first)}
        assert second.post("/ui/login", data=fields).status_code == 403
        second.get("/ui/login")
        assert second.post("/ui/login", data=fields).status_code == 403
        assert second.get("/ui/shares").headers["location"] == "/ui/login"


def test_who_has_logged_out_is_out_wherever_the_cookie_is(known: httpx2.Client, site: Site) -> None:
    cookie = known.cookies["uftp-login"]
    token = token_of(known.get("/ui/shares"))
    assert known.post("/ui/logout", data={"token": token}).headers["location"] == "/ui/login"
    with client(site, headers=BROWSER | {"Cookie": f"uftp-login={cookie}"}) as thief:
        assert thief.get("/ui/shares").headers["location"] == "/ui/login"


@pytest.mark.parametrize(
    "cookie", ["", "x", "a" * 5000, "anonymous-ffffffff", "00000000-0000-0000-0000-000000000000", "ü"]
)
def test_a_made_up_cookie_is_nobody(site: Site, cookie: str) -> None:
    headers = BROWSER | {"Cookie": f"uftp-login={cookie}".encode()}
    with client(site, headers=headers) as stranger:
        reply = stranger.get("/ui/shares")
        assert (reply.status_code, reply.headers["location"]) == (303, "/ui/login")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"token=%ff", 400),
        (b"token=a&token=b", 400),
        (b"&".join(b"f%d=" % number for number in range(60)), 400),
        (b"token=\xff", 400),
        (b"x" * (Limits().body_bytes + 1), 413),
        (b"", 403),
    ],
)
def test_a_form_that_is_none_is_refused(known: httpx2.Client, body: bytes, status: int) -> None:
    for path in ("/ui/shares", "/ui/login", "/ui/shares/revoke"):
        reply = known.post(path, content=body, headers=FORM)
        assert reply.status_code == status
        assert "<h1>" in reply.text


def test_what_is_no_form_is_refused(known: httpx2.Client) -> None:
    assert known.post("/ui/shares", json={"path": "/tmp"}).status_code == 415
    assert known.put("/ui/shares", content=b"").status_code == 405


def test_a_share_of_somebody_else_is_not_revoked(site: Site, known: httpx2.Client) -> None:
    names = list(site.people)
    if len(names) < 2:
        pytest.skip("needs two people, and so root")
    with client(site, auth=(names[1], site.password(names[1]))) as other:
        path = site.directory(names[1])
        body = {"path": str(path), "user": "CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN"}
        location = other.post("/rest/share/TEST", json=body).headers["location"]
        fields = {"token": token_of(known.get("/ui/shares")), "server": "TEST", "id": location.rpartition("/")[2]}
        assert known.post("/ui/shares/revoke", data=fields).status_code == 401
        assert other.get(location).status_code == 200


def test_style_and_script_are_kept_for_ever_and_nothing_else_is(visitor: httpx2.Client) -> None:
    page = visitor.get("/ui/login")
    assert page.headers["cache-control"] == "no-store"
    addresses = re.findall(r'(?:href|src)="(/ui/static/[^"]+)"', page.text)
    assert len(addresses) == 3
    kinds = set()
    for address in addresses:
        reply = visitor.get(address)
        assert reply.status_code == 200
        assert reply.headers["cache-control"] == "public, max-age=31536000, immutable"
        kinds.add(reply.headers["content-type"].partition(";")[0])
        name, _, extension = address.rpartition("/")[2].split(".")
        old = visitor.get(f"/ui/static/{name}.{'0' * 16}.{extension}")
        assert (old.content, old.headers["cache-control"]) == (reply.content, "no-cache")
    assert kinds == {"text/css", "text/javascript", "image/svg+xml"}
    for wrong in ("x.0000000000000000.css", "page.css", "..%2frender.py", "page.0000000000000000.py", "%00"):
        assert visitor.get(f"/ui/static/{wrong}").status_code == 404


def test_the_address_of_the_server_leads_people_to_their_shares(site: Site, visitor: httpx2.Client) -> None:
    for path in ("/", "/ui", "/ui/"):
        reply = visitor.get(path)
        assert (reply.status_code, reply.headers["location"]) == (303, "/ui/shares")
    with client(site) as program:
        assert program.get("/").json()["status"] == 404


def test_a_browser_is_asked_who_it_is_until_it_says_so_rightly(site: Site) -> None:
    names = list(site.people)
    if len(names) < 2:
        pytest.skip("needs two people, and so root")
    with client(site, auth=(names[1], site.password(names[1]))) as other:
        dn = other.get("/rest/share").json()["userInfo"]["dn"]
    path = site.file(site.directory() / "f", b"for one")
    link = share(site, path, user=dn)
    with client(site, headers=BROWSER) as visitor:
        for auth in (None, (names[1], "wrong"), (names[0], site.password(names[0]))):
            reply = visitor.get(link, auth=auth)
            assert reply.status_code == 401
            assert reply.headers["content-type"].startswith("text/html")
            assert reply.headers["www-authenticate"].startswith("Basic ")
        reply = visitor.get(link, auth=(names[1], site.password(names[1])))
        assert reply.status_code == 200
        assert "<h1>" in reply.text
