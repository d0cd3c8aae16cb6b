"""How a volume becomes the input of a model, and where that lies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from .dicom import windows
from .dicom.source import Source
from .errors import UnreadableError
from .grid import Grid, check_axcodes
from .scan import Scan

#: Voxels that percentiles are taken of, at most: of larger volumes every second one or so along each axis.
_SEEN = 1 << 23
#: Slices that are worked on at once.
_SLAB = 8


@dataclass(frozen=True)
class VolumePreparation:
    """How a model wants its volumes: turned, resized as a whole, and their values from black to white.

    It has the names of :class:`cfcam_gpu.photographs.Preparation`, which is that of images.

    Parameters
    ----------
    size : (int, int, int)
        D, H and W of the input. The whole volume is resized to it, whatever its proportions.
    channels : int
        Of the input: how many volumes a file has to have.
    axcodes : str
        Where D, H and W go: ``"SAR"`` to the head, the front and the right; ``"RAS"`` as MONAI's
        ``Orientation("RAS")`` has them.
    window : (float, float) or None
        Centre and width of the values that become 0 to 1. None takes the file's own, and where it names none,
    percentiles : (float, float)
        those of its finite values, of each channel by itself.
    mean, std : tuple of float
        Of each channel, or of all, in [0, 1]: subtracted, and divided by.

    Raises
    ------
    ValueError
        If there is no such preparation; the message names the field.
    """

    size: tuple[int, int, int]
    channels: int = 1
    axcodes: str = "SAR"
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] = windows.PERCENTILES
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if min(*self.size, self.channels) < 1:
            raise ValueError(f"size: expected at least 1 x 1 x 1 and a channel; got {self.size} and {self.channels}")
        check_axcodes(self.axcodes)
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles: expected two, rising, from 0 to 100; got {self.percentiles}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels) or (name == "std" and min(values) <= 0):
                above = " above 0" if name == "std" else ""
                raise ValueError(
                    f"{name}: expected one number{above}, or {self.channels}, one for each channel; got {values}"
                )

    def grid(self, grid: Grid) -> Grid:
        """Where the input lies, of a volume that lies on `grid`."""
        return grid.oriented(np.empty(grid.shape, np.float32), self.axcodes)[1].resized(self.size)

    def pixels(self, scan: Scan) -> torch.Tensor:
        """What the model sees of a volume, before normalisation: (C, D, H, W) float32 in [0, 1].

        Resized linearly, and averaged where it becomes smaller. What is not a number is 0.

        Raises
        ------
        UnreadableError
            If it has other channels, or not one finite value.
        """
        values = scan.values if scan.values.ndim == 4 else scan.values[None]
        if len(values) != self.channels:
            raise UnreadableError(f"expected {self.channels} channels, as the model takes; it has {len(values)}")
        found = torch.empty(self.channels, *self.size)
        for channel, one in enumerate(values):
            turned, _ = scan.grid.oriented(one, self.axcodes)
            slabs = [
                functional.interpolate(torch.from_numpy(slab)[None], self.size[1:], mode="bilinear", antialias=True)[0]
                for slab in self._light(scan, one, turned)
            ]
            # The first axis is the height of an image whose width stays.
            flat = torch.cat(slabs).reshape(1, 1, len(turned), -1)
            size = self.size[0], flat.shape[-1]
            resized = functional.interpolate(flat, size, mode="bilinear", antialias=True)
            found[channel] = resized.reshape(self.size).clamp(0, 1)
        return found

    def shades(self, scan: Scan) -> NDArray[np.uint8]:
        """The first channel as it is to be seen, on the volume's own grid: (D, H, W) uint8, 0 black and 255 white.

        Raises
        ------
        UnreadableError
            If it has not one finite value.
        """
        first = scan.values if scan.values.ndim == 3 else scan.values[0]
        return np.concatenate([(slab * 255 + 0.5).astype(np.uint8) for slab in self._light(scan, first, first)])

    def blank(self, count: int) -> torch.Tensor:
        """`count` black volumes, as :meth:`pixels` makes them: (count, C, D, H, W) float32."""
        return torch.zeros(count, self.channels, *self.size)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """The model's input (B, C, D, H, W) float32 from `pixels` of the same shape, on their device."""
        mean, std = (torch.tensor(value, device=pixels.device)[:, None, None, None] for value in (self.mean, self.std))
        return (pixels - mean) / std

    def _light(
        self, scan: Scan, channel: NDArray[np.float32], values: NDArray[np.float32]
    ) -> Iterator[NDArray[np.float32]]:
        """Some slices after others of `values`, which are `channel` perhaps turned, from 0, black, to 1, white."""
        centre, width = self.window or scan.window or self._range(channel)
        headers = scan.source.headers if isinstance(scan.source, Source) else ()
        inverted = bool(headers) and headers[0].get("PhotometricInterpretation") == "MONOCHROME1"
        for start in range(0, len(values), _SLAB):
            light = windows.scaled(np.ascontiguousarray(values[start : start + _SLAB]), centre, width)
            yield np.nan_to_num(1 - light if inverted else light, copy=False)

    def _range(self, values: NDArray[np.float32]) -> tuple[float, float]:
        """Centre and width of what is shown where nothing says it."""
        step = max(1, math.ceil((values.size / _SEEN) ** (1 / 3)))
        some = values[::step, ::step, ::step]
        known = some[np.isfinite(some)]
        if not known.size:
            raise UnreadableError("a volume without one finite value")
        low, high = np.percentile(known, self.percentiles).tolist()
        if low == high:
            low, high = float(known.min()), float(known.max())
        return (low + high) / 2, high - low
