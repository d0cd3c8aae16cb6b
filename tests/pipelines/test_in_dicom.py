"""``cfcam-gpu run --dicom``: a Parametric Map of each image of DICOM, the same wherever a run was stopped."""

import shutil
import sys
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import zarr
from PIL import Image
from pydicom.data import get_testdata_file

from cfcam_gpu.results import durable

from .test_command import explain

FRAMES = "rtdose.dcm"


@pytest.fixture
def scans(tmp_path):
    """A slice, fifteen frames, an image of no place, a photograph, and a file that is cut off."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("CT_small.dcm", FRAMES, "examples_palette.dcm"):
        shutil.copy(get_testdata_file(name), folder)
    Image.new("RGB", (30, 20), "red").save(folder / "photo.png")
    (folder / "broken.dcm").write_bytes((folder / "CT_small.dcm").read_bytes()[:20000])
    return folder


def _written(out):
    return {file.name: file.read_bytes() for file in (out / "dicom").glob("*.dcm")}


def test_each_image_of_dicom_has_its_map(scans, tmp_path):
    out = tmp_path / "out"
    done = explain(scans, out, "--dicom", "--batch-size", "4", "--shard-size", "8")
    assert done.exit_code == 1  # the broken file
    assert f"17 Parametric Maps in {out}/dicom" in done.stdout
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    maps = zarr.open_array(out / "maps.zarr", mode="r")
    named = {row["source"]: row for row in rows if row["error"] is None and not row["source"].endswith(".png")}
    assert set(_written(out)) == {f"{name}.dcm" for name in named}
    for name, row in named.items():
        read = pydicom.dcmread(out / "dicom" / f"{name}.dcm")
        assert read.ContentDescription.endswith(f"of {row['class']}")
        assert read.InstanceNumber == row["index"] + 1
        if ".frame" in name:
            np.testing.assert_array_equal(read.pixel_array, maps[row["index"]].astype(np.float32))
            [item] = read.PerFrameFunctionalGroupsSequence
            [referred] = item.DerivationImageSequence[0].SourceImageSequence
            assert referred.ReferencedFrameNumber == int(name.rpartition(".frame")[2])
    # Frames of one file lie where each of them does.
    frames = [pydicom.dcmread(out / "dicom" / f"{name}.dcm") for name in named if ".frame" in name]
    heights = {
        item.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[2] for item in frames
    }
    assert len(heights) == len(frames) == 15


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(scans, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write, count = durable.write, 0

    def stopping(path, *arguments, **options):
        nonlocal count
        count += path.suffix == ".dcm"
        if count == 6:
            raise OSError(28, "No space left on device", str(path))
        write(path, *arguments, **options)

    monkeypatch.setattr(durable, "write", stopping)
    assert explain(scans, out, "--dicom").exit_code == 1
    before = _written(out)
    assert len(before) == 5
    monkeypatch.undo()
    assert "17 Parametric Maps" in explain(scans, out, "--dicom").stdout
    whole = _written(out)
    assert before.items() <= whole.items()
    # What is lost comes again as it was.
    for file in list((out / "dicom").glob("*.dcm"))[:4]:
        file.unlink()
    explain(scans, out, "--dicom")
    assert _written(out) == whole


def test_dropped_with_the_job(scans, tmp_path):
    out = tmp_path / "out"
    explain(scans / "CT_small.dcm", out, "--dicom")
    explain(scans / "photo.png", out, "--restart")
    assert not (out / "dicom").exists()


def test_from_a_tar(scans, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("CT_small.dcm", FRAMES):
            tar.add(scans / name, name)
    done = explain(tmp_path / "a.tar", tmp_path / "out", "--dicom", "--no-mark")
    assert "16 Parametric Maps" in done.stdout, done.output
    assert done.exit_code == 0
    assert b"Not for diagnosis" not in b"".join(_written(tmp_path / "out").values())


@pytest.mark.parametrize(("before", "now"), [("--mark", "--no-mark"), ("--no-mark", "--mark")])
def test_maps_with_the_mark_and_without_are_not_mixed(scans, tmp_path, before, now):
    out = tmp_path / "out"
    explain(scans / "CT_small.dcm", out, "--dicom", before)
    kept = _written(out)
    done = explain(scans / "CT_small.dcm", out, "--dicom", now)
    assert (done.exit_code, f"or give {before}" in done.stderr) == (2, True)
    assert _written(out) == kept
    shutil.rmtree(out / "dicom")  # as the message says
    assert explain(scans / "CT_small.dcm", out, "--dicom", now).exit_code == 0
    assert (b"Not for diagnosis" in b"".join(_written(out).values())) == (now == "--mark")
    assert explain(scans / "CT_small.dcm", out, "--dicom", before, "--restart").exit_code == 0


def test_a_job_does_not_note_what_a_source_of_dicom_is_called(scans, tmp_path):
    (scans / "photos").mkdir()
    (scans / "photo.png").rename(scans / "photos" / "photo.png")
    named = scans.rename(tmp_path / "Miller^John")
    explain(named, tmp_path / "a", "--batch-size", "4", "--shard-size", "8")
    kept = b"".join(file.read_bytes() for file in (tmp_path / "a").rglob("*") if file.is_file())
    assert b"Miller" not in kept
    again = explain(named, tmp_path / "a", "--batch-size", "4", "--shard-size", "8", "--dtype", "float32")
    assert "another job, begun with a source of DICOM: dtype was float16" in again.stderr
    explain(named / "photos", tmp_path / "b")
    assert "Miller" in (tmp_path / "b" / "job.json").read_text()  # of photographs alone
    shutil.copy(named / "CT_small.dcm", named / "photos")
    assert explain(named / "photos", tmp_path / "b", "--append").exit_code == 0
    assert "Miller" not in (tmp_path / "b" / "job.json").read_text()


def test_an_image_without_uids_is_named(scans, tmp_path):
    spoilt = pydicom.dcmread(scans / "CT_small.dcm")
    del spoilt.StudyInstanceUID
    spoilt.save_as(scans / "CT_small.dcm")
    done = explain(scans / "CT_small.dcm", tmp_path / "out", "--dicom")
    assert done.exit_code == 1
    assert "not written as DICOM" in done.stderr
    assert "StudyInstanceUID: missing" in done.stderr


def test_without_highdicom_nothing_runs(scans, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    done = explain(scans, tmp_path / "out", "--dicom")
    assert (done.exit_code, "cfcam-gpu[medical]" in done.stderr) == (2, True)
