"""What a user with sources and an explanation calls."""

import sys

import numpy as np
import pydicom
import pytest
import torch

from cfcam_gpu import CAM, CFCAM
from cfcam_gpu.scans.dicom import placing
from cfcam_gpu.scans.dicom.results import save_dicom

from ...small import Network, draw
from . import headers


@pytest.fixture(scope="module")
def explained():
    model = Network().eval()
    images = draw(3, batch=2)
    return CFCAM(model, model.late)(images), images


def test_each_image_gets_its_objects(explained, tmp_path):
    result, images = explained
    sources = [headers.placed(), headers.x_ray(SOPInstanceUID=f"{headers.ROOT}.9")]
    grids = [placing.pixel_grid(source).within((0, 2, 3), (1, 2, 2), (1, 12, 10)) for source in sources]
    files = save_dicom(
        result, tmp_path / "new", sources, model="small", grids=grids, images=images, segment_above=0.4, report=True
    )
    ends = (".dcm", ".overlay.dcm", ".segment.dcm", ".report.dcm")
    assert [file.name for file in files] == [source.uid + end for source in sources for end in ends]
    assert sorted(files) == sorted((tmp_path / "new").iterdir())
    first, second = (pydicom.dcmread(files[i]) for i in (0, 4))
    np.testing.assert_array_equal(first.pixel_array, result.maps[0].numpy())
    assert second.pixel_array.shape == (40, 48)
    # Its own grid is every second of these rows and columns.
    np.testing.assert_allclose(second.pixel_array[2:26:2, 3:23:2], result.maps[1].numpy(), atol=1e-6)
    np.testing.assert_array_equal(pydicom.dcmread(files[1]).pixel_array[:12, :10], result.overlay(images)[0].numpy())
    with pytest.raises(FileExistsError):
        save_dicom(result, tmp_path / "new", sources, model="small", grids=grids)
    assert save_dicom(result, tmp_path / "new", sources, model="small", grids=grids, overwrite=True)


def test_without_grids_the_input_was_the_whole_source(explained, tmp_path):
    result, _ = explained
    source = headers.placed()
    files = save_dicom(result, tmp_path, [source] * 2, model="small", names=["a", "b"])
    read = pydicom.dcmread(files[0])
    measures = read.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    np.testing.assert_allclose(measures.PixelSpacing, [0.75 * 40 / 12, 1.5 * 48 / 10], rtol=1e-9)


def test_several_targets_are_told_apart(tmp_path):
    model = Network().eval()
    result = CAM(model, "late", method="eigencam")(draw(1, batch=1), [[1, 4]])
    files = save_dicom(result, tmp_path, [headers.placed()], model="m", names=["x"], class_names=list("abcde"))
    assert [file.name for file in files] == ["x-1.dcm", "x-4.dcm"]
    said = [pydicom.dcmread(file) for file in files]
    assert [one.ContentDescription[-1] for one in said] == ["b", "e"]
    assert said[0].SeriesInstanceUID == said[1].SeriesInstanceUID
    assert [one.InstanceNumber for one in said] == [1, 2]


def test_volumes(tmp_path):
    class Deep(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.late = torch.nn.Sequential(torch.nn.Conv3d(1, 6, 3, padding=1), torch.nn.ReLU())
            self.head = torch.nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.late(x).mean(dim=(2, 3, 4)))

    model = Deep().eval()
    result = CAM(model, "late", method="gradcam")(torch.randn(1, 1, 6, 8, 7, generator=torch.manual_seed(0)))
    source = headers.placed(slices=4)
    [file] = save_dicom(result, tmp_path, [source], model="deep")
    assert file.name == f"{headers.ROOT}.2.dcm"
    read = pydicom.dcmread(file)
    found = read.pixel_array
    assert found.shape == (6, 8, 7)
    assert any(np.array_equal(found[::step], result.maps[0].numpy()) for step in (1, -1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": []}, "sources: expected 2, one for each image; got 0"),
        ({"grids": [placing.pixel_grid(headers.placed())] * 2}, "grids: expected the shape"),
        ({"names": ["a"]}, "names: expected 2"),
        ({"segment_above": 1.5}, "segment_above"),
        ({"sources": [headers.x_ray(), headers.x_ray(StudyInstanceUID="")]}, "StudyInstanceUID: missing"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(explained, tmp_path, change, message):
    arguments = {"sources": [headers.placed()] * 2, "model": "m"} | change
    with pytest.raises(ValueError, match=message):
        save_dicom(explained[0], tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_without_highdicom_it_says_what_to_install(explained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ImportError, match=r"cfcam-gpu\[medical\]"):
        save_dicom(explained[0], tmp_path, [headers.placed()] * 2, model="m")
