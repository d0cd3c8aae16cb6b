"""What a model returns: each image's part of it, and the probabilities in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeAlias

import torch

#: Where something is in an output: the keys, names and positions on the way to it.
Path: TypeAlias = tuple[Any, ...]
#: Whether the list of B entries at a path has one for each image.
PerImage: TypeAlias = Callable[[Path, list[Any]], bool]


def by_entries(path: Path, entries: list[Any]) -> bool:
    """A guess from one output: entries that are all batches themselves are not an image's each."""
    return not all(_is_batched(entry, len(entries)) for entry in entries)


def samples(output: Any, batch: int, per_image: PerImage = by_entries) -> list[Any]:
    """Each image's part of a model's output, in the same form.

    Of a tensor (B, ...) it is the row, of a list with an entry for each image, as detectors return, the entry. A dict,
    dataclass, tuple or other list is gone through: what has a part for each image is replaced by it, all else stays. A
    mapping that is no dataclass becomes a dict.

    Parameters
    ----------
    output : tensor, dict, dataclass, tuple or list
    batch : int
        B, the number of images.
    per_image : callable
        Tells which lists of B entries have one for each image, as :class:`cfcam_gpu.targets.per_image.ListsOf`.

    Raises
    ------
    TypeError
        If nothing in it has a part for each image.
    """
    parts = _split(output, batch, per_image, ())
    if parts is None:
        got = f"shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
        raise TypeError(f"model: expected an output with a part for each of the {batch} images; got {got}")
    return parts


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """The softmax of logits (B, K), float32; NaN where K is 1: of one class alone it would be 1, whatever the logit."""
    return logits.float().softmax(dim=1) if logits.shape[1] > 1 else torch.full_like(logits, torch.nan).float()


def items_of(value: Any) -> dict[Any, Any] | None:
    """What is in a dict, dataclass, tuple or list, by key, name or position; None of all else."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    if isinstance(value, Mapping):
        return dict(value)
    return dict(enumerate(value)) if isinstance(value, (tuple, list)) else None


def tensors_in(output: Any) -> list[torch.Tensor]:
    """All tensors in an output."""
    if isinstance(output, torch.Tensor):
        return [output]
    return [tensor for item in (items_of(output) or {}).values() for tensor in tensors_in(item)]


def _is_batched(value: Any, batch: int) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == batch


def _split(value: Any, batch: int, per_image: PerImage, path: Path) -> list[Any] | None:
    """The B parts, or None for what is the same for all images."""
    if isinstance(value, torch.Tensor):
        return list(value.unbind()) if _is_batched(value, batch) else None
    if isinstance(value, list) and len(value) == batch and per_image(path, value):
        return list(value)
    items = items_of(value)
    if items is None:
        return None
    split = {key: _split(item, batch, per_image, (*path, key)) for key, item in items.items()}
    if all(parts is None for parts in split.values()):
        return None
    return [
        _with_items(value, {key: items[key] if parts is None else parts[b] for key, parts in split.items()})
        for b in range(batch)
    ]


def _with_items(value: Any, items: dict[Any, Any]) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **items)
    if isinstance(value, Mapping):
        return items
    # A named tuple takes its items one by one.
    return getattr(value, "_make", type(value))(list(items.values()))


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
        raise no_logits(got)
    if not logits.is_floating_point():
        raise TypeError(f"model: expected floating logits; got {logits.dtype}")
    return logits


def no_logits(got: str) -> TypeError:
    """What is wrong with an output that has no scores of classes."""
    return TypeError(
        "model: expected a tensor of logits, alone, first of a tuple, or called 'logits' or 'out'; got "
        f"{got}. Of any other output, a callable as the target makes a score"
    )
