"""Where the elements of an array lie in a patient, or in any world measured in millimetres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Grid:
    """The places of the voxels of a volume, or of a slice, a volume of D = 1.

    What was done to a volume on its way to a network, turning, resampling, cropping, padding, is all in the grid of
    what the network saw: a map on it is brought back by :meth:`sampled` without knowing the steps.

    Parameters
    ----------
    shape : (int, int, int)
        D, H and W.
    affine : (4, 4) float64 array
        Takes the indices (d, h, w, 1) of a voxel's centre to its (x, y, z, 1) in millimetres: x to the right, y to the
        front, z to the head, as NIfTI has them. DICOM's x and y have the opposite signs.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from one voxel's centre to the next, along D, H and W."""
        d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return d, h, w

    def within(
        self, start: tuple[float, float, float], step: tuple[float, float, float], shape: tuple[int, int, int]
    ) -> Grid:
        """The grid of `shape` whose voxel (d, h, w) lies at this one's ``start + step * (d, h, w)``, in voxels.

        Crops and pads have a `step` of ones; a negative `start` pads.
        """
        inner = np.diag([*step, 1.0])
        inner[:3, 3] = start
        return Grid(shape, self.affine @ inner)

    def resized(self, shape: tuple[int, int, int]) -> Grid:
        """The grid of `shape` with the same outer borders."""
        depth, height, width = (old / new for old, new in zip(self.shape, shape))
        step = depth, height, width
        return self.within(((depth - 1) / 2, (height - 1) / 2, (width - 1) / 2), step, shape)
