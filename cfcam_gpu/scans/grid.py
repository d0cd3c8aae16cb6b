"""Where the elements of an array lie in a patient, or in any world measured in millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

#: What the letters of axis codes are called by: the axis of the world that they lie on, and which way they go.
_LETTERS = {letter: (axis, sign) for axis, pair in enumerate(("LR", "PA", "IS")) for letter, sign in zip(pair, (-1, 1))}
#: Voxels by which a place may seem outside by rounding alone.
_ROUNDING = 1e-4


def check_axcodes(axcodes: str) -> None:
    """Refuse what are no axis codes.

    Parameters
    ----------
    axcodes : str
        As :meth:`Grid.oriented` takes them.

    Raises
    ------
    ValueError
        If they are not three letters, one of L and R, one of P and A, one of I and S.
    """
    if sorted(_LETTERS.get(letter, (-1, 0))[0] for letter in axcodes) != [0, 1, 2]:
        raise ValueError(
            f"axcodes: expected three letters, one of L and R, one of P and A, one of I and S, such as SAR; got "
            f"{axcodes!r}"
        )


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

    @property
    def thickness(self) -> float:
        """Millimetres from one plane of H and W to the next, at right angles: of a sheared grid less than along D."""
        return self.voxel / float(np.linalg.norm(np.cross(self.affine[:3, 1], self.affine[:3, 2])))

    @property
    def voxel(self) -> float:
        """Of one voxel, in cubic millimetres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

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

    def world(self, index: ArrayLike) -> NDArray[np.float64]:
        """Where (d, h, w), in voxels, lies: (x, y, z) in millimetres. Arrays (..., 3) give such arrays."""
        found: NDArray[np.float64] = np.asarray(index, np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]
        return found

    def index(self, place: ArrayLike) -> NDArray[np.float64]:
        """Which (d, h, w), in voxels, lies at (x, y, z) in millimetres; the inverse of :meth:`world`."""
        inverse = np.linalg.inv(self.affine)
        found: NDArray[np.float64] = np.asarray(place, np.float64) @ inverse[:3, :3].T + inverse[:3, 3]
        return found

    def oriented(self, values: NDArray[np.float32], axcodes: str = "SAR") -> tuple[NDArray[np.float32], Grid]:
        """The same voxels with axes in another order and direction; none is resampled.

        Parameters
        ----------
        values : (..., D, H, W) float32 array
        axcodes : str
            Where D, H and W are to go: a letter each, of L(eft), R(ight), P(osterior), A(nterior), I(nferior) and
            S(uperior), as nibabel and MONAI have them for X, Y and Z. Of an oblique volume the nearest axes are meant.

        Returns
        -------
        (..., D, H, W) float32 array, a view; Grid

        Raises
        ------
        ValueError
            If `axcodes` are none.
        """
        from scipy.optimize import linear_sum_assignment  # who reads no volume need not wait for it

        check_axcodes(axcodes)
        cosines = self.affine[:3, :3] / self.spacing
        axis_of = dict(zip(*(places.tolist() for places in linear_sum_assignment(-np.abs(cosines)))))
        inner, shape, flips = np.zeros((4, 4)), [], []
        inner[3, 3] = 1.0
        for new, letter in enumerate(axcodes):
            along, sign = _LETTERS[letter]
            old = axis_of[along]
            turned = cosines[along, old] * sign < 0
            inner[old, new] = -1.0 if turned else 1.0
            inner[old, 3] = self.shape[old] - 1 if turned else 0.0
            shape.append(self.shape[old])
            flips.append(slice(None, None, -1 if turned else None))
        before = values.ndim - 3
        order = [before + axis_of[_LETTERS[letter][0]] for letter in axcodes]
        depth, height, width = shape
        found = values.transpose(*range(before), *order)[(..., *flips)]
        return found, Grid((depth, height, width), self.affine @ inner)

    def sampled(self, values: NDArray[Any], onto: Grid, *, order: int = 1, outside: float = 0.0) -> NDArray[np.float32]:
        """Values on this grid as another has them, by where its voxels lie in the world.

        Parameters
        ----------
        values : (D, H, W) array, floating or uint8
        onto : Grid
            Any other, also an oblique one, or one that lies elsewhere.
        order : {0, 1}
            0 takes the nearest voxel, 1 is trilinear. Nothing is averaged where `onto` is coarser.
        outside : float
            The value outside of this grid's voxels. Between the centre and the border of its outermost ones it is
            theirs.

        Returns
        -------
        (D, H, W) float32 array
            Of the shape of `onto`. Beside it and `values` in float32, a slice of `onto` at a time takes memory.

        Raises
        ------
        ValueError
            If `values` are not of the shape of this grid, or `order` is neither.
        """
        if values.shape != self.shape:
            raise ValueError(f"values: expected {self.shape}, as the grid; got {values.shape}")
        if order not in (0, 1):
            raise ValueError(f"order: expected 0 or 1; got {order!r}")
        step = np.linalg.inv(self.affine) @ onto.affine
        found = np.empty(onto.shape, np.float32)
        given = np.asarray(values, np.float32) if values.dtype.kind == "f" else values
        ndimage.affine_transform(
            given, step[:3, :3], step[:3, 3], onto.shape, output=found, order=order, mode="nearest", prefilter=False
        )
        # In voxels of this grid, (3, H, W) of the slice d of `onto`; the next is a step further.
        rows, columns = (np.arange(length, dtype=np.float64) for length in onto.shape[1:])
        plane = step[:3, 1, None, None] * rows[:, None] + step[:3, 2, None, None] * columns + step[:3, 3, None, None]
        borders = np.array(self.shape)[:, None, None] - 0.5 + _ROUNDING
        for d in range(onto.shape[0]):
            places = plane + step[:3, 0, None, None] * d
            found[d][((places < -0.5 - _ROUNDING) | (places > borders)).any(axis=0)] = outside
        return found
