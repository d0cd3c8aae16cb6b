"""``cfcam-gpu explain --spatial-dims 3``: NIfTI and DICOM, maps in their own space, and what is refused."""

import json
import os
import sys
from dataclasses import asdict

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from cfcam_gpu import CFCAM, deploy
from cfcam_gpu.cli import app
from cfcam_gpu.named_models import models, volume_input
from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.scans import Grid, VolumePreparation, read_nifti

from ..scans import phantoms
from ..scans.dicom.written import PATIENT, ROOT, written
from ..volumes import BRIGHT, SILENT, SIZE, series, silent


def explain(*args, model=BRIGHT):
    given = ["explain", "--spatial-dims", "3", "--model", model, *args]
    return CliRunner().invoke(app, [str(arg) for arg in given], catch_exceptions=False)


def lines(out):
    return [json.loads(line) for line in (out / "explanations.jsonl").read_text().splitlines()]


def off(path):
    """How many voxels the middle of a map is off the phantom's spot."""
    scan = read_nifti(path)
    return np.abs(scan.grid.index(phantoms.centre_of(scan.values, scan.grid)) - phantoms.SPOT[::-1]).max()


@pytest.fixture
def folder(tmp_path):
    """A volume in every orientation, one that is broken, and what is passed over."""
    (tmp_path / "in").mkdir()
    for name, affine in phantoms.AFFINES.items():
        phantoms.saved(tmp_path / "in" / f"{name}.nii.gz", affine)
    (tmp_path / "in" / "broken.nii").write_bytes((tmp_path / "in" / "RAS.nii.gz").read_bytes()[:500])
    (tmp_path / "in" / "notes.txt").write_text("nothing")
    return tmp_path / "in"


def test_maps_lie_in_the_space_of_their_volumes(folder, tmp_path):
    done = explain(folder, "--out", tmp_path / "out")
    assert done.exit_code == 1, done.stderr
    assert "broken.nii: damaged or cut off" in done.stderr
    assert "1 of 5 volumes failed" in done.stderr
    assert "passed over: 1 .txt" in done.stderr
    assert "of its images" not in done.stderr
    found = {line["map"].removesuffix(".npy"): line for line in lines(tmp_path / "out")}
    assert set(found) == set(phantoms.AFFINES)
    for name, line in found.items():
        image, source = (nibabel.load(path) for path in (tmp_path / "out" / line["volume"], folder / f"{name}.nii.gz"))
        np.testing.assert_array_equal(image.affine, source.affine)
        assert image.shape == source.shape
        assert image.get_data_dtype() == np.float32
        assert off(tmp_path / "out" / line["volume"]) < 0.5
        seen = np.load(tmp_path / "out" / line["map"])
        assert (seen.shape, seen.max()) == ((SIZE,) * 3, 1)
        # The map as the model saw it, by its own affine.
        grid = Grid(seen.shape, np.array(line["affine"]))
        spot = phantoms.spot(phantoms.AFFINES[name])
        assert np.linalg.norm(phantoms.centre_of(seen, grid) - spot) < min(phantoms.SPACING) / 2
        assert np.abs(np.array(line["peak"]) - spot).max() < 3
        with Image.open(tmp_path / "out" / line["overlay"]) as picture:
            assert picture.mode == "RGB"
        assert (line["class"], line["file"]) == ("class 4", str(folder / f"{name}.nii.gz"))
    assert (tmp_path / "out" / "contact_sheet.png").exists()


def test_a_series_is_a_volume_called_by_its_uid(tmp_path):
    affine = series(tmp_path / "in" / "Mustermann")
    series(tmp_path / "in" / "Mustermann", series=2)
    written(tmp_path / "in" / "Mustermann" / "scout.dcm", np.zeros((4, 4, 4), np.int16), series=3)
    done = explain(tmp_path / "in", "--out", tmp_path / "out", "--window", "500,1000")
    found = lines(tmp_path / "out")
    assert [line["file"] for line in found[:2]] == [f"{ROOT}.2.1", f"{ROOT}.2.2"], done.stderr
    name = f"{ROOT}.2.1"
    assert {path.name for path in (tmp_path / "out").glob(f"{name}.*")} == {
        f"{name}{suffix}" for suffix in (".npy", ".png", ".map.nii.gz", ".dcm")
    }
    np.testing.assert_allclose(nibabel.load(tmp_path / "out" / f"{name}.map.nii.gz").affine, affine, atol=1e-5)
    assert off(tmp_path / "out" / f"{name}.map.nii.gz") < 0.5
    words = [done.stdout + done.stderr, (tmp_path / "out" / "explanations.jsonl").read_text()]
    words += [path.name for path in (tmp_path / "out").iterdir()]
    for value in PATIENT.values():
        assert not any(value in text or "Mustermann" in text for text in words)


def test_what_is_no_file_of_dicom_is_called_so(tmp_path):
    series(tmp_path / "in")
    (tmp_path / "in" / "empty.dcm").touch()
    (tmp_path / "in" / "text.dcm").write_text("nothing of the kind" * 20)
    os.mkfifo(tmp_path / "in" / "pipe.dcm")  # which would wait for ever
    done = explain(tmp_path / "in", "--out", tmp_path / "out")
    assert done.exit_code == 1
    for name, said in (
        ("empty", "not a file of DICOM: it is empty"),
        ("text", "not a file of DICOM, or damaged"),
        ("pipe", "not a regular file"),
    ):
        assert f"{name}.dcm: {said}" in done.stderr
    assert len(lines(tmp_path / "out")) == 1


def test_without_nibabel_nothing_runs_of_dicom_either(tmp_path, monkeypatch):
    series(tmp_path / "in")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    done = explain(tmp_path / "in", "--out", tmp_path / "out")
    assert (done.exit_code, "error: scans: nibabel is not installed; pip install" in done.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


def test_several_classes_and_groups_of_channels(folder, tmp_path):
    file = folder / "oblique.nii.gz"
    done = explain(file, "--out", tmp_path / "both", "--target", "0", "--target", "3")
    assert done.exit_code == 0, done.stderr
    assert [line["volume"] for line in lines(tmp_path / "both")] == ["oblique-0.map.nii.gz", "oblique-3.map.nii.gz"]
    assert explain(file, "--out", tmp_path / "groups", "--components", "2").exit_code == 0
    assert (tmp_path / "groups" / "oblique.components.png").exists()
    assert (tmp_path / "groups" / "components.png").exists()


def test_what_was_read_is_never_written_over(folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    explain(folder / "RAS.nii.gz", "--out", folder, "--overwrite")
    assert (folder / "RAS.map.nii.gz").exists()
    assert {path: path.read_bytes() for path in before} == before


def test_results_that_are_there_are_not_written_over(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "RAS.map.nii.gz").write_text("mine")
    done = explain(folder / "RAS.nii.gz", "--out", tmp_path / "out")
    assert (done.exit_code, "RAS.map.nii.gz would be written over" in done.stderr) == (2, True)
    assert (tmp_path / "out" / "RAS.map.nii.gz").read_text() == "mine"


def test_several_volumes_of_a_file_are_the_channels_of_a_model_of_as_many(tmp_path):
    values = np.stack([phantoms.volume(), 3 * phantoms.volume()], axis=-1)
    phantoms.saved(tmp_path / "two.nii.gz", phantoms.AFFINES["RAS"], values)
    phantoms.saved(tmp_path / "one.nii.gz", phantoms.AFFINES["RAS"])
    done = explain(
        tmp_path / "two.nii.gz", tmp_path / "one.nii.gz", "--out", tmp_path / "o", model="tests.volumes:two_channels"
    )
    assert "one.nii.gz: expected 2 volumes, one for each channel of the model; it has 1" in done.stderr
    assert np.load(tmp_path / "o" / "two.npy").shape == (16, 20, 24)
    assert off(tmp_path / "o" / "two.map.nii.gz") < 0.5
    done = explain(tmp_path / "two.nii.gz", "--out", tmp_path / "p")
    assert "2 volumes, and one is to be explained" in done.stderr


@pytest.mark.parametrize(
    ("options", "model", "said"),
    [
        ([], SILENT, f"size: {SILENT} doesn't say how large its volumes are"),
        (["--size", "8,8"], SILENT, "size: expected N or D,H,W"),
        ([], "tests.albums:small", "spatial_dims: the first convolution of tests.albums:small works on 2 axes"),
        (["--size", "16", "--channels", "3"], SILENT, "fails on a blank volume of 3 x 16 x 16 x 16"),
    ],
)
def test_what_cant_be_meant_is_refused_before_anything_is_read(folder, tmp_path, options, model, said):
    done = explain(folder, "--out", tmp_path / "out", *options, model=model)
    assert done.exit_code == 2
    assert said in done.stderr.replace("\n", "")
    assert not (tmp_path / "out").exists()


def test_photographs_and_volumes_are_told_from_each_other(folder, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "x.png")
    done = explain(tmp_path / "x.png", "--out", tmp_path / "a")
    assert (done.exit_code, "x.png: not a NIfTI file" in done.stderr) == (1, True)
    (tmp_path / "photographs").mkdir()
    (tmp_path / "x.png").rename(tmp_path / "photographs" / "x.png")
    done = explain(tmp_path / "photographs", "--out", tmp_path / "b")
    assert (done.exit_code, "no volumes in" in done.stderr, "passed over: 1 .png" in done.stderr) == (2, True, True)
    command = ["explain", str(folder / "RAS.nii.gz"), "--out", str(tmp_path / "c")]
    done = CliRunner().invoke(app, [*command, "--model", BRIGHT])
    assert (done.exit_code, "takes volumes, by its first convolution; give --spatial-dims 3" in done.stderr) == (
        2,
        True,
    )
    done = CliRunner().invoke(app, [*command, "--model", "tests.albums:small"])
    assert (done.exit_code, "--spatial-dims 3 reads for a model of volumes" in done.stderr) == (1, True)


class TestWhatAModelSays:
    def prepared(self, said, **settings):
        module = silent()
        module.default_cfg = said
        return volume_input.preparation(module, Settings(model="mine", spatial_dims=3, **settings))

    def test_it_is_done(self):
        said = {"input_size": (1, 8, 9, 10), "mean": [0.2], "std": (0.3,), "window": [40, 400], "percentiles": (0, 99)}
        assert self.prepared(said) == VolumePreparation(
            (8, 9, 10), 1, "SAR", (40.0, 400.0), (0.0, 99.0), (0.2,), (0.3,)
        )

    def test_options_come_first(self):
        said = {"input_size": (1, 8, 9, 10), "window": (40, 400)}
        found = self.prepared(said, size=(4, 4, 4), channels=2, window=(1.0, 2.0), mean=(0.5,), std=(0.1, 0.2))
        assert (found.size, found.channels, found.window) == ((4, 4, 4), 2, (1.0, 2.0))
        assert (found.mean, found.std) == ((0.5,), (0.1, 0.2))

    @pytest.mark.parametrize(
        ("given", "message"), [({"mean": (0.5,)}, "both or neither"), ({"mean": (40.0,), "std": (80.0,)}, "--window")]
    )
    def test_mean_and_std_are_those_of_what_the_window_leaves(self, given, message):
        with pytest.raises(ValueError, match=f"^mean and std: expected .*{message}"):
            self.prepared({"input_size": (1, 8, 9, 10)}, **given)

    def test_channels_are_those_of_the_first_convolution(self):
        module = nn.Sequential(nn.Conv3d(4, 2, 3))
        assert volume_input.preparation(module, Settings(spatial_dims=3, size=(4, 4, 4))).channels == 4

    @pytest.mark.parametrize(
        "said",
        [
            {"input_size": (3, 224, 224)},
            {"input_size": 96},
            {"input_size": (1, 8, 8, 8), "mean": "much"},
            {"input_size": (1, 8, 8, 8), "axcodes": "ABC"},
            {"input_size": (1, 8, 8, 8), "window": (1, 2, 3)},
            {"input_size": (1, 0, 8, 8)},
        ],
    )
    def test_what_is_no_description_is_refused(self, said):
        with pytest.raises(ValueError, match="model: mine says"):
            self.prepared(said)


def test_a_model_of_volumes_has_no_preparation_of_photographs():
    model = models.Model(name="x", takes=VolumePreparation((4, 4, 4)), trained=True, module=torch.nn.Identity())
    with pytest.raises(TypeError, match="x takes volumes"):
        _ = model.preparation


@pytest.mark.long
def test_an_exported_file_says_how_its_volumes_are_made(folder, tmp_path):
    preparation = VolumePreparation((8, 10, 12), axcodes="RAS")
    file = tmp_path / "volumes.onnx"
    deploy.export(CFCAM(silent(), "1"), file, torch.rand(1, 1, 8, 10, 12), preparation=asdict(preparation))
    done = explain(folder / "oblique.nii.gz", "--out", tmp_path / "out", model=file)
    assert done.exit_code == 0, done.stderr
    assert np.load(tmp_path / "out" / "oblique.npy").shape == (8, 10, 12)
    assert off(tmp_path / "out" / "oblique.map.nii.gz") < 0.5
    done = explain(folder, "--out", tmp_path / "other", "--size", "9", model=file)
    assert (done.exit_code, "size: expected none with volumes.onnx" in done.stderr) == (2, True)
    done = CliRunner().invoke(app, ["explain", str(folder / "RAS.nii.gz"), "--model", str(file), "--out", "other"])
    assert (done.exit_code, f"spatial_dims: expected 3, as {file} was exported for; got 2" in done.stderr) == (2, True)
