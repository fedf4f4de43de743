"""Logging in with an SSH key: a short-lived token that the client signed with it (CONTROL-PLANE 5.3).

    header   {"alg": "EdDSA"}
    payload  {"sub": "joe", "iss": "joe", "iat": 1852790400, "exp": 1852790700, "etd": "false"}

Nothing of a token is used before its signature is proven, except its name, and that to look keys up, and after the
whole token has been found in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from uftpd.auth.attributes.base import ACCOUNT, ROLE
from uftpd.auth.identity.accounts import is_account_name
from uftpd.auth.identity.base import Credentials, Identity, LoginRefused
from uftpd.auth.identity.jwt import Jwt, bearer_jwt, check_audience, check_times, verified
from uftpd.auth.identity.ssh_keys import MARK_CHARACTERS, NodeKeys, NodeKeySource, watch_key_file
from uftpd.auth.identity.throttle import Throttle
from uftpd.auth.nodes.registry import NodeRegistry
from uftpd.config.login import SshLogin

METHOD = "SSHKEY"
LEEWAY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Login:
    """A token in order, still without proof."""

    token: Jwt
    name: str
    expires: float
    credentials: Credentials


class SshKeyAuthenticator:
    """Tokens signed with a key from the key file, or with one that data nodes report for the account."""

    method = METHOD

    def __init__(
        self,
        settings: SshLogin,
        registry: NodeRegistry,
        throttle: Throttle,
        audience: frozenset[str],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Read the key file.

        Args:
            settings: of `[login.ssh]`.
            registry: the nodes to ask.
            throttle: of failed logins, shared with the other ways to log in.
            audience: what `aud` may name: this server's DN as in its certificate.
            wall_clock: Unix seconds.

        Raises:
            ConfigError: the key file cannot be read.
        """
        self._settings = settings
        self._file = watch_key_file(settings.key_file) if settings.key_file is not None else None
        self._nodes = NodeKeySource(registry, settings) if settings.node_keys != "off" else None
        self._throttle = throttle
        self._audience = audience
        self._wall_clock = wall_clock

    async def authenticate(self, credentials: Credentials) -> Identity | None:
        """The identity of whoever holds the key; None if this is no token of this kind.

        Raises:
            LoginRefused: no key of that name has signed it, or it is not in order.
            RequestError: too many failed logins or look-ups.
        """
        token = bearer_jwt(credentials)
        if token is None or token.flag("etd"):
            return None
        name = token.text("sub")
        if not name or token.text("iss") != name:
            return None
        if not is_account_name(name):
            raise LoginRefused("SSH key: not an account name")
        now = self._wall_clock()
        expires = check_times(token, now, leeway=LEEWAY_SECONDS, longest=self._settings.longest_seconds)
        check_audience(token, self._audience)
        login = _Login(token, name, expires, credentials)
        if (identity := self._by_file(login)) is not None:
            return identity
        if self._nodes is not None:
            remembered = self._nodes.remembered(name)
            if remembered is not None and (identity := self._by_nodes(login, remembered)) is not None:
                if remembered.complete or self._nodes.is_settled(remembered):
                    return identity
                # A server that did not answer then may know the key, too.
                return self._by_nodes(login, await self._nodes.look_up(name, credentials.address)) or identity
        return await self._look_up(login)

    async def _look_up(self, login: _Login) -> Identity:
        """Ask the nodes. Whoever gets here has failed so far."""
        address, user = login.credentials.address, f"ssh:{login.name}"
        await self._throttle.wait(address, self._throttle.attempt(address, user))
        if self._nodes is not None:
            answer = await self._nodes.look_up(login.name, address)
            if (identity := self._by_nodes(login, answer)) is not None:
                self._throttle.succeeded(address, user)
                return identity
            if not answer.complete:
                raise LoginRefused(f"SSH key: none fits for {login.name!r}, but not every data node has answered")
        raise LoginRefused(f"SSH key: none fits for {login.name!r}")

    def _by_file(self, login: _Login) -> Identity | None:
        if self._file is None:
            return None
        for entry in self._file.current().entries.get(login.name, ()):
            if verified(login.token, entry.key.key, any_curve=True) and self._admits(entry.key.admits, login):
                attributes = self._preset(login.name) if self._settings.key_file_accounts else {}
                expires = _earlier(login.expires, entry.key.ends)
                return Identity(entry.dn, METHOD, attributes, expires=expires, proof=entry.mark() + login.name)
        return None

    def still_accepts(self, identity: Identity) -> bool:
        """Whether the line of the key file somebody logged in by is still there; nodes are not asked again."""
        if not identity.proof:
            return self._nodes is not None
        mark, name = identity.proof[:MARK_CHARACTERS], identity.proof[MARK_CHARACTERS:]
        entries = self._file.current().entries.get(name, ()) if self._file is not None else ()
        return any(entry.mark() == mark for entry in entries)

    def _by_nodes(self, login: _Login, answer: NodeKeys) -> Identity | None:
        if self._nodes is None:
            return None
        servers: set[str] = set()
        expires = login.expires
        for key, reporting in answer.found:
            if verified(login.token, key.key, any_curve=True) and self._admits(key.admits, login):
                servers.update(reporting)
                expires = _earlier(expires, key.ends)
        if not servers:
            return None
        self._nodes.proved(login.name)
        return Identity(
            self._settings.dn.replace("%s", login.name),
            METHOD,
            self._preset(login.name),
            servers=tuple(sorted(servers)) if self._settings.node_keys == "own" else None,
            expires=expires,
        )

    def _admits(self, admits: Callable[..., bool], login: _Login) -> bool:
        return admits(login.credentials.address, self._wall_clock())

    def _preset(self, name: str) -> dict[str, tuple[str, ...]]:
        preset: dict[str, tuple[str, ...]] = {ACCOUNT: (name,)}
        if self._settings.role:
            preset[ROLE] = (self._settings.role,)
        return preset


def _earlier(expires: float, ends: float | None) -> float:
    """When a login ends: with its token, or with the key that made it."""
    return expires if ends is None else min(expires, ends)
