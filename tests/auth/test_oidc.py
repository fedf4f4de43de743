"""Logging in with tokens of an identity provider, which is a real HTTP server here."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from made_tokens import b64, forged, made, ssh_token
from oidc_provider import FakeProvider, providing

from uftpd.auth.identity.base import Identity, LoginRefused, read_authorization
from uftpd.auth.identity.oidc import OidcAuthenticator
from uftpd.auth.identity.provider import MAX_REPLY_BYTES, ProviderFailed, read_keys
from uftpd.auth.identity.throttle import Throttle
from uftpd.config.login import Login, OidcProvider
from uftpd.config.toml import ConfigError

UNSIGNED = b'{"alg":"none"}'
_CONFIGURATION = "/.well-known/openid-configuration"


class Door:
    """An authenticator whose clocks the test sets."""

    def __init__(self, settings: OidcProvider, login: Login | None = None) -> None:
        self.now = 1000.0
        self.wall = time.time()
        self.authenticator = OidcAuthenticator(
            "IDP",
            settings,
            Throttle(login or Login(longest_delay_seconds=0)),
            clock=lambda: self.now,
            wall_clock=lambda: self.wall,
        )

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds

    async def enter(self, token: str) -> Identity | None:
        here = ipaddress.ip_address("192.0.2.1")
        return await self.authenticator.authenticate(read_authorization(f"Bearer {token}", here, "r"))

    async def entered(self, token: str) -> Identity:
        identity = await self.enter(token)
        assert identity is not None
        return identity

    async def is_refused(self, token: str) -> bool:
        try:
            return await self.enter(token) is None
        except LoginRefused:
            return True


# -- signatures -------------------------------------------------------------------------------------------------------


async def test_a_signed_token_is_checked_here() -> None:
    async with providing() as provider:
        door = Door(provider.settings(uid="{name}", groups="{groups}", role="user"))
        token = provider.token(name="joe", groups=["users", "hpc1", "no group!"])
        identity = await door.entered(token)
        assert (identity.dn, identity.method) == ("UID=joe@example.org,O=IdP", "OAUTH")
        assert identity.attributes == {"xlogin": ("joe",), "group": ("users", "hpc1"), "role": ("user",)}
        assert identity.expires is not None
        assert abs(identity.expires - time.time() - 300) < 60
        assert provider.paths() == [_CONFIGURATION, "/keys"]
        await door.entered(provider.token())
        assert len(provider.requests) == 2
        # The token itself goes nowhere.
        assert all(not authorization and not body for _, _, authorization, body in provider.requests)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
)
async def test_all_kinds_of_keys(key: Any) -> None:
    async with providing(FakeProvider(keys={"k1": key})) as provider:
        door = Door(provider.settings())
        assert await door.enter(provider.token())
        header, payload, signature = provider.token().split(".")
        assert await door.is_refused(f"{header}.{payload}.{signature[:-6]}AAAAAA")


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None},
        {"lifetime": -61},
        {"exp": "soon"},
        {"exp": 10**400},
        {"nbf": 2**40},
        {"aud": None},
        {"aud": "other"},
        {"aud": ["other", "UFTP"]},
        {"aud": []},
        {"aud": {"uftp": 1}},
        {"iss": "https://other.example.org"},
        {"iss": None},
        {"email": None},
        {"email": ["a", "b"]},
        {"email": "a\nb"},
        {"etd": True},
        {"etd": "true"},
    ],
)
async def test_signed_tokens_that_are_refused(claims: dict[str, Any]) -> None:
    async with providing() as provider:
        door = Door(provider.settings())
        assert await door.is_refused(provider.token(**claims))
        assert await door.enter(provider.token())


async def test_a_slash_at_the_end_makes_another_issuer() -> None:
    async with providing() as provider:
        assert await Door(provider.settings()).is_refused(provider.token(iss=f"{provider.url}/"))


@pytest.mark.parametrize(
    ("claims", "taken"),
    [
        ({"azp": "app"}, True),
        ({"client_id": "app"}, True),
        ({"azp": "other", "client_id": "app"}, False),
        ({"azp": "other"}, False),
        ({}, False),
        ({"azp": ["app"]}, False),
        ({"azp": "app", "aud": "other"}, False),
    ],
)
async def test_clients(claims: dict[str, Any], taken: bool) -> None:
    async with providing() as provider:
        door = Door(provider.settings(clients=("app",)))
        assert await door.is_refused(provider.token(**claims)) is not taken


async def test_forgeries() -> None:
    async with providing() as provider:
        door = Door(provider.settings())
        good = provider.token()
        header, payload, signature = good.split(".")
        stranger = made(rsa.generate_private_key(65537, 2048), headers={"kid": "k1"}, iss=provider.url, aud="uftp")
        public = provider.keys["k1"].public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        claims = {"iss": provider.url, "aud": "uftp", "exp": time.time() + 300, "email": "joe@example.org"}
        forgeries = [
            f"{b64(UNSIGNED)}.{payload}.{signature}",
            f"{b64(UNSIGNED)}.{payload}.",
            f"{header}.{payload}.",
            stranger,
            *(
                forged({"alg": algorithm, "kid": "k1"}, claims, public.public_bytes(encoding, form))
                for algorithm in ("HS256", "RS256", "none")
                for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER)
            ),
        ]
        for token in forgeries:
            assert await door.is_refused(token)
        assert await door.enter(good)


async def test_only_listed_algorithms() -> None:
    keys = {"k1": rsa.generate_private_key(65537, 2048), "k2": ec.generate_private_key(ec.SECP256R1())}
    async with providing(FakeProvider(keys=keys)) as provider:
        door = Door(provider.settings(algorithms=("ES256",)))
        assert await door.is_refused(provider.token("k1"))
        assert await door.enter(provider.token("k2"))


async def test_a_key_named_in_the_token_must_be_the_one() -> None:
    keys = {"k1": rsa.generate_private_key(65537, 2048), "k2": rsa.generate_private_key(65537, 2048)}
    async with providing(FakeProvider(keys=keys)) as provider:
        door = Door(provider.settings())
        claims: dict[str, Any] = {"iss": provider.url, "aud": "uftp", "email": "joe@example.org"}
        assert await door.is_refused(made(keys["k1"], headers={"kid": "k2"}, **claims))
        assert await door.enter(made(keys["k2"], headers={"kid": "k2"}, **claims))
        assert await door.enter(made(keys["k1"], **claims))


async def test_keys_change() -> None:
    async with providing() as provider:
        door = Door(provider.settings())
        old = provider.token()
        await door.entered(old)
        provider.keys = {"k2": rsa.generate_private_key(65537, 2048)}
        # A new key is known at once, but tokens with unknown keys do not make us ask again and again.
        door.wait(11)
        await door.entered(provider.token("k2"))
        assert len(provider.requests) == 4
        for _ in range(5):
            assert await door.is_refused(made(provider.keys["k2"], headers={"kid": "k9"}, iss=provider.url))
        assert len(provider.requests) == 4
        # What the old one signed counts no longer, once it is out of memory.
        door.wait(200)
        door.now += 301
        assert await door.is_refused(old)


async def test_keys_outlive_a_short_outage_and_not_a_long_one() -> None:
    provider = FakeProvider()
    async with providing(provider):
        door = Door(provider.settings())
        await door.entered(provider.token())
    door.wait(3600)
    assert await door.enter(provider.token(lifetime=7200, jti="1"))
    door.wait(86400)
    with pytest.raises(ProviderFailed):
        await door.enter(provider.token(lifetime=2 * 86400, jti="2"))


@pytest.mark.parametrize(
    ("path", "status", "content"),
    [
        (_CONFIGURATION, 404, b""),
        (_CONFIGURATION, 200, b"not JSON"),
        (_CONFIGURATION, 200, b"[]"),
        (_CONFIGURATION, 200, b'{"issuer": "https://other.example.org", "jwks_uri": "https://other.example.org/keys"}'),
        (_CONFIGURATION, 302, b""),
        ("/keys", 500, b""),
        ("/keys", 200, b'{"keys": {}}'),
        ("/keys", 200, b"[" * 100_000),
        ("/keys", 200, b"x" * (MAX_REPLY_BYTES + 1)),
    ],
)
async def test_a_provider_that_answers_nonsense(path: str, status: int, content: bytes) -> None:
    async with providing() as provider:
        provider.raw[path] = (status, {"Location": f"{provider.url}/elsewhere"} if status == 302 else {}, content)
        door = Door(provider.settings())
        with pytest.raises(LoginRefused):
            await door.enter(provider.token())
        assert "/elsewhere" not in provider.paths()
        provider.raw.clear()
        door.wait(11)
        assert await door.enter(provider.token())


async def test_keys_are_not_fetched_from_an_unsafe_place() -> None:
    async with providing() as provider:
        for address in ("http://keys.example.org/", "file:///etc/passwd", "https://u:p@keys.example.org/", 5):
            content = f'{{"issuer": "{provider.url}", "jwks_uri": "{address}"}}'.encode()
            provider.raw[_CONFIGURATION] = (200, {}, content)
            with pytest.raises(ProviderFailed, match="jwks_uri"):
                await Door(provider.settings()).enter(provider.token())


def test_published_keys_that_cannot_be_used_are_passed_over() -> None:
    good = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    usable = {"kty": "OKP", "crv": "Ed25519", "x": b64(good), "kid": "good"}
    junk: list[object] = [
        None,
        5,
        {},
        {"kty": "oct", "k": b64(b"s" * 32)},
        {"kty": "RSA"},
        {"kty": "RSA", "n": b64(b"\xff" * 128), "e": "AQAB"},  # 1024 bits
        {"kty": "RSA", "n": b64(b"\xff" * 256), "e": "!"},
        {"kty": "RSA", "n": 5, "e": 3},
        {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
        {"kty": "EC", "crv": "P-999", "x": "AAAA", "y": "AAAA"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"},
        {"kty": "OKP", "crv": "X25519", "x": b64(good)},
        {**usable, "use": "enc"},
        {**usable, "kid": 5},
    ]
    assert [key.key_id for key in read_keys([*junk, usable])] == ["good"]


# -- asking the provider ----------------------------------------------------------------------------------------------


def _asking(provider: FakeProvider, verify: str, directory: Path, **more: Any) -> OidcProvider:
    secret = directory / "secret"
    secret.write_text("s3cret & more\n")
    usual: dict[str, Any] = {
        "verify": verify,
        "address": f"{provider.url}/{'introspect' if verify == 'introspection' else verify}",
        "identity": "UID={email}",
        "timeout_seconds": 5,
    }
    if verify == "introspection":
        usual |= {"client_id": "uftp", "client_secret_file": secret}
    return OidcProvider(**(usual | more))


async def test_userinfo(tmp_path: Path) -> None:
    async with providing() as provider:
        provider.people["opaque"] = {"email": "joe@example.org"}
        door = Door(_asking(provider, "userinfo", tmp_path))
        identity = await door.entered("opaque")
        assert identity.dn == "UID=joe@example.org"
        assert identity.expires == door.wall + 300
        assert provider.requests == [("GET", "/userinfo", "Bearer opaque", "")]
        assert await door.is_refused("other")


async def test_introspection(tmp_path: Path) -> None:
    async with providing() as provider:
        end = int(time.time()) + 100
        provider.active = {
            "good": {"active": True, "email": "joe@example.org", "exp": end, "aud": "uftp"},
            "text": {"active": "true", "email": "joe@example.org"},
            "one": {"active": 1, "email": "joe@example.org"},
            "old": {"active": True, "email": "joe@example.org", "exp": end - 1000},
            "strange": {"active": True, "email": "joe@example.org", "exp": "x"},
            "for another": {"active": True, "email": "joe@example.org", "aud": "other"},
            "of another": {"active": True, "email": "joe@example.org", "aud": "uftp", "iss": "https://other"},
        }
        settings = _asking(provider, "introspection", tmp_path, audiences=("uftp",), issuers=(provider.url,))
        door = Door(settings)
        identity = await door.entered("good")
        assert identity.expires == end
        assert provider.requests[0][3] == "client_id=uftp&client_secret=s3cret+%26+more&token=good"
        for token in ("text", "one", "old", "strange", "none", "for%20another", "of%20another"):
            assert await door.is_refused(token)
        wrong = tmp_path / "wrong"
        wrong.write_text("x")
        assert await Door(_asking(provider, "introspection", tmp_path, client_secret_file=wrong)).is_refused("good")


async def test_an_answer_is_used_for_a_while(tmp_path: Path) -> None:
    async with providing() as provider:
        provider.people["a"] = {"email": "joe@example.org"}
        provider.people["b"] = {"email": "joe@example.org", "exp": time.time() + 30}
        door = Door(_asking(provider, "userinfo", tmp_path))
        async with trio.open_nursery() as nursery:
            for _ in range(9):
                nursery.start_soon(door.entered, "a")
        await door.entered("b")
        assert len(provider.requests) == 2
        del provider.people["b"]
        door.wait(31)
        assert await door.is_refused("b")  # no longer than the token lives
        await door.entered("a")
        assert len(provider.requests) == 3
        door.wait(270)
        await door.entered("a")
        assert len(provider.requests) == 4


async def test_tokens_of_others_are_not_sent_to_the_provider(tmp_path: Path) -> None:
    async with providing() as provider:
        key = ed25519.Ed25519PrivateKey.generate()
        door = Door(_asking(provider, "userinfo", tmp_path, issuers=("https://idp.example.org",)))
        for token in (
            ssh_token(key),
            made(key, sub="CN=joe", iss="CN=AUTH", etd="true"),
            made(key, sub="joe", iss="https://other.example.org"),
            made(key, sub="joe", iss="https://idp.example.org", lifetime=-100),
            "a b",
            "a\x7f",
            "ä",
            "x" * 20_000,
        ):
            assert await door.is_refused(token)
        assert provider.requests == []
        assert await door.is_refused(made(key, sub="joe", iss="https://idp.example.org"))
        assert len(provider.requests) == 1


async def test_a_provider_that_cannot_be_reached_is_left_alone_for_a_while(tmp_path: Path) -> None:
    provider = FakeProvider(people={"a": {"email": "joe@example.org"}}, silent=True)
    async with providing(provider):
        door = Door(_asking(provider, "userinfo", tmp_path, timeout_seconds=0.2))
        for _ in range(5):
            with pytest.raises(ProviderFailed):
                await door.enter("a")
        assert len(provider.requests) == 1
        provider.silent = False
        door.wait(61)
        await door.entered("a")
        # Gateways say so when the provider behind them is gone.
        provider.raw["/userinfo"] = (503, {}, b"")
        for token in "bcd":
            with pytest.raises(ProviderFailed):
                await door.enter(token)
        assert len(provider.requests) == 3
    door.wait(61)
    with pytest.raises(ProviderFailed):
        await door.enter("e")


async def test_one_strange_token_does_not_lock_out_the_others(tmp_path: Path) -> None:
    async with providing() as provider:
        provider.people["good"] = {"email": "joe@example.org"}
        door = Door(_asking(provider, "userinfo", tmp_path))
        for number, (status, headers, content) in enumerate(
            [
                (500, {}, b""),
                (200, {}, b"junk"),
                (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b"),
                (200, {}, b"x" * (MAX_REPLY_BYTES + 1)),
                (302, {"Location": f"{provider.url}/elsewhere"}, b""),
                (204, {}, b""),
            ]
        ):
            provider.raw["/userinfo"] = (status, headers, content)
            assert await door.is_refused(f"bad{number}")
        provider.raw.clear()
        await door.entered("good")
        assert "/elsewhere" not in provider.paths()


async def test_guesses_are_slowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def noted(throttle: Throttle, address: object, seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(Throttle, "wait", noted)
    async with providing() as provider:
        door = Door(_asking(provider, "userinfo", tmp_path), Login(free_failures=3))
        for number in range(6):
            assert await door.is_refused(f"guess{number}")
        assert waits == [0, 0, 0, 0.25, 0.5, 1]
        waits.clear()
        door = Door(provider.settings(), Login(free_failures=3))
        for _ in range(5):
            assert await door.is_refused(provider.token()[:-6] + "AAAAAA")
        assert waits == [0, 0, 0, 0.25, 0.5]
        # A token that has run out is no guess.
        assert await door.is_refused(provider.token(lifetime=-100))
        assert len(waits) == 5


async def test_the_providers_certificate_is_checked(tmp_path: Path) -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with providing(tls=context) as provider:
        assert await Door(provider.settings(ca=tmp_path / "ca.pem")).enter(provider.token())
        with pytest.raises(ProviderFailed):
            await Door(provider.settings()).enter(provider.token())


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    provider = FakeProvider(url="https://idp.example.org")
    (tmp_path / "empty").write_text("")
    (tmp_path / "binary").write_bytes(b"\xff")
    for name, words in (("none", "cannot be read"), ("empty", "empty"), ("binary", "UTF-8")):
        with pytest.raises(ConfigError, match=words):
            Door(_asking(provider, "introspection", tmp_path, client_secret_file=tmp_path / name))
    for name in ("none", "empty"):
        with pytest.raises(ConfigError, match="no usable CA"):
            Door(provider.settings(ca=tmp_path / name))


async def test_other_schemes_are_not_its_business() -> None:
    provider = FakeProvider(url="https://idp.example.org")
    door = Door(provider.settings())
    here = ipaddress.ip_address("192.0.2.1")
    for header in (None, "", "Basic am9lOnA=", "Bearer", "Bearer ", "Negotiate x"):
        with contextlib.suppress(LoginRefused):
            assert await door.authenticator.authenticate(read_authorization(header, here, "r")) is None
