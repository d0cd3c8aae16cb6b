"""Photographs: found, read with Pillow, and prepared as a model wants them."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..scans.grid import Grid
from .finding import Search, find, search, told
from .formats import SUFFIXES, TooLargeError, UnreadableError
from .reading import Page, dimensions, first_page, quiet, read

__all__ = [
    "SUFFIXES",
    "Page",
    "Preparation",
    "Search",
    "TooLargeError",
    "UnreadableError",
    "dimensions",
    "find",
    "first_page",
    "quiet",
    "read",
    "samples",
    "search",
    "told",
]

_SAMPLES = (
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)


@dataclass(frozen=True)
class Preparation:
    """How a model wants its photographs.

    Parameters
    ----------
    size : int
        Side of the square input, in pixels.
    resize : int
        Length of the photograph's shorter side before the central `size` x `size` are cut out.
    interpolation : PIL.Image.Resampling
    mean, std : three floats
        Of red, green and blue in [0, 1]: subtracted, and divided by.
    window : (float, float), optional
        Centre and width of the values of DICOM that are shown; by default the file's own.
    """

    size: int
    resize: int
    interpolation: Image.Resampling
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    # Jobs that were begun without know preparations by their representation.
    window: tuple[float, float] | None = field(default=None, repr=False)

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """What the model sees of an RGB image, before normalisation: (3, size, size) uint8."""
        cut, resized = self._sizes(*image.size)
        image = _central(image, *cut).resize(resized, self.interpolation)
        return torch.from_numpy(np.array(_central(image, self.size, self.size))).movedim(-1, 0)

    def grid(self, grid: Grid) -> Grid:
        """Where the pixels that the model sees lie, of an image that lies on `grid`, (1, H, W): (1, size, size)."""
        _, height, width = grid.shape
        cut, resized = self._sizes(width, height)
        return _central_grid(_central_grid(grid, *cut).resized((1, resized[1], resized[0])), self.size, self.size)

    def _sizes(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Width and height of what is cut out of an image, and to which this is resized."""
        # The crop takes a central square. Of a panorama one of 2:1 is enough for it, and can't exhaust the memory.
        limit = 2 * min(width, height)
        cut = min(width, limit), min(height, limit)
        scale = self.resize / min(cut)
        return cut, (round(cut[0] * scale), round(cut[1] * scale))

    def blank(self, count: int) -> torch.Tensor:
        """`count` black images, as :meth:`pixels` makes them: (count, 3, size, size) uint8."""
        return torch.zeros(count, 3, self.size, self.size, dtype=torch.uint8)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """The model's input (B, 3, size, size) float32 from `pixels` of the same shape, uint8, on their device."""
        mean, std = (torch.tensor(value, device=pixels.device)[:, None, None] for value in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std


def _central(image: Image.Image, width: int, height: int) -> Image.Image:
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _central_grid(grid: Grid, width: int, height: int) -> Grid:
    """Of what :func:`_central` cuts out."""
    _, rows, columns = grid.shape
    return grid.within((0, (rows - height) // 2, (columns - width) // 2), (1, 1, 1), (1, height, width))


def samples() -> list[Path]:
    """The photographs of the demonstration, which scikit-image and scikit-learn bring along.

    Raises
    ------
    FileNotFoundError
        If scikit-image is not installed, or has them no more.
    """
    paths = []
    for package, inside in _SAMPLES:
        spec = find_spec(package)
        # Found without importing the package, which takes long.
        path = Path(spec.origin).parent / inside if spec and spec.origin else None
        if path is None or not path.is_file():
            raise FileNotFoundError(
                f"the sample photograph {package}/{inside} is not installed; pip install 'cfcam-gpu[demo]'"
            )
        paths.append(path)
    return paths
