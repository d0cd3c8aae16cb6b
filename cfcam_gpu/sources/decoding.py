"""One image from a file or from bytes, as a model's input wants it, or the reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import IO, NamedTuple

import torch

from ..photographs import photos
from ..photographs.photos import Preparation


class Decoded(NamedTuple):
    """An image that was read, or was not.

    Parameters
    ----------
    pixels : (3, S, S) uint8 tensor
        What :meth:`cfcam_gpu.photographs.Preparation.pixels` makes of it; zeros where there is an error.
    size : (int, int) or None
        Width and height of the image itself, upright.
    error : str or None
        Why it could not be read.
    pages : int or None
        How many pages or frames the file has, of which this is the first; None where there is an error.
    """

    pixels: torch.Tensor
    size: tuple[int, int] | None = None
    error: str | None = None
    pages: int | None = None

    @classmethod
    def failed(cls, error: str, preparation: Preparation) -> Decoded:
        """The place of an image that could not be read."""
        return cls(preparation.blank(1)[0], error=error)


def decode(file: Path | IO[bytes], preparation: Preparation) -> Decoded:
    """Read one image, whatever comes: nothing of a file makes this raise.

    Parameters
    ----------
    file : Path, or a binary file
        See :func:`cfcam_gpu.photographs.read` for what can be read, and how.
    preparation : Preparation
    """
    try:
        image, pages = photos.first_page(file)
        return Decoded(preparation.pixels(image), image.size, pages=pages)
    except photos.UnreadableError as error:
        return Decoded.failed(str(error), preparation)
    except MemoryError:
        return Decoded.failed("not enough memory to decode it", preparation)
