"""Regions of a slide read in worker processes, ahead of who wants them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from .info import SlideInfo
from .process import Process
from .region import Region

#: Bytes of regions, and their number, that are asked for ahead.
AHEAD = 64 << 20
REGIONS_AHEAD = 512
#: Regions in a row that one process reads: neighbours share the file's tiles.
RUN = 8


class TileReaders:
    """Worker processes that read one slide.

    Parameters
    ----------
    slide : SlideInfo
    workers : int
        How many processes; at least 1.
    patience : float
        Seconds that one region may take.

    Raises
    ------
    ImportError
        If the library that reads the slide is not installed.
    OSError
        If the file can't be opened any more.
    SlideError
        If a process dies or hangs, or the file is not what its tags said.
    """

    def __init__(self, slide: SlideInfo, workers: int = 1, *, patience: float = 120.0) -> None:
        self.slide = slide
        self._processes: list[Process] = []
        try:
            for _ in range(workers):
                process = Process(patience)
                self._processes.append(process)
                process.send("open", info=slide.as_json())
            for process in self._processes:
                process.receive()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> TileReaders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def tiles(self, regions: Iterable[Region]) -> Iterator[NDArray[np.uint8]]:
        """Read regions, ahead of who takes them.

        One such iterator is used at a time; one that is left before its end may be followed by another.

        Parameters
        ----------
        regions : iterable of Region

        Yields
        ------
        (height, width, 3) uint8 array
            RGB, in the order of `regions`; the caller's own. White outside the slide.

        Raises
        ------
        SlideError
            If a process dies or hangs, or a region can't be decoded.
        """
        coming = enumerate(regions)
        asked: deque[tuple[Process, int]] = deque()
        waiting = 0
        try:
            while True:
                while waiting < AHEAD and len(asked) < REGIONS_AHEAD and (following := next(coming, None)):
                    index, region = following
                    process = self._processes[index // RUN % len(self._processes)]
                    scale = region.scale.as_integer_ratio()
                    place = {"x": region.x, "y": region.y, "width": region.width, "height": region.height}
                    process.send("read", **place, scale=scale)
                    size = region.width * region.height * 3
                    asked.append((process, size))
                    waiting += size
                if not asked:
                    return
                process, size = asked.popleft()
                waiting -= size
                pixels = process.receive()[1]
                assert pixels is not None
                yield pixels
        except (KeyboardInterrupt, SystemExit):
            # By a signal, maybe between an answer and its being counted: what is still to come is not known any more.
            self.close()
            raise
        finally:
            for process in self._processes:
                process.forget()

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.close()
