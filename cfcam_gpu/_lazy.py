"""Public names that are imported when they are first used: torch takes seconds, and ``cfcam-gpu --help`` needs none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package (PEP 562), whose public names are its ``__all__``.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    homes : mapping
        For each public name the module in the package that has it, with a dot before it if it is beside the package;
        for a module, its own path.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(f".{homes[name]}", package)
        value = module if homes[name].rpartition(".")[2] == name else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def public() -> list[str]:
        return list(sys.modules[package].__all__)

    return find, public
