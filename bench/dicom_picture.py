"""The picture of docs/dicom.md: an MR of pydicom's, explained by the command line, as a viewer of DICOM shows it.

``python -m bench.dicom_picture docs/dicom.png``. The Parametric Map is laid over the MR by nothing but what both files
say of their places.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pydicom
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydicom import examples
from scipy import ndimage
from typer.testing import CliRunner

from cfcam_gpu import cli

_OPTIONS = ("--secondary-capture", "--segment-above", "0.5", "--report")


def main() -> None:
    """Explain the MR, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    source = examples.get_path("overlay")
    with tempfile.TemporaryDirectory() as folder:
        done = CliRunner().invoke(cli.app, ["explain", str(source), "--out", folder, *_OPTIONS], catch_exceptions=False)
        if done.exit_code:
            raise RuntimeError(done.output)
        draw(pydicom.dcmread(source), Path(folder)).savefig(out, dpi=110, bbox_inches="tight")


def draw(source: pydicom.Dataset, folder: Path) -> Figure:
    """The MR, the map over it, the segment's outline, and the Secondary Capture."""
    [capture, segment] = (pydicom.dcmread(next(folder.glob(f"*.{kind}.dcm"))) for kind in ("overlay", "segment"))
    stem = next(folder.glob("*.npy")).stem
    laid = _laid(pydicom.dcmread(folder / f"{stem}.dcm"), source)
    outline = _laid(segment, source)
    figure = Figure(figsize=(15, 3.2), layout="constrained")
    titles = ("MR", "Parametric Map", "Segmentation above 0.5", "Secondary Capture")
    for axes, title in zip(figure.subplots(1, 4, width_ratios=(1.75, 1.75, 1.75, 1)), titles):
        axes.set_title(title)
        axes.axis("off")
        if title == "Secondary Capture":
            axes.imshow(capture.pixel_array)
            continue
        axes.imshow(source.pixel_array, cmap="gray")
        if title == "Parametric Map":
            axes.imshow(laid, cmap="turbo", alpha=0.6 * np.nan_to_num(laid), vmin=0, vmax=1)
        if title.startswith("Seg"):
            axes.contour(np.nan_to_num(outline), levels=[0.5], colors="gold", linewidths=1.5)
    return figure


def _laid(written: pydicom.Dataset, source: pydicom.Dataset) -> NDArray[np.float64]:
    """The values of an object's only frame at the pixels of the source; NaN beside it."""
    shared, frame = written.SharedFunctionalGroupsSequence[0], written.PerFrameFunctionalGroupsSequence[0]
    plane = _affine(
        frame.PlanePositionSequence[0].ImagePositionPatient,
        shared.PlaneOrientationSequence[0].ImageOrientationPatient,
        shared.PixelMeasuresSequence[0].PixelSpacing,
    )
    under = _affine(source.ImagePositionPatient, source.ImageOrientationPatient, source.PixelSpacing)
    rows, columns = np.indices((source.Rows, source.Columns))
    places = np.stack([rows.ravel(), columns.ravel(), np.zeros(rows.size), np.ones(rows.size)])
    at = (np.linalg.inv(plane) @ under @ places)[:2].reshape(2, *rows.shape)
    values = written.pixel_array.astype(np.float64)
    found: NDArray[np.float64] = ndimage.map_coordinates(values, at, order=1, cval=np.nan)
    return found


def _affine(position: object, orientation: object, spacing: object) -> NDArray[np.float64]:
    """Takes row, column and distance from a plane to millimetres."""
    directions, sides = np.reshape(np.asarray(orientation, float), (2, 3)), np.asarray(spacing, float)
    result = np.eye(4)
    result[:3, 0], result[:3, 1] = directions[1] * sides[0], directions[0] * sides[1]
    result[:3, 2], result[:3, 3] = np.cross(*directions), np.asarray(position, float)
    return result


if __name__ == "__main__":
    main()
