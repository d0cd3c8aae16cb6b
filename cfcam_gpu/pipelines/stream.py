"""From whatever yields images to batches of one size, on the model's device."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler

from .sources import Batch
from .store import ChangedError

#: Of an image's values every so many go into a digest: enough to tell two images apart.
STRIDE = 61


def check_repeatable(dataset: object) -> None:
    """Refuse what can't be gone through twice in one order.

    Raises
    ------
    TypeError, ValueError
    """
    if not isinstance(dataset, Iterable):
        raise TypeError(f"dataset: expected Photographs, a DataLoader or an iterable; got {type(dataset).__name__}")
    if isinstance(dataset, DataLoader) and isinstance(dataset.sampler, RandomSampler):
        raise ValueError("dataset: expected the same order every time; got a DataLoader with shuffle=True")


def batches_of(dataset: Iterable[Any], size: int) -> Iterator[Batch]:
    """Batches of `size` of any iterable; the last may be smaller.

    Parameters
    ----------
    dataset : iterable
        Of images (C, H, W), batches (B, C, H, W), or tuples of these with a target each or None and, third, a name
        each. Images are numbered where they have no names.
    size : int

    Raises
    ------
    TypeError, ValueError
        If an item is none of these, or its size is not that of the first.
    """
    held: list[Batch] = []
    count = seen = 0
    shape: torch.Size | None = None
    for item in dataset:
        rest = _batch(item, seen)
        seen += len(rest.sources)
        shape = shape or rest.images.shape[1:]
        if rest.images.shape[1:] != shape:
            raise ValueError(
                f"dataset: expected images of one size, {tuple(shape)}; got {tuple(rest.images.shape[1:])}"
            )
        while rest.sources:
            held.append(_cut(rest, 0, size - count))
            count += len(held[-1].sources)
            rest = _cut(rest, len(held[-1].sources), None)
            if count == size:
                yield _joined(held)
                held, count = [], 0
    if held:
        yield _joined(held)


def targets_of(batch: Batch, target: int | str | None) -> Sequence[int | None]:
    """What to explain of a batch: `target` for all of it, or the batch's own."""
    if target is None:
        return batch.targets
    return [target if isinstance(target, int) else None] * len(batch.sources)


def _batch(item: Any, first: int) -> Batch:
    images, targets, names = item, None, None
    if isinstance(item, (tuple, list)) and 1 <= len(item) <= 3:
        images, targets, names = (*item, None, None)[:3]
    if not isinstance(images, torch.Tensor) or images.ndim not in (3, 4):
        got = f"shape {tuple(images.shape)}" if isinstance(images, torch.Tensor) else type(images).__name__
        raise TypeError(
            f"dataset: expected tensors (C, H, W) or (B, C, H, W), or tuples that begin with one; got {got}"
        )
    if images.ndim == 3:
        images, targets, names = images[None], [targets], None if names is None else [names]
    count = len(images)
    targets = [None] * count if targets is None else list(targets)
    names = [str(first + b) for b in range(count)] if names is None else list(map(str, names))
    for what, row in (("targets", targets), ("names", names)):
        if len(row) != count:
            raise ValueError(f"dataset: expected {count} {what}, one for each image of the batch; got {len(row)}")
    height, width = images.shape[-2:]
    try:
        classes = [None if target is None else operator.index(target) for target in targets]
    except TypeError:
        kinds = sorted({type(target).__name__ for target in targets})
        raise TypeError(f"dataset: expected targets that are integers or None; got {', '.join(kinds)}") from None
    return Batch(names, images, [(width, height)] * count, classes, [None] * count, [None] * count)


def _cut(batch: Batch, start: int, stop: int | None) -> Batch:
    rows = slice(start, stop)
    return Batch(
        batch.sources[rows],
        batch.images[rows],
        batch.sizes[rows],
        batch.targets[rows],
        batch.errors[rows],
        batch.pages[rows],
    )


def _joined(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    return Batch(
        sources=[source for part in parts for source in part.sources],
        images=torch.cat([part.images for part in parts]),
        sizes=[size for part in parts for size in part.sizes],
        targets=[target for part in parts for target in part.targets],
        errors=[error for part in parts for error in part.errors],
        pages=[count for part in parts for count in part.pages],
    )


def unseen(found: Iterable[Batch], done: Sequence[str], per_shard: int) -> Iterator[Batch]:
    """The batches behind the shards that are done, each with the digest of its shard so far.

    Parameters
    ----------
    found : iterable of Batch
        From the first image on.
    done : sequence of str
        Digests of the shards that are done.
    per_shard : int
        Batches in a shard.

    Raises
    ------
    ChangedError
        If the images of a shard that is done are others now.
    """
    number, digest = 0, hashlib.blake2b(digest_size=16)
    for batch in found:
        if number % per_shard == 0:
            digest = hashlib.blake2b(digest_size=16)
        values = batch.images.flatten(1)[:, ::STRIDE].contiguous().cpu()
        digest.update(f"{batch.sources}{batch.targets}{values.dtype}{tuple(batch.images.shape)}".encode())
        digest.update(values.view(torch.uint8).numpy().data)
        number += 1
        shard, inside = divmod(number - 1, per_shard)
        if shard >= len(done):
            yield batch._replace(digest=digest.hexdigest())
        elif inside == per_shard - 1:
            _check_shard(digest.hexdigest(), done, shard)
    whole, more = divmod(number, per_shard)
    if whole < len(done) and more:
        _check_shard(digest.hexdigest(), done, whole)
    if whole + (more > 0) < len(done):
        raise ChangedError(f"dataset: it has changed: it ends before the {len(done)} shards that are done")


def _check_shard(digest: str, done: Sequence[str], shard: int) -> None:
    if digest != done[shard]:
        raise ChangedError(
            f"dataset: it has changed: the images of shard {shard} are not those that were explained. Choose another "
            "folder, or begin anew with restart"
        )


def ahead(found: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on the device; a GPU gets the next one while it works on this one."""
    if device.type != "cuda":
        yield from (batch._replace(images=batch.images.to(device)) for batch in found)
        return
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: tuple[Batch, torch.cuda.Event] | None = None
    for batch in found:
        with torch.cuda.stream(copies):
            moved = batch._replace(images=batch.images.to(device, non_blocking=True))
            arrived = copies.record_event()
        if waiting is not None:
            yield _arrived(*waiting)
        waiting = moved, arrived
    if waiting is not None:
        yield _arrived(*waiting)


def _arrived(batch: Batch, event: torch.cuda.Event) -> Batch:
    stream = torch.cuda.current_stream(batch.images.device)
    stream.wait_event(event)
    batch.images.record_stream(stream)
    return batch
