"""Explanations of whole data sets: `run` writes them to a folder and continues a run that was stopped."""

from typing import TYPE_CHECKING

from .._lazy import lazily

if TYPE_CHECKING:
    from .batches import BatchExplainer
    from .bulk import Summary, run
    from .sources import Photographs

__all__ = ["BatchExplainer", "Photographs", "Summary", "run"]

__getattr__ = lazily(
    __name__, {"BatchExplainer": "batches", "Photographs": "sources", "Summary": "bulk", "run": "bulk"}
)
