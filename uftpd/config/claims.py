"""Expressions over the claims of a token: text with claims in braces, and rules. Nothing is ever evaluated as code.

    "UID={email}"                       text with the claim `email`
    "{realm_access.roles}"              a claim inside an object; a list gives several values
    "{eduperson_principal_name|email}"  the first of these that there is
    "{{" and "}}"                       braces

    { value = "user", when = "groups", equals = "uftp-users" }     if that is the claim, or one of its values
    { value = "{1}", when = "groups", match = "/hpc/([a-z0-9]+)" }  for each that matches as a whole
    { value = "user", when = "email" }                             if there is such a claim

Patterns are RE2's: whatever a token holds, matching takes linear time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from uftp.protocol.dn import InvalidName, parse_name
from uftpd.config.patterns import compile_pattern
from uftpd.config.section import Section

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Rule(Section, frozen=True):
    """One value under a condition; see the module.

    Attributes:
        value: what it gives: an expression; {1}, {2}, … are what the parentheses of `match` took in.
        when: the claim that is looked at.
        equals: what it must be, or one of its values.
        match: pattern its value, or one of its values, must match as a whole.
    """

    value: str
    when: str
    equals: str | None = None
    match: str | None = None

    def __post_init__(self) -> None:
        if not self.when:
            raise ValueError("when: the name of a claim is needed")
        if self.equals is not None and self.match is not None:
            raise ValueError("give either equals or match")
        if self.match is not None:
            compile_pattern(self.match)
        parse_template(self.value)


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A claim in an expression: paths, of which the first that leads to a value counts."""

    paths: tuple[str, ...]


Template = tuple[str | Placeholder, ...]


def parse_template(text: str) -> Template:
    """Take an expression apart.

    Raises:
        ValueError: a brace without its partner, or nothing inside a pair.
    """
    parts: list[str | Placeholder] = []
    end = 0
    for found in _BRACES.finditer(text):
        parts.append(text[end : found.start()])
        end = found.end()
        if found[0] in ("{{", "}}"):
            parts.append(found[0][0])
        elif found[1] is None:
            raise ValueError(f"'{text}': a brace without its partner; {{{{ and }}}} stand for braces")
        else:
            paths = tuple(path.strip() for path in found[1].split("|"))
            if not all(paths):
                raise ValueError(f"'{text}': the name of a claim is missing")
            parts.append(Placeholder(paths))
    parts.append(text[end:])
    return tuple(part for part in parts if part)


def check_template(setting: str, text: str, *, is_name: bool = False) -> None:
    """Whether `text` is an expression, and with `is_name` one that gives an X.500 name.

    Raises:
        ValueError: it is not; says which setting.
    """
    try:
        template = parse_template(text)
        if is_name:
            # Claims may stand in values only: a name in which each is replaced by a letter must still be a name.
            parse_name("".join(part if isinstance(part, str) else "x" for part in template))
            if all(isinstance(part, str) for part in template):
                raise ValueError("without a claim everybody would be the same person")
    except (ValueError, InvalidName) as error:
        raise ValueError(f"{setting}: {error}") from None


def check_rules(setting: str, rules: str | tuple[str | Rule, ...]) -> None:
    """Whether these are expressions and rules.

    Raises:
        ValueError: says which setting.
    """
    for rule in (rules,) if isinstance(rules, str) else rules:
        if isinstance(rule, str):
            check_template(setting, rule)
