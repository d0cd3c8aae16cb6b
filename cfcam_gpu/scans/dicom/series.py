"""Volumes of DICOM: the files of one series, or the frames of one file, in the order in which they lie."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import TooLargeError, UnreadableError
from ..grid import Grid
from ..scan import Scan
from . import places, windows
from .files import Instance, refusing
from .pixels import stored
from .places import Plane
from .reading import opened
from .source import Source

#: How far a slice may be from its place in an even stack, in steps.
_TOLERANCE = 0.2


def find_series(files: Iterable[Path]) -> dict[str, list[Path]]:
    """The images among some files by the series that they are of, by its UID; a multi-frame file is one by itself.

    Parameters
    ----------
    files : iterable of Path
        What is no image of DICOM among them is left out.

    Returns
    -------
    dict
        Files, in the order in which they came, by ``SeriesInstanceUID``, or of multi-frame files by ``SOPInstanceUID``.

    Raises
    ------
    ImportError
        If pydicom is not installed.
    """
    found: dict[str, list[Path]] = {}
    for file in files:
        try:
            with opened(file) as data:
                instance = Instance(data)
        except (OSError, UnreadableError):
            continue
        name = "SOPInstanceUID" if instance.frames > 1 else "SeriesInstanceUID"
        found.setdefault(str(instance.header.get(name, "")), []).append(file)
    return found


def read_volume(
    files: str | os.PathLike[str] | IO[bytes] | Sequence[str | os.PathLike[str] | IO[bytes]],
    *,
    max_voxels: int | None = None,
) -> Scan:
    """The files of one series, or the frames of one file, as a volume.

    Slices are ordered by their positions along the normal of their planes, and the distance of their positions is that
    of the slices, also where these are sheared, as by a tilted gantry. The frames of a file that has no positions stay
    in their order, with the distance that it says, or else 1 mm.

    Parameters
    ----------
    files : str or path, a binary file, or a sequence of them
    max_voxels : int, optional
        Refuse what has more, before any is decoded.

    Returns
    -------
    Scan
        Values rescaled to their units; the window is the first slice's own.

    Raises
    ------
    ImportError
        If pydicom is not installed.
    OSError
        If a file can't be opened.
    UnreadableError
        If a file is damaged or no image, or they are no volume: of several series, sizes or orientations, in colours,
        two at one place, or unevenly spaced. The message says which.
    TooLargeError
        If it has too many voxels.
    """
    given = list(files) if isinstance(files, Sequence) and not isinstance(files, str) else [files]
    slices: list[_Slice] = []
    for file in given:
        with opened(file) as data:
            instance = Instance(data)
            instance.check_frames()
        with refusing("its places"):
            slices += [
                _Slice(file, instance, frame, places.plane(instance.header, frame)) for frame in range(instance.frames)
            ]
        _check_alike(slices[0].instance, instance)
        if max_voxels is not None and len(slices) * instance.rows * instance.columns > max_voxels:
            raise TooLargeError(f"a volume of more than the limit of {max_voxels:,} voxels")
    if not slices:
        raise UnreadableError("a volume of no slices")
    ordered, grid, placed = _stack(slices)
    with refusing("its window"):
        window = next((own for one in ordered if (own := _window(one)) is not None), None)
    headers = [one.instance.header for one in (ordered if len(given) > 1 else ordered[:1])]
    return Scan(_values(ordered, grid.shape), grid, window, Source(tuple(headers), None, grid if placed else None))


class _Slice(NamedTuple):
    """A frame of a file, and where it lies."""

    file: Any
    instance: Instance
    frame: int
    plane: Plane | None


def _values(slices: Sequence[_Slice], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    result = np.empty(shape, np.float32)
    for d, one in enumerate(slices):
        with opened(one.file) as data:
            found = stored(one.instance.over(data), one.frame)
        if not found.photometric.startswith("MONOCHROME"):
            raise UnreadableError(f"a volume in colours ({found.photometric[:16]}): expected greys")
        with refusing("its values"):
            result[d] = windows.meant(found.values, one.instance.header, one.frame)
    return result


def _window(one: _Slice) -> tuple[float, float] | None:
    own = windows.own_window(one.instance.header, one.frame, whole=one.instance.keyword == "PixelData")
    return None if own is None else own[:2]


def _check_alike(first: Instance, other: Instance) -> None:
    """Refuse slices that are of another series, or of another size."""
    series = [str(one.header.get("SeriesInstanceUID", "")) for one in (first, other)]
    if series[0] != series[1]:
        raise UnreadableError(f"files of several series, which are no volume: {' and '.join(series)}")
    if first.header.get("PhotometricInterpretation") != other.header.get("PhotometricInterpretation"):
        raise UnreadableError("slices of several photometric interpretations, which are no volume")
    sizes = [f"{one.columns} x {one.rows}" for one in (first, other)]
    if sizes[0] != sizes[1]:
        raise UnreadableError(f"slices of several sizes, which are no volume: {' and '.join(sizes)} pixels")


def _stack(slices: list[_Slice]) -> tuple[list[_Slice], Grid, bool]:
    """The slices in their order, the grid that they are on, and whether the files say where that is."""
    first = slices[0].instance
    shape = (len(slices), first.rows, first.columns)
    planes = [one.plane for one in slices if one.plane is not None]
    if len(planes) < len(slices):
        if len({id(one.instance) for one in slices}) > 1 or planes:
            raise UnreadableError(
                f"a series of which {len(slices) - len(planes)} of {len(slices)} slices don't say where they lie: "
                "expected ImagePositionPatient, ImageOrientationPatient and PixelSpacing"
            )
        rows, columns = spacing if (spacing := places.pixel_spacing(first.header, 0)) is not None else (1.0, 1.0)
        distance = places.thickness(first.header, 0)
        return slices, Grid(shape, np.diag([distance, rows, columns, 1.0])), False
    base = planes[0]
    for one in planes:
        if not np.allclose([one.down, one.right], [base.down, base.right], atol=1e-2 * np.linalg.norm(base.right)):
            raise UnreadableError("slices of several orientations or pixel spacings, which are no volume")
    normal = base.normal
    ordered = sorted(
        ((float(plane.origin @ normal), at) for at, plane in enumerate(planes)),
    )
    sorted_planes = [planes[at] for _, at in ordered]
    step = _step(np.stack([plane.origin for plane in sorted_planes]), [place for place, _ in ordered], base)
    return [slices[at] for _, at in ordered], places.stacked(sorted_planes[0], step, shape), True


def _step(origins: NDArray[np.float64], along: Sequence[float], base: Plane) -> NDArray[np.float64]:
    """From a slice to the next, in millimetres, where all are evenly spaced on one line."""
    if len(origins) == 1:
        return base.normal * base.thickness
    distances = np.diff(along)
    usual = float(np.median(distances))
    if (distances < 1e-3).any():
        at = int(np.argmin(distances))
        raise UnreadableError(
            f"two slices at one place, {along[at]:.2f} mm along their normal: expected one image for each place, of "
            "one phase, echo or pass"
        )
    step: NDArray[np.float64] = (origins[-1] - origins[0]) / (len(origins) - 1)
    even = origins[0] + np.arange(len(origins))[:, None] * step
    if np.linalg.norm(origins - even, axis=1).max() <= _TOLERANCE * np.linalg.norm(step):
        return step
    at = int(np.argmax(np.abs(distances - usual)))
    if abs(distances[at] - usual) < _TOLERANCE * usual:
        raise UnreadableError("slices that don't lie on one line, which are no volume")
    raise UnreadableError(
        f"slices unevenly spaced: {distances[at]:.2f} mm from {along[at]:.2f} to {along[at + 1]:.2f} mm along their "
        f"normal, and {usual:.2f} mm elsewhere; is one missing?"
    )
