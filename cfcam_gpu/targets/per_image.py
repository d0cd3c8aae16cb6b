"""Which lists in a model's output have one entry for each image."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .outputs import Path, by_entries, items_of

#: What was found out of a model: by its mode, the list's place in the output, and what its entries are.
_known: WeakKeyDictionary[nn.Module, dict[Hashable, bool]] = WeakKeyDictionary()


class ListsOf:
    """Whether a list of B entries in a model's output of B images has one for each image.

    Its length does not tell: boxes behind a non-maximum suppression are such a list, [logits, auxiliary loss] is none,
    and two tensors of two rows may be either. The list that is one entry an image is one longer with one image more, so
    one more forward tells, of the first image alone, or of a single image twice. The answer is remembered for the
    model.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, ...) tensor
        What the output is of.
    """

    def __init__(self, model: nn.Module, images: torch.Tensor) -> None:
        self.model, self.images = model, images

    def __call__(self, path: Path, entries: list[Any]) -> bool:
        """Whether the list at `path` has one entry for each image."""
        known = _known.setdefault(self.model, {})
        key = self.model.training, path, frozenset(map(_kind, entries))
        if key not in known:
            known[key] = self._found_out(path, entries)
        return known[key]

    def _found_out(self, path: Path, entries: list[Any]) -> bool:
        there = self._of_other_batch
        for key in path:
            there = (items_of(there) or {}).get(key)
        if not isinstance(there, list):
            return by_entries(path, entries)
        return len(there) == len(self._other_batch)

    @cached_property
    def _other_batch(self) -> torch.Tensor:
        return self.images[:1] if len(self.images) > 1 else torch.cat([self.images, self.images])

    @cached_property
    def _of_other_batch(self) -> Any:
        """The output; None of a model that takes batches of one size alone."""
        try:
            with torch.no_grad():
                return self.model(self._other_batch)
        except Exception:
            return None


def _kind(value: Any) -> Any:
    """What a value is, beside how many there are of it: images differ in the number of objects on them."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape[1:]
    items = items_of(value)
    if items is None:
        return type(value)
    if isinstance(value, list):
        return list, frozenset(map(_kind, value))
    return type(value), tuple((key, _kind(item)) for key, item in items.items())
