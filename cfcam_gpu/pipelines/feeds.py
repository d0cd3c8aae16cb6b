"""A data set as a job sees it: how many images, whether they are those of before, and which are left to explain."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ..sources.photographs import Batch, Photographs
from . import resuming
from .resuming import Job
from .store import ChangedError, Store, combined
from .stream import first_of, unseen

#: How many more images may be explained into a folder, and how that is asked for.
_APPEND = "to explain what is new, too, ask for it with append (--append)"
#: What a job notes instead of the name of a source whose files' names may be patients'.
UNNAMED = "a source of DICOM"


class Feed(ABC):
    """The images of a job.

    Attributes
    ----------
    source : str
        Where they come from, for people.
    total : int or None
        How many; None where that isn't known.
    examples : (n, C, ...) tensor
        Images, as they come, for :func:`cfcam_gpu.pipelines.resuming.example_of`.
    targets : sequence of int, str or None
        The images' own classes, as far as they are known.
    """

    source: str
    total: int | None
    examples: torch.Tensor
    targets: Sequence[int | str | None]

    @abstractmethod
    def arrange(self, folder: Path, job: Job | None) -> None:
        """Put the images into the order of the job in `folder`, what is new behind them.

        Raises
        ------
        ChangedError
            If an image of the job isn't there any more.
        """

    @abstractmethod
    def facts(self, job: Job | None, *, append: bool) -> dict[str, Any]:
        """What of the images a job asks for; with `append`, of those of `job` where the others are behind them.

        Raises
        ------
        ChangedError
            If there are new ones, and nobody asked to append them.
        """

    @abstractmethod
    def names(self) -> list[str] | None:
        """What the images are called, in their order; None where that is how they come."""

    @abstractmethod
    def stamps(self) -> str:
        """A digest of the times of change of the images' files; empty where they have none."""

    @abstractmethod
    def rest(self, store: Store, batch_size: int, *, pin_memory: bool) -> Iterator[Batch]:
        """The batches that aren't done; to be asked before the store is changed.

        Raises
        ------
        ChangedError
            If images that are done are others now, at once, or, as far as that shows only when they come, then.
        """

    @abstractmethod
    def check(self, store: Store, job: Job, batch_size: int) -> None:
        """See whether the images that are done are those that come now.

        Raises
        ------
        ChangedError
        """


class Files(Feed):
    """Those of a SOURCE, which are counted, and can be read from any one on."""

    def __init__(self, dataset: Photographs) -> None:
        self.dataset = dataset
        self.source, self.total = UNNAMED if dataset.unnamed else dataset.source, len(dataset)
        self.targets = [item.target for item in dataset.items]
        # Waves of several widths and colours: a blank image would show nothing of how it is prepared.
        blank = dataset.preparation.blank(1)
        shape, mode = blank.shape[2:], "bicubic" if blank.ndim == 4 else "trilinear"
        draw = torch.rand(*blank.shape[:2], *[9] * len(shape), generator=torch.Generator().manual_seed(0))
        smooth = functional.interpolate(draw, shape, mode=mode, align_corners=True).clamp(0, 1)
        self.examples = smooth if blank.is_floating_point() else (smooth * 255).round().to(torch.uint8)

    def arrange(self, folder: Path, job: Job | None) -> None:
        """See :meth:`Feed.arrange`.

        Raises
        ------
        ChangedError
            As there.
        """
        names = resuming.order(folder) if job is not None else None
        if names is not None:
            try:
                self.dataset = self.dataset.ordered(names)
            except ValueError as error:
                raise ChangedError(
                    f"out: {folder} has results of other images: {error}. Choose another folder, or drop them with "
                    "restart (--restart)"
                ) from None

    def facts(self, job: Job | None, *, append: bool) -> dict[str, Any]:
        """See :meth:`Feed.facts`.

        Raises
        ------
        ChangedError
            As there.
        """
        count = len(self.dataset)
        if job is not None and self._more(job):
            before = int(job.asked["images"])
            same = self.dataset.fingerprint(before) == job.asked["fingerprint"]
            if append:
                count = before
            elif same:
                raise ChangedError(
                    f"dataset: {count - before:,} images are new behind the {before:,} that the job began with; "
                    f"{_APPEND}"
                )
        window = self.dataset.preparation.window
        return {"images": count, "fingerprint": self.dataset.fingerprint(count), "window": window and list(window)}

    def names(self) -> list[str]:
        """See :meth:`Feed.names`."""
        return [item.source for item in self.dataset.items]

    def stamps(self) -> str:
        """See :meth:`Feed.stamps`."""
        return self.dataset.stamps(len(self.dataset))

    def rest(self, store: Store, batch_size: int, *, pin_memory: bool) -> Iterator[Batch]:
        """See :meth:`Feed.rest`."""
        return self.dataset.batches(batch_size, starts=store.starts(batch_size), pin_memory=pin_memory)

    def check(self, store: Store, job: Job, batch_size: int) -> None:
        """See :meth:`Feed.check`.

        Raises
        ------
        ChangedError
            If files were written since, and have other bytes now.
        """
        known = int(job.asked["images"])
        if job.stamps == self.dataset.stamps(known):
            return
        # Copied or restored, maybe: the times are others, and the bytes need not be.
        digests: dict[int, list[str]] = {number: [] for number in sorted(store.done)}
        size = store.shard_size
        starts = [start for number in digests for start in store.within(number, batch_size)]
        for start, digest in self.dataset.contents(batch_size, starts=starts):
            digests[start // size].append(digest)
        other = [number for number, found in digests.items() if combined(found) != store.done[number].digest]
        if other:
            first = other[0] * size
            last = first + store.done[other[0]].images - 1
            raise ChangedError(
                f"dataset: files were written since they were explained, and what is in them is something else now: "
                f"between the images {first:,} and {last:,}, for one. Choose another folder, or begin anew with "
                "restart (--restart)"
            )

    def _more(self, job: Job) -> bool:
        return len(self.dataset) > int(job.asked.get("images", len(self.dataset)))


class Stream(Feed):
    """Those of an iterable, in batches.

    Parameters
    ----------
    source : str
    batches : iterable of Batch

    Raises
    ------
    ValueError
        If there are none.
    """

    def __init__(self, source: str, batches: Iterable[Batch]) -> None:
        stream = iter(batches)
        first = next(stream, None)
        if first is None:
            raise ValueError("dataset: expected images; it has none")
        self.source, self.total = source, None
        self.targets = first.targets
        # The first image may show nothing, as a black one does.
        self.examples = torch.cat([first.images[:1], _noise_of(first.images)])
        self._batches = chain([first], stream)

    def arrange(self, folder: Path, job: Job | None) -> None:
        """See :meth:`Feed.arrange`: they have the order in which they come."""

    def facts(self, job: Job | None, *, append: bool) -> dict[str, Any]:
        """See :meth:`Feed.facts`: how many there are shows only at the end."""
        return {}

    def names(self) -> None:
        """See :meth:`Feed.names`."""

    def stamps(self) -> str:
        """See :meth:`Feed.stamps`."""
        return ""

    def rest(self, store: Store, batch_size: int, *, pin_memory: bool) -> Iterator[Batch]:
        """See :meth:`Feed.rest`.

        Raises
        ------
        ChangedError
            If images that are done are others now, or not there any more.
        """
        done = {number: shard.digest for number, shard in store.done.items()}
        rest = unseen(self._batches, done, store.shard_size // batch_size)
        # Before anything is written, see as far as the first of them, and to the end of a shard that wasn't full.
        held: list[Batch] = []
        digests: list[str] = []
        missing = 0 if store.cut is None else store.cut[1].images
        for batch in rest:
            held.append(batch)
            known = min(missing, len(batch.sources))
            digests += [first_of(batch, known).digest] if known else []
            missing -= known
            if not missing:
                break
        if missing:
            raise ChangedError(f"dataset: it has changed: it ends {missing:,} images before the last that is done")
        if store.cut is not None and combined(digests) != store.cut[1].digest:
            raise ChangedError(f"dataset: it has changed: the images of shard {store.cut[0]} are not those of before")
        return chain(held, rest)

    def check(self, store: Store, job: Job, batch_size: int) -> None:
        """See :meth:`Feed.check`: of a job that isn't done :meth:`rest` does, on the way.

        Raises
        ------
        ChangedError
            If they are others, or more.
        """
        if not store.complete:
            return
        try:
            more = next(self.rest(store, batch_size, pin_memory=False), None)
        except ChangedError as error:
            raise ChangedError(f"{error}. If all of them are there, and others behind them: {_APPEND}") from None
        if more is not None:
            raise ChangedError(f"dataset: there are images behind the {store.images:,} that were explained; {_APPEND}")


def _noise_of(images: torch.Tensor) -> torch.Tensor:
    """One image of noise of the same shape and dtype, and in their range; the same every time."""
    finite = images[images.isfinite()].double()
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 1.0)
    draw = torch.rand(images[:1].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (low + draw * ((high - low) or 1.0)).to(images)
