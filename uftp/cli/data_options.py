"""The options of commands that move data: how it travels."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from uftp.errors import UsageError

if TYPE_CHECKING:
    from uftp.transfer.copy import Access

F = TypeVar("F", bound=Callable[..., Any])

CIPHER_VARIABLE = "UFTP_ENCRYPTION_ALGORITHM"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """The options as given."""

    encrypt: bool
    compress: bool
    streams: int
    legacy_cipher: str | None
    compression_level: int | None
    mode: Literal["auto", "stream"]

    def apply(self, access: Access) -> Access:
        """`access` with data moved so.

        Raises:
            UsageError: options that contradict each other, or an unknown cipher.
        """
        from uftp.client.layers import parse_cipher

        if self.legacy_cipher is not None and not self.encrypt:
            raise UsageError("--legacy-cipher says how -E encrypts on old servers; use it with -E")
        if self.compression_level is not None and not self.compress:
            raise UsageError("--compression-level says how -C compresses; use it with -C")
        named = self.legacy_cipher
        if named is None and self.encrypt:
            named = os.environ.get(CIPHER_VARIABLE) or None
        try:
            cipher = parse_cipher(named) if named is not None else None
        except UsageError as error:
            place = "--legacy-cipher" if self.legacy_cipher is not None else CIPHER_VARIABLE
            raise UsageError(f"{place}: {error}") from error
        if self.encrypt and self.mode == "stream" and cipher is None:
            raise UsageError("-E uses MODE U, which --mode stream turns off; name a --legacy-cipher, or leave --mode")
        session = replace(
            access.session,
            encrypt=self.encrypt,
            compress=self.compress,
            streams=self.streams,
            legacy_cipher=cipher,
            compression_level=self.compression_level,
            mode=self.mode,
        )
        return replace(access, session=session)


_OPTIONS = (
    click.option("-E", "--encrypt", is_flag=True, help="Encrypt the data, or fail."),
    click.option("-C", "--compress", is_flag=True, help="Compress the data on the way."),
    click.option(
        "-n",
        "--streams",
        type=click.IntRange(1, 64),
        default=1,
        help="Connections a session and transfer, on servers without MODE U.",
    ),
    click.option(
        "--legacy-cipher", metavar="CIPHER", help="What -E may use on servers without MODE U: aes or blowfish."
    ),
    click.option(
        "--compression-level",
        type=click.IntRange(1, 19),
        metavar="N",
        help="How hard -C tries in MODE U, 1 (the default) to 19.",
    ),
    click.option(
        "--mode",
        type=click.Choice(["auto", "stream"]),
        default="auto",
        help="`stream` leaves MODE U alone, should it make trouble.",
    ),
)
_NAMES = tuple(DataOptions.__dataclass_fields__)


def data_options(function: F) -> F:
    """Give a command these options; it gets them as `data`, a `DataOptions`."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **values: Any) -> Any:
        data = DataOptions(**{name: values.pop(name) for name in _NAMES})
        return function(*arguments, data=data, **values)

    decorated: Any = wrapped
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]
