"""Some of the images of an explanation, and an explanation on another device."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import torch

from .record import Record

#: What a CUDA graph or an exported file has made itself, in the place of what would be made of the raw maps.
_CACHED = ("maps", "empty")

Part = TypeVar("Part", bound=Record)


def part(explanation: Part, rows: Sequence[int]) -> Part:
    """The explanation of these of the images, in memory of its own."""
    device = explanation.raw_maps.device
    where = (
        torch.arange(rows.start, rows.stop, rows.step, device=device)  # of which the host has no values to bring
        if isinstance(rows, range) and rows
        else torch.tensor(list(rows), dtype=torch.int64, device=device)
    )
    chosen = {name: tensor.index_select(0, where.to(tensor.device)) for name, tensor in _tensors(explanation).items()}
    origin, called, seen = explanation.origin, explanation.called, explanation.seen
    if origin is not None and origin.scores is not None:
        origin = origin._replace(scores=tuple(origin.scores[row] for row in rows))
    return _with(
        explanation,
        chosen,
        origin=origin,
        called=None if called is None else tuple(called[row] for row in rows),
        seen=None if seen is None else seen.part(rows),
    )


def moved(explanation: Part, device: torch.device | str | int) -> Part:
    """The explanation on another device, without the model; on its own it is this very one.

    Raises
    ------
    TypeError
        If it is no device.
    """
    if not isinstance(device, (torch.device, str, int)) or isinstance(device, bool):
        raise TypeError(f"device: expected a torch.device, a str or an int; got {device!r}. Maps stay float32")
    tensors = {name: tensor.to(device) for name, tensor in _tensors(explanation).items()}
    if tensors["raw_maps"].device == explanation.raw_maps.device:
        return explanation
    layers = tuple(replace(layer, module=None) for layer in explanation.layers)
    return _with(explanation, tensors, origin=None, layers=layers)


def _tensors(explanation: Record) -> dict[str, torch.Tensor]:
    """All that has a row for each image, by name; of what is made of it, what is known already."""
    values = {field.name: getattr(explanation, field.name) for field in fields(explanation)}
    values |= {name: value for name, value in vars(explanation).items() if name in _CACHED}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def _with(explanation: Part, tensors: dict[str, Any], **others: Any) -> Part:
    known = {name: tensors.pop(name) for name in _CACHED if name in tensors}
    result = replace(explanation, **tensors, **others)
    vars(result).update(known)  # a cached property is found there
    return result


def rows_of(index: Any, count: int) -> range | list[int]:
    """The places among `count` images that an index means.

    Raises
    ------
    TypeError, IndexError
    """
    if isinstance(index, slice):
        return range(count)[index]
    if isinstance(index, list) or (isinstance(index, (np.ndarray, torch.Tensor)) and index.ndim):
        places = torch.as_tensor(index) if len(index) else torch.empty(0, dtype=torch.int64)
        kinds = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
        if places.ndim != 1 or places.dtype not in kinds:
            raise TypeError(f"index: expected ints or bools; got {places.dtype} of shape {tuple(places.shape)}")
        if places.dtype == torch.bool:
            if len(places) != count:
                raise IndexError(f"index: expected {count} bools, one for each image; got {len(places)}")
            return list(places.nonzero()[:, 0].tolist())
        found = places.tolist()
    elif not hasattr(index, "__index__") or isinstance(index, bool) or _is_bool_tensor(index):
        raise TypeError(
            f"index: expected an int, a slice, or a list or 1-D tensor of ints or bools; got {index!r:.80}. Tensors "
            "such as result.maps take any other index"
        )
    else:
        found = [operator.index(index)]
    beyond = [place for place in found if not -count <= place < count]
    if beyond:
        raise IndexError(f"index: expected {-count} to {count - 1}, as there are {count} images; got {beyond[0]}")
    return [place % count for place in found]


def _is_bool_tensor(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool
