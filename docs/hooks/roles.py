"""Sphinx's roles in docstrings, which editors show well, as links of the site: a Griffe extension."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|data|exc|func|meth|mod|attr):`(?P<plain>[~!.]*(?P<name>[\w.]+))`")


class Roles(griffe.Extension):
    """Turns ``:func:`export``` into a link to what it names, or into its name where the site does not have it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(lambda role: _link(obj, role), obj.docstring.value)


def _link(obj: griffe.Object, role: re.Match[str]) -> str:
    name = role["name"]
    shown = name.rpartition(".")[2] if role["plain"].startswith("~") else name
    path = _path(obj, name)
    return f"`{shown}`" if path is None else f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'


def _path(obj: griffe.Object, name: str) -> str | None:
    """Where a name in an object's docstring leads."""
    if name.startswith("cfcam_gpu."):
        return name
    first, _, rest = name.partition(".")
    try:
        found = obj.resolve(first)
    except griffe.NameResolutionError:
        return None
    return f"{found}.{rest}" if rest else found
