"""``cfcam-gpu explain`` of DICOM writes DICOM: the numbers of NAME.npy, and what is asked for."""

import json
import shutil
import sys

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from cfcam_gpu.image_files.photos import Preparation
from cfcam_gpu.scans.dicom import placing, reading

from ...test_cli import explain

CT = "CT_small.dcm"


@pytest.fixture
def scans(tmp_path):
    """A slice, an image of no place, and a photograph."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (CT, "examples_palette.dcm"):
        shutil.copy(get_testdata_file(name), folder)
    Image.new("RGB", (30, 20), "red").save(folder / "photo.png")
    return folder


def _lines(folder):
    return [json.loads(line) for line in (folder / "explanations.jsonl").read_text().splitlines()]


def test_maps_are_those_of_the_arrays_where_the_model_saw_them(scans, tmp_path):
    out = tmp_path / "out"
    done = explain(scans, "--out", out)
    assert done.exit_code == 0, done.stderr
    ct, us, photo = _lines(out)
    assert "parametric_map" not in photo
    assert sorted(file.name for file in out.glob("*.dcm")) == sorted([ct["parametric_map"], us["parametric_map"]])
    written = pydicom.dcmread(out / ct["parametric_map"])
    values = np.load(out / ct["map"])
    np.testing.assert_array_equal(written.pixel_array, values)
    # The model saw the middle of 128 x 128 pixels, resized to 256 and cut to 224: pixels of half the size.
    [measures] = written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    source = pydicom.dcmread(scans / CT)
    np.testing.assert_allclose(measures.PixelSpacing, np.array(source.PixelSpacing) / 2)
    [position] = written.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    corner = np.array(source.ImagePositionPatient[:2]) + (16 / 2 - 0.25) * np.array(source.PixelSpacing)
    np.testing.assert_allclose(position.ImagePositionPatient, [*corner, source.ImagePositionPatient[2]])
    # Without a place: on the pixels of the source.
    palette = pydicom.dcmread(scans / "examples_palette.dcm")
    assert pydicom.dcmread(out / us["parametric_map"]).pixel_array.shape == (palette.Rows, palette.Columns)


def test_what_is_asked_for_is_written_and_nothing_else(scans, tmp_path):
    options = (
        "--secondary-capture",
        "--segment-above",
        "0.25",
        "--report",
        "--no-mark",
        "--target",
        "1",
        "--target",
        "3",
    )
    done = explain(scans / CT, "--out", tmp_path / "out", *options)
    assert done.exit_code == 0, done.stderr
    for line in _lines(tmp_path / "out"):
        stem = line["map"].removesuffix(".npy")
        assert line["secondary_capture"] == f"{stem}.overlay.dcm"
        assert line["segmentation"] == f"{stem}.segment.dcm"
        assert line["report"] == f"{stem}.report.dcm"
        above = pydicom.dcmread(tmp_path / "out" / line["segmentation"]).pixel_array
        np.testing.assert_array_equal(above > 0, np.load(tmp_path / "out" / line["map"]) > 0.25)
        picture = np.asarray(Image.open(tmp_path / "out" / line["overlay"]))
        np.testing.assert_array_equal(
            pydicom.dcmread(tmp_path / "out" / line["secondary_capture"]).pixel_array, picture
        )
    before = sorted((tmp_path / "out").iterdir())
    for file in before:
        if not file.name.endswith(".report.dcm"):
            file.unlink()
    again = explain(scans / CT, "--out", tmp_path / "out", *options)
    assert (again.exit_code, ".report.dcm" in again.stderr) == (2, True)
    none = explain(scans / CT, "--out", tmp_path / "none", "--no-dicom")
    assert (none.exit_code, list((tmp_path / "none").glob("*.dcm"))) == (0, [])


def test_expected_and_evidence_beside_what_is_written_in_dicom(scans, tmp_path):
    done = explain(scans / CT, "--out", tmp_path / "out", "--report", "--evidence", "--expected", "1")
    assert done.exit_code == 0, done.stderr
    [line] = _lines(tmp_path / "out")
    stem, said = line["map"].removesuffix(".npy"), line["expected"]
    assert (said["target"], said["is_predicted"]) == (1, False)
    written = [line[name] for name in ("overlay", "parametric_map", "report")]
    written += [said["picture"], said["map"], said["against_predicted"]["map"], said["predicted_against"]["map"]]
    assert all((tmp_path / "out" / name).name.startswith(stem) for name in written)
    assert all((tmp_path / "out" / name).stat().st_size for name in written)
    # What is written in DICOM is the map of the predicted class.
    saved = pydicom.dcmread(tmp_path / "out" / line["parametric_map"])
    np.testing.assert_array_equal(saved.pixel_array, np.load(tmp_path / "out" / line["map"]))
    about = json.loads((tmp_path / "out" / line["evidence"] / "explanation.json").read_text())
    assert about["image"]["sop_instance_uid"] == str(pydicom.dcmread(scans / CT).SOPInstanceUID)
    assert about["expected"]["target"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--report", "--segment-above", "0.5"], "segment_above, report: expected images of DICOM; got none"),
        (["--no-dicom", "--secondary-capture"], "secondary_capture: expected without --no-dicom"),
        (["--segment-above", "1"], "segment_above: expected a number in [0, 1); got 1"),
    ],
)
def test_what_can_not_be_is_refused(scans, tmp_path, options, message):
    done = explain(scans / "photo.png", "--out", tmp_path / "out", *options)
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "out").exists()


def test_without_highdicom_dicom_is_refused_but_not_photographs(scans, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    done = explain(scans, "--out", tmp_path / "out")
    assert (done.exit_code, "cfcam-gpu[medical]" in done.stderr) == (2, True), done.stderr
    assert explain(scans / "photo.png", "--out", tmp_path / "photo").exit_code == 0
    assert explain(scans, "--out", tmp_path / "plain", "--no-dicom").exit_code == 0


def test_an_image_that_no_result_can_refer_to_fails_alone(scans, tmp_path):
    spoilt = pydicom.dcmread(scans / "examples_palette.dcm")
    del spoilt.StudyInstanceUID
    spoilt.save_as(scans / "examples_palette.dcm")
    done = explain(scans, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "StudyInstanceUID: missing" in done.stderr
    assert len(_lines(tmp_path / "out")) == 2


def test_the_grid_of_an_input_is_where_the_preparation_puts_it():
    source = reading.read_dicom(get_testdata_file(CT)).source
    grid = Preparation(224, 256, Image.Resampling.BICUBIC, (0.5,) * 3, (0.5,) * 3).grid(placing.pixel_grid(source))
    assert grid.shape == (1, 224, 224)
