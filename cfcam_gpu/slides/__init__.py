"""Whole slides: read by the reader that is right for each, in worker processes, explained tile by tile."""

from typing import TYPE_CHECKING

from .._lazy import lazily

if TYPE_CHECKING:
    from .explaining import explain
    from .job import Outcome

__all__ = ["Outcome", "explain"]

_HOMES = {"Outcome": "job", "explain": "explaining"}

__getattr__, __dir__ = lazily(__name__, _HOMES)
