"""Options of commands with two servers: who one is on either side, where that is not the same."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeVar

import click

from uftp.cli.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

Side = Literal["source", "target"]
SIDES: Final[tuple[Side, Side]] = ("source", "target")

_METHODS: Final = ("user", "ask_password", "password_file", "token", "identity", "oidc_agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class SideOptions:
    """What was said of the login on one side."""

    user: str | None = None
    ask_password: bool = False
    password_file: str | None = None
    token: str | None = None
    identity: str | None = None
    oidc_agent: str | None = None
    ca: str | None = None

    @property
    def has_any(self) -> bool:
        """Whether anything was said."""
        return self != SideOptions()

    def over(self, settings: Settings) -> Settings:
        """The settings for a login on this side: what was said of it, in place of what is said for all.

        Nothing of the common login is left once a side has one of its own: no password goes to a server that it was
        not meant for.
        """
        values: dict[str, Any] = {"_credentials": {}, "_says_where": True, "ca": self.ca or settings.ca}
        if any(getattr(self, name) for name in _METHODS):
            values |= {name: getattr(self, name) for name in _METHODS}
        return replace(settings, **values)


def click_options(side: Side) -> list[Callable[[F], F]]:
    """The options of one side, in the order of the help."""
    return [
        click.option(f"--{side}-user", metavar="NAME", help=f"User name on the side of the {side}, if another; as -u."),
        click.option(f"--{side}-password", is_flag=True, help="Ask for the password there; as -P."),
        click.option(f"--{side}-password-file", metavar="FILE", help="Take that password from the first line of FILE."),
        click.option(f"--{side}-token", metavar="TOKEN", help="Bearer token there, or @FILE that holds it; as -A."),
        click.option(f"--{side}-identity", metavar="KEYFILE", help="SSH private key to log in with there; as -i."),
        click.option(f"--{side}-oidc-agent", metavar="ACCOUNT", help="Account of oidc-agent for there; as -O."),
        click.option(f"--{side}-ca", metavar="FILE", help="CA certificates to trust there; as --ca."),
    ]


def take(side: Side, values: dict[str, Any]) -> SideOptions:
    """Take the options of one side out of a command's parameters."""
    return SideOptions(
        user=values.pop(f"{side}_user"),
        ask_password=values.pop(f"{side}_password"),
        password_file=values.pop(f"{side}_password_file"),
        token=values.pop(f"{side}_token"),
        identity=values.pop(f"{side}_identity"),
        oidc_agent=values.pop(f"{side}_oidc_agent"),
        ca=values.pop(f"{side}_ca"),
    )


def side_options(function: F) -> F:
    """Give a command these options; it gets them as `sides`, a `SideOptions` for each side."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **values: Any) -> Any:
        sides = {side: take(side, values) for side in SIDES}
        return function(*arguments, sides=sides, **values)

    decorated: Any = wrapped
    for option in reversed([option for side in SIDES for option in click_options(side)]):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]
