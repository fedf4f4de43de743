"""Upstream's expressions over a provider's answer, as ours: the simple ones that are in use."""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""\s*(?:
        "(?P<double>[^"\\]*)" | '(?P<single>[^'\\]*)' |
        (?P<claim>[A-Za-z_][A-Za-z0-9_]*) | (?P<sign>[+\[\],])
    )\s*""",
    re.VERBOSE,
)
_NOT_SIMPLE = "is more than texts, claims and + between them"


def claim_expression(text: str) -> str | list[str]:
    """`"UID="+email` as `UID={email}`; a list of such as a list.

    Raises:
        ValueError: it is more than that.
    """
    tokens = _tokens(text)
    if tokens[:1] == [("sign", "[")] and tokens[-1:] == [("sign", "]")]:
        return [_joined(item) for item in _split(tokens[1:-1], ",")]
    return _joined(tokens)


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens = []
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None or found.end() == place:
            raise ValueError(_NOT_SIMPLE)
        kind = found.lastgroup or ""
        tokens.append(("text" if kind in ("double", "single") else kind, found[kind]))
        place = found.end()
    return tokens


def _split(tokens: list[tuple[str, str]], sign: str) -> list[list[tuple[str, str]]]:
    parts: list[list[tuple[str, str]]] = [[]]
    for token in tokens:
        if token == ("sign", sign):
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _joined(tokens: list[tuple[str, str]]) -> str:
    result = ""
    for part in _split(tokens, "+"):
        if len(part) != 1 or part[0][0] == "sign":
            raise ValueError(_NOT_SIMPLE)
        kind, value = part[0]
        result += f"{{{value}}}" if kind == "claim" else value.replace("{", "{{").replace("}", "}}")
    return result
