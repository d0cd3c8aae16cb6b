"""What a DataLoader, or another iterable, yields: images, and perhaps a target and a name of each."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..core.axes import INPUTS
from ..sources.labels import target_of
from ..sources.photographs import Batch

#: What is in a dict, and under which keys it is looked for where none is named.
KEYS = {
    "image": ("image", "images", "img", "pixel_values", "x"),
    "target": ("label", "labels", "target", "targets", "y"),
    "name": ("name", "names", "id", "ids", "file", "filename", "path", "__key__"),
}

_log = logging.getLogger(__name__)


class Reading(NamedTuple):
    """How items are read.

    Parameters
    ----------
    spatial_dims : int
        Axes of the images behind the channels'.
    image_column, target_column, name_column : str or None
        The keys of dicts; None looks for the usual ones of :data:`KEYS`.
    targets : bool
        False: no target is asked for, so that it doesn't matter what the items have there.
    class_names : sequence of K str or None
        By which targets may be given; None takes indices only.
    """

    spatial_dims: int = 2
    image_column: str | None = None
    target_column: str | None = None
    name_column: str | None = None
    targets: bool = True
    class_names: Sequence[str] | None = None

    def batch(self, item: Any, first: int) -> Batch:
        """The images of an item, of which `first` images came before; the digest is empty.

        Raises
        ------
        TypeError, ValueError
            If it has no images, or not a target and a name for each; the message says what is expected.
        """
        images, targets, names = self._parts(item)
        dims = self.spatial_dims
        if not isinstance(images, torch.Tensor) or images.ndim not in (dims + 1, dims + 2):
            batched = INPUTS[dims].replace("3", "C")
            got = f"shape {tuple(images.shape)}" if isinstance(images, torch.Tensor) else type(images).__name__
            raise TypeError(
                f"dataset: expected tensors {batched.replace('B, ', '')} or {batched}, tuples that begin with one, or "
                f"dicts, for spatial_dims={dims}; got {got}"
            )
        names = _of_its_file(item, images, self.image_column or "image") if names is None else names
        images = images.detach().as_subclass(torch.Tensor)  # MONAI's would do all that follows in Python
        if images.ndim == dims + 1:
            images, targets, names = images[None], [targets], [names]
        count = len(images)
        return Batch(
            sources=_names(names, count, first),
            images=images,
            sizes=[tuple(reversed(images.shape[2:]))] * count,
            targets=_classes(targets, count, self.class_names) if self.targets else [None] * count,
            errors=[None] * count,
            pages=[None] * count,
            index=first,
        )

    def _parts(self, item: Any) -> tuple[Any, Any, Any]:
        if isinstance(item, Mapping):
            image = _key(item, "image", self.image_column)
            if image is None:
                raise ValueError(
                    f"dataset: expected the images under one of the keys {', '.join(KEYS['image'])}; got "
                    f"{_said(item)}. Name it: image_column=KEY"
                )
            target = _key(item, "target", self.target_column) if self.targets else None
            name = _key(item, "name", self.name_column)
            return item[image], None if target is None else item[target], None if name is None else item[name]
        named = {"image": self.image_column, "target": self.target_column, "name": self.name_column}
        for what, key in named.items():
            if key is not None:
                raise ValueError(
                    f"{what}_column: expected none, as only dicts have keys; got {key!r} for a {type(item).__name__}"
                )
        if isinstance(item, (tuple, list)) and 1 <= len(item) <= 3:
            return (*item, None, None)[:3]
        return item, None, None


def _key(item: Mapping[Any, Any], what: str, named: str | None) -> str | None:
    """The key of a dict's `what`, or None where it has none."""
    if named is not None:
        if named not in item:
            raise ValueError(f"{what}_column: expected one of the keys {_said(item)}; got {named!r}")
        return named
    usual = [key for key in KEYS[what] if key in item]
    if len(usual) > 1:
        raise ValueError(
            f"dataset: expected one {what} in a dict; got the keys {' and '.join(usual)}. Name one: "
            f"{what}_column={usual[0]!r}"
        )
    return usual[0] if usual else None


def _said(item: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, item)) or "no keys"


def _of_its_file(item: Any, images: torch.Tensor, key: str) -> Any:
    """The names that MONAI keeps beside its images, or None."""
    found = getattr(images, "meta", None)
    if isinstance(item, Mapping):
        found = item.get(f"{key}_meta_dict", found)
    return found.get("filename_or_obj") if isinstance(found, Mapping) else None


def _classes(targets: Any, count: int, names: Sequence[str] | None) -> list[int | None]:
    if targets is None:
        return [None] * count
    listed = _listed(targets, count, "targets")
    return [_class(target, names) for target in listed]


def _class(target: Any, names: Sequence[str] | None) -> int | None:
    """A class index, or None where there is none: None itself, NaN, and -1, which test sets have for it."""
    if isinstance(target, (torch.Tensor, np.ndarray)):
        if math.prod(target.shape) != 1:
            raise TypeError(
                f"dataset: expected a class index for each image; got shape {tuple(target.shape)} each. Of one-hot "
                "rows give argmax(-1); where targets are no classes, explain the predicted ones: target='predicted'"
            )
        target = target.item()
    try:
        return target_of(target, names)
    except ValueError as error:
        raise TypeError(
            f"dataset: {error}. Where targets are no classes, explain the predicted ones: target='predicted'"
        ) from None


def _names(names: Any, count: int, first: int) -> list[str]:
    """The images' names; their numbers where they have none."""
    listed = [None] * count if names is None else _listed(names, count, "names")
    found = [_name(name) for name in listed]
    if names is not None and None in found:
        nameless = listed[found.index(None)]
        if nameless is not None:
            _log.warning(
                "dataset: expected names that are text, paths or integers; got %s. These images are numbered",
                _kind(nameless),
            )
    return [str(first + b) if name is None else name for b, name in enumerate(found)]


def _name(name: Any) -> str | None:
    if isinstance(name, (torch.Tensor, np.ndarray)) and not name.shape:
        name = name.item()
    if isinstance(name, (str, bytes, os.PathLike)):
        return os.fsdecode(name)
    return str(name) if isinstance(name, (int, np.integer)) and not isinstance(name, bool) else None


def _kind(value: Any) -> str:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__


def _listed(values: Any, count: int, what: str) -> Sequence[Any]:
    """One for each image."""
    wanted = f"dataset: expected {count} {what}, one for each image of the batch"
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__len__"):
        raise TypeError(f"{wanted}; got {_kind(values)}")
    if isinstance(values, (torch.Tensor, np.ndarray)):
        if not values.shape:
            raise ValueError(f"{wanted}; got a single one")
        # One wait for the device, and plain numbers.
        listed = values.tolist() if math.prod(values.shape) == len(values) and values.ndim == 1 else list(values)
    else:
        listed = list(values)
    if len(listed) != count:
        raise ValueError(f"{wanted}; got {len(listed)}")
    return listed
