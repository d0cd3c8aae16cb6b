"""Tiles of many slides explained on Ray, by the callable of ``cfcam-gpu run --ray``."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from ..pipelines.found import Found
from ..pipelines.ray import Columns, Explain, flow
from ..scans.errors import UnreadableError
from .classes import of_classes
from .info import SlideInfo
from .work import Work, fitted
from .workers import TileReaders

#: The readers of the slide that this process of Ray's read last: the next batch is of the same one, mostly.
_open: dict[SlideInfo, TileReaders] = {}


def explained(works: Mapping[int, Work], options: Mapping[str, Any]) -> Iterator[tuple[int, range, list[Found] | str]]:
    """What is left of slides, made on the cluster that Ray is connected to; all of its machines see the slides.

    Parameters
    ----------
    works : mapping of int to Work
        Slides by number.
    options : mapping
        For :class:`cfcam_gpu.pipelines.ray.Explain`.

    Yields
    ------
    number : int
        Of the slide.
    batch : range
        Its tiles: slide by slide, each one's in their order.
    found : list of Found, or str
        Of each class; or why the tiles can't be read.

    Raises
    ------
    RuntimeError
        If a worker fails, or there are none any more.
    """
    plan = [
        {
            "number": number,
            "first": batch.start,
            "stop": batch.stop,
            "tiles": pickle.dumps((work.info, [work.plan.region(index) for index in batch], work.asked.size)),
            "classes": pickle.dumps(work.classes),
        }
        for number, work in works.items()
        for batch in work.batches()
    ]
    for row in flow(plan, _read, _ExplainTiles, options):
        yield row["number"], range(row["first"], row["stop"]), pickle.loads(row["found"])


def _read(batch: Columns) -> Columns:
    info, regions, size = pickle.loads(batch["tiles"][0])
    read: torch.Tensor | str
    try:
        read = fitted(list(_readers(info).tiles(regions)), size)
    except (UnreadableError, OSError) as error:
        _close()
        read = str(error)
    return {**batch, "tiles": _one(pickle.dumps(read))}


def _readers(info: SlideInfo) -> TileReaders:
    if info not in _open:
        _close()
        _open[info] = TileReaders(info, 1)
    return _open[info]


def _close() -> None:
    while _open:
        _open.popitem()[1].close()


class _ExplainTiles(Explain):
    """The same of tiles that were read already, of each of several classes."""

    def __call__(self, batch: Mapping[str, Any]) -> Columns:
        read, classes = pickle.loads(batch["tiles"][0]), pickle.loads(batch["classes"][0])
        found: list[Found] | str = read
        if not isinstance(read, str):
            found = of_classes(self.explain, read.to(self.device), classes)
        return {**{name: batch[name] for name in ("number", "first", "stop")}, "found": _one(pickle.dumps(found))}


def _one(value: bytes) -> Any:
    """A column of one row."""
    result = np.empty(1, object)
    result[0] = value
    return result
