"""Explanations in bulk: whole data sets, resumed where they stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bulk import Summary, run
    from .sources import Photographs

__all__ = ["Photographs", "Summary", "run"]

_HOMES = {"Photographs": "sources", "Summary": "bulk", "run": "bulk"}


def __getattr__(name: str) -> Any:
    # The command line imports a module of this package for its help, and must not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value
