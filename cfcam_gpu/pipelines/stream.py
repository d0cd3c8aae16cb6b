"""From whatever yields images to batches of one size, on the model's device."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ..sources.photographs import Batch
from .loader_items import Reading
from .store import ChangedError, combined

#: Samplers whose order is another one each time.
RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
#: Places that are compared of the order of another sampler, and how many more times it is gone through: few images may
#: come in the same order by chance.
COMPARED = 1 << 16
PASSES = 4
#: Words of a checksum that are summed at once.
ROW = 4096


def check_repeatable(dataset: object) -> None:
    """Refuse what can't be gone through twice in one order.

    Raises
    ------
    TypeError, ValueError
    """
    if not isinstance(dataset, Iterable):
        raise TypeError(f"dataset: expected Photographs, a DataLoader or an iterable; got {type(dataset).__name__}")
    for sampler in _samplers(dataset):
        # DistributedSampler and most samplers of one's own say so.
        if isinstance(sampler, RANDOM) or getattr(sampler, "shuffle", False) is True or _differs(sampler):
            raise ValueError(
                "dataset: expected the same order every time, so that a row's index finds its image; got a DataLoader "
                f"with {type(sampler).__name__}, which shuffles. Make it with shuffle=False, and of some images with "
                "torch.utils.data.Subset(dataset, indices)"
            )


def _differs(sampler: Any) -> bool:
    """Whether a sampler of one's own gives another order each time. The random numbers of the process stay as they are.

    One that can be gone through once is left alone, and no more than :data:`COMPARED` places are looked at.
    """
    if type(sampler) in (SequentialSampler, BatchSampler) or not isinstance(sampler, Iterable):
        return False
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # what others draw from
    try:
        with torch.random.fork_rng(devices=[]):
            first = iter(sampler)
            if first is sampler:
                return False
            order = list(islice(first, COMPARED))
            return any(list(islice(iter(sampler), COMPARED)) != order for _ in range(PASSES))
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _samplers(dataset: object) -> Iterator[object]:
    """What decides the order of a DataLoader: samplers, and those that they hold."""
    waiting: list[object] = [dataset] if isinstance(dataset, DataLoader) else []
    seen: list[object] = []
    while waiting:
        holder = waiting.pop()
        for name in ("sampler", "batch_sampler"):
            inner = getattr(holder, name, None)
            if inner is not None and not any(inner is one for one in seen):
                seen.append(inner)
                waiting.append(inner)
                yield inner


def batches_of(
    dataset: Iterable[Any],
    size: int,
    *,
    spatial_dims: int = 2,
    image_column: str | None = None,
    target_column: str | None = None,
    name_column: str | None = None,
    targets: bool = True,
    class_names: Sequence[str] | None = None,
) -> Iterator[Batch]:
    """Batches of `size` of any iterable; the last may be smaller.

    Parameters
    ----------
    dataset : iterable
        Of images (C, H, W) or batches (B, C, H, W), volumes (C, D, H, W) or signals (C, L). Or of tuples of these with
        a target each and, third, a name each; or of dicts with these. A target is a class index or name; None, NaN and
        -1 are the predicted class. A name is text, a path or an integer; images that have none are numbered.
    size : int
    spatial_dims : {1, 2, 3}
        Axes of the images behind the channels'.
    image_column, target_column, name_column : str, optional
        The keys of dicts. Default: the one among the usual ones of :data:`cfcam_gpu.pipelines.loader_items.KEYS`.
    targets : bool
        False: what items say of their targets is passed over.
    class_names : sequence of K str, optional
        By which targets may be given. None takes indices only.

    Yields
    ------
    Batch
        `index` is the place of its first image among all that came, `digest` that of all values, names and targets.

    Raises
    ------
    TypeError, ValueError
        If an item is none of these, or its size is not that of the first.
    """
    reading = Reading(spatial_dims, image_column, target_column, name_column, targets, class_names)
    held: list[Batch] = []
    count = seen = 0
    shape: torch.Size | None = None
    for item in dataset:
        rest = reading.batch(item, seen)
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
        if held:  # what waits for the next item, which may come in the same memory
            held[-1] = held[-1]._replace(images=held[-1].images.clone())
    if held:
        yield _joined(held)


def targets_of(batch: Batch, target: int | str | None) -> Sequence[int | None]:
    """What to explain of a batch: `target` for all of it, or the batch's own."""
    if target is None:
        return batch.targets
    return [target if isinstance(target, int) else None] * len(batch.sources)


def _cut(batch: Batch, start: int, stop: int | None) -> Batch:
    rows = slice(start, stop)
    return Batch(
        batch.sources[rows],
        batch.images[rows],
        batch.sizes[rows],
        batch.targets[rows],
        batch.errors[rows],
        batch.pages[rows],
        index=batch.index + start,
    )


def first_of(batch: Batch, count: int) -> Batch:
    """The first `count` images of a batch, with the digest of these."""
    return batch if count == len(batch.sources) else _joined([_cut(batch, 0, count)])


def _joined(parts: list[Batch]) -> Batch:
    batch = parts[0]
    if len(parts) > 1:
        batch = Batch(
            sources=[source for part in parts for source in part.sources],
            images=torch.cat([part.images for part in parts]),
            sizes=[size for part in parts for size in part.sizes],
            targets=[target for part in parts for target in part.targets],
            errors=[error for part in parts for error in part.errors],
            pages=[count for part in parts for count in part.pages],
            index=batch.index,
        )
    return batch._replace(digest=_digest(batch))


def _digest(batch: Batch) -> str:
    """Of all that a batch's results depend on: every value of its images, their names and targets."""
    images = batch.images
    found = hashlib.sha256(f"{batch.sources}{batch.targets}{images.dtype}{tuple(images.shape)}".encode())
    if images.device.type == "cpu":
        # SHA-256 is in the processor's instructions: BLAKE2 takes twice the time.
        found.update(images.reshape(-1).view(torch.uint8).numpy().data)
    else:
        found.update(repr(checksums(images).tolist()).encode())
    return found.hexdigest()[:32]


def checksums(images: torch.Tensor) -> torch.Tensor:
    """(B,) int64 of images (B, ...), on their device, which needn't hand over more than these.

    Not for people with intent: sums of the images' 32-bit words, each times a random odd number of 64 bits.
    """
    result = []
    for image in images:
        octets = image.reshape(-1).view(torch.uint8)
        words = functional.pad(octets, (0, -len(octets) % (4 * ROW))).view(torch.int32).reshape(-1, ROW)
        of_columns, of_rows = _odd_numbers(ROW, images.device), _odd_numbers(len(words), images.device)
        result.append(((words * of_columns).sum(dim=1) * of_rows).sum())
    return torch.stack(result)


@lru_cache(maxsize=4)
def _odd_numbers(count: int, device: torch.device) -> torch.Tensor:
    """Random int64 numbers, the same every time."""
    generator = torch.Generator().manual_seed(count)
    return (torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator) | 1).to(device)


def unseen(found: Iterable[Batch], done: Mapping[int, str], per_shard: int) -> Iterator[Batch]:
    """The batches of the shards that are not done.

    Parameters
    ----------
    found : iterable of Batch
        From the first image on.
    done : mapping of int to str
        Of each shard that is done, its number and :func:`cfcam_gpu.pipelines.store.combined` of its batches' digests.
    per_shard : int
        Batches in a shard.

    Raises
    ------
    ChangedError
        If the images of a shard that is done are others now, or don't come any more.
    """
    digests: list[str] = []
    checked: set[int] = set()

    def check(shard: int) -> None:
        if combined(digests) != done[shard]:
            raise ChangedError(
                f"dataset: it has changed: the images of shard {shard} are not those that were explained, or come in "
                "another order. Choose another folder, or begin anew with restart"
            )
        checked.add(shard)

    shard = 0
    for number, batch in enumerate(found):
        if number % per_shard == 0:
            if digests:
                check(shard)
            shard, digests = number // per_shard, []
        if shard in done:
            digests.append(batch.digest)
        else:
            yield batch
    if digests:
        check(shard)
    missing = sorted(done.keys() - checked)
    if missing:
        raise ChangedError(
            f"dataset: it has changed: it ends before the images of shard {missing[0]}, which were explained. Choose "
            "another folder, or begin anew with restart"
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
