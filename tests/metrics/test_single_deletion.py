"""The single-deletion score: patch by patch in plain loops, for images, volumes and signals."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from cfcam_gpu.metrics import single_deletion


class Weighed(nn.Module):
    """The logit of class 1 is a weighted sum of what is given, that of class 0 is nothing."""

    def __init__(self, shape):
        super().__init__()
        self.register_buffer("weight", torch.randn(shape, generator=torch.Generator().manual_seed(5)))

    def forward(self, images):
        logit = (images * self.weight).flatten(1).sum(dim=1)
        return torch.stack([torch.zeros_like(logit), logit, logit / 2], dim=1)


def by_hand(model, image, a_map, patches):
    sides = [np.array_split(np.arange(n), patches) for n in a_map.shape]
    drops, sums = [], []
    for cell in itertools.product(*sides):
        places = np.ix_(*cell)
        without = image.clone()
        for channel in without:
            channel[places] = 0
        drops.append(float((model(image[None]) - model(without[None]))[0, 1]))
        sums.append(float(a_map.double()[places].sum()))
    return stats.spearmanr(drops, sums).statistic


@pytest.mark.parametrize(("shape", "patches"), [((3, 13, 10), 4), ((2, 30), 7), ((1, 5, 4, 6), 2)])
def test_patch_by_patch(shape, patches):
    generator = torch.Generator().manual_seed(1)
    images, maps = torch.randn(2, *shape, generator=generator), torch.rand(2, *shape[1:], generator=generator)
    model, steps = Weighed(shape), []
    found = single_deletion(model, images, maps, 1, patches=patches, progress=lambda *step: steps.append(step))
    np.testing.assert_allclose(found, [by_hand(model, *pair, patches) for pair in zip(images, maps)], atol=1e-9)
    jobs = 2 * (patches ** (len(shape) - 1) + 1)
    assert steps[-1] == (jobs, jobs)
    torch.testing.assert_close(single_deletion(model, images, maps, 1, patches=patches, memory=1), found)


def test_the_map_that_says_what_each_patch_is_worth_is_right():
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    model = Weighed((1, 16, 16))
    worth = images[:, 0] * model.weight[0]
    maps = (worth - worth.amin()) / (worth.amax() - worth.amin())
    assert single_deletion(model, images, maps, 1).tolist() == [1, 1]
    assert single_deletion(model, images, 1 - maps, 1).tolist() == [-1, -1]
    assert single_deletion(model, images, maps, 0).tolist() == [0, 0], "nothing is lost anywhere"
    assert single_deletion(model, images, torch.ones_like(maps), 1).tolist() == [0, 0]


def test_the_logit_is_what_is_lost_not_the_probability():
    """A probability of 1 loses nothing; its logit does."""
    images = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    model = Weighed((1, 8, 8))
    model.weight.abs_().mul_(1e4)
    assert single_deletion(model, images, images[:, 0] * model.weight[0] / 1e5, 1) > 0.9


def test_bad_input_is_refused():
    images, maps, model = torch.rand(1, 1, 8, 3), torch.rand(1, 8, 3), Weighed((1, 8, 3))
    for patches in (1, 4, 2.0, True):
        with pytest.raises(ValueError, match="patches: expected a number along each axis from 2 to 3"):
            single_deletion(model, images, maps, 1, patches=patches)
    with pytest.raises(ValueError, match="target: class 3 is out of range for 3 classes"):
        single_deletion(model, images, maps, 3, patches=2)
