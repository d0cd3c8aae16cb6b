"""Explanations of whole data sets: `run` writes them to a folder and continues a run that was stopped."""

from typing import TYPE_CHECKING

from .._lazy import lazily

if TYPE_CHECKING:
    from ..sources.photographs import Photographs
    from .batches import BatchExplainer
    from .bulk import Summary, run
    from .store import ChangedError

__all__ = ["BatchExplainer", "ChangedError", "Photographs", "Summary", "run"]

_HOMES = {
    "BatchExplainer": "batches",
    "ChangedError": "store",
    "Photographs": ".sources.photographs",
    "Summary": "bulk",
    "run": "bulk",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
