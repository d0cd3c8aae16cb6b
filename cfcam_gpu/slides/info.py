"""What a slide is, by its file's tags alone: its levels, its scale, and which reader gives its right pixels."""

from __future__ import annotations

import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..scans.errors import UnreadableError
from .process import Process

#: Seconds that a file's tags may take to be read.
PATIENCE = 60.0


@dataclass(frozen=True)
class Level:
    """A level of a slide's pyramid.

    Parameters
    ----------
    width, height : int
        In its own pixels.
    downsample : float
        Pixels of level 0 beside each other in one of this level's.
    place : tuple of int
        Where the reader finds it: the reader's own numbers.
    """

    width: int
    height: int
    downsample: float
    place: tuple[int, ...]


@dataclass(frozen=True)
class SlideInfo:
    """A slide, as its file's tags describe it.

    Parameters
    ----------
    path : str
    width, height : int
        In pixels of level 0.
    levels : tuple of Level
        The finest first.
    mpp : (float, float) or None
        Micrometres from one pixel to the next, along x and y; None: the file does not say.
    magnification : float or None
        Of the objective, 20.0 or 40.0 for example; None: the file does not say.
    kind : str
        What the file is, for people: "Aperio", "OME-TIFF", "tiled TIFF", ...
    reader : str
        ``"cucim"``, ``"tifffile"`` or ``"openslide"``.
    reason : str
        Why that reader.
    bytes : int
        The file's size.
    modified : int
        When it was last changed, in nanoseconds.
    """

    path: str
    width: int
    height: int
    levels: tuple[Level, ...]
    mpp: tuple[float, float] | None
    magnification: float | None
    kind: str
    reader: str
    reason: str
    bytes: int
    modified: int

    def as_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> SlideInfo:
        """Make one of what :meth:`as_json` gave, after JSON."""
        levels = tuple(Level(**{**level, "place": tuple(level["place"])}) for level in found["levels"])
        mpp = None if found["mpp"] is None else (found["mpp"][0], found["mpp"][1])
        return cls(**{**found, "levels": levels, "mpp": mpp})


def inspect(path: str | Path) -> SlideInfo:
    """Read a slide's tags, in a process of its own: a parser that dies or hangs is an error of that slide.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    SlideInfo

    Raises
    ------
    OSError
        If there is no such file, or it can't be opened.
    UnreadableError
        If the file is no slide that can be read right; the message says what it is, and the way out. A
        :class:`~cfcam_gpu.slides.errors.SlideError` if what reads the tags dies or hangs.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
        raise UnreadableError("no regular file, as a slide is: a folder, a pipe or a device; save it as a file")
    with open(path, "rb"):  # the system's own error, where there is one
        pass
    with Process(PATIENCE) as process:
        process.send("inspect", path=str(path))
        return SlideInfo.from_json(process.receive()[0])
