"""`[login]` of an auth server: the ways to prove who one is, in their order.

    [login]
    methods = ["password", "ssh", "oidc"]     # default: all that are configured, in this order
    password_file = "passwords"

    [login.ssh]                               # a signature by an SSH key
    key_file = "ssh-keys"
    node_keys = "own"

    [login.oidc.CAMPUS]                       # a token of an identity provider; one table each
    issuers = ["https://idp.example.org/realms/campus"]
    audiences = ["uftp"]
    identity = "UID={email}"

    [login.tokens]                            # tokens this server issues
    longest_seconds = 604800

Values are validated here as far as no file is needed; `login_problems` checks what concerns several settings.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from uftp.protocol.dn import InvalidName, parse_name
from uftpd.config.claims import Rule, check_rules, check_template
from uftpd.config.section import Count, Seconds, Section

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_PROVIDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}", re.ASCII)

# What a provider may sign with: no `none`, and no HMAC, for which the verifier would hold the signer's secret.
ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

Role = Literal["user", "admin", ""]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]  # as in ASYMMETRIC


class SshLogin(Section, frozen=True):
    """`[login.ssh]`: tokens signed with an SSH key (CONTROL-PLANE 5.3).

    Attributes:
        key_file: lines `name:authorized_keys-line:DN`, keys the site itself vouches for; read again when it changes.
        key_file_accounts: a name in that file is also the account, with the role below; False: the map file says.
        node_keys: "own": keys a data node reports for an account admit to the logical server of that node alone;
            "all": to all servers, and whoever controls one node can be anybody on all; "off": nodes are not asked.
        dn: whom a key reported by a node makes; %s is the account name.
        role: of such a person, and of one from the key file with `key_file_accounts`; "": the map file says.
        longest_seconds: how far in the future a token may end.
        cache_seconds: how long keys reported by nodes are remembered; a key that is taken away lives on so long.
        failure_seconds: how long it is remembered that there are none, or that a node did not answer.
        node_seconds: for a node to report keys; one that takes longer reports none this time.
        lookups_at_once: names asked of the nodes at the same time.
        lookups_per_minute: names asked for that never logged in before, from all addresses.
        lookups_per_minute_and_address: the same from one address.
    """

    key_file: Path | None = None
    key_file_accounts: bool = False
    node_keys: Literal["own", "all", "off"] = "own"
    dn: str = "CN=%s,OU=ssh-local-users"
    role: Role = "user"
    longest_seconds: Seconds = 86400.0
    cache_seconds: Annotated[float, msgspec.Meta(ge=0)] = 600.0
    failure_seconds: Annotated[float, msgspec.Meta(ge=1, le=60)] = 10.0
    node_seconds: Seconds = 10.0
    lookups_at_once: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    lookups_per_minute: Count = 240
    lookups_per_minute_and_address: Count = 30

    def __post_init__(self) -> None:
        if self.dn.count("%s") != 1:
            raise ValueError("dn: %s must stand in it once, for the account name")
        try:
            parse_name(self.dn.replace("%s", "x"))
        except InvalidName as error:
            raise ValueError(f"dn: {error}") from None


class OidcProvider(Section, frozen=True):
    """`[login.oidc.NAME]`: bearer tokens of one identity provider (CONTROL-PLANE 5.5).

    Attributes:
        verify: "jwks": signatures are checked here, with the keys the issuers publish; "userinfo": the provider is
            asked whose token it is; "introspection": the provider is asked whether and for what it is good.
        issuers: with "jwks": whose tokens are taken; their configuration is found at
            ISSUER/.well-known/openid-configuration. Otherwise, if given: what `iss` must be, if there is one.
        audiences: one of them must be in `aud`. Required for "jwks", or `clients`: else a token that somebody gave to
            any other service of the same provider would open this one.
        clients: one of them must be `azp` or `client_id`.
        algorithms: what a provider may sign with.
        address: of "userinfo" or "introspection".
        client_id, client_secret_file: what this server calls itself at "introspection".
        ca: PEM file with the CAs of the provider's certificate; default: those of the system.
        identity: whose name a token gives, such as "UID={email}"; values are escaped.
        uid: local account. None: the map file says.
        groups: local groups, the first is the default.
        role: "user" or "admin", the first is the default.
        cache_seconds: how long the answer about a token is used, never longer than the token lives.
        timeout_seconds: for one question to the provider.
        down_seconds: a provider that did not answer is left alone this long.
        leeway_seconds: by which clocks may differ.
        login_client, login_scopes: shown to clients (`server.oidc` of the info reply: name, issuer, clientId,
            scopes), so that `uftp login` needs no settings of its own.
    """

    identity: str
    verify: Literal["jwks", "userinfo", "introspection"] = "jwks"
    issuers: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    algorithms: tuple[Algorithm, ...] = ASYMMETRIC  # type: ignore[assignment]  # the same names
    address: str = ""
    client_id: str = ""
    client_secret_file: Path | None = None
    ca: Path | None = None
    uid: str | tuple[str | Rule, ...] = ()
    groups: str | tuple[str | Rule, ...] = ()
    role: str | tuple[str | Rule, ...] = ()
    cache_seconds: Annotated[float, msgspec.Meta(ge=0, le=300)] = 300.0
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 10.0
    down_seconds: Annotated[float, msgspec.Meta(ge=1)] = 60.0
    leeway_seconds: Annotated[float, msgspec.Meta(ge=0, le=300)] = 60.0
    login_client: str = ""
    login_scopes: tuple[str, ...] = ("openid",)

    def __post_init__(self) -> None:
        check_template("identity", self.identity, is_name=True)
        for setting, rules in (("uid", self.uid), ("groups", self.groups), ("role", self.role)):
            check_rules(setting, rules)
        for address in (*self.issuers, *((self.address,) if self.address else ())):
            if not is_safe_url(address):
                raise ValueError(f"'{address}': expected https://HOST[:PORT][/PATH]; http only on this machine")
        if not self.algorithms:
            raise ValueError("algorithms: at least one is needed")
        if self.verify == "jwks":
            if not self.issuers:
                raise ValueError('issuers: required for verify = "jwks"')
            if not self.audiences and not self.clients:
                raise ValueError('audiences, clients: one of them is required for verify = "jwks"')
        elif not self.address:
            raise ValueError(f'address: required for verify = "{self.verify}"')
        if self.verify == "introspection" and (not self.client_id or self.client_secret_file is None):
            raise ValueError('client_id, client_secret_file: required for verify = "introspection"')
        if self.login_client and not self.issuers:
            raise ValueError("login_client: needs issuers, so that clients know where to log in")


class TrustedIssuer(Section, frozen=True):
    """`[[login.tokens.issuers]]`: another server whose tokens are believed.

    A certificate with this server's own name is a former one of its own.

    Attributes:
        certificate: PEM file with the certificate the other server signs with.
        dn, secret_file: instead: its name, and a shared secret of 32 bytes or more for HS256, HS384, HS512.
    """

    certificate: Path | None = None
    dn: str = ""
    secret_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) == (self.secret_file is None):
            raise ValueError("give either certificate, or dn and secret_file")
        if bool(self.dn) != (self.secret_file is not None):
            raise ValueError("dn: belongs to secret_file; a certificate has its own")
        if self.dn:
            try:
                parse_name(self.dn)
            except InvalidName as error:
                raise ValueError(f"dn: {error}") from None


class TokenLogin(Section, frozen=True):
    """`[login.tokens]`: tokens this server issues, and those of servers it trusts (CONTROL-PLANE 5.4).

    Attributes:
        issue: give tokens to people who are logged in.
        default_seconds: lifetime of a token if none is asked for.
        longest_seconds: the longest that may be asked for.
        longest_renewal_seconds: renewed again and again, a token ends this long after the first login.
        issuers: other servers whose tokens are believed; theirs say who, never which account or role.
    """

    issue: bool = True
    default_seconds: Count = 300
    longest_seconds: Count = 7 * 86400
    longest_renewal_seconds: Count = 30 * 86400
    issuers: tuple[TrustedIssuer, ...] = ()

    def __post_init__(self) -> None:
        if not self.default_seconds <= self.longest_seconds <= self.longest_renewal_seconds:
            raise ValueError("default_seconds <= longest_seconds <= longest_renewal_seconds must hold")


class Login(Section, frozen=True):
    """`[login]`: how people prove who they are.

    Attributes:
        methods: which ways are open, in this order: "password", "ssh", "oidc" (all providers) or "oidc.NAME". Empty:
            all that are configured, in the order just given. Tokens of this server are always taken, and first.
        password_file: lines `name:hash:salt:DN`; read again when it changes.
        ssh: logging in with an SSH key; None: not possible.
        oidc: identity providers by name.
        tokens: the server's own tokens.
        anonymous: requests without credentials are served as the anonymous user; False: refused.
        cache_seconds: how long a verified password is remembered (as a keyed hash, in memory only), so that a client
            that opens many sessions pays for one verification; 0: never.
        hash_threads: password verifications at once; each takes some 50 ms of processor time and 64 MiB of memory.
        free_failures: failed logins of one user from one address before further ones are slowed.
        free_failures_per_address: the same for all users of one address.
        longest_delay_seconds: how long a login is held back at most.
        forget_failures_seconds: failures older than this no longer count.
    """

    methods: tuple[str, ...] = ()
    password_file: Path | None = None
    ssh: SshLogin | None = None
    oidc: dict[str, OidcProvider] = msgspec.field(default_factory=dict)
    tokens: TokenLogin = TokenLogin()
    anonymous: bool = True
    cache_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 60.0
    hash_threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    free_failures: Count = 3
    free_failures_per_address: Count = 30
    longest_delay_seconds: Annotated[float, msgspec.Meta(ge=0, le=30)] = 5.0
    forget_failures_seconds: Seconds = 300.0


def configured_methods(login: Login) -> tuple[str, ...]:
    """The ways to log in that have settings, in default order; providers one by one."""
    found = ["password"] if login.password_file is not None else []
    found += ["ssh"] if login.ssh is not None else []
    return (*found, *(f"oidc.{name}" for name in login.oidc))


def ordered_methods(login: Login) -> tuple[str, ...]:
    """The ways to log in, in the order they are tried; providers one by one."""
    configured = configured_methods(login)
    if not login.methods:
        return configured
    listed: list[str] = []
    for method in login.methods:
        listed += [name for name in configured if name == method or name.startswith(f"{method}.")]
    return tuple(dict.fromkeys(listed))


def login_problems(login: Login) -> list[str]:
    """What is wrong with settings that each are right alone; one line each, empty if all is well."""
    found = [
        f"login.oidc.{name}: a provider's name has letters, digits, '_' and '-'"
        for name in login.oidc
        if not _PROVIDER_NAME.fullmatch(name)
    ]
    configured = configured_methods(login)
    needs = {"password": "login.password_file", "ssh": "login.ssh", "oidc": "a table login.oidc.NAME"}
    for method in login.methods:
        if any(name == method or name.startswith(f"{method}.") for name in configured):
            continue
        if method in needs:
            found.append(f"login.methods: '{method}' needs {needs[method]}")
        else:
            found.append(
                f"login.methods: '{method}' is none of 'password', 'ssh', 'oidc' or 'oidc.NAME' with its table"
            )
    if login.methods:
        unused = [name for name in configured if name not in ordered_methods(login)]
        found += [f"login.methods: '{name}' is configured, but not listed" for name in unused]
    ssh = login.ssh
    if ssh is not None and ssh.key_file is None and ssh.node_keys == "off":
        found.append('login.ssh: with node_keys = "off" a key_file is needed')
    return found


def is_safe_url(text: str) -> bool:
    """HTTPS, or HTTP on this machine; without user, query or fragment."""
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.query or parts.fragment or not text.isascii():
        return False
    if any(c <= " " for c in text):
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)
