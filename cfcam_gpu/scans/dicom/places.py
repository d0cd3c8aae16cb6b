"""Where frames and slices lie in the patient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .groups import group

if TYPE_CHECKING:
    from ..grid import Grid

#: DICOM's x and y have the opposite signs of a Grid's.
_TO_RAS = np.array([-1.0, -1.0, 1.0])
#: Millimetres between pixels or slices, and from the origin, beyond which a file says what can't be.
_LEAST, _MOST = 1e-9, 1e6


class Plane(NamedTuple):
    """A frame's place: its first pixel's centre, the steps from row to row and from column to column, its thickness.

    All of them in millimetres, in the axes of a :class:`cfcam_gpu.scans.Grid`.
    """

    origin: NDArray[np.float64]
    down: NDArray[np.float64]
    right: NDArray[np.float64]
    thickness: float

    @property
    def normal(self) -> NDArray[np.float64]:
        """Of length 1: from behind the plane to the side from which rows and columns turn clockwise."""
        across = np.cross(self.right, self.down)
        unit: NDArray[np.float64] = across / np.linalg.norm(across)
        return unit

    def grid(self, rows: int, columns: int) -> Grid:
        """Of the frame alone."""
        return _grid((1, rows, columns), self.normal * self.thickness, self)


def plane(header: Any, frame: int) -> Plane | None:
    """Where a frame lies; None where the file doesn't say it, or says what can't be.

    Parameters
    ----------
    header : pydicom.Dataset
    frame : int
    """
    positions = group(header, frame, "PlanePositionSequence") or header
    orientations = group(header, frame, "PlaneOrientationSequence") or header
    position = numbers(positions.get("ImagePositionPatient"), 3)
    orientation = numbers(orientations.get("ImageOrientationPatient"), 6)
    spacing = pixel_spacing(header, frame)
    if position is None or orientation is None or spacing is None:
        return None
    if np.abs(position).max() > _MOST:
        return None
    right, down = orientation[:3], orientation[3:]
    if not np.allclose([right @ right, down @ down, right @ down], [1, 1, 0], atol=1e-2):
        return None
    offsets = header.get("GridFrameOffsetVector")  # of a dose, of which the position is the first frame's
    if offsets is not None and frame < len(offsets):
        position = position + np.cross(right, down) * (float(offsets[frame]) - float(offsets[0]))
    return Plane(
        position * _TO_RAS, down * _TO_RAS * spacing[0], right * _TO_RAS * spacing[1], thickness(header, frame)
    )


def pixel_spacing(header: Any, frame: int) -> NDArray[np.float64] | None:
    """Millimetres from row to row, and from column to column; None where the file doesn't say it."""
    measures = group(header, frame, "PixelMeasuresSequence") or header
    spacing = numbers(measures.get("PixelSpacing"), 2)
    return None if spacing is None or (spacing < _LEAST).any() or (spacing > _MOST).any() else spacing


def thickness(header: Any, frame: int) -> float:
    """Millimetres from slice to slice, as far as one frame tells; 1 where it doesn't."""
    measures = group(header, frame, "PixelMeasuresSequence") or header
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        found = numbers(measures.get(name), 1)
        if found is not None and _LEAST < abs(found[0]) < _MOST:  # of some nuclear images it is negative
            return abs(float(found[0]))
    return 1.0


def stacked(first: Plane, step: NDArray[np.float64], shape: tuple[int, int, int]) -> Grid:
    """The grid of slices that lie `step` apart, in millimetres."""
    return _grid(shape, step, first)


def numbers(value: Any, count: int) -> NDArray[np.float64] | None:
    """So many finite numbers, or None."""
    try:
        found = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        return None
    return found if found.shape == (count,) and np.isfinite(found).all() else None


def _grid(shape: tuple[int, int, int], step: NDArray[np.float64], at: Plane) -> Grid:
    from ..grid import Grid  # its scipy takes long, and every command imports what reads

    affine = np.eye(4)
    affine[:3] = np.stack([step, at.down, at.right, at.origin], axis=1)
    return Grid(shape, affine)
