"""What the claims of a token say of its holder, by the expressions of the configuration (see `uftpd.config.claims`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uftp.protocol.command_port import is_clean
from uftp.protocol.dn import InvalidName, escape_value, parse_name
from uftpd.auth.attributes.base import ACCOUNT, GROUP, ROLE
from uftpd.auth.identity.accounts import is_account_name, is_group_name
from uftpd.auth.identity.base import LoginRefused
from uftpd.config.claims import Placeholder, Rule, Template, parse_template
from uftpd.config.login import OidcProvider
from uftpd.config.patterns import Pattern, compile_pattern

MAX_VALUES = 256  # of one claim, or of one attribute
MAX_VALUE_CHARACTERS = 1024

Claims = Mapping[str, Any]


class ClaimsReader:
    """The expressions of one provider, compiled."""

    def __init__(self, settings: OidcProvider) -> None:
        self._identity = parse_template(settings.identity)
        self._expected_rdns = len(parse_name(_fill(self._identity, "x")).rdns)
        self._accounts = _compile(settings.uid)
        self._groups = _compile(settings.groups)
        self._roles = _compile(settings.role)

    def name(self, claims: Claims) -> str:
        """The DN of the holder; values of claims are escaped.

        Raises:
            LoginRefused: a claim is missing, is a list of several, or holds control characters.
        """
        parts = []
        for part in self._identity:
            if isinstance(part, str):
                parts.append(part)
                continue
            values = _values(claims, part)
            if len(values) != 1:
                raise LoginRefused(f"token: no single claim '{'|'.join(part.paths)}' to make a name of")
            parts.append(escape_value(values[0]))
        text = "".join(parts)
        try:
            # Escaping keeps values within their attribute; that there are as many as meant is checked all the same.
            if len(parse_name(text).rdns) == self._expected_rdns:
                return text
        except InvalidName:
            pass
        raise LoginRefused("token: its claims make no valid name")

    def attributes(self, claims: Claims) -> dict[str, tuple[str, ...]]:
        """Account, groups and role; those nothing is said of are left out, and so is what cannot be one."""
        accounts = tuple(filter(is_account_name, _evaluate(self._accounts, claims)))[:1]
        groups = tuple(filter(is_group_name, _evaluate(self._groups, claims)))
        roles = tuple(role for role in _evaluate(self._roles, claims) if role in ("user", "admin", "banned"))
        if "banned" in roles:
            roles = ("banned",)
        found = {ACCOUNT: accounts, GROUP: groups, ROLE: roles}
        return {name: values for name, values in found.items() if values}


_Compiled = tuple[tuple[Template, Rule | None, Pattern | None], ...]


def _compile(rules: str | tuple[str | Rule, ...]) -> _Compiled:
    compiled: list[tuple[Template, Rule | None, Pattern | None]] = []
    for rule in (rules,) if isinstance(rules, str) else rules:
        if isinstance(rule, str):
            compiled.append((parse_template(rule), None, None))
        else:
            pattern = compile_pattern(rule.match) if rule.match is not None else None
            compiled.append((parse_template(rule.value), rule, pattern))
    return tuple(compiled)


def _evaluate(rules: _Compiled, claims: Claims) -> tuple[str, ...]:
    """The values of all rules in order, each once."""
    found: dict[str, None] = {}
    for template, rule, pattern in rules:
        for taken in _conditions(rule, pattern, claims):
            found |= dict.fromkeys(_expand(template, {**claims, **taken}))
    return tuple(found)[:MAX_VALUES]


def _conditions(rule: Rule | None, pattern: Pattern | None, claims: Claims) -> list[dict[str, str]]:
    """For each time the condition holds, what its parentheses took in."""
    if rule is None:
        return [{}]
    values = _values(claims, Placeholder((rule.when,)))
    if pattern is not None:
        matches = [match for value in values if (match := pattern.fullmatch(value)) is not None]
        return [{str(n): text or "" for n, text in enumerate(match.groups(), start=1)} for match in matches]
    holds = bool(values) if rule.equals is None else rule.equals in values
    return [{}] if holds else []


def _expand(template: Template, claims: Claims) -> list[str]:
    """The texts a template gives: one, or one a value of the claim that is a list; none if a claim is missing."""
    texts = [""]
    for part in template:
        if isinstance(part, str):
            texts = [text + part for text in texts]
            continue
        values = _values(claims, part)
        if len(texts) > 1 and len(values) > 1:
            return []  # every value with every other is never what is meant
        texts = [text + value for text in texts for value in values]
    return texts


def _values(claims: Claims, placeholder: Placeholder) -> list[str]:
    """The values of the first path that leads to any."""
    for path in placeholder.paths:
        value = _resolve(claims, path)
        items = value[:MAX_VALUES] if isinstance(value, list) else [value]
        if texts := [text for item in items if (text := _text(item))]:
            return texts
    return []


def _resolve(claims: Claims, path: str) -> Any:
    """The claim of that name, dots and all, or the one inside an object."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for step in path.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return None
        value = value[step]
    return value


def _text(value: Any) -> str:
    """A value as text; empty if it is none, or cannot be used."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value) if isinstance(value, int) and abs(value) < 1 << 63 else value
    return text if isinstance(text, str) and len(text) <= MAX_VALUE_CHARACTERS and is_clean(text) else ""


def _fill(template: Template, value: str) -> str:
    return "".join(part if isinstance(part, str) else value for part in template)
