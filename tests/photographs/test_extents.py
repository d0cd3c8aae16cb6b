"""How broad a two-level map is, by name: on the command line and in CAM."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cfcam_gpu import CAM, CFCAM, Config
from cfcam_gpu.cli import app

from ..networks import photographs, two_scales


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """A file of one."""
    path = tmp_path_factory.mktemp("album") / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)).save(path)
    return path


def explain(photograph, out, *options):
    return CliRunner().invoke(
        app, ["explain", str(photograph), "--model", "tests.networks:two_scales", "--out", str(out), *options]
    )


def test_presets_of_two_levels(photograph, tmp_path):
    maps = {}
    for name in ("default", "broad", "tight"):
        done = explain(photograph, tmp_path / name, "--preset", name, "--components", "1")
        assert done.exit_code == 0, done.stderr
        maps[name] = np.load(tmp_path / name / "x.npy").astype(float)
        (line,) = map(json.loads, (tmp_path / name / "explanations.jsonl").read_text().splitlines())
        assert line["preset"] == name
        assert f"{name} preset" in done.stderr
    tight = maps["tight"]
    assert tight.max() == 1
    np.testing.assert_allclose(maps["broad"], tight * 1.1 / (tight + 0.1), atol=1e-5)
    np.testing.assert_allclose(maps["default"], tight * 1.25 / (tight + 0.25), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "gradcam"], "preset: broad is a form of the method cfcam; got the method gradcam"),
        (["--layer", "4"], "extent: expected none with one target layer, 4, whose map has no such choice; got 'broad'"),
        (["--fuse", "mean", "--components", "1"], "components: only one look by the method cfcam"),
    ],
)
def test_what_an_extent_does_not_go_with(options, said, photograph, tmp_path):
    done = explain(photograph, tmp_path / "out", "--preset", "broad", *options)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_cam_takes_the_configuration():
    model, images = two_scales().eval(), photographs()[1][:1] * 2 - 1
    config = Config.two_level("broad")
    found = CAM(model, method="cfcam", config=config)(images)
    assert torch.equal(found.maps, CFCAM(model, config=config)(images).maps)
    assert found.config == config
    assert CFCAM(model, extent="broad")(images).config == config
    with pytest.raises(ValueError, match="extent: expected none beside config, which has a saturation of its own"):
        CFCAM(model, config=config, extent="tight")
    with pytest.raises(ValueError, match="extent: expected one of broad, balanced, tight; got 'wide'"):
        CFCAM(model, extent="wide")
    for method in ("gradcam", "cfcam-paper"):
        with pytest.raises(ValueError, match=f"config: expected none with {method}, as only cfcam takes one; got Con"):
            CAM(model, method=method, config=config)
