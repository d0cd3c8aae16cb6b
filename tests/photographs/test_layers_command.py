"""``cfcam-gpu layers``: what it lists, marks and refuses."""

import json

from torch import nn
from typer.testing import CliRunner

from cfcam_gpu.cli import app

from ..transformers_small import VisionTransformer

__all__ = ["vit"]


def vit():
    """With patches of 32 x 32: attention of all those of 4 x 4 takes a minute."""
    model = VisionTransformer(registers=1, depth=3)
    model.patch = nn.Conv2d(3, 24, 32, stride=32)
    return model.eval()


def run(*args):
    return CliRunner().invoke(app, ["layers", *args], catch_exceptions=False)


def test_a_table_with_the_chosen_marked_and_the_reasons():
    found = run("tests.photographs.test_layers_command:vit")
    assert found.exit_code == 0
    lines = [line.split() for line in found.stdout.splitlines()]
    assert ["*", "blocks.2.norm1", "51", "x", "24", "tokens,", "7", "x", "7", "and", "2", "more"] in lines
    assert ["patch", "24", "x", "7", "x", "7", "channels", "first"] in lines
    assert "* blocks.0.norm1: returns an activation of the last one's resolution, shortly before it" in found.stdout


def test_as_json():
    found = json.loads(run("tests.photographs.test_layers_command:vit", "--json").stdout)
    assert found["image"] == [3, 224, 224]
    (fine, coarse) = (layer for layer in found["layers"] if layer["chosen"])
    assert (fine["name"], coarse["name"]) == ("blocks.0.norm1", "blocks.2.norm1")
    assert coarse["shape"] == [51, 24]
    assert (coarse["grid"], coarse["channels"], coarse["extra_tokens"]) == ([7, 7], 24, 2)
    assert "the head reads the class token alone" in coarse["reason"]


def test_a_model_that_is_not_there_is_refused():
    found = run("lite9")
    assert found.exit_code == 2
    assert "error: model: expected lite0" in found.stderr
