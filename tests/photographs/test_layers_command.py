"""``cfcam-gpu layers``: what it lists, marks and refuses."""

import json

import torch
from torch import nn
from typer.testing import CliRunner

from cfcam_gpu import CFCAM
from cfcam_gpu.cli import app

from ..networks import two_scales
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
    assert [line[1] for line in lines if line[0] == "*"] == ["blocks.2.norm1", "blocks.2.norm1:"]
    assert "(the head reads the class token alone)" in found.stdout


def test_as_json():
    found = json.loads(run("tests.photographs.test_layers_command:vit", "--json").stdout)
    assert found["image"] == [3, 224, 224]
    (chosen,) = (layer for layer in found["layers"] if layer["chosen"])
    assert chosen["name"] == "blocks.2.norm1"
    assert chosen["shape"] == [51, 24]
    assert (chosen["grid"], chosen["channels"], chosen["extra_tokens"]) == ([7, 7], 24, 2)
    assert "the head reads the class token alone" in chosen["reason"]


def test_both_levels_are_marked_where_there_are_two():
    found = json.loads(run("tests.networks:two_scales", "--json").stdout)
    assert [layer["name"] for layer in found["layers"] if layer["chosen"]] == [
        layer.name for layer in CFCAM(two_scales().eval())(torch.rand(1, 3, 224, 224)).layers
    ]


def test_a_model_that_is_not_there_is_refused():
    found = run("lite9")
    assert found.exit_code == 2
    assert "error: model: expected lite0" in found.stderr
