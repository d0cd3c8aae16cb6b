"""Volumes that are dark but for one spot, in any orientation, and where that spot lies in the world."""

import nibabel
import numpy as np
from scipy.spatial.transform import Rotation

from cfcam_gpu.scans.grid import Grid

#: X, Y and Z.
SHAPE = (40, 32, 24)
SPACING = (0.9, 1.3, 2.5)
SPOT = (29, 11, 8)


def _affine(directions, spacing, centre=(12.0, -20.0, 35.0)):
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions, float) * spacing
    affine[:3, 3] = np.asarray(centre) - affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return affine


#: Of (X, Y, Z): to the right, front and head, the opposite, and turned about all axes.
AFFINES = {
    "RAS": _affine(np.eye(3), SPACING),
    "LPS": _affine(np.diag([-1, -1, 1]), SPACING),
    "oblique": _affine(Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix(), SPACING),
    "sagittal": _affine([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], SPACING),
}


def volume():
    """(X, Y, Z) float32: a Gaussian around the spot, 100 at most, so that no resampling loses it."""
    places = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    distances = sum(((place - at) / 2) ** 2 for place, at in zip(places, SPOT))
    return (100 * np.exp(-distances / 2)).astype(np.float32)


def spot(affine):
    """Where it lies, in millimetres."""
    return (affine @ [*SPOT, 1])[:3]


def saved(path, affine, values=None, **header):
    """A file of it; further arguments are fields of its header."""
    image = nibabel.Nifti1Image(volume() if values is None else values, affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def grid(affine):
    """The grid that a file with this affine has."""
    reversed_axes = np.eye(4)[[2, 1, 0, 3]]
    return Grid(SHAPE[::-1], affine @ reversed_axes)


def centre_of(values, grid):
    """Where the middle of what is bright lies, in millimetres."""
    index = [np.average(places, weights=values.astype(float)) for places in np.indices(values.shape)]
    return grid.world(index)
