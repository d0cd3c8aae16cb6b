"""A volume that was read from files of medicine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .grid import Grid


@dataclass(frozen=True, eq=False)
class Scan:
    """A volume with where it lies in the patient.

    Parameters
    ----------
    values : (D, H, W) or (C, D, H, W) float32 array
        The latter where several channels were asked for. In the file's units, Hounsfield units of a CT for one:
        rescaled, and not windowed.
    grid : Grid
        Of these voxels.
    window : (float, float) or None
        Centre and width of the values that are to be shown, as the file has them.
    source : cfcam_gpu.scans.Source or other
        What results refer back to: of DICOM the instances' headers.
    """

    values: NDArray[np.float32]
    grid: Grid
    window: tuple[float, float] | None
    source: Any
