"""Tokens the server issues: what they open, how long, and what of others is believed."""

from __future__ import annotations

import datetime as dt
import ipaddress
import time
from pathlib import Path
from typing import Any

import jwt as peer_jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_tokens import algorithm_of, forged, made, ssh_token

from uftpd.auth.admin import token_to_revoke
from uftpd.auth.errors import BadRequest, Refused, RequestError, Unavailable
from uftpd.auth.identity.base import Credentials, Identity, LoginEnded, read_authorization
from uftpd.auth.identity.chain import LoginChain
from uftpd.auth.identity.credential import ServerCredential
from uftpd.auth.identity.jwt import parse_jwt
from uftpd.auth.identity.revocation import NoRevocations
from uftpd.auth.identity.throttle import Throttle
from uftpd.auth.identity.tokens import TokenAuthenticator, TokenIssuer, read_lifetime
from uftpd.config.login import Login, TokenLogin, TrustedIssuer
from uftpd.config.toml import ConfigError

AUTH = "AUTH"
JOE = Identity("CN=Joe, O=x", "SSHKEY", {"xlogin": ("joe",), "role": ("user",)}, servers=("A",))


def write_certificate(
    directory: Path, key: Any, name: str = AUTH, days: float = 3650, file: str = ""
) -> tuple[Path, Path]:
    """A self-signed certificate and its key, in files."""
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Site"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        subject, subject, key.public_key(), x509.random_serial_number(), now - dt.timedelta(days=30),
        now + dt.timedelta(days=days),
    )  # fmt: skip
    certificate = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    paths = directory / f"{file or name}.pem", directory / f"{file or name}.key"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


class Server:
    """An issuer and an authenticator with one certificate, and a clock the test sets."""

    def __init__(self, directory: Path, key: Any = None, *, days: float = 3650, **config: Any) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.credential = ServerCredential(*write_certificate(directory, self.key, days=days))
        self.now = time.time()
        self.revoked: set[str] = set()
        self.unreachable = False
        tokens = TokenLogin(**config)
        self.issuer = TokenIssuer(tokens, self.credential, lambda: self.now)
        self.authenticator = TokenAuthenticator(
            tokens, self.credential, self, Throttle(Login(longest_delay_seconds=0)), lambda: self.now
        )

    async def is_revoked(self, jti: str) -> bool:
        if self.unreachable:
            raise Unavailable("no store")
        return jti in self.revoked

    async def enter(self, token: str) -> Identity | None:
        return await self.authenticator.authenticate(_bearer(token))

    async def entered(self, token: str) -> Identity:
        identity = await self.enter(token)
        assert identity is not None
        return identity

    def made(self, **claims: Any) -> str:
        """A token signed with the server's key, with other claims than it would write."""
        usual = {"sub": "CN=Joe", "iss": self.credential.dn, "etd": "true"}
        return made(self.key, **(usual | claims))


def _bearer(token: str) -> Credentials:
    return read_authorization(f"Bearer {token}", ipaddress.ip_address("192.0.2.1"), "r")


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


# -- what a token holds -----------------------------------------------------------------------------------------------


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
async def test_a_token_opens_what_the_login_opened(tmp_path: Path, key: Any) -> None:
    server = Server(tmp_path, key)
    text = server.issuer.issue(JOE, ["uid:joe"])
    token = parse_jwt(text)
    assert token.algorithm == algorithm_of(key)
    assert peer_jwt.decode(text, key.public_key(), algorithms=[token.algorithm])["sub"] == "CN=Joe, O=x"
    assert {name: token.claims[name] for name in ("sub", "iss", "etd", "uid", "preferences")} == {
        "sub": "CN=Joe, O=x",
        "iss": "CN=AUTH,O=Site",
        "etd": "true",
        "uid": "joe",
        "preferences": "uid:joe",
    }
    assert token.claims["exp"] - token.claims["iat"] == 300
    assert "renewable" not in token.claims
    assert "aud" not in token.claims
    identity = await server.entered(text)
    assert (identity.dn, identity.method) == ("CN=Joe, O=x", "ETD")
    assert (identity.attributes, identity.servers) == (JOE.attributes, JOE.servers)
    assert identity.preferences == ("uid:joe",)
    assert identity.expires == token.claims["exp"]


async def test_each_token_has_an_id_by_which_it_can_be_revoked(server: Server) -> None:
    first, second = server.issuer.issue(JOE), server.issuer.issue(JOE)
    server.revoked = {parse_jwt(first).text("jti")}
    assert server.revoked != {""}
    with pytest.raises(LoginEnded, match="revoked"):
        await server.enter(first)
    assert await server.enter(second)
    server.unreachable = True
    with pytest.raises(RequestError):
        await server.enter(second)


async def test_tokens_of_an_upstream_server_with_this_certificate(server: Server) -> None:
    identity = await server.entered(server.made(uid="joe", renewable="true"))
    assert identity.attributes == {"xlogin": ("joe",), "role": ("user",)}
    assert identity.servers is None
    assert (await server.entered(server.made())).attributes == {}


# -- getting one ------------------------------------------------------------------------------------------------------


def test_lifetimes(tmp_path: Path) -> None:
    server = Server(tmp_path, days=1, longest_seconds=7 * 86400)

    def seconds(lifetime: int | None) -> int:
        claims = parse_jwt(server.issuer.issue(JOE, lifetime=lifetime)).claims
        return int(claims["exp"] - claims["iat"])

    assert [seconds(lifetime) for lifetime in (None, 1, 3600, 86000)] == [300, 1, 3600, 86000]
    for wrong in (0, 7 * 86400 + 1, 10**11):
        with pytest.raises(BadRequest, match="1 to 604800"):
            seconds(wrong)
    with pytest.raises(BadRequest, match="certificate"):
        seconds(2 * 86400)
    server.now += 86400 - 100
    assert seconds(None) in range(90, 101)  # the default is cut, not refused
    server.now += 200
    with pytest.raises(Refused):
        seconds(None)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "1e3", " 1", "٣", "9" * 40, "0x10", "+5"])
def test_lifetimes_that_are_none(text: str) -> None:
    with pytest.raises(BadRequest, match="lifetime"):
        read_lifetime(text)


def test_numbers_of_seconds() -> None:
    assert [read_lifetime(text) for text in (None, "0", "300", "0300")] == [None, 0, 300, 300]


def test_who_gets_none(tmp_path: Path, server: Server) -> None:
    with pytest.raises(Refused, match="anonymous"):
        server.issuer.issue(Identity("CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN", ""))
    for issuer in (TokenIssuer(TokenLogin(), None), TokenIssuer(TokenLogin(issue=False), server.credential)):
        with pytest.raises(Refused, match="issues no tokens"):
            issuer.issue(JOE)


async def test_renewing(server: Server) -> None:
    plain = await server.entered(server.issuer.issue(JOE))
    with pytest.raises(Refused, match="not renewable"):
        server.issuer.issue(plain)
    with pytest.raises(Refused, match="not renewable"):
        server.issuer.issue(await server.entered(server.made(renewable="yes")))
    renewable = await server.entered(server.issuer.issue(JOE, renewable=True))
    once = await server.entered(server.issuer.issue(renewable, lifetime=100))
    assert (once.attributes, once.servers) == (JOE.attributes, JOE.servers)
    with pytest.raises(Refused, match="not renewable"):
        server.issuer.issue(once)


async def test_a_limited_token_stays_limited(server: Server) -> None:
    text = server.issuer.issue(JOE, limited=True, renewable=True)
    assert parse_jwt(text).claims["aud"] == server.credential.dn
    for _ in range(3):
        text = server.issuer.issue(await server.entered(text), renewable=True)
        assert parse_jwt(text).claims["aud"] == server.credential.dn
    text = server.issuer.issue(await server.entered(server.issuer.issue(JOE, renewable=True)), limited=True)
    assert parse_jwt(text).claims["aud"] == server.credential.dn


async def test_a_revoked_token_takes_its_renewals_with_it(server: Server) -> None:
    first = server.issuer.issue(JOE, renewable=True)
    second = server.issuer.issue(await server.entered(first), renewable=True)
    third = server.issuer.issue(await server.entered(second), renewable=True)
    other = server.issuer.issue(JOE)
    for token in (first, second, third):
        assert token_to_revoke({"token": token}, 1000)[0] == parse_jwt(first).claims["jti"]
    assert parse_jwt(first).claims["exp"] < token_to_revoke({"token": first}, 1000)[1], "renewals outlive it"
    server.revoked.add(parse_jwt(first).claims["jti"])
    for token in (first, second, third):
        with pytest.raises(LoginEnded, match="revoked"):
            await server.enter(token)
    assert await server.enter(other)


async def test_renewing_comes_to_an_end(tmp_path: Path) -> None:
    server = Server(tmp_path, longest_seconds=1000, longest_renewal_seconds=2500)
    start = server.now
    text = server.issuer.issue(JOE, lifetime=1000, renewable=True)
    for expected in (1900, 2500):
        server.now += 900
        text = server.issuer.issue(await server.entered(text), lifetime=1000, renewable=True)
        assert parse_jwt(text).claims["exp"] - int(start) == expected
    server.now += 699.5
    with pytest.raises(Refused, match="any further"):
        server.issuer.issue(await server.entered(text), lifetime=1000, renewable=True)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None},
        {"lifetime": -61},
        {"exp": "2099"},
        {"nbf": 2**40},
        {"aud": "CN=other"},
        {"aud": []},
        {"aud": "cn=auth,o=site"},
        {"iss": "CN=Unknown"},
        {"iss": "nobody"},
        {"iss": "CN=AUTH,O=Site,C=EU"},
        {"uid": "joe\nuser=root"},
        {"uid": "../joe"},
        {"attributes": []},
        {"attributes": {"xlogin": "joe"}},
        {"attributes": {"xlogin": ["joe\nuser=root"]}},
        {"attributes": {"xlogin": [5]}},
    ],
)
async def test_tokens_with_our_signature_that_are_refused(server: Server, claims: dict[str, Any]) -> None:
    with pytest.raises(LoginEnded):
        await server.enter(server.made(**claims))
    assert await server.enter(server.made())


@pytest.mark.parametrize("etd", [True, "true", "TRUE", "True"])
async def test_forged_delegation_tokens_end_the_login(server: Server, etd: object) -> None:
    stranger = made(ec.generate_private_key(ec.SECP256R1()), sub="CN=Joe", iss=server.credential.dn, etd=etd)
    with pytest.raises(LoginEnded, match="not signed"):
        await server.enter(stranger)
    header, payload, _ = server.made(etd=etd).split(".")
    with pytest.raises(LoginEnded):
        await server.enter(f"{header}.{payload}.AAAA")
    assert await server.enter(server.made(etd=etd))


@pytest.mark.parametrize(
    "claims", [{"etd": False}, {"etd": "false"}, {"etd": None}, {"etd": 1}, {"sub": None}, {"iss": None}]
)
async def test_what_is_no_delegation_token_is_left_to_others(server: Server, claims: dict[str, Any]) -> None:
    assert await server.enter(server.made(**claims)) is None


@pytest.mark.parametrize("algorithm", ["none", "HS256", "HS384", "HS512", "ES256"])
async def test_the_certificate_is_no_secret(tmp_path: Path, algorithm: str) -> None:
    server = Server(tmp_path)
    claims = {"sub": "CN=Joe", "iss": server.credential.dn, "etd": "true", "exp": time.time() + 300}
    public = server.key.public_key()
    secrets = [
        b"",
        server.credential.pem.encode(),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    ]
    for secret in secrets:
        with pytest.raises(LoginEnded, match="not signed"):
            await server.enter(forged({"alg": algorithm}, claims, secret))


_VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(st.text(max_size=3), max_size=2)
_CLAIMS = st.dictionaries(
    st.sampled_from(["sub", "iss", "aud", "uid", "attributes", "servers", "jti", "auth_time", "iat", "preferences"]),
    _VALUES | st.dictionaries(st.text(max_size=5), _VALUES, max_size=2),
)


@given(claims=_CLAIMS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_claims_are_a_login_or_a_refusal(server: Server, claims: dict[str, Any]) -> None:
    chain = LoginChain([server.authenticator])
    try:
        identity = await chain.authenticate(_bearer(server.made(**claims)))
    except Refused:
        return
    # Whoever holds our key may write any name; what is read from it must be usable as it stands.
    assert identity.method == "ETD"
    server.issuer.issue(Identity(identity.dn, "ETD", identity.attributes, identity.servers))


# -- other servers ----------------------------------------------------------------------------------------------------


async def test_tokens_of_a_trusted_server_say_who_and_nothing_else(tmp_path: Path) -> None:
    other = rsa.generate_private_key(65537, 2048)
    certificate, _ = write_certificate(tmp_path, other, "OTHER")
    server = Server(tmp_path, issuers=(TrustedIssuer(certificate=certificate),))
    text = made(
        other, sub="CN=Joe", iss="O=Site,CN=OTHER", etd="true", uid="joe", attributes={"role": ["admin"]}, servers=["A"]
    )
    with pytest.raises(LoginEnded):  # the order of a name is part of it
        await server.enter(text)
    text = made(
        other,
        sub="CN=Joe",
        iss="cn=Other, o=Site",
        etd="true",
        uid="joe",
        attributes={"role": ["admin"]},
        renewable=True,
    )
    identity = await server.entered(text)
    assert (identity.dn, identity.attributes, identity.servers) == ("CN=Joe", {}, None)
    # Nor does a renewal make more of it.
    renewed = await server.entered(server.issuer.issue(identity))
    assert (renewed.attributes, renewed.servers) == ({}, None)
    with pytest.raises(LoginEnded):
        await server.enter(made(other, sub="CN=Joe", iss=server.credential.dn, etd="true"))
    with pytest.raises(LoginEnded, match="some servers of its issuer only"):
        await server.enter(made(other, sub="CN=Joe", iss="CN=OTHER,O=Site", etd="true", servers=["A"]))
    with pytest.raises(LoginEnded, match="ends more than"):
        await server.enter(made(other, sub="CN=Joe", iss="CN=OTHER,O=Site", etd="true", lifetime=10**9))


async def test_a_trusted_certificate_that_has_ended_counts_no_more(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    certificate, _ = write_certificate(tmp_path, other, "OTHER", days=-1)
    server = Server(tmp_path, issuers=(TrustedIssuer(certificate=certificate),))
    with pytest.raises(LoginEnded):
        await server.enter(made(other, sub="CN=Joe", iss="CN=OTHER,O=Site", etd="true"))


async def test_a_former_certificate_of_ones_own(tmp_path: Path) -> None:
    former = ec.generate_private_key(ec.SECP256R1())
    certificate, _ = write_certificate(tmp_path, former, AUTH, file="former")
    server = Server(tmp_path, issuers=(TrustedIssuer(certificate=certificate),))
    identity = await server.entered(made(former, sub="CN=Joe", iss=server.credential.dn, etd="true", uid="joe"))
    assert identity.attributes == {"xlogin": ("joe",), "role": ("user",)}


async def test_a_shared_secret_counts_for_its_issuer_only(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s" * 32 + "\n")
    server = Server(tmp_path, issuers=(TrustedIssuer(dn="CN=Portal", secret_file=tmp_path / "secret"),))
    claims = {"sub": "CN=Joe", "iss": "CN=Portal", "etd": "true", "exp": time.time() + 300, "uid": "joe"}
    for algorithm in ("HS256", "HS384", "HS512"):
        identity = await server.entered(forged({"alg": algorithm}, claims, b"s" * 32))
        assert (identity.dn, identity.attributes) == ("CN=Joe", {})
    for wrong in (claims | {"iss": server.credential.dn}, claims | {"iss": "CN=Other"}):
        with pytest.raises(LoginEnded):
            await server.enter(forged({"alg": "HS256"}, wrong, b"s" * 32))
    with pytest.raises(LoginEnded):
        await server.enter(made(server.key, sub="CN=Joe", iss="CN=Portal", etd="true"))


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate, key_file = write_certificate(tmp_path, key)
    other, _ = write_certificate(tmp_path, rsa.generate_private_key(65537, 2048), "OTHER")
    weak, weak_key = write_certificate(tmp_path, rsa.generate_private_key(65537, 1024), "WEAK")
    (tmp_path / "short").write_text("x" * 31)
    for pair, words in (
        ((certificate, tmp_path / "none"), "cannot be read"),
        ((tmp_path / "none", key_file), "cannot be read"),
        ((key_file, key_file), "no certificate"),
        ((certificate, certificate), "no unencrypted private key"),
        ((other, key_file), "do not belong together"),
        ((weak, weak_key), "2048 bits"),
    ):
        with pytest.raises(ConfigError, match=words):
            ServerCredential(*pair)
    for trusted, words in (
        (TrustedIssuer(certificate=tmp_path / "none"), "cannot be read"),
        (TrustedIssuer(certificate=key_file), "no certificate"),
        (TrustedIssuer(certificate=weak), "2048 bits"),
        (TrustedIssuer(dn="CN=x", secret_file=tmp_path / "short"), "at least 32 bytes"),
    ):
        with pytest.raises(ConfigError, match=words):
            TokenAuthenticator(TokenLogin(issuers=(trusted,)), None, NoRevocations(), Throttle(Login()))


# -- the chain --------------------------------------------------------------------------------------------------------


class _Everybody:
    """Lets everybody in."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.asked = 0

    async def authenticate(self, credentials: Credentials) -> Identity | None:
        self.asked += 1
        return self.identity


async def test_after_a_refused_delegation_token_nobody_else_is_asked(server: Server) -> None:
    everybody = _Everybody(Identity("CN=x", "X"))
    chain = LoginChain([server.authenticator, everybody])
    with pytest.raises(Refused):
        await chain.authenticate(_bearer(server.made(lifetime=-100)))
    assert everybody.asked == 0
    assert (await chain.authenticate(_bearer(ssh_token(server.key)))).dn == "CN=x"


@pytest.mark.parametrize("dn", ["", "joe", "CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN", "cn=anonymous, o=unknown, ou=Unknown"])
async def test_names_nobody_can_have(dn: str) -> None:
    with pytest.raises(Refused):
        await LoginChain([_Everybody(Identity(dn, "X"))]).authenticate(_bearer("x"))
