"""Everything the resources use, built from one configuration; the next configuration gets its own."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from uftpd.auth.attributes.base import AttributeSource
from uftpd.auth.attributes.map_file import MapFile
from uftpd.auth.caller import Callers
from uftpd.auth.identity import oidc, password, ssh, tokens
from uftpd.auth.identity.build import build_logins
from uftpd.auth.identity.chain import LoginChain
from uftpd.auth.identity.credential import ServerCredential
from uftpd.auth.identity.tokens import TokenIssuer
from uftpd.auth.info import ServerFacts
from uftpd.auth.metrics import Metrics
from uftpd.auth.nodes.client import CommandPort
from uftpd.auth.nodes.registry import NodeRegistry, build_registry
from uftpd.auth.security_sessions import SecuritySessions
from uftpd.auth.shares.grants import Grants
from uftpd.auth.shares.passwords import SharePasswords
from uftpd.auth.shares.running import Deliveries
from uftpd.auth.store.engine import Store
from uftpd.auth.store.housekeeping import Tally
from uftpd.auth.store.revocations import StoredRevocations
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.config.auth import AuthConfig
from uftpd.config.login import Login, ordered_methods


@dataclass(frozen=True, slots=True)
class Keys:
    """What is loaded from key and certificate files, while the process may still read them.

    Attributes:
        command_port: speaks with data nodes.
        credential: signs tokens; None without a certificate.
        facts: what the server says of itself.
        outside: whom it trusts as servers that people name: other auth servers, callbacks; None without transfers.
    """

    command_port: CommandPort
    credential: ServerCredential | None
    facts: ServerFacts
    outside: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Lasting:
    """What outlives a configuration.

    Attributes:
        store: what is kept.
        tally: how much of it there is.
        metrics: what is counted.
        background: tasks that nobody waits for.
        grants: the shares.
        deliveries: what is being delivered by them.
        transfers: those that this server looks after; None without a key to seal credentials with.
    """

    store: Store
    tally: Tally
    metrics: Metrics
    background: trio.Nursery
    grants: Grants
    deliveries: Deliveries
    transfers: ManagedTransfers | None = None


@dataclass(frozen=True, slots=True)
class Services:
    """Everything the resources use.

    Attributes:
        transfers: None where people may not submit any.
        outside: see `Keys`.
    """

    config: AuthConfig
    callers: Callers
    sources: Sequence[AttributeSource]
    registry: NodeRegistry
    sessions: SecuritySessions
    revocations: StoredRevocations
    issuer: TokenIssuer
    credential: ServerCredential | None
    facts: ServerFacts
    metrics: Metrics
    store: Store
    background: trio.Nursery
    grants: Grants
    deliveries: Deliveries
    passwords: SharePasswords
    transfers: ManagedTransfers | None
    outside: ssl.SSLContext | None


def build_services(
    config: AuthConfig, keys: Keys, lasting: Lasting, *, previous: NodeRegistry | None = None
) -> Services:
    """Read password and map files and build the services.

    Args:
        config: the whole configuration.
        keys: of the same configuration.
        lasting: of the process.
        previous: what was known of nodes under the former configuration.

    Raises:
        ConfigError: a file cannot be used.
    """
    registry = build_registry(config, keys.command_port, previous=previous)
    revocations = StoredRevocations(lasting.store)
    logins = LoginChain(build_logins(config.login, registry, keys.credential, revocations))
    sources: list[AttributeSource] = []
    if config.attributes.map_file is not None:
        sources.append(MapFile(config.attributes.map_file, config.attributes.match, config.nodes))
    sessions = SecuritySessions(
        config.security_sessions,
        lasting.store,
        lasting.tally,
        methods=_open_methods(config.login),
        anonymous=config.login.anonymous,
    )
    return Services(
        config=config,
        callers=Callers(logins, sources, sessions, revocations, lasting.metrics),
        sources=sources,
        registry=registry,
        sessions=sessions,
        revocations=revocations,
        issuer=TokenIssuer(config.login.tokens, keys.credential),
        credential=keys.credential,
        facts=keys.facts,
        metrics=lasting.metrics,
        store=lasting.store,
        background=lasting.background,
        grants=lasting.grants,
        deliveries=lasting.deliveries,
        passwords=SharePasswords(config.login),
        transfers=lasting.transfers if config.transfers.enabled else None,
        outside=keys.outside,
    )


def _open_methods(login: Login) -> set[str]:
    """As identities name the ways of logging in that are open; tokens of this server always are."""
    words = {"password": password.METHOD, "ssh": ssh.METHOD, "oidc": oidc.METHOD}
    return {tokens.METHOD, *(words[method.partition(".")[0]] for method in ordered_methods(login))}
