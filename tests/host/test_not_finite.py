"""Values that are not finite: a CUDA graph can't refuse them, and a call refuses them behind the launch."""

from functools import cache

import torch

from cfcam_gpu import Config
from cfcam_gpu.engines import fused

from ..pairwise import in_pairs
from ..small import CONFIGS
from .emulator import launch

ALL = {**CONFIGS, "elementwise": Config(combine="elementwise", importance="contribution")}


def drawn():
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(3, 75, 4, 5, generator=generator).relu()
    return activations, torch.randn(3, 2, 75, 4, 5, generator=generator)


@cache
def clean(config):
    return fused.compute(*drawn(), ALL[config], launch)[0]


@in_pairs(config=ALL, where=["activations", "gradients", "everywhere"], bad=[torch.nan, torch.inf])
def test_the_kernels_end_and_the_other_images_are_as_alone(config, where, bad):
    expected = clean(config)
    bad_activations, bad_gradients = drawn()
    if where == "gradients":
        bad_gradients[1, 0, 7, 2, 2] = bad
    elif where == "activations":
        bad_activations[1, 7, 2, 2] = bad
    else:
        bad_activations[1] = bad
    found, finite = fused.compute(bad_activations, bad_gradients, ALL[config], launch)
    assert finite[1].tolist() == [where == "gradients", where != "gradients"]
    assert bool(finite[[0, 2]].all())
    for name, ours, theirs in zip(found._fields, found, expected):
        for b in (0, 2):
            assert torch.equal(ours[b], theirs[b]), name
    assert bool(((found.labels >= -3) & (found.labels < 75)).all())
