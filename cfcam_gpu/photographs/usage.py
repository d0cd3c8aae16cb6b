"""Command lines that can't be meant, told in one line: what was expected, what came, and what to type.

typer's own words are those of the libraries that it reads values by, and change with its releases. Its errors are known
here by what they carry, as their classes have moved from click into typer.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from .terminal import plain

UsageError: type[Exception] = typer.BadParameter.__mro__[1]

#: What to type, by command: how it is called, and an example of what follows.
EXAMPLES: Mapping[str, tuple[str, str]] = {
    "explain": ("explain", "holiday/ cat.jpg"),
    "demo": ("demo", "--out demo"),
    "detect": ("detect", "street.jpg --model transformers:detr/"),
    "methods": ("methods", ""),
    "info": ("info", "cat.onnx"),
    "layers": ("layers", "lite0"),
    "export": ("export", "cat.onnx --model lite0"),
    "run": ("run", "photos/ --out explained"),
    "slide": ("slide", "biopsy.svs --model mine.nets:tissue --out slides"),
    "report": ("report", "measured/ --out page"),
    "serve": ("serve", "--model lite0 --port 8000"),
    "SUITE": ("bench", "faithfulness --data photos/ --out measured"),
    "latency": ("bench latency", "--model lite0"),
}

#: What a message of typer, of click or of pydantic means, in our words; a group of the pattern is filled in.
_MEANT: tuple[tuple[str, str], ...] = (
    (r"is not one of (.*?)\.?$", "one of {}"),
    (r"greater than or equal to ([^\s,]+)", "a number of at least {}"),
    (r"less than or equal to ([^\s,]+)", "a number of at most {}"),
    (r"in the range x>=([^\s,]+?)\.?$", "a number of at least {}"),
    (r"in the range ([^\s,]+?)\.?$", "a number x with {}"),
    (r"valid integer", "a whole number"),
    (r"valid (?:number|float)", "a number"),
    (r"valid boolean", "true or false"),
)


class Commands(TyperGroup):
    """``cfcam-gpu``: its commands, and what is said where a command line can't be meant.

    A context is Any: typer took click's until it brought its own.
    """

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Read what stands before the command."""
        with _told(self, None):
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Read the command's own arguments, and run it."""
        with _told(self, ctx):
            return super().invoke(ctx)


@contextmanager
def _told(group: TyperGroup, ctx: Any) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # nothing was typed, and all commands are listed
            raise
        print(f"error: {plain(_words(error, group, ctx))}", file=sys.stderr)
        raise typer.Exit(2) from None


def _words(error: Any, group: TyperGroup, ctx: Any) -> str:
    """What a usage error means."""
    command = error.ctx.command if error.ctx else None
    if command is group and type(error).__name__ in ("UsageError", "NoSuchCommand"):
        return _no_command(str(error.message), group)
    kinds = {
        "MissingParameter": _missing,
        "BadParameter": _bad,
        "NoSuchOption": _no_option,
        "BadOptionUsage": _no_value,
    }
    said = kinds.get(type(error).__name__, _unexpected)(error)
    # An error of the parser's own does not always know its command.
    name = command.name if command not in (None, group) else ctx and ctx.invoked_subcommand
    path, rest = EXAMPLES.get(name, EXAMPLES["explain"])
    return f"{said}. Type, for example: cfcam-gpu {path} {rest} (cfcam-gpu {path} --help lists all)"


def _missing(error: Any) -> str:
    choices = re.findall(r"[\w-]+", str(error.format_message()).partition("Choose from:")[2])
    expected = f"one of {', '.join(choices)}" if choices else "one or more" if error.param.nargs == -1 else "one"
    if error.param.opts[0].startswith("-"):
        expected = error.param.metavar or "a value"
    return f"{_name(error.param)}: expected {expected}; got none"


def _bad(error: Any) -> str:
    message = str(error.message)
    found = ((re.search(pattern, message), expected) for pattern, expected in _MEANT)
    expected = next(
        (text.format(*(group.replace("'", "") for group in match.groups())) for match, text in found if match),
        f"another value ({message})",
    )
    return f"{_name(error.param)}: expected {expected}{_got(error)}"


def _got(error: Any) -> str:
    """What came, where the error knows it: pydantic's carries it, click's says it first."""
    if callable(errors := getattr(error.__cause__, "errors", None)):
        return f"; got {errors()[0]['input']}"
    match = re.match(r"'(.*?)' is not|(\S+) is not in", str(error.message))
    return f"; got {match[1] or match[2]}" if match else ""


def _no_option(error: Any) -> str:
    known = [
        name for param in error.ctx.command.params for name in (*param.opts, *param.secondary_opts) if name[:1] == "-"
    ]
    near = difflib.get_close_matches(error.option_name, known, n=3)
    nearest = f"; nearest: {', '.join(near)}" if near else ""
    there = f"; a file of that name is ./{error.option_name}" if os.path.lexists(error.option_name) else ""
    return f"{error.option_name}: there is no such option{nearest}{there}"


def _no_value(error: Any) -> str:
    """An option without a value behind it, or with one that it does not take."""
    if "does not take" in str(error.message):
        return f"{error.option_name}: expected no value with it, as it is on or off"
    return f"{error.option_name}: expected a value behind it; got none"


def _unexpected(error: Any) -> str:
    match = re.search(r"extra argument\S* \((.*)\)", str(error.message))
    return f"expected no more arguments; got {match[1]}" if match else str(error.message)


def _no_command(message: str, group: TyperGroup) -> str:
    match = re.search(r"'(.*)'", message.partition(". Did you mean")[0])
    if match is None:
        return f"expected a command; cfcam-gpu --help lists them ({message})"
    from ..image_files.formats import SUFFIXES  # Pillow

    name = match[1]
    if Path(name).is_dir() or Path(name).suffix.lower() in SUFFIXES:
        return f"{name}: expected a command in front of it. Type, for example: cfcam-gpu explain {name}"
    near = difflib.get_close_matches(name, group.commands, n=1)
    nearest = f"; nearest: {near[0]}" if near else ""
    return (
        f"{name}: expected a command, one of {', '.join(group.commands)}{nearest}. Type, for example: "
        f"cfcam-gpu {' '.join(EXAMPLES['explain'])}"
    )


def _name(param: Any) -> str:
    """What a parameter is called by who types it."""
    options = [name for name in param.opts if name.startswith("-")]
    return max(options, key=len) if options else str(param.metavar or param.name).strip("{}.[]").upper()
