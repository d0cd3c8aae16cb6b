"""Values that are not finite: a captured graph can't refuse them, and a call refuses them behind the launch."""

import pytest
import torch

from cfcam_gpu import Config
from cfcam_gpu.engines import fused

from ..small import CONFIGS
from .emulator import launch

ELEMENTWISE = Config(combine="elementwise", importance="contribution")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["activations", "gradients", "everywhere"])
@pytest.mark.parametrize("config", [*CONFIGS.values(), ELEMENTWISE], ids=[*CONFIGS, "elementwise"])
def test_the_kernels_end_and_the_other_images_are_as_alone(config, where, bad):
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(3, 75, 4, 5, generator=generator).relu()
    gradients = torch.randn(3, 2, 75, 4, 5, generator=generator)
    expected, _ = fused.compute(activations, gradients, config, launch)
    spoiled, slopes = activations.clone(), gradients.clone()
    if where == "gradients":
        slopes[1, 0, 7, 2, 2] = bad
    elif where == "activations":
        spoiled[1, 7, 2, 2] = bad
    else:
        spoiled[1] = bad
    found, finite = fused.compute(spoiled, slopes, config, launch)
    assert finite[1].tolist() == [where == "gradients", where != "gradients"]
    assert bool(finite[[0, 2]].all())
    for name, ours, theirs in zip(found._fields, found, expected):
        for b in (0, 2):
            assert torch.equal(ours[b], theirs[b]), name
    assert bool(((found.labels >= -3) & (found.labels < 75)).all())
