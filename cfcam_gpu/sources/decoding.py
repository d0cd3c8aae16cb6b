"""One image from a file or from bytes, as a model's input wants it, or the reason why not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import torch

from ..image_files import photos, volumes
from ..image_files.photos import Preparation
from ..scans.dicom.files import Instance
from ..scans.preparation import VolumePreparation


class Decoded(NamedTuple):
    """An image that was read, or was not.

    Parameters
    ----------
    pixels : (C, H, W) uint8 tensor, of bands, and of a volume, (C, D, H, W), float32
        What :meth:`cfcam_gpu.photographs.Preparation.pixels` makes of it; zeros where there is an error.
    size : (int, int), of a volume (int, int, int), or None
        Width and height of the image itself, upright, and the depth of a volume.
    error : str or None
        Why it could not be read.
    pages : int or None
        How many pages or frames the file has, of which this is the first, or of DICOM any; None where there is an
        error.
    """

    pixels: torch.Tensor
    size: tuple[int, ...] | None = None
    error: str | None = None
    pages: int | None = None

    @classmethod
    def failed(cls, error: str, preparation: Preparation | VolumePreparation) -> Decoded:
        """The place of an image that could not be read."""
        return cls(preparation.blank(1)[0], error=error)


def decode(
    file: Path | IO[bytes] | Instance | Sequence[Path], preparation: Preparation | VolumePreparation, frame: int = 0
) -> Decoded:
    """Read one image or volume, whatever comes: nothing of a file makes this raise.

    Parameters
    ----------
    file : Path, or a binary file, an Instance, or of a volume a sequence of Path
        See :func:`cfcam_gpu.photographs.read` for what can be read, and how.
    preparation : Preparation or VolumePreparation
    frame : int
        Of DICOM, from 0.
    """
    try:
        if isinstance(preparation, VolumePreparation):
            assert not isinstance(file, Instance)  # of which there are frames
            scan = volumes.read([file] if isinstance(file, Path) else file, preparation.channels)
            return Decoded(preparation.pixels(scan), scan.grid.shape[::-1], pages=1)
        assert not isinstance(file, Sequence)  # which is a volume
        page = photos.first_page(file, window=preparation.window, frame=frame, takes=preparation)
        return Decoded(preparation.pixels(page.image), page.size, pages=page.pages)
    except photos.UnreadableError as error:
        return Decoded.failed(str(error), preparation)
    except MemoryError:
        return Decoded.failed("not enough memory to decode it", preparation)
