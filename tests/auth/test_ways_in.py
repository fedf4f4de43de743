"""Every way to log in over HTTPS: what the caller is then, on which servers, and the tokens to be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import jwt as peer_jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from fake_node import FakeNode, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_tokens import made, ssh_token
from oidc_provider import FakeProvider, providing
from running_auth import DEMO, Running, StartAuth
from test_ssh_login import line

KEY = ed25519.Ed25519PrivateKey.generate()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def caller(auth: Running, token: str) -> dict[str, Any]:
    """What the server says the caller is."""
    reply = await auth.info(auth=None, headers=bearer(token))
    assert reply.status_code == 200, reply.text
    client = reply.json()["client"]
    assert isinstance(client, dict)
    return client


async def get(server: Running, path: str, token: str | None = None, **options: Any) -> httpx2.Response:
    """GET as demouser, with a token, or as `auth` says."""
    if token is not None:
        options["headers"] = bearer(token) | options.get("headers", {})
    else:
        options.setdefault("auth", ("demouser", "test123"))
    return await server.client.get(server.url + path, **options)


async def issue(auth: Running, query: str = "", token: str | None = None) -> str:
    reply = await get(auth, f"/rest/auth/token{query}", token)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].partition(";")[0] == "text/plain"
    assert reply.headers["cache-control"] == "no-store"
    return str(reply.text)


def claims_of(token: str) -> dict[str, Any]:
    claims = peer_jwt.decode(token, options={"verify_signature": False})
    assert isinstance(claims, dict)
    return claims


# -- SSH keys ---------------------------------------------------------------------------------------------------------


async def test_an_ssh_key_the_node_reports(start_auth: StartAuth) -> None:
    node, other = FakeNode(keys={"joe": (line(KEY),)}), FakeNode(keys={"ann": (line(KEY),)})
    async with serving(other) as back:
        second = f'command = "{back.address}"\nplain = true\n'
        extra = f'[nodes.BACK]\n[[nodes.BACK.instances]]\nhost = "127.0.0.1"\n{second}'
        await _check_bound_key(start_auth, node, extra)


async def _check_bound_key(start_auth: StartAuth, node: FakeNode, extra: str) -> None:
    async with start_auth(node, login="[login.ssh]", extra=extra) as auth:
        assert await caller(auth, ssh_token(KEY)) == {
            "dn": "CN=joe,OU=ssh-local-users",
            "xlogin": {"UID": "joe", "availableUIDs": ["joe"]},
            "role": {"selected": "user", "availableRoles": ["user"]},
            "authenticationMethod": "SSHKEY",
        }
        info = (await auth.info(auth=None, headers=bearer(ssh_token(KEY)))).json()
        assert info["TEST"]["uid"] == "joe"
        assert "uid" not in info["BACK"]
        assert (await auth.post(auth=None, headers=bearer(ssh_token(KEY)))).status_code == 200
        assert node.transfers[-1].user == "joe"
        refused = await auth.post("BACK", auth=None, headers=bearer(ssh_token(KEY)))
        assert refused.status_code == 401
        assert "'BACK' does not know your key" in refused.json()["errorMessage"]
        assert len(node.transfers) == 1
        assert set(node.asked_for_keys) == {"joe"}
        # Nor does a security session that began with it.
        session = (await auth.info(auth=None, headers=bearer(ssh_token(KEY)))).headers["x-unicore-securitysession"]
        info = (await auth.info(auth=None, headers={"X-UNICORE-SecuritySession": session})).json()
        assert info["client"]["dn"] == "CN=joe,OU=ssh-local-users"
        assert info["TEST"]["uid"] == "joe"
        assert "uid" not in info["BACK"]
        # A token got with it opens no more.
        token = await issue(auth, "?renewable=true", ssh_token(KEY))
        info = (await auth.info(auth=None, headers=bearer(token))).json()
        assert info["TEST"]["uid"] == "joe"
        assert "uid" not in info["BACK"]
        again = await issue(auth, "", token)
        assert "uid" not in (await auth.info(auth=None, headers=bearer(again))).json()["BACK"]


async def test_a_reported_key_makes_no_administrator(start_auth: StartAuth) -> None:
    node = FakeNode(keys={"joe": (line(KEY),)})
    mapping = {"CN=joe,OU=ssh-local-users": {"role": ["admin", "user"], "xlogin": "joe2"}}
    async with start_auth(node, login="[login.ssh]", mapping=mapping) as auth:
        client = await caller(auth, ssh_token(KEY))
        assert client["role"] == {"selected": "user", "availableRoles": ["user"]}
        assert client["xlogin"]["UID"] == "joe2"
        reply = await auth.info(
            auth=None, headers=bearer(ssh_token(KEY)) | {"X-UNICORE-User-Preferences": "role:admin"}
        )
        assert reply.status_code == 403
    async with start_auth(node, login='[login.ssh]\nnode_keys = "all"', mapping=mapping) as auth:
        assert (await caller(auth, ssh_token(KEY)))["role"]["selected"] == "admin"


async def test_keys_of_the_file(start_auth: StartAuth, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"demo:{line(KEY)}:{DEMO}\n")
    async with start_auth(login='[login.ssh]\nkey_file = "keys"\nnode_keys = "off"') as auth:
        client = await caller(auth, ssh_token(KEY, "demo"))
        assert (client["dn"], client["xlogin"]["UID"]) == (DEMO, "user1")
        assert auth.node.asked_for_keys == []


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "joe\nuser=root", "iss": "joe\nuser=root"},
        {"sub": "joe\r\nuser=root\r\nEND", "iss": "joe\r\nuser=root\r\nEND"},
        {"lifetime": -100},
        {"aud": "CN=Somebody Else"},
        {"iss": "ann"},
        {"etd": "true"},
        {"exp": None},
        {"exp": [1]},
    ],
)
async def test_ssh_tokens_that_are_refused(start_auth: StartAuth, claims: dict[str, Any]) -> None:
    node = FakeNode(keys={"joe": (line(KEY),)})
    async with start_auth(node, login="[login.ssh]") as auth:
        reply = await auth.info(auth=None, headers=bearer(ssh_token(KEY, **claims)))
        assert reply.status_code == 403
        assert reply.json()["status"] == 403
        assert node.asked_for_keys == []
        assert (await auth.info(auth=None, headers=bearer(ssh_token(KEY)))).status_code == 200


async def test_the_audience_is_the_name_in_the_certificate(start_auth: StartAuth) -> None:
    node = FakeNode(keys={"joe": (line(KEY),)})
    async with start_auth(node, login="[login.ssh]") as auth:
        info = (await auth.info()).json()
        token = ssh_token(KEY, aud=info["server"]["credential"]["dn"])
        assert (await auth.info(auth=None, headers=bearer(token))).status_code == 200


# -- an identity provider ---------------------------------------------------------------------------------------------


async def test_a_token_of_an_identity_provider(start_auth: StartAuth) -> None:
    async with providing() as provider:
        login = provider.toml(uid='"{account}"', groups='"{groups}"', role='"user"')
        mapping = {"uid=ann@example.org,o=idp": {"xlogin": "mapped", "uftpd.TEST.group": "special"}}
        async with start_auth(login=login, mapping=mapping) as auth:
            token = provider.token(account="joe", groups=["users", "hpc1"])
            client = await caller(auth, token)
            assert client["dn"] == "UID=joe@example.org,O=IdP"
            assert client["authenticationMethod"] == "OAUTH"
            assert client["xlogin"] == {
                "UID": "joe",
                "availableUIDs": ["joe"],
                "group": "users",
                "availableGroups": ["users", "hpc1"],
            }
            body = {"serverPath": "", "group": "hpc1"}
            assert (await auth.post(auth=None, headers=bearer(token), body=body)).status_code == 200
            assert (auth.node.transfers[-1].user, auth.node.transfers[-1].groups) == ("joe", ("hpc1",))
            body = {"serverPath": "", "group": "wheel"}
            assert (await auth.post(auth=None, headers=bearer(token), body=body)).status_code == 400
            # The map file overrides what the token says, attribute by attribute.
            token = provider.token(account="joe", email="ann@example.org", groups=["users"])
            assert (await auth.post(auth=None, headers=bearer(token))).status_code == 200
            assert (auth.node.transfers[-1].user, auth.node.transfers[-1].groups) == ("mapped", ("special",))
            assert (await auth.info(auth=None, headers=bearer(provider.token(aud="x")))).status_code == 403


async def test_clients_are_told_where_to_log_in(start_auth: StartAuth) -> None:
    provider = FakeProvider(url="https://idp.example.org")
    quiet = provider.toml().replace("login.oidc.IDP", "login.oidc.QUIET")
    login = provider.toml(login_client='"uftp-cli"', login_scopes='["openid", "email"]') + quiet
    async with start_auth(login=login) as auth:
        expected = [
            {"name": "IDP", "issuer": provider.url, "clientId": "uftp-cli", "scopes": ["openid", "email"]},
        ]
        for who in (("demouser", "test123"), None):
            info = (await auth.info(auth=who)).json()
            assert info["server"]["oidc"] == expected
            assert set(info) == {"TEST", "client", "server"}
    async with start_auth(login=quiet) as auth:
        assert "oidc" not in (await auth.info()).json()["server"]


async def test_a_provider_that_is_gone_is_a_refusal_and_no_more(start_auth: StartAuth) -> None:
    provider = FakeProvider()
    async with providing(provider):
        login = provider.toml()
        token = provider.token()
    async with start_auth(login=login) as auth:
        assert (await auth.info(auth=None, headers=bearer(token))).status_code == 403
        assert (await auth.info()).status_code == 200


async def test_the_first_method_that_knows_somebody_counts(start_auth: StartAuth) -> None:
    async with providing() as one, providing() as two:
        tables = ""
        for provider, name in ((one, "one"), (two, "two")):
            provider.people["same"] = {"name": name}
            tables += f'[login.oidc.{name}]\nverify = "userinfo"\naddress = "{provider.url}/userinfo"\n'
            tables += 'identity = "UID={name}"\n'
        for methods, expected in (("", "UID=one"), ('methods = ["password", "oidc.two", "oidc"]', "UID=two")):
            async with start_auth(login=f"{methods}\n{tables}") as auth:
                assert (await caller(auth, "same"))["dn"] == expected
        one.people.clear()
        async with start_auth(login=tables) as auth:
            assert (await caller(auth, "same"))["dn"] == "UID=two"


# -- tokens of the server ---------------------------------------------------------------------------------------------


async def test_a_token_for_somebody_with_a_password(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        token = await issue(auth, "?lifetime=3600&renewable=true")
        claims = claims_of(token)
        assert claims["sub"] == DEMO
        assert claims["exp"] - claims["iat"] == 3600
        assert (claims["etd"], claims["renewable"]) == ("true", "true")
        assert "uid" not in claims
        client = await caller(auth, token)
        assert (client["dn"], client["authenticationMethod"]) == (DEMO, "ETD")
        assert client["xlogin"]["UID"] == "user1"
        assert (await auth.post(auth=None, headers=bearer(token))).status_code == 200
        reply = await get(auth, "/rest/auth/certificate")
        certificate = x509.load_pem_x509_certificate(reply.content)
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        peer_jwt.decode(token, key, algorithms=["ES256"])
        assert claims["iss"] == certificate.subject.rfc4514_string()


async def test_preferences_go_into_the_token_and_stay(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        reply = await get(auth, "/rest/auth/token", headers={"X-UNICORE-User-Preferences": "uid:user2"})
        assert claims_of(reply.text)["preferences"] == "uid:user2"
        headers = bearer(reply.text) | {"X-UNICORE-User-Preferences": "uid:user1"}
        assert (await auth.post(auth=None, headers=headers)).status_code == 200
        assert auth.node.transfers[-1].user == "user2"
        reply = await get(auth, "/rest/auth/token", headers={"X-UNICORE-User-Preferences": "uid:root"})
        assert reply.status_code == 403


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 200),
        ("?lifetime=60", 200),
        ("?lifetime=604800&limited=true&renewable=TRUE", 200),
        ("?lifetime=604801", 400),
        ("?lifetime=999999999999", 400),
        ("?lifetime=99999999999999999999", 400),
        ("?lifetime=0", 400),
        ("?lifetime=-1", 400),
        ("?lifetime=", 400),
        ("?lifetime=abc", 400),
        ("?lifetime=1.5", 400),
        ("?lifetime=%00", 400),
        ("?lifetime=%D9%A3", 400),
        ("?other=1", 200),
    ],
)
async def test_asking_for_tokens(start_auth: StartAuth, query: str, status: int) -> None:
    async with start_auth() as auth:
        reply = await get(auth, f"/rest/auth/token{query}")
        assert reply.status_code == status
        if status != 200:
            assert set(reply.json()) == {"errorMessage", "status"}


async def test_who_gets_a_token_where(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        for service in ("auth", "share", "access"):
            for what in ("token", "certificate"):
                path = f"/rest/{service}/{what}"
                reply = await get(auth, path)
                assert reply.status_code == 200
                assert reply.headers["content-type"].startswith("text/plain")
                anonymous = await get(auth, path, auth=None)
                assert anonymous.status_code == (200 if what == "certificate" and service != "share" else 403)
                assert (await get(auth, path, auth=("banned", "test123"))).status_code == 403
                assert (await get(auth, path, headers={"Accept": "application/json"})).status_code == 406
                assert (await get(auth, path, headers={"Accept": "text/plain"})).status_code == 200
                assert (await auth.client.post(auth.url + path, auth=("demouser", "test123"))).status_code == 405


async def test_renewals_and_limits(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        plain = await issue(auth)
        reply = await get(auth, "/rest/auth/token", plain)
        assert (reply.status_code, reply.json()["errorMessage"]) == (403, "Your token is not renewable")
        token = await issue(auth, "?renewable=true&limited=true")
        for _ in range(3):
            token = await issue(auth, "?renewable=true", token)
            assert claims_of(token)["aud"] == claims_of(token)["iss"]
        token = await issue(auth, "", token)
        assert "aud" in claims_of(token)
        assert (await get(auth, "/rest/auth/token", token)).status_code == 403
        assert (await caller(auth, token))["dn"] == DEMO


async def test_no_tokens_where_the_site_wants_none(start_auth: StartAuth) -> None:
    async with start_auth(login="[login.tokens]\nissue = false") as auth:
        assert (await get(auth, "/rest/auth/token")).status_code == 403


async def test_a_forged_delegation_token_is_refused_whatever_else_is_open(start_auth: StartAuth) -> None:
    async with providing() as provider:
        provider.people["x"] = {"name": "x"}
        login = (
            f'[login.oidc.X]\nverify = "userinfo"\naddress = "{provider.url}/userinfo"\nidentity = "UID={{name}}"\n'
            "[login.ssh]\n"
        )
        async with start_auth(login=login) as auth:
            good = await issue(auth)
            stranger = made(KEY, sub=DEMO, iss=claims_of(good)["iss"], etd="true")
            cut = good[:-4]
            for token in (stranger, cut, f"{good}AA"):
                assert (await auth.info(auth=None, headers=bearer(token))).status_code == 403
            assert provider.requests == []
            assert auth.node.asked_for_keys == []
            assert (await caller(auth, good))["dn"] == DEMO


# -- anything ---------------------------------------------------------------------------------------------------------

_WORDS = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=60)
_PARTS = st.lists(
    st.one_of(
        st.sampled_from(["e30", "eyJhbGciOiJub25lIn0", "eyJhbGciOiJFZERTQSJ9", "", "AAAA", "!"]),
        st.dictionaries(
            st.sampled_from(["alg", "typ", "kid", "sub", "iss", "exp", "nbf", "aud", "etd"]),
            st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.lists(st.text(max_size=3), max_size=2),
        ).map(lambda claims: peer_jwt.utils.base64url_encode(json.dumps(claims).encode()).decode()),
    ),
    min_size=1,
    max_size=4,
).map(".".join)


@pytest.mark.slow
async def test_no_credentials_are_an_internal_error(start_auth: StartAuth) -> None:
    async with providing() as provider:
        login = f"longest_delay_seconds = 0\n[login.ssh]\nlookups_per_minute_and_address = 1000000\n{provider.toml()}"
        async with start_auth(FakeNode(keys={"joe": (line(KEY),)}), login=login) as auth:
            headers: list[str] = []

            @given(st.sampled_from(["Basic", "Bearer", "bearer", "Digest", ""]), _WORDS | _PARTS)
            @settings(max_examples=300, suppress_health_check=list(HealthCheck))
            def collect(scheme: str, value: str) -> None:
                headers.append(f"{scheme} {value}".strip(" \t"))

            collect()
            statuses = set()
            for header in headers:
                reply = await auth.client.get(
                    f"{auth.url}/rest/auth", headers=[(b"Authorization", header.encode("latin-1"))]
                )
                statuses.add(reply.status_code)
                assert "Traceback" not in reply.text
            assert statuses <= {400, 403}
            assert 403 in statuses
