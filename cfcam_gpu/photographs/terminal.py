"""How commands talk: refusals, failures and progress go to stderr, and no name of a file steers the terminal."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

#: What a job is refused with: the message says what of it can't be meant.
REFUSALS = (OSError, ImportError, TypeError, ValueError, RuntimeError)


def plain(value: object) -> str:
    """`value` without what would break a line, steer the terminal or fail to be encoded: file names hold anything."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def refuse(error: Exception) -> NoReturn:
    """End a command before any work, with the reason."""
    print(f"error: {plain(error)}", file=sys.stderr)
    raise typer.Exit(2) from error


@contextmanager
def refusing() -> Iterator[None]:
    """Inside, a job is checked: what is wrong with it ends the command."""
    try:
        yield
    except REFUSALS as error:
        refuse(error)


def stop(error: Exception, err: Console) -> NoReturn:
    """End a command in the middle of its work, with the reason."""
    err.print(f"error: {plain(error)}", style="red")
    raise typer.Exit(1) from None


def leave(error: BaseException, err: Console) -> NoReturn:
    """End a command in the middle of work that the same command continues: an error, or one of :func:`stoppable`."""
    stopped = isinstance(error, KeyboardInterrupt)
    err.print("stopped" if stopped else f"error: {plain(error)}", style="red")
    err.print("what is done is kept, and the same command goes on from there")
    raise typer.Exit(143 if isinstance(error, Terminated) else 130 if stopped else 1) from None


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Have SIGTERM end a run as Ctrl-C does, and either of them once: a second one breaks no orderly end."""

    def stop(number: int, frame: object) -> None:
        if isinstance(sys.exc_info()[1], KeyboardInterrupt):
            return  # the first is on its way through here
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def errors() -> Console:
    """Stderr, where text is shown as it is written."""
    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


def warn_of_random_weights(err: Console, *, exported: bool = False) -> None:
    """Say it loudly; of an exported file they can't be given any more."""
    remedy = "export it with --weights FILE" if exported else "give --weights FILE"
    err.print(f"WARNING: the weights are random, so these maps mean nothing; {remedy}", style="bold red")


def progress(err: Console) -> Progress:
    """Bars of what is done, each with its task's description; none where nobody looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err, redirect_stdout=False, disable=not err.is_terminal)
