"""The options of commands that copy many files: which files, how links are taken, what is checked and retried."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import click

from uftp.errors import UsageError

if TYPE_CHECKING:
    from uftp.transfer.filters import Filters

F = TypeVar("F", bound=Callable[..., Any])

_ORDER: Final = "uftp.order_of_options"


class OrderedCommand(click.Command):
    """A command that remembers in which order its options came: of patterns the first one that matches counts."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[_ORDER] = [parameter.name for parameter in order]
        return super().parse_args(ctx, args)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyOptions:
    """The options as given.

    Attributes:
        patterns: of --include (True) and --exclude (False), in order.
        files_from, newer, min_size, max_size, limit_rate: as typed.
        dry_run, links, verify, retries, max_errors: see `uftp.transfer.options.CopyOptions`.
        progress_interval: seconds between lines of progress where there is no terminal; 0 for none.
    """

    patterns: tuple[tuple[bool, str], ...]
    files_from: str | None
    newer: str | None
    min_size: str | None
    max_size: str | None
    dry_run: bool
    links: Literal["follow", "keep", "skip"]
    verify: bool
    retries: int
    limit_rate: str | None
    max_errors: int | None
    progress_interval: int

    @property
    def is_selective(self) -> bool:
        """Whether some files may be left out."""
        bounds = (self.files_from, self.newer, self.min_size, self.max_size)
        return bool(self.patterns) or any(bound is not None for bound in bounds)

    def filters(self) -> Filters:
        """Which files; reads the list of names.

        Raises:
            UsageError: one of them makes no sense.
        """
        from uftp.transfer.filters import Filters, make_rules, parse_moment, read_names
        from uftp.transfer.options import parse_size

        smallest = parse_size(self.min_size) if self.min_size is not None else None
        largest = parse_size(self.max_size) if self.max_size is not None else None
        if smallest is not None and largest is not None and largest < smallest:
            raise UsageError("--max-size is less than --min-size: no file could be copied")
        return Filters(
            rules=make_rules(self.patterns),
            files_from=read_names(self.files_from) if self.files_from is not None else None,
            newer_ns=parse_moment(self.newer) if self.newer is not None else None,
            min_size=smallest,
            max_size=largest,
        )

    def rate(self) -> int:
        """Bytes per second at most, 0 for no limit.

        Raises:
            UsageError: no such number.
        """
        from uftp.transfer.options import parse_size

        if self.limit_rate is None:
            return 0
        rate = parse_size(self.limit_rate)
        if rate <= 0:
            raise UsageError("--limit-rate 0: nothing would ever move; leave it out for no limit")
        return rate


_OPTIONS = (
    click.option("--include", metavar="PATTERN", multiple=True, help="Copy what matches, whatever later patterns say."),
    click.option(
        "--exclude", metavar="PATTERN", multiple=True, help="Leave out what matches and is not included before."
    ),
    click.option(
        "--files-from", metavar="FILE", help="Copy only the names in FILE (`-`: standard input), a line each."
    ),
    click.option(
        "--newer", metavar="DATE", help="Only files changed after a date, or after the file of this name was."
    ),
    click.option("--min-size", metavar="SIZE", help="Only files of at least SIZE bytes, as 10k."),
    click.option("--max-size", metavar="SIZE", help="Only files of at most SIZE bytes, as 2g."),
    click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing."),
    click.option(
        "--links",
        type=click.Choice(["follow", "keep", "skip"]),
        default="follow",
        help="Symbolic links in trees: copy what they point to (the default), keep them as links, or skip them.",
    ),
    click.option(
        "--no-verify", is_flag=True, help="Do not compare files by checksum; sizes are compared all the same."
    ),
    click.option(
        "--retries",
        type=click.IntRange(0, 1000),
        default=5,
        metavar="N",
        help="Try a file N times more; 5 if not given.",
    ),
    click.option("--limit-rate", metavar="RATE", help="Bytes per second at most, all sessions together, as 10m."),
    click.option("--max-errors", type=click.IntRange(1), metavar="N", help="Stop after N failed files."),
    click.option(
        "--progress-interval",
        type=click.IntRange(0, 86_400),
        default=60,
        metavar="SECONDS",
        help="Where there is no terminal, a line of progress each SECONDS; 60 if not given, 0 for none.",
    ),
)
_KEPT = (
    "files_from",
    "newer",
    "min_size",
    "max_size",
    "dry_run",
    "links",
    "retries",
    "limit_rate",
    "max_errors",
    "progress_interval",
)


def many_options(function: F) -> F:
    """Give a command, an `OrderedCommand`, these options; it gets them as `many`, a `ManyOptions`."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **values: Any) -> Any:
        patterns = tuple(_in_order(values.pop("include"), values.pop("exclude")))
        verify = not values.pop("no_verify")
        many = ManyOptions(patterns=patterns, verify=verify, **{name: values.pop(name) for name in _KEPT})
        return function(*arguments, many=many, **values)

    decorated: Any = wrapped
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def _in_order(include: tuple[str, ...], exclude: tuple[str, ...]) -> Iterator[tuple[bool, str]]:
    left = {"include": iter(include), "exclude": iter(exclude)}
    for name in click.get_current_context().meta[_ORDER]:
        if name in left:
            yield name == "include", next(left[name])
