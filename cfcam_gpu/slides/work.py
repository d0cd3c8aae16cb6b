"""One slide: what is asked of it, what is done, and what is left."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from ..pipelines.found import Found
from ..pipelines.lock import held
from ..pipelines.resuming import Example
from ..results import durable
from . import state, table, tiles, tissue
from .errors import SlideError
from .finishing import Named, finish
from .info import SlideInfo, inspect
from .region import Region
from .scale import UNIT
from .state import State
from .workers import TileReaders

#: Tiles that are kept at once, about: what a kill may cost.
KEPT = 256
#: Tiles, spread over the tissue, by which the class is chosen where none is asked for.
SAMPLE = 256


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of every slide.

    Parameters
    ----------
    mpp : float
        Micrometres along the side of the pixels that tiles are made of.
    slide_mpp : float or None
        That of level 0, whatever the files say.
    tile : int
        Side of a tile in such pixels.
    overlap : float
        Share of a tile that the next one sees, too.
    classes : sequence of int
        Those that are explained; none is the one that the model predicts most often.
    batch_size, workers : int
    size : int
        Side of the model's input: tiles are brought to it.
    kind : {"ome-tiff", "ome-zarr"}
    model : mapping
        What the results depend on, of model and method.
    example : Example
        See :func:`cfcam_gpu.slides.state.begin`.
    class_names : sequence of str
    trained : bool
    restart : bool
    """

    mpp: float
    slide_mpp: float | None
    tile: int
    overlap: float
    classes: Sequence[int]
    batch_size: int
    workers: int
    size: int
    kind: str
    model: dict[str, Any]
    example: Example
    class_names: Sequence[str]
    trained: bool
    restart: bool


#: Explains tiles (B, 3, S, S) uint8, each class by itself; None is the predicted one.
Explains = Callable[[torch.Tensor, Sequence[int | None]], list[Found]]


class Work:
    """A slide whose results go to a folder, which is locked. Use as a context.

    Parameters
    ----------
    path : Path
        The slide.
    folder : Path
    asked : Asked
    explain : callable
        For the choice of the class.

    Attributes
    ----------
    total : int
        Tiles.
    before : int
        How many were done already.

    Raises
    ------
    UnreadableError, OSError
        If the slide can't be read, or has no tissue.
    ChangedError, FileExistsError
        If the folder has results of something else, or another job writes to it.
    RuntimeError, ValueError
        If the slide's scale is not known, or is coarser than what is asked for.
    """

    def __init__(self, path: Path, folder: Path, asked: Asked, explain: Explains) -> None:
        self.path, self.folder, self.asked = path, folder, asked
        #: As results tell it, whose texts are UTF-8; a file's name may be anything.
        self.name = os.fsencode(path.name).decode(errors="replace")
        self._readers: TileReaders | None = None
        self.info = scaled(inspect(path), asked)
        self._stack = ExitStack()
        try:
            self._stack.callback(self.rest)
            found = tissue.find(self.readers)
            self.plan = tiles.plan(
                self.info,
                found,
                scale=tiles.working_scale(self.info, asked.mpp),
                tile=asked.tile,
                overlap=asked.overlap,
            )
            if not len(self.plan):
                raise SlideError("no tissue was found on it")
            self._stack.enter_context(held(durable.folder(folder)))
            self.classes = self._classes(explain)
            self.complete = state.begin(folder, os.fsdecode(path), self._facts(), asked.example, restart=asked.restart)
            self.total = len(self.plan)
            self.before = self.total
            if not self.complete:
                self.state = State(folder, self.plan, self.classes)
                self.before = self._begun = self.state.done
            self._rows: list[Any] = []
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Work:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def readers(self) -> TileReaders:
        """What reads the slide: begun when it is needed.

        Raises
        ------
        ImportError, OSError, SlideError
            If it can't be opened.
        """
        if self._readers is None:
            self._readers = TileReaders(self.info, self.asked.workers)
        return self._readers

    def rest(self) -> None:
        """End what reads the slide, until it is needed again: many slides may wait."""
        if self._readers is not None:
            self._readers.close()
            self._readers = None

    def batches(self) -> list[range]:
        """The tiles that are left, in batches: the same wherever a job was stopped."""
        if self.complete:
            return []
        size = self.asked.batch_size
        return [range(first, min(first + size, self.total)) for first in range(self.state.done, self.total, size)]

    def read(self, batches: Sequence[range]) -> Iterator[torch.Tensor]:
        """Read the tiles of batches, ahead of who takes them: (B, 3, S, S) uint8 as the model wants them.

        Raises
        ------
        SlideError
            If a reader dies, or a tile can't be decoded.
        """
        regions = (self.plan.region(index) for batch in batches for index in batch)
        found = self.readers.tiles(regions)
        for batch in batches:
            yield fitted([next(found) for _ in batch], self.asked.size)

    def put(self, batch: range, found: Sequence[Found]) -> None:
        """Take what was found of the next batch.

        Parameters
        ----------
        batch : range
        found : sequence of Found
            Of each class, on the host.

        Raises
        ------
        OSError
            If it can't be written.
        """
        said, evidence = table.failures(found), np.stack([table.evidence(of_class) for of_class in found])
        probability = np.stack([of_class.probability.float().numpy() for of_class in found])
        for place, (index, error) in enumerate(zip(batch, said)):
            if error is None:
                self.state.stitching.add(index, evidence[:, place], probability[:, place])
        self.state.failed += sum(error is not None for error in said)
        self.state.done = batch.stop
        self._rows.append(table.rows(self.plan, batch, found, self.classes))
        if batch.stop - self._begun >= KEPT or batch.stop == self.total:
            import pyarrow as pa

            self.state.commit(self._begun, pa.concat_tables(self._rows))
            self._begun, self._rows = batch.stop, []

    def finish(self) -> int:
        """Make of what was found what is kept, and return how many tiles have no map.

        Raises
        ------
        OSError, SlideError
            If it can't be written, or the slide can't be read.
        """
        return finish(self.folder, self._named(), None if self.complete else self.state, self.readers)

    def _named(self) -> Named:
        names = self.asked.class_names
        return Named(
            name=self.name,
            info=self.info,
            plan=self.plan,
            classes=self.classes,
            class_names=[names[index] for index in self.classes],
            all_names=names,
            kind=self.asked.kind,
            trained=self.asked.trained,
            asked=self._facts(),
        )

    def _facts(self) -> dict[str, Any]:
        info, asked = self.info, self.asked
        return asked.model | {
            "slide": [self.name, info.bytes, info.modified, info.width, info.height],
            "reader": info.reader,
            "slide_mpp": list(info.mpp or ()),
            "mpp": asked.mpp,
            "tile": asked.tile,
            "overlap": asked.overlap,
            "tiles": hashlib.blake2b(self.plan.places.tobytes(), digest_size=16).hexdigest(),
            "batch_size": asked.batch_size,
            "input": asked.size,
            "class": list(asked.classes),
            "classes": list(self.classes),
            "format": asked.kind,
        }

    def _classes(self, explain: Explains) -> list[int]:
        """The classes that are explained: where none is asked for, the one that is predicted most often."""
        if self.asked.classes:
            return list(self.asked.classes)
        before = state.asked_before(self.folder).get("classes")
        if before and not self.asked.restart:
            return list(before)
        spread = np.unique(np.linspace(0, len(self.plan) - 1, SAMPLE).round().astype(int)).tolist()
        votes: dict[int, float] = {}
        size = self.asked.batch_size
        chosen = [spread[first : first + size] for first in range(0, len(spread), size)]
        pixels = self.readers.tiles(self.plan.region(index) for index in spread)
        for part in chosen:
            (found,) = explain(fitted([next(pixels) for _ in part], self.asked.size), [None])
            for index, probability, error in zip(
                found.predicted.tolist(), found.predicted_probability.tolist(), found.errors
            ):
                if error is None:
                    # Of classes that are predicted as often, the one of the higher probability.
                    votes[index] = votes.get(index, 0.0) + 1.0 + probability / (2 * SAMPLE)
        if not votes:
            raise SlideError(f"no tile of it can be explained: {next(error for error in found.errors if error)}")
        return [max(votes, key=lambda index: votes[index])]


def scaled(info: SlideInfo, asked: Asked) -> SlideInfo:
    """The slide with its scale: the one that is said of it, its file's own, or that of its magnification.

    Raises
    ------
    UnreadableError
        If its pixels are not square, by its file, and one side of them is said.
    ValueError
        If there is none.
    """
    if asked.slide_mpp is not None:
        tiles.own_mpp(info.mpp or (1.0, 1.0))  # one number does not make them square
        return replace(info, mpp=(asked.slide_mpp, asked.slide_mpp))
    if info.mpp is not None:
        return info
    if info.magnification is None:
        raise ValueError(
            "slide_mpp: expected how many micrometres a pixel of it is long, as its file does not say; give "
            "--slide-mpp, 0.25 of most scans at a magnification of 40"
        )
    return replace(info, mpp=(UNIT / info.magnification,) * 2)


def fitted(found: Sequence[Any], size: int) -> torch.Tensor:
    """Tiles (h, w, 3) uint8 as the model sees them: (B, 3, size, size) uint8."""
    pixels = torch.from_numpy(np.stack(found)).movedim(-1, 1)
    if pixels.shape[-1] == size:
        return pixels.contiguous()
    resized = torch.nn.functional.interpolate(pixels.float(), (size, size), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def regions_of(plan: tiles.Plan, batch: range) -> list[Region]:
    """What is read of the slide for the tiles of a batch."""
    return [plan.region(index) for index in batch]
