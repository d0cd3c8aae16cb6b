"""Where a map lies in DICOM's terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..grid import Grid
from .source import Source
from .values import is_uid, said

if TYPE_CHECKING:
    import highdicom

#: x and y of NIfTI point the other way than DICOM's.
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Cosine of the angle between rows and columns up to which they are at right angles, as files have them rounded.
_SKEW = 1e-2


class Place(NamedTuple):
    """The places of the planes of a map, as a multi-frame object has them."""

    measures: highdicom.PixelMeasuresSequence
    orientation: highdicom.PlaneOrientationSequence
    positions: list[highdicom.PlanePositionSequence]


def in_patient(source: Source) -> bool:
    """Whether a place in millimetres means the same to the source and to what refers to it.

    Without a frame of reference of the source's own, a viewer can't tell that two images share their millimetres.
    """
    return source.grid is not None and is_uid(said(source.headers[0], "FrameOfReferenceUID"))


def pixel_grid(source: Source) -> Grid:
    """The grid of a source's own pixels; where the file has no place for them, as if they were 1 mm apart.

    Then columns are x, and rows y.

    Parameters
    ----------
    source : Source

    Returns
    -------
    Grid

    Raises
    ------
    ValueError
        If the source is a volume without a place, whose pixels no viewer could find.
    """
    if source.grid is not None:
        return source.grid
    header = source.headers[0]
    frames = 1 if source.frame is not None else int(header.get("NumberOfFrames") or 1)
    if len(source.headers) > 1 or frames > 1:
        raise ValueError("ImagePositionPatient: missing in the source, so that the map of a volume has no place in it")
    affine = np.eye(4)[:, [2, 1, 0, 3]]  # w along x, h along y
    return Grid((1, int(header.Rows), int(header.Columns)), affine)


def laid(values: NDArray[np.float32], grid: Grid, source: Source) -> tuple[NDArray[np.float32], Grid]:
    """A map as it is written: on its own grid where the patient has a place for it, else on the source's pixels.

    Parameters
    ----------
    values : (D, H, W) float32 array
    grid : Grid
        Of `values`; made from :func:`pixel_grid` where the source has no place in the patient.
    source : Source

    Returns
    -------
    values : (D, H, W) float32 array
        Unchanged but where they had to be resampled, linearly; 0 where the map has nothing to say.
    grid : Grid
    """
    if in_patient(source):
        return values, grid
    onto = pixel_grid(source)
    if same(grid, onto):
        return values, onto
    return grid.sampled(values, onto=onto), onto


def same(one: Grid, other: Grid) -> bool:
    """Whether two grids have the same voxels, within a thousandth of one."""
    return one.shape == other.shape and np.allclose(
        one.affine, other.affine, rtol=0.0, atol=1e-3 * min(one.spacing) / max(one.shape)
    )


def place(grid: Grid) -> Place:
    """A grid's planes in DICOM's terms.

    Raises
    ------
    ValueError
        If rows and columns are not at right angles.
    """
    import highdicom

    affine = TO_LPS @ grid.affine
    _, height, width = grid.spacing
    along_rows, along_columns = affine[:3, 2] / width, affine[:3, 1] / height
    if abs(along_rows @ along_columns) > _SKEW:
        raise ValueError("grid: rows and columns are not at right angles, which DICOM has no place for; save as NIfTI")
    origins = [affine[:3, 3] + d * affine[:3, 0] for d in range(grid.shape[0])]
    patient = highdicom.CoordinateSystemNames.PATIENT
    return Place(
        highdicom.PixelMeasuresSequence(pixel_spacing=(height, width), slice_thickness=grid.thickness),
        highdicom.PlaneOrientationSequence(patient, image_orientation=[*along_rows.tolist(), *along_columns.tolist()]),
        [highdicom.PlanePositionSequence(patient, image_position=origin.tolist()) for origin in origins],
    )
