"""Which credential it is: from options, an endpoint's settings, variables, and what a person has lying about.

What was asked for is used, and nothing else. Where nothing was asked for, what a person most likely means is tried in
turn until the server lets one in: a login made with `uftp login`, SSH keys as existing clients look for them
(ssh-agent, ~/.uftp/id_*, ~/.ssh/id_*), and at last a password, where somebody can be asked.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import trio

from uftp.client import ssh_agent, ssh_keys
from uftp.client.credentials import (
    Anonymous,
    Ask,
    AskedPassword,
    BearerToken,
    Credential,
    RenewableCredential,
    TokenFile,
    UsernamePassword,
    checked_token,
    description,
    read_secret_file,
    read_token_file,
)
from uftp.client.endpoints import Endpoint
from uftp.client.login_store import LoginStore
from uftp.client.oidc_agent import OidcAgentCredential
from uftp.client.oidc_login import OidcLogin
from uftp.client.ssh_login import AgentSigner, SshIdentity, SshKeyCredential, algorithm_of
from uftp.errors import AuthenticationFailed, LocalFileError, UsageError

USER_VARIABLE: Final = "UFTP_USER"
PASSWORD_VARIABLE: Final = "UFTP_PASSWORD"  # noqa: S105 -- the variable's name
TOKEN_VARIABLE: Final = "UFTP_TOKEN"  # noqa: S105 -- the variable's name
PASSPHRASE_VARIABLE: Final = "UFTP_KEY_PASSPHRASE"  # noqa: S105 -- the variable's name

# Each key that does not fit is a failed login, and servers slow those down; ssh servers take six.
_MAX_KEYS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What somebody asked for; None or False where they did not.

    Attributes:
        user: NAME, or NAME:PASSWORD.
        ask_password: ask for the password, whatever else there is.
        password_file: file with the password in its first line.
        token: a bearer token, or `@FILE` that holds it.
        identity: SSH key file.
        oidc_agent: account of oidc-agent, or URL of an issuer.
        audience: DN of the one server that is to take tokens signed with a key.
    """

    user: str | None = None
    ask_password: bool = False
    password_file: str | None = None
    token: str | None = None
    identity: str | None = None
    oidc_agent: str | None = None
    audience: str | None = None

    @classmethod
    def of(cls, endpoint: Endpoint) -> Wishes:
        """The settings of an endpoint."""
        return cls(
            user=endpoint.user,
            password_file=endpoint.password_file,
            token=f"@{endpoint.token_file}" if endpoint.token_file is not None else None,
            identity=endpoint.identity,
            oidc_agent=endpoint.oidc_agent,
            audience=endpoint.audience,
        )

    @property
    def has_method(self) -> bool:
        """Whether they say how to log in, not just as whom."""
        return bool(self._methods())

    def _methods(self) -> list[str]:
        found = {"-A": self.token, "-O": self.oidc_agent, "-i": self.identity, "--password-file": self.password_file}
        given = [option for option, value in found.items() if value is not None]
        # -P with a key means its passphrase.
        if not given and (self.ask_password or ":" in (self.user or "")):
            given = ["-P"]
        return given

    def check(self) -> None:
        """Find contradictions.

        Raises:
            UsageError: more than one way to log in, or a user where the token says who.
        """
        methods = self._methods()
        if len(methods) > 1:
            raise UsageError(f"{' and '.join(methods)} are two ways to log in; give one")
        if self.user is not None and (self.token is not None or self.oidc_agent is not None):
            raise UsageError(f"give either a user (-u) or a token ({methods[0]}), not both")


def choose_credential(
    wishes: Wishes | None = None,
    *,
    configured: Wishes | None = None,
    server: str | None = None,
    ask: Ask | None = None,
    environment: Mapping[str, str] | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Credential:
    """The credential for a server.

    Options come before an endpoint's settings, these before variables. Nothing is asked, and no agent or server is
    talked to, before the credential is used.

    Args:
        wishes: the options given.
        configured: settings of the endpoint named.
        server: base URL of the auth server, for logins made there; None if there is none.
        ask: asks the person for something secret, given a prompt; None where nobody can be asked.
        environment: variables, those of the process by default.
        note: told what was passed over, and why.

    Raises:
        UsageError: contradictory wishes.
        AuthenticationFailed: nothing to log in with.
        LocalFileError: a password or token file cannot be read.
    """
    environment = os.environ if environment is None else environment
    wishes, configured = wishes or Wishes(), configured or Wishes()
    wishes.check()
    name, colon, password = (wishes.user or "").partition(":")
    person = Person(
        name or configured.user or environment.get(USER_VARIABLE) or _login_name(environment),
        ask,
        wishes.audience or configured.audience,
    )
    if wishes.has_method:
        return _asked_for(wishes, person, password if colon else None, environment)
    if name == "anonymous" or (not name and configured.user == "anonymous"):
        return Anonymous()
    if configured.has_method:
        return _asked_for(configured, person, None, environment)
    if TOKEN_VARIABLE in environment and wishes.user is None and configured.user is None:
        return _token(environment[TOKEN_VARIABLE])
    if person.name == "anonymous":
        return Anonymous()
    if PASSWORD_VARIABLE in environment:
        return UsernamePassword(person.name, environment[PASSWORD_VARIABLE])
    found = FirstAccepted(person, server if wishes.user is None else None, environment, note)
    if ask is None and not found.may_have_any():
        raise AuthenticationFailed(
            f"nothing to log in with as {person.name or 'anybody'}: no key and no password; use -i, -P, "
            f"--password-file or the variable {PASSWORD_VARIABLE}, or -u anonymous"
        )
    return found


def endpoint_credential(endpoint: Endpoint) -> Credential:
    """The credential for a named endpoint, for programs: nobody is asked anything.

    Raises:
        AuthenticationFailed: nothing to log in with.
        LocalFileError: a file it names cannot be read.
    """
    place = endpoint.place
    server = place.info_url.removesuffix("/rest/auth") if place.kind != "ftp" else None
    return choose_credential(configured=Wishes.of(endpoint), server=server)


@dataclass(frozen=True, slots=True)
class Person:
    """Who wants in: account name, a way to ask them, and which server signed tokens are for."""

    name: str
    ask: Ask | None
    audience: str | None = None


def _asked_for(wishes: Wishes, person: Person, password: str | None, environment: Mapping[str, str]) -> Credential:
    if wishes.token is not None:
        return _token(wishes.token)
    if wishes.oidc_agent is not None:
        return OidcAgentCredential(wishes.oidc_agent, environment=environment)
    if not person.name:
        raise AuthenticationFailed(f"as whom? Give the account name with -u, or in the variable {USER_VARIABLE}")
    if wishes.identity is not None:
        return _key_file(wishes.identity, person, password, environment)
    if password is not None:
        return UsernamePassword(person.name, password)
    if wishes.password_file is not None:
        return UsernamePassword(person.name, read_secret_file(os.path.expanduser(wishes.password_file)))
    if person.name == "anonymous":
        return Anonymous()
    if PASSWORD_VARIABLE in environment:
        return UsernamePassword(person.name, environment[PASSWORD_VARIABLE])
    if person.ask is None:
        raise AuthenticationFailed(f"no password for {person.name}, and nobody to ask; use --password-file")
    return AskedPassword(person.name, person.ask)


def _token(text: str) -> Credential:
    if text.startswith("@"):
        path = os.path.expanduser(text[1:])
        read_token_file(path)  # an error now rather than later
        return TokenFile(path)
    return BearerToken(checked_token(text))


def _key_file(path: str, person: Person, passphrase: str | None, environment: Mapping[str, str]) -> SshIdentity:
    if passphrase is None:
        # Existing clients take the password's variable for this, too.
        passphrase = environment.get(PASSPHRASE_VARIABLE, environment.get(PASSWORD_VARIABLE))
    ssh_keys.read_key_file(os.path.expanduser(path))  # an error now rather than later
    return SshIdentity(person.name, path, passphrase=passphrase, ask=person.ask, audience=person.audience)


def _login_name(environment: Mapping[str, str]) -> str:
    named = environment.get("USER") or environment.get("LOGNAME")
    if named:
        return named
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


class FirstAccepted:
    """Ways to log in that are tried in turn; the first that the server lets in is kept.

    Args:
        person: who, and how they are asked.
        server: base URL of the auth server; None to leave out logins made there.
        environment: variables.
        note: told what was passed over, and why.
    """

    def __init__(
        self, person: Person, server: str | None, environment: Mapping[str, str], note: Callable[[str], None]
    ) -> None:
        self._person = person
        self._server = server
        self._environment = environment
        self._note = note
        self._candidates: AsyncIterator[Credential] | None = None
        self._current: Credential | None = None
        self._last = ""
        self._tried: list[str] = []
        self._why: list[str] = []
        self._lock = trio.Lock()

    @property
    def method(self) -> str:
        """That of the one in use."""
        return self._current.method if self._current is not None else "NONE"

    @property
    def description(self) -> str:
        """All that were tried."""
        return ", ".join(self._tried) or "nothing"

    def may_have_any(self) -> bool:
        """Whether there is anything to try without asking for a password; looks at files alone."""
        return (
            self._login() is not None
            or ssh_agent.agent_socket(self._environment) is not None
            or next(ssh_keys.default_key_files(), None) is not None
        )

    async def authorization(self) -> str | None:
        """The header of the one in use; goes on to the next while one has nothing to offer.

        Raises:
            AuthenticationFailed: none is left.
        """
        async with self._lock:
            return await self._authorization()

    async def renew(self, refused: str) -> bool:
        """Renew the one in use, or else go on to the next."""
        async with self._lock:
            current = self._current
            if current is None or refused != self._last:
                return True  # another request has gone on already
            if isinstance(current, RenewableCredential) and await current.renew(refused):
                return True
            if not await self._go_on():
                return False
            try:
                await self._authorization()
            except AuthenticationFailed:
                return False
            return True

    async def _authorization(self) -> str | None:
        while self._current is not None or await self._go_on():
            assert self._current is not None  # noqa: S101 -- for the type checker
            try:
                header = await self._current.authorization()
            except (AuthenticationFailed, LocalFileError) as error:
                self._pass_over(str(error))
                self._current = None
                continue
            self._last = header or ""
            return header
        reasons = f": {'; '.join(self._why)}" if self._why else ""
        raise AuthenticationFailed(
            f"nothing to log in with as {self._person.name or 'anybody'}{reasons}; use -i, -P or --password-file, "
            "or -u anonymous"
        )

    async def _go_on(self) -> bool:
        if self._candidates is None:
            self._candidates = self._all()
        self._current = await anext(self._candidates, None)
        if self._current is not None:
            self._tried.append(description(self._current))
        return self._current is not None

    async def _all(self) -> AsyncIterator[Credential]:
        login = self._login()
        if login is not None:
            yield login
        if self._person.name:
            count = 0
            async for credential in self._keys():
                yield credential
                count += 1
                if count == _MAX_KEYS:
                    break
            if self._person.ask is not None:
                yield AskedPassword(self._person.name, self._person.ask)

    async def _keys(self) -> AsyncIterator[Credential]:
        person, seen = self._person, set()
        socket_path = ssh_agent.agent_socket(self._environment)
        if socket_path is not None:
            try:
                held = await ssh_agent.list_keys(socket_path)
            except AuthenticationFailed as error:
                self._pass_over(str(error))
                held = []
            for key in held:
                seen.add(key.blob)
                if algorithm_of(key.blob):
                    yield SshKeyCredential(person.name, AgentSigner(socket_path, key), audience=person.audience)
        for path in ssh_keys.default_key_files():
            try:
                found = ssh_keys.read_key_file(path)
            except LocalFileError as error:
                self._pass_over(str(error))
                continue
            if not found.is_private or found.public_blob in seen:
                continue
            yield SshIdentity(
                person.name,
                path,
                passphrase=self._environment.get(PASSPHRASE_VARIABLE),
                ask=person.ask,
                audience=person.audience,
            )

    def _login(self) -> OidcLogin | None:
        if self._server is None:
            return None
        try:
            return OidcLogin(self._server) if LoginStore().load(self._server) is not None else None
        except LocalFileError as error:
            self._pass_over(str(error))
            return None

    def _pass_over(self, reason: str) -> None:
        if reason not in self._why:
            self._why.append(reason)
            self._note(reason)
