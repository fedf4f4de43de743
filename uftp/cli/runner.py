"""Runs a command's async part: signals cancel it and let it clean up, errors become one line and an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import click

from uftp.cli.exits import exit_code
from uftp.errors import UFTPError

if TYPE_CHECKING:
    from uftp.cli.settings import Settings

T = TypeVar("T")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal has ended the command; it has cleaned up.

    Attributes:
        number: of the signal.
        advice: what a person may want to know now.
    """

    def __init__(self, number: int, advice: str) -> None:
        super().__init__(number)
        self.number = number
        self.advice = advice


def run_async(
    settings: Settings,
    function: Callable[[], Awaitable[T]],
    *,
    when_interrupted: Callable[[], str] = lambda: "unfinished files were removed",
) -> T:
    """Run `function` under trio.

    The first Ctrl-C (or SIGTERM, SIGHUP) cancels it, and it puts things in order; a second one ends the process at
    once. `when_interrupted` says, in the first case, what a person may want to know.

    Raises:
        Interrupted: by a signal.
        Whatever `function` raises.
    """
    import trio

    if settings.debug:
        import logging

        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        logging.getLogger("uftp").setLevel(logging.DEBUG)

    async def main() -> T:
        results: list[T] = []
        failures: list[BaseException] = []
        received: list[int] = []
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                work = trio.CancelScope()

                async def watch() -> None:
                    async for number in signals:
                        if received:
                            os._exit(128 + number)
                        received.append(number)
                        work.cancel()

                nursery.start_soon(watch)
                with work:
                    try:
                        results.append(await function())
                    except Exception as error:
                        failures.append(error)
                nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]
        if not results:
            raise Interrupted(received[0] if received else signal.SIGINT, when_interrupted())
        return results[0]

    return trio.run(main)


def reporting_errors(settings: Settings, function: Callable[[], T]) -> T:
    """Call `function`; its errors become one line on standard error, and end the command with their exit code."""
    try:
        return function()
    except UFTPError as error:
        if isinstance(error.__cause__, BrokenPipeError):
            raise BrokenPipeError from error  # `uftp cat ... | head`: the reader has enough
        print_error(settings, error)
        raise click.exceptions.Exit(exit_code(error)) from None
    except Interrupted as error:
        click.echo(one_line(f"uftp: interrupted; {error.advice}"), err=True)
        raise click.exceptions.Exit(128 + error.number) from None
    except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError, KeyboardInterrupt):
        raise
    except Exception as error:
        if settings.debug:
            raise
        click.echo(f"uftp: internal error: {type(error).__name__}: {error}; --debug shows where", err=True)
        raise click.exceptions.Exit(1) from None


def print_error(settings: Settings, error: UFTPError, text: str | None = None) -> None:
    """One line on standard error, of `text` if that says more; the traceback too with --debug."""
    if settings.debug:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    with contextlib.suppress(BrokenPipeError):
        click.echo(one_line(f"uftp: {error if text is None else text}"), err=True)


def one_line(text: str) -> str:
    """`text` without line breaks and without surrogates, fit for any terminal."""
    return " ".join(text.split("\n")).encode("utf-8", "backslashreplace").decode()
