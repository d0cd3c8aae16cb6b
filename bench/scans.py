"""What it costs to read scans, and to write explanations of them: time and memory, beside the libraries that decode.

``python -m bench.scans`` measures, each in a process of its own: an image of CT as the RGB that a model sees, beside
pydicom's ``pixel_array``; a series of 300 slices as a volume with its place, beside their ``pixel_array`` alone; the
same volume as NIfTI, beside nibabel's ``get_fdata`` in float32; the volume as a model's input; a map in the volume's
own space, as NIfTI and as a Parametric Map; and the objects of an image. Times are medians of rounds in turn, ``mib``
is the peak of resident memory above what there was before.

What is read is compared with what was written, and what was written is read again by the other library; a difference
ends the run. Writes results/MACHINE-scans.json.
"""

from __future__ import annotations

import datetime
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import torch
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from cfcam_gpu.latency.machine import machine
from cfcam_gpu.latency.memory import host_peak, in_child
from cfcam_gpu.latency.timing import summary, to_json
from cfcam_gpu.scans import (
    Scan,
    Source,
    VolumePreparation,
    pixel_grid,
    read_dicom,
    read_nifti,
    read_volume,
    save_nifti,
)
from cfcam_gpu.scans.dicom import results
from cfcam_gpu.scans.dicom.about import About
from cfcam_gpu.scans.dicom.asked import Asked

from .latency import record_path, versions, write

RESULTS = Path(__file__).parent / "results"
SIDE, SLICES = 512, 300
#: Of the model's input.
SIZE = (96, 96, 96)
ROUNDS = 5
SLOPE, INTERCEPT = 1.0, -1024.0
PREPARATION = VolumePreparation(SIZE)
WHEN = datetime.datetime(2026, 1, 1)
ABOUT = About(
    model="bench", method="cfcam", layers=("layer4",), target=0, class_name="class 0", probability=0.5, version="0"
)

Work = Callable[[Path], object]


def main() -> int:
    where = machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder)
        in_child(_gate, folder)
        found = {ours.__name__: in_child(_measured, ours, bare, folder) for ours, bare in PAIRS}
    record = {
        "benchmark": "scans",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": where,
        "versions": versions([]) | {name: version(name) for name in ("pydicom", "highdicom", "nibabel")},
        "settings": {"side": SIDE, "slices": SLICES, "size": SIZE, "rounds": ROUNDS},
        "measured": found,
    }
    path = record_path(RESULTS, where, "scans")
    write(record, path)
    print(to_json(found))
    print(f"written to {path}")
    return 0


def stored() -> NDArray[np.uint16]:
    """The pixels of the series (D, H, W) as CT has them: a bright ball in noise, the same every time."""
    noise = np.random.default_rng(0).integers(900, 1100, (SLICES, SIDE, SIDE), np.uint16)
    indices = np.ogrid[:SLICES, :SIDE, :SIDE]
    noise[sum((index - place) ** 2 for index, place in zip(indices, _ball())) < (SIDE / 16) ** 2] += 1000
    return noise


def _ball() -> tuple[int, int, int]:
    """Where its middle is."""
    return SLICES * 2 // 3, SIDE // 2, SIDE // 5


def _write(folder: Path) -> None:
    """The series, and the same as NIfTI."""
    (folder / "series").mkdir()
    pixels = stored()
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for d, plane in enumerate(pixels):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, generate_uid()
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.Modality, one.PatientName, one.PatientID, one.InstanceNumber = "CT", "", "", d + 1
        one.ImageOrientationPatient, one.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-180, -180, 1.5 * d]
        one.PixelSpacing, one.SliceThickness = [0.7, 0.7], 1.5
        one.Rows, one.Columns, one.SamplesPerPixel, one.PhotometricInterpretation = SIDE, SIDE, 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.RescaleSlope, one.RescaleIntercept = SLOPE, INTERCEPT
        one.WindowCenter, one.WindowWidth = 40, 400
        one.PixelData = plane.tobytes()
        pydicom.dcmwrite(folder / "series" / f"{d:03d}.dcm", one, enforce_file_format=True)
    image = nibabel.Nifti1Image(pixels.T.astype(np.int16), np.diag([0.7, 0.7, 1.5, 1.0]))
    image.header.set_slope_inter(SLOPE, INTERCEPT)
    nibabel.save(image, folder / "volume.nii.gz")


def _measured(ours: Work, bare: Work | None, folder: Path) -> dict[str, Any]:
    """Times of both in turn, after one call of each, and the peak of another."""
    works = {"ours": ours} | ({} if bare is None else {"bare": bare})
    for work in works.values():
        work(folder)
    rounds = []
    for _ in range(ROUNDS):
        one = {}
        for name, work in works.items():
            began = time.perf_counter()
            work(folder)
            one[name] = time.perf_counter() - began
        rounds.append(one)
    found: dict[str, Any] = {
        "seconds": {name: summary([one[name] for one in rounds]) for name in works},
        "mib": {
            name: host_peak(lambda images, work=work: work(folder), torch.zeros(1)) for name, work in works.items()
        },
    }
    if bare is not None:
        found["ratio"] = summary([one["ours"] / one["bare"] for one in rounds])
    return found


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "series").iterdir())


def image_read(folder: Path) -> object:
    return read_dicom(_files(folder)[_ball()[0]]).image


def image_decoded(folder: Path) -> object:
    return pydicom.dcmread(_files(folder)[_ball()[0]]).pixel_array


def series_read(folder: Path) -> object:
    return read_volume(_files(folder))


def series_decoded(folder: Path) -> object:
    return np.stack([pydicom.dcmread(path).pixel_array for path in _files(folder)]).astype(np.float32)


def nifti_read(folder: Path) -> object:
    return read_nifti(folder / "volume.nii.gz")


def nifti_decoded(folder: Path) -> object:
    return nibabel.load(folder / "volume.nii.gz").get_fdata(dtype=np.float32, caching="unchanged")


@cache
def _volume(folder: Path) -> Scan:
    return read_nifti(folder / "volume.nii.gz")


@cache
def _series(folder: Path) -> Scan:
    return read_volume(_files(folder))


@cache
def _map(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(0).random(shape, np.float32)


def volume_prepared(folder: Path) -> object:
    return PREPARATION.pixels(_volume(folder))


def volume_map_as_nifti(folder: Path) -> object:
    scan = _volume(folder)
    return save_nifti(_map(SIZE), folder / "map.nii.gz", like=scan, grid=PREPARATION.grid(scan.grid))


def volume_map_as_dicom(folder: Path) -> object:
    scan = _series(folder)
    assert isinstance(scan.source, Source)
    grid = PREPARATION.grid(scan.grid)
    return results.write(_map(SIZE), grid, scan.source, ABOUT, folder, "volume", asked=Asked(), when=WHEN)


def image_map_as_dicom(folder: Path) -> object:
    return _image_written(folder, Asked())


def image_as_four_objects(folder: Path) -> object:
    return _image_written(folder, Asked(secondary_capture=True, segment_above=0.5, report=True))


def _image_written(folder: Path, asked: Asked) -> object:
    source = read_dicom(_files(folder)[_ball()[0]]).source
    grid = pixel_grid(source).resized((1, 224, 224))
    overlay = np.zeros((224, 224, 3), np.uint8)
    return results.write(
        _map((224, 224)), grid, source, ABOUT, folder, "image", asked=asked, overlay=overlay, when=WHEN
    )


def _gate(folder: Path) -> None:
    """Nothing is timed that is not right."""
    expected = stored().astype(np.float32) * SLOPE + INTERCEPT
    for read in (series_read, nifti_read):
        scan = read(folder)
        assert isinstance(scan, Scan)
        _check(read.__name__, np.array_equal(scan.values, expected))
    _check("the grids", np.allclose(np.abs(_volume(folder).grid.affine), np.abs(_grid_of(folder)), atol=1e-3))
    image = image_read(folder)
    assert isinstance(image, Image.Image)
    _, row, column = _ball()
    _check("image_read", image.getpixel((column, row)) == (255, 255, 255))
    volume_map_as_dicom(folder)
    image_as_four_objects(folder)
    frames = pydicom.dcmread(folder / "volume.dcm").pixel_array
    # They are in the order of the planes' places.
    _check("the map of the volume", any(np.array_equal(one, _map(SIZE)) for one in (frames, frames[::-1])))
    _check("the map of the image", np.array_equal(pydicom.dcmread(folder / "image.dcm").pixel_array, _map((224, 224))))
    volume_map_as_nifti(folder)
    _check("the map as NIfTI", nibabel.load(folder / "map.nii.gz").shape == (SIDE, SIDE, SLICES))


def _grid_of(folder: Path) -> NDArray[np.float64]:
    """Of the series, in the directions of the NIfTI, whose corner is elsewhere."""
    affine = _series(folder).grid.affine.copy()
    affine[:3, 3] = 0.0
    return affine


def _check(what: str, right: bool) -> None:
    if not right:
        raise RuntimeError(f"{what}: not what was written")


PAIRS: tuple[tuple[Work, Work | None], ...] = (
    (image_read, image_decoded),
    (series_read, series_decoded),
    (nifti_read, nifti_decoded),
    (volume_prepared, None),
    (volume_map_as_nifti, None),
    (volume_map_as_dicom, None),
    (image_map_as_dicom, None),
    (image_as_four_objects, None),
)

if __name__ == "__main__":
    sys.exit(main())
