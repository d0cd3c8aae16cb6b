"""How broad a two-level map is, by name: on the command line and in CAM."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cfcam_gpu import CAM, CFCAM, Config
from cfcam_gpu.cli import app

from ..networks import photographs, two_scales
from ..transformers import pictures, transformer


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
        (["--layer", "4"], "preset: expected default or paper with one named layer, 4; got broad, which is for two"),
        (
            ["--layer", "2", "--layer", "4", "--fuse", "max"],
            "preset: expected default or paper with fused layers, 2, 4; got broad, which is for two levels",
        ),
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
    with pytest.raises(ValueError, match="extent: expected one of broad, balanced, tight; got 'wide'"):
        CFCAM(model, extent="wide")
    for method in ("gradcam", "cfcam-paper"):
        with pytest.raises(ValueError, match=f"config: expected none with {method}, as only cfcam takes one; got Con"):
            CAM(model, method=method, config=config)


@pytest.mark.parametrize(("config", "named"), [("two_level", None), ("gated", "4"), ("paper", "4")])
def test_an_extent_beside_a_configuration_is_refused_with_what_it_would_be(config, named):
    way_out = "two_level" if config == "two_level" else "gated"
    said = f"which has a saturation of its own; got 'tight'. Give config=Config.{way_out}('tight')"
    with pytest.raises(ValueError, match=re.escape(f"extent: expected none beside config, {said}")):
        CFCAM(two_scales().eval(), named, config=getattr(Config, config)(), extent="tight")


def test_the_extent_of_a_named_layer_of_tokens_is_its_configurations():
    model, images = transformer(), pictures()
    chosen = CFCAM(model, extent="tight")
    maps = chosen(images).maps
    (layer,) = (one.name for one in chosen.layers)
    with pytest.raises(ValueError, match=f"one named target layer, {layer}, as not every layer's default") as refusal:
        CFCAM(model, layer, extent="tight")
    assert "Give config=Config.gated('tight'), of tokens the default with this extent;" in str(refusal.value)
    assert torch.equal(CFCAM(model, layer, config=Config.gated("tight"))(images).maps, maps)
