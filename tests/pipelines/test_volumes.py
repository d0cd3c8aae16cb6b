"""Volumes of a source explained into a folder: ``cfcam-gpu run --spatial-dims 3``."""

import csv
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from cfcam_gpu.cli import app
from cfcam_gpu.pipelines import Photographs
from cfcam_gpu.pipelines.ray import Explain
from cfcam_gpu.scans import VolumePreparation

from ..pipeline_jobs import contents, errors, maps, rows
from ..scans import phantoms
from ..scans.dicom.written import PATIENT, ROOT, written
from ..volumes import BRIGHT, SIZE, series


def run(*args):
    given = ["run", "--spatial-dims", "3", "--model", BRIGHT, "--batch-size", "2", *args]
    return CliRunner().invoke(app, [str(arg) for arg in given], catch_exceptions=False)


@pytest.fixture
def source(tmp_path):
    """Two orientations, one volume that is broken, a series, a file that is no image of DICOM."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("RAS", "oblique"):
        phantoms.saved(folder / f"{name}.nii.gz", phantoms.AFFINES[name])
    (folder / "broken.nii").write_bytes((folder / "RAS.nii.gz").read_bytes()[:500])
    series(folder / "Mustermann")
    (folder / "Mustermann" / "Erika.dcm").write_bytes(b"nothing" * 100)
    return folder


def test_every_volume_has_its_map_or_its_error(source, tmp_path):
    done = run(source, "--out", tmp_path / "out")
    assert done.exit_code == 1, done.stderr
    found = rows(tmp_path / "out")
    names = [row["source"] for row in found]
    assert names[1:] == [f"{ROOT}.2.1", "RAS.nii.gz", "broken.nii", "oblique.nii.gz"]
    assert names[0].startswith("unreadable-")
    values = maps(tmp_path / "out")
    assert values.shape == (5, SIZE, SIZE, SIZE)
    by_name = {row["source"]: row for row in found}
    for name in ("RAS", "oblique"):
        row = by_name[f"{name}.nii.gz"]
        assert (row["width"], row["height"], row["depth"]) == phantoms.SHAPE
        grid = VolumePreparation((SIZE,) * 3).grid(phantoms.grid(phantoms.AFFINES[name]))
        middle = phantoms.centre_of(values[row["index"]].astype(np.float32), grid)
        assert np.linalg.norm(middle - phantoms.spot(phantoms.AFFINES[name])) < min(phantoms.SPACING) / 2
    failed = {name: error for name, error in errors(tmp_path / "out").items() if error is not None}
    assert set(failed) == {"broken.nii", names[0]}
    assert "cut off" in failed["broken.nii"]
    assert np.isnan(values[by_name["broken.nii"]["index"]]).all()
    assert by_name[f"{ROOT}.2.1"]["error"] is None
    assert "Erika.dcm, called unreadable-" in done.stderr  # people alone learn the name
    kept = b"".join(contents(tmp_path / "out").values())
    for value in (*PATIENT.values(), "Mustermann"):
        assert value.encode() not in kept


def test_it_goes_on_where_it_was_and_sees_what_has_changed(source, tmp_path):
    run(source, "--out", tmp_path / "out")
    before = contents(tmp_path / "out")
    again = run(source, "--out", tmp_path / "out")
    assert again.exit_code == 1
    assert contents(tmp_path / "out") == before
    changed = source / "Mustermann" / "Mustermann-1-07.dcm"
    changed.touch()
    assert run(source, "--out", tmp_path / "out").exit_code == 1  # the same in a new file
    data = changed.read_bytes()
    changed.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # as long as before
    done = run(source, "--out", tmp_path / "out")
    assert done.exit_code == 2, done.stderr
    assert "something else now: between the images 0 and 4" in done.stderr
    assert maps(tmp_path / "out").shape[0] == 5


def test_workers_read_the_same(source, tmp_path):
    alone = run(source, "--out", tmp_path / "a", "--workers", "0")
    beside = run(source, "--out", tmp_path / "b", "--workers", "1")
    assert alone.exit_code == beside.exit_code == 1
    np.testing.assert_array_equal(maps(tmp_path / "a")[:], maps(tmp_path / "b")[:])
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


def test_a_table_names_files_and_classes(source, tmp_path):
    with open(source / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file", "target"], ["oblique.nii.gz", 2], ["RAS.nii.gz", 0], ["none.nii", 1]])
    done = run(source / "table.csv", "--out", tmp_path / "out")
    assert done.exit_code == 1, done.stderr
    found = rows(tmp_path / "out")
    assert [(row["source"], row["target"]) for row in found] == [
        ("oblique.nii.gz", 2), ("RAS.nii.gz", 0), ("none.nii", None),
    ]  # fmt: skip
    assert found[2]["error"] == "No such file or directory"


def test_a_table_of_dicom_tells_nothing_of_the_patient(source, tmp_path):
    folder = source / "Mustermann"
    frames = written(folder / "Mustermann-cine.dcm", np.ones((4, 6, 5), np.int16), series=5)
    (folder / "Mustermann").mkdir()
    files = [frames, *sorted(folder.glob("Mustermann-1-0*.dcm"))[:1], folder / "Erika.dcm", folder / "Mustermann"]
    files.append(source / "oblique.nii.gz")
    (source / "list.txt").write_text("\n".join(str(file.relative_to(source)) for file in files))
    done = run(source / "list.txt", "--out", tmp_path / "out", "--dicom")
    assert done.exit_code == 1, done.stderr
    found = rows(tmp_path / "out")
    assert [row["source"] for row in found[:2]] == [f"{ROOT}.3.5.1", f"{ROOT}.3.1.1"]
    assert [row["source"][:11] for row in found[2:]] == ["unreadable-", "unreadable-", "oblique.nii"]
    assert "a folder: expected a file in each row" in found[3]["error"]
    assert {file.name for file in (tmp_path / "out" / "dicom").glob("*.dcm")} == {f"{ROOT}.3.1.1.dcm"}
    shutil.rmtree(tmp_path / "out" / "dicom")  # whose objects are the patient's
    kept = b"".join(contents(tmp_path / "out").values())
    said = "".join(line for line in done.stderr.splitlines() if ", called unreadable-" not in line)
    for value in (*PATIENT.values(), "Mustermann", "Erika"):
        assert value.encode() not in kept
        assert value not in said


def test_one_file_and_a_pair(source, tmp_path):
    assert run(source / "RAS.nii.gz", "--out", tmp_path / "a").exit_code == 0
    (tmp_path / "pairs").mkdir()
    phantoms.saved(tmp_path / "pairs" / "x.img", phantoms.AFFINES["RAS"])
    assert run(tmp_path / "pairs", "--out", tmp_path / "b").exit_code == 0
    np.testing.assert_array_equal(maps(tmp_path / "a")[0], maps(tmp_path / "b")[0])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["photographs.tar"], "source: expected a folder with NIfTI files"),
        (["nowhere"], "source: "),
        (["in", "--overlays", "png"], "overlays: expected None"),
        (["in", "--size", "0"], "size: expected N or D,H,W"),
        (["empty"], "no volumes in"),
    ],
)
def test_what_cant_be_meant_is_refused(source, tmp_path, monkeypatch, given, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photographs.tar").write_bytes(bytes(10240))
    (tmp_path / "empty").mkdir()
    done = run(*given, "--out", tmp_path / "out")
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "out").exists()


def test_rays_callable_reads_volumes(source):
    explain = Explain(BRIGHT, spatial_dims=3, device="cpu", dtype="float32")
    paths = [str(source / "RAS.nii.gz"), str(source / "broken.nii"), (source / "oblique.nii.gz").read_bytes()]
    found = explain({"image": np.array(paths, object)})
    assert found["map"].shape == (3, SIZE, SIZE, SIZE)
    assert [error is None for error in found["error"]] == [True, False, True]
    assert np.isnan(found["map"][1]).all()


def test_the_source_in_python_is_of_volumes(source):
    found = Photographs(source, VolumePreparation((8, 8, 8)))
    assert found.spatial_dims == 3
    batch = next(found.batches(5))
    assert batch.images.shape == (5, 1, 8, 8, 8)
    shutil.rmtree(source / "Mustermann")
    assert len(Photographs(source, VolumePreparation((8, 8, 8)))) == 3
