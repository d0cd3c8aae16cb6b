"""A series of DICOM, explained as a volume, becomes a Parametric Map whose peak is where the bright spot is."""

import highdicom
import numpy as np
import pydicom
import pytest

from cfcam_gpu.scans import read_volume

from ...test_cli import run
from .written import ROOT, placed, written

OBLIQUE = {"right": (0.8, 0.36, 0.48), "down": (-0.6, 0.48, 0.64)}
SPOT = (11, 20, 31)


@pytest.fixture(params=["axial", "oblique"])
def series(request, tmp_path):
    """A folder of 16 slices, 40 x 48, 3 mm apart, of pixels of 1.5 x 1.2 mm, named in no order."""
    d, h, w = np.meshgrid(*map(np.arange, (16, 40, 48)), indexing="ij")
    distance = ((d - SPOT[0]) * 3) ** 2 + ((h - SPOT[1]) * 1.5) ** 2 + ((w - SPOT[2]) * 1.2) ** 2
    values = (1000 * np.exp(-distance / 2 / 6**2)).astype(np.int16)
    where = OBLIQUE if request.param == "oblique" else {}
    for number, plane in enumerate(values):
        elements = {"FrameOfReferenceUID": f"{ROOT}.9", "StudyDate": "20200101", "StudyTime": "1000", "StudyID": "1"}
        elements |= placed(3.0 * number, spacing=(1.5, 1.2), **where)
        written(tmp_path / "in" / f"{(number * 7) % 16:02d}.dcm", plane, number=number + 1, **elements)
    return tmp_path / "in"


@pytest.mark.parametrize("command", ["explain", "run"])
def test_the_peak_of_the_map_lies_on_the_spot(series, tmp_path, command):
    out = tmp_path / "out"
    options = ["--spatial-dims", "3", "--size", "16,24,24", "--channels", "1", "--model", "tests.volumes:bright"]
    options += ["--secondary-capture", "--segment-above", "0.5", "--report"] if command == "explain" else ["--dicom"]
    done = run(command, series, "--out", out, *options)
    assert done.exit_code == 0, done.stderr
    [file] = [file for file in out.rglob("*.dcm") if file.name.endswith("1.dcm")]  # the others' names end otherwise
    volume = highdicom.pm.sop.pmread(file).get_volume(dtype=np.float32)
    at = np.unravel_index(np.argmax(volume.array), volume.shape)
    found = volume.map_indices_to_reference(np.array([at]))[0]
    grid = read_volume(sorted(series.iterdir())).grid
    spot = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine @ [*SPOT, 1])[:3]
    assert np.linalg.norm(found - spot) < 6, (found, spot)  # a voxel of the network's is 4.8 mm long at most
    read = pydicom.dcmread(file)
    [one] = read.ReferencedSeriesSequence
    assert len(one.ReferencedInstanceSequence) == 16
    assert read.FrameOfReferenceUID == f"{ROOT}.9"
    if command == "explain":
        assert sorted(path.suffixes[-2] for path in out.glob("*.*.dcm") if path != file) == [
            ".overlay",
            ".report",
            ".segment",
        ]
