"""The ways to log in that a configuration opens, in the order they are tried."""

from __future__ import annotations

from uftpd.auth.identity.anonymous import AnonymousAuthenticator
from uftpd.auth.identity.base import Authenticator
from uftpd.auth.identity.credential import ServerCredential
from uftpd.auth.identity.oidc import OidcAuthenticator
from uftpd.auth.identity.password import PasswordFileAuthenticator
from uftpd.auth.identity.revocation import NoRevocations, Revocations
from uftpd.auth.identity.ssh import SshKeyAuthenticator
from uftpd.auth.identity.throttle import Throttle
from uftpd.auth.identity.tokens import TokenAuthenticator
from uftpd.auth.nodes.registry import NodeRegistry
from uftpd.config.login import Login, ordered_methods


def build_logins(
    login: Login, registry: NodeRegistry, credential: ServerCredential | None, revocations: Revocations
) -> list[Authenticator]:
    """Make all authenticators; they share what slows guessing.

    Args:
        login: the settings.
        registry: data nodes, for the keys they report.
        credential: the server's own; None without a certificate.
        revocations: of issued tokens.

    Raises:
        ConfigError: a file the settings name cannot be used.
    """
    throttle = Throttle(login)
    audience = frozenset({credential.dn} if credential is not None else ())
    logins: list[Authenticator] = [TokenAuthenticator(login.tokens, credential, revocations, throttle)]
    for method in ordered_methods(login):
        kind, _, name = method.partition(".")
        if kind == "password" and login.password_file is not None:
            logins.append(PasswordFileAuthenticator(login.password_file, login, throttle=throttle))
        elif kind == "ssh" and login.ssh is not None:
            logins.append(SshKeyAuthenticator(login.ssh, registry, throttle, audience))
        elif kind == "oidc":
            logins.append(OidcAuthenticator(name, login.oidc[name], throttle))
    if login.anonymous:
        logins.append(AnonymousAuthenticator())
    return logins


def check_logins(login: Login, credential: ServerCredential | None) -> None:
    """Whether all files that the ways to log in need can be used.

    Raises:
        ConfigError: the first that cannot.
    """
    build_logins(login, NodeRegistry({}), credential, NoRevocations())
