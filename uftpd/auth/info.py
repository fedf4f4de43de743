"""The reply to `GET /rest/auth`: the servers, the caller, this server (CONTROL-PLANE 1.3).

Every top-level member but `client` and `server` is a logical server; clients rely on that (T2, T3).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from uftp._version import __version__
from uftpd.auth.attributes.base import Entitlements
from uftpd.auth.errors import RequestError
from uftpd.auth.identity.base import Identity
from uftpd.auth.nodes.registry import LogicalServer, NodeRegistry
from uftpd.auth.session import rate_limit
from uftpd.config.auth import AuthConfig
from uftpd.config.login import Login, ordered_methods
from uftpd.config.shares import Shares

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What this server says of itself, gathered once.

    Attributes:
        site_name: from the configuration.
        credential: name, issuer and end of its certificate; empty without TLS.
        trusted_authorities: names of the CAs nodes are checked against.
        up_since: wall-clock seconds.
        certificate_ends: wall-clock seconds; None without a certificate.
        providers: identity providers that clients may send people to: `name`, `issuer`, `clientId`, `scopes`.
    """

    site_name: str
    credential: JsonObject
    trusted_authorities: tuple[str, ...]
    up_since: float
    certificate_ends: float | None
    providers: tuple[JsonObject, ...] = ()


def gather_facts(config: AuthConfig, up_since: float) -> ServerFacts:
    """Read the certificates that are shown to clients; unreadable ones are left out."""
    own = _certificates(config.server.certificate)
    credential = {}
    if own:
        credential = {
            "dn": own[0].subject.rfc4514_string(),
            "issuer": own[0].issuer.rfc4514_string(),
            "expires": show_time(own[0].not_valid_after_utc.timestamp()),
        }
    authorities = tuple(ca.subject.rfc4514_string() for ca in _certificates(config.command_port.ca))
    ends = own[0].not_valid_after_utc.timestamp() if own else None
    providers = tuple(_providers(config.login))
    return ServerFacts(config.server.site_name, credential, authorities, up_since, ends, providers)


def _providers(login: Login) -> list[JsonObject]:
    names = [method.removeprefix("oidc.") for method in ordered_methods(login) if method.startswith("oidc.")]
    return [
        {
            "name": name,
            "issuer": login.oidc[name].issuers[0],
            "clientId": login.oidc[name].login_client,
            "scopes": list(login.oidc[name].login_scopes),
        }
        for name in names
        if login.oidc[name].login_client
    ]


def _certificates(path: Path | None) -> list[x509.Certificate]:
    if path is None:
        return []
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return []


def info_reply(
    registry: NodeRegistry,
    facts: ServerFacts,
    identity: Identity,
    granted: Entitlements,
    base_url: str,
    shares: Shares,
    transfers: bool = False,
) -> JsonObject:
    """The whole reply. Anonymous callers get no versions, CAs or back ends (W19)."""
    known = bool(identity.method)
    reply = {
        name: _server(server, granted, f"{base_url}/rest/auth/{name}", known)
        for name, server in registry.servers.items()
    }
    for name, entry in reply.items():
        if shares.covers(name):
            entry["dataSharing"] = {"enabled": True, "href": f"{base_url}/rest/share/{name}"}
    reply["client"] = _client(identity, granted)
    reply["server"] = _own(registry, facts, known)
    if transfers:
        reply["server"]["transfers"] = {"href": f"{base_url}/rest/transfers"}
    return reply


def _server(server: LogicalServer, granted: Entitlements, href: str, known: bool) -> JsonObject:
    entry: JsonObject = {
        "href": href,
        "description": server.description,
        "status": server.status(),
        "uftpdServerVersion": server.version() if known else "n/a",
        "dataSharing": {"enabled": False},
    }
    if (limit := server.session_limit()) > 0:
        entry["sessionLimit"] = limit
    account = granted.account_on(server.name)
    if account is None:
        return entry
    entry["uid"] = account
    if (group := granted.group_on(server.name)) is not None:
        entry["gid"] = group
    entry["availableGroups"] = list(granted.groups)
    entry |= _limits(server, granted)
    if server.reservations is not None:
        entry["reservations"] = [str(reservation) for reservation in server.reservations.of(account)]
    return entry


def _limits(server: LogicalServer, granted: Entitlements) -> JsonObject:
    entry: JsonObject = {}
    try:
        if (rate := rate_limit(granted, server)) > 0:
            entry["rateLimit"] = rate
    except RequestError:
        pass  # shown when a session is asked for; one bad entry must not spoil the whole reply
    for member, override in (("allowed", "includes"), ("forbidden", "excludes")):
        if value := granted.override(server.name, override):
            entry[member] = value
    return entry


def _client(identity: Identity, granted: Entitlements) -> JsonObject:
    client: JsonObject = {"dn": identity.dn}
    login: Mapping[str, Any] = {
        "UID": granted.account,
        "availableUIDs": list(granted.accounts),
        "group": granted.group,
        "availableGroups": list(granted.groups),
    }
    if present := {key: value for key, value in login.items() if value}:
        client["xlogin"] = present
    client["role"] = {"selected": granted.role}
    if granted.roles:
        client["role"]["availableRoles"] = list(granted.roles)
    if identity.method:
        client["authenticationMethod"] = identity.method
    return client


def _own(registry: NodeRegistry, facts: ServerFacts, known: bool) -> JsonObject:
    own: JsonObject = {"siteName": facts.site_name, "currentTime": show_time(time.time())}
    if facts.providers:
        own["oidc"] = list(facts.providers)  # for those who are about to log in, too
    if not known:
        return own
    own |= {
        "version": __version__,
        "trustedCAs": list(facts.trusted_authorities),
        "trustedSAMLIssuers": [],
        "externalConnections": {
            f"UFTPD server '{name}'": server.connection() for name, server in registry.servers.items()
        },
        "upSince": show_time(facts.up_since),
    }
    if facts.credential:
        own["credential"] = facts.credential
    return own


def show_time(seconds: float) -> str:
    """Unix seconds as all replies write them: `yyyy-MM-dd'T'HH:mm:ssZ`."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
