"""The page of the command line, made from the commands themselves.

mkdocs-click reads click's commands, and typer's are no longer those; `typer utils docs` leaves out the exit status.
"""

import html
import re
from typing import Any

from typer.main import get_command

from cfcam_gpu import cli

MARKER = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the commands in the place of the marker."""
    return markdown.replace(MARKER, "\n\n".join(described())) if MARKER in markdown else markdown


def described() -> list[str]:
    """A section of each command, in Markdown."""
    sections = []
    for name, command in get_command(cli.app).commands.items():
        if not hasattr(command, "commands"):
            sections.append(_section(f"cfcam-gpu {name}", command))
            continue
        for part, inner in command.commands.items():
            sections.append(_section(f"cfcam-gpu {name}" + (f" {part}" if part.islower() else ""), inner))
    return sections


def _section(called: str, command: Any) -> str:
    context = command.context_class(command, info_name=called)
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [f"## {called}", *map(_prose, (command.help or "").split("\n\n")), f"```\n{usage}\n```"]
    shown = [one for one in command.params if not getattr(one, "hidden", False) and "--help" not in one.opts]
    for title, kind in (("Arguments", "argument"), ("Options", "option")):
        described = [_parameter(one, context) for one in shown if one.param_type_name == kind]
        if described:
            parts += [f"**{title}**", "\n\n".join(described)]
    if command.epilog:
        parts.append(re.sub("^Exit status:", "**Exit status:**", _prose(command.epilog)))
    return "\n\n".join(parts)


def _parameter(parameter: Any, context: Any) -> str:
    """An entry of a list of definitions: the name, what it is, and its default."""
    name, text = parameter.get_help_record(context)
    name = re.sub(r" <(?:str|int|float|path|list\[).*>$", "", name)  # of words and numbers, as the text says
    text, _, extra = f"  {text}".partition("  [")  # an option without a text begins with its default
    extra = re.sub(r"(\S+)<=x<=(\S+)\]", r"\1 to \2]", re.sub(r"x>=(\S+)\]", r"\1 or more]", extra))
    extra = re.sub(r"default: \((.*)\)(?=[;\]])", r"default: \1", extra)
    more = f" *{_prose(extra.removesuffix(']'))}*" if extra else ""
    return f"`{name}`\n:   {_prose(text)}{more}"


def _prose(text: str) -> str:
    """Help in one line of Markdown, with options and commands as code."""
    escaped = re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
    return re.sub(r"(?<![\w-])(--[a-z][a-z-]*[a-z]|cfcam-gpu [a-z]+)", r"`\1`", escaped)
