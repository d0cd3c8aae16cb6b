"""How an image becomes a model's input: resized, cut, and normalised, of any number of channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..scans.grid import Grid
from .formats import UnreadableError

#: Values of floating-point numbers beyond this are none that lie in [0, 1] but for a little.
_NEAR_ONE = 10.0


#: Of which library's transforms the pixels are.
Rounding: TypeAlias = Literal["nearest", "torchvision", "transformers"]
#: Fields that preparations did not have from the start, and what those were like.
_LATER = {"squash": False, "rounding": "nearest"}


@dataclass(frozen=True, repr=False)
class Preparation:
    """How a model wants its photographs, or images of other bands.

    Values of 8 bits are divided by 255, so that `mean` and `std` are those of values in [0, 1]. Where one of these is
    beyond 1, they are in the files' own units instead, and the values are taken as they are stored: uint8 from 0 to
    255, whole numbers of 16 bits, floating-point numbers.

    Parameters
    ----------
    size : int or (int, int)
        Height and width of the input, in pixels; one number is a square's side.
    resize : int or (int, int)
        Height and width that the image is resized to cover, keeping its shape, before the central `size` are cut out;
        one number is the length of its shorter side.
    interpolation : PIL.Image.Resampling
    mean, std : tuple of C floats
        Of each channel: subtracted, and divided by. Three are red, green and blue, one is grey (luminance of ITU-R
        601-2), any other number bands.
    window : (float, float), optional
        Centre and width of the values of DICOM that are shown; by default the file's own.
    squash : bool
        Resize to exactly `resize`, whatever the image's shape.
    rounding : {"nearest", "torchvision", "transformers"}
        Of which library's transforms the pixels are, to the last: they place the middle by a pixel apart, as the longer
        side is cut off by the others, and the corner of the middle rounded by torchvision alone. ``"nearest"`` is
        neither's.

    Raises
    ------
    ValueError
        If sizes are below 1, or mean and std are not as many finite numbers, of which std is above 0.
    """

    size: int | tuple[int, int]
    resize: int | tuple[int, int]
    interpolation: Image.Resampling
    mean: tuple[float, ...]
    std: tuple[float, ...]
    window: tuple[float, float] | None = field(default=None)
    squash: bool = False
    rounding: Rounding = "nearest"

    def __post_init__(self) -> None:
        for name in ("size", "resize"):
            value = getattr(self, name)
            sides = value if isinstance(value, tuple) else (value, value)
            if len(sides) != 2 or min(sides) < 1:
                raise ValueError(f"{name}: expected a side, or height and width, of at least 1; got {value}")
            object.__setattr__(self, name, sides[0] if sides[0] == sides[1] else sides)
        if self.rounding not in get_args(Rounding):
            raise ValueError(f"rounding: expected one of {', '.join(get_args(Rounding))}; got {self.rounding!r}")
        numbers = np.array([*self.mean, *self.std], dtype=np.float64)
        if not len(self.mean) == len(self.std) > 0 or not np.isfinite(numbers).all() or min(self.std) <= 0:
            raise ValueError(
                f"mean and std: expected a finite number for each channel, std above 0; got {self.mean}, {self.std}"
            )

    def __repr__(self) -> str:
        """As it was before there were more fields: jobs know preparations by it. A window makes no other."""
        later = [name for name, before in _LATER.items() if getattr(self, name) != before]
        fields = ("size", "resize", "interpolation", "mean", "std", *later)
        return f"Preparation({', '.join(f'{name}={getattr(self, name)!r}' for name in fields)})"

    @property
    def channels(self) -> int:
        """Of the model's input."""
        return len(self.mean)

    @property
    def height(self) -> int:
        """Of the model's input."""
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        """Of the model's input."""
        return self.size if isinstance(self.size, int) else self.size[1]

    @property
    def own_units(self) -> bool:
        """Whether mean and std are in the units of the files, and not of [0, 1]."""
        return max(map(abs, (*self.mean, *self.std))) > 1

    @property
    def is_of_photographs(self) -> bool:
        """Whether it takes pixels of 8 bits, and nothing else: colours or greys."""
        return self.channels in (1, 3) and not self.own_units

    def pixels(self, image: Image.Image | NDArray[Any]) -> torch.Tensor:
        """What the model sees of an image, before normalisation.

        Parameters
        ----------
        image : RGB image, or (H, W, C) array

        Returns
        -------
        (C, height, width) uint8 of photographs, else float32: in [0, 1], or in the units of `mean` and `std`

        Raises
        ------
        UnreadableError
            If it has another number of channels, or values that `mean` and `std` can't be meant for.
        """
        if isinstance(image, Image.Image):
            if self.channels not in (1, 3):
                raise UnreadableError(
                    f"an image of colours or greys, and the model takes {self.channels} bands: expected a TIFF of so "
                    "many samples or pages, or an array of NumPy (.npy)"
                )
            shades = image if self.channels == 3 else image.convert("L")
            # Another kernel than that for floating-point numbers, which rounds to 8 bits.
            found = torch.from_numpy(np.array(self._placed(shades))).reshape(self.height, self.width, -1)
            found = found.movedim(-1, 0)
            return found if self.is_of_photographs else self._checked(found).float()
        values = np.asarray(image)
        if values.ndim != 3 or values.shape[-1] != self.channels:
            raise UnreadableError(f"an array of {values.shape}; the model takes {self.channels} channels")
        if values.dtype == np.uint8:
            bands = [np.array(self._placed(Image.fromarray(np.ascontiguousarray(band)))) for band in _bands(values)]
            found = torch.from_numpy(np.stack(bands))
            if self.is_of_photographs:
                return found
            return self._checked(found).float() if self.own_units else found.float() / 255
        self._check_values(values)
        bands = [np.array(self._placed(Image.fromarray(band.astype(np.float32)))) for band in _bands(values)]
        return torch.from_numpy(np.stack(bands))

    def grid(self, grid: Grid) -> Grid:
        """Where the pixels that the model sees lie, of an image that lies on `grid`, (1, H, W): (1, height, width)."""
        _, height, width = grid.shape
        if self._is_exact:
            place = self._place(width, height)
            down, across = height / place.height, width / place.width
            start = 0.0, (place.top + 0.5) * down - 0.5, (place.left + 0.5) * across - 0.5
            return grid.within(start, (1, down, across), (1, self.height, self.width))
        cut, resized = self._sizes(width, height)
        return _central_grid(_central_grid(grid, *cut).resized((1, resized[1], resized[0])), self.width, self.height)

    def blank(self, count: int) -> torch.Tensor:
        """`count` black images, as :meth:`pixels` makes them: (count, C, height, width)."""
        dtype = torch.uint8 if self.is_of_photographs else torch.float32
        return torch.zeros(count, self.channels, self.height, self.width, dtype=dtype)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """The model's input (B, C, height, width) float32 from `pixels` of the same shape, on their device."""
        mean, std = (torch.tensor(value, device=pixels.device)[:, None, None] for value in (self.mean, self.std))
        shades = pixels.dtype == torch.uint8 and not self.own_units
        return ((pixels.float() / 255 if shades else pixels.float()) - mean) / std

    def _placed(self, image: Image.Image) -> Image.Image:
        if self._is_exact:
            return self._place(*image.size).of(image, self.width, self.height, self.interpolation)
        cut, resized = self._sizes(*image.size)
        return _central(_central(image, *cut).resize(resized, self.interpolation), self.width, self.height)

    def _sizes(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Width and height of what is cut out of an image, and to which this is resized."""
        rows, columns = self._resize
        # The crop takes the middle. Of a panorama twice its shape is enough for it, and can't exhaust the memory.
        shape = max(self.width / self.height, 1.0), max(self.height / self.width, 1.0)
        cut = min(width, round(2 * height * shape[0])), min(height, round(2 * width * shape[1]))
        scale = max(columns / cut[0], rows / cut[1])
        return cut, (round(cut[0] * scale), round(cut[1] * scale))

    @property
    def _is_exact(self) -> bool:
        return self.squash or self.rounding != "nearest"

    @property
    def _resize(self) -> tuple[int, int]:
        return (self.resize, self.resize) if isinstance(self.resize, int) else self.resize

    def _place(self, width: int, height: int) -> _Place:
        """Where the middle lies in an image that is resized as a library does it."""
        rows, columns = self._resize
        if not self.squash:
            # timm rounds where another shape than a square is covered.
            whole = int if isinstance(self.resize, int) else round
            if rows * width >= columns * height:
                columns, rows = whole(rows * width / height), rows
            else:
                columns, rows = columns, whole(columns * height / width)
        corner = round if self.rounding == "torchvision" else math.floor
        left, top = corner((columns - self.width) / 2), corner((rows - self.height) / 2)
        return _Place(left, top, columns, rows)

    def _checked(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels of 8 bits, where mean and std in the units of the files can be theirs."""
        if min(self.mean) < 0 or max(*self.mean, *self.std) > 255:
            raise UnreadableError(
                f"its values are of 8 bits, 0 to 255, and mean {_some(self.mean)} and std {_some(self.std)} are of "
                "other values: expected a file of these, a TIFF or an array of NumPy (.npy)"
            )
        return pixels

    def _check_values(self, values: NDArray[Any]) -> None:
        if values.dtype.kind not in "uif":
            raise UnreadableError(f"its values are {values.dtype}: expected whole or floating-point numbers")
        if self.is_of_photographs:
            raise UnreadableError(
                f"its values are {values.dtype}, and those of photographs uint8: with mean and std in the values' own "
                "units (--mean, --std) others are taken"
            )
        most = float(np.abs(values.astype(np.float64)).max())
        if not np.isfinite(most):
            raise UnreadableError("it has values that are NaN or infinite")
        if not self.own_units and (values.dtype.kind != "f" or most > _NEAR_ONE):
            raise UnreadableError(
                f"its values are {values.dtype}, up to {most:g}, and mean and std of values in [0, 1]: give these in "
                "the values' own units (--mean, --std; a mean of 0 and a std of 10000 divide by 10000)"
            )


class _Place(NamedTuple):
    """Where a crop begins in an image that is resized to this width and height."""

    left: int
    top: int
    width: int
    height: int

    def of(self, image: Image.Image, width: int, height: int, interpolation: Image.Resampling) -> Image.Image:
        """The crop of this width and height, black where it goes beyond. Of a panorama nothing else is resized."""
        if self.width * self.height <= 8 * width * height:
            whole = image.resize((self.width, self.height), interpolation)
            return whole.crop((self.left, self.top, self.left + width, self.top + height))
        left, top = max(self.left, 0), max(self.top, 0)
        right, bottom = min(self.left + width, self.width), min(self.top + height, self.height)
        across, down = image.width / self.width, image.height / self.height
        box = left * across, top * down, min(right * across, image.width), min(bottom * down, image.height)
        inside = image.resize((right - left, bottom - top), interpolation, box)
        if inside.size == (width, height):
            return inside
        around = Image.new(image.mode, (width, height))
        around.paste(inside, (left - self.left, top - self.top))
        return around


def _bands(values: NDArray[Any]) -> NDArray[Any]:
    return np.moveaxis(values, -1, 0)


def _central(image: Image.Image, width: int, height: int) -> Image.Image:
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _central_grid(grid: Grid, width: int, height: int) -> Grid:
    """Of what :func:`_central` cuts out."""
    _, rows, columns = grid.shape
    return grid.within((0, (rows - height) // 2, (columns - width) // 2), (1, 1, 1), (1, height, width))


def _some(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values[:4]) + (", ..." if len(values) > 4 else "")
