"""What a model returns: each image's part of it, and the probabilities in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch


def samples(output: Any, batch: int) -> list[Any]:
    """Each image's part of a model's output, in the same form.

    Of a tensor (B, ...) it is the row. A list of B entries that are not all tensors (B, ...), as detectors return, has
    one for each image. A dict, dataclass, tuple or other list is gone through: what has a part for each image is
    replaced by it, all else stays. A mapping that is no dataclass becomes a dict.

    Parameters
    ----------
    output : tensor, dict, dataclass, tuple or list
    batch : int
        B, the number of images.

    Raises
    ------
    TypeError
        If nothing in it has a part for each image.
    """
    parts = _split(output, batch)
    if parts is None:
        got = f"shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
        raise TypeError(f"model: expected an output with a part for each of the {batch} images; got {got}")
    return parts


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """The softmax of logits (B, K), float32; NaN where K is 1: of one class alone it would be 1, whatever the logit."""
    return logits.float().softmax(dim=1) if logits.shape[1] > 1 else torch.full_like(logits, torch.nan).float()


def is_per_image(output: Any, batch: int) -> bool:
    """Whether `output` is a list with one entry for each image."""
    return isinstance(output, list) and len(output) == batch and not all(_is_batched(item, batch) for item in output)


def _is_batched(value: Any, batch: int) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == batch


def _split(value: Any, batch: int) -> list[Any] | None:
    """The B parts, or None for what is the same for all images."""
    if isinstance(value, torch.Tensor):
        return list(value.unbind()) if _is_batched(value, batch) else None
    if is_per_image(value, batch):
        return list(value)
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if field.init]
        items = _split_each([getattr(value, name) for name in names], batch)
        return None if items is None else [replace(value, **dict(zip(names, item))) for item in items]
    if isinstance(value, Mapping):
        items = _split_each(list(value.values()), batch)
        return None if items is None else [dict(zip(value, item)) for item in items]
    if isinstance(value, (tuple, list)):
        items = _split_each(value, batch)
        # A named tuple takes its items one by one.
        make = getattr(value, "_make", type(value))
        return None if items is None else [make(item) for item in items]
    return None


def _split_each(values: Sequence[Any], batch: int) -> list[list[Any]] | None:
    """B lists with a part of each value, or None where no value has parts."""
    split = [_split(value, batch) for value in values]
    if all(parts is None for parts in split):
        return None
    return [[value if parts is None else parts[b] for value, parts in zip(values, split)] for b in range(batch)]


def first_tensor(value: Any) -> torch.Tensor | None:
    """`value` if it is a tensor, or the first item of a tuple or list that is one."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, (tuple, list)):
        return next((item for item in value if isinstance(item, torch.Tensor)), None)
    return None


def with_first_tensor(value: Any, tensor: torch.Tensor) -> Any:
    """`value`, in which :func:`first_tensor` finds one, with `tensor` in its place."""
    first = first_tensor(value)
    if value is first:
        return tensor
    items = [tensor if item is first else item for item in value]
    return type(value)._make(items) if hasattr(value, "_make") else type(value)(items)


def logits_of(output: Any) -> torch.Tensor:
    """The scores in what a model returned: (B, ...) floating.

    A tensor is taken as it is; from a dict, dataclass or named tuple what is called ``logits``, else ``out``; from a
    tuple or list its first item, if that is a tensor.

    Raises
    ------
    TypeError
        If no scores can be found, or they are no floating tensor.
    """
    logits: Any = output
    if isinstance(output, Mapping):
        logits = next((output[key] for key in ("logits", "out") if key in output), None)
        got = f"a {type(output).__name__} with {', '.join(map(repr, output)) or 'no keys'}"
    elif not isinstance(output, torch.Tensor):
        logits = next((logits for key in ("logits", "out") if (logits := getattr(output, key, None)) is not None), None)
        if logits is None and isinstance(output, (tuple, list)) and output:
            logits = output[0]
        got = f"a {type(output).__name__}"
    if not isinstance(logits, torch.Tensor):
        raise TypeError(
            "model: expected a tensor of logits, alone, first of a tuple, or called 'logits' or 'out'; got "
            f"{got}. Of any other output, a callable as the target makes a score"
        )
    if not logits.is_floating_point():
        raise TypeError(f"model: expected floating logits; got {logits.dtype}")
    return logits
