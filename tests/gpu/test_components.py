"""The parts of an explanation of images on a GPU: there, and those of the CPU."""

import pytest
import torch
from torch import nn

from cfcam_gpu import CFCAM

pytestmark = pytest.mark.gpu


def test_components_are_the_cpus_and_on_the_gpu(engine):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 24, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)
        )
        images = torch.randn(2, 3, 32, 32)
    model = model.eval().double()  # so that no TF32 comes between the two
    expected = CFCAM(model, "1")(images.double(), 3).components(images.double(), top=2)
    on_gpu = images.double().cuda()
    found = CFCAM(model.cuda(), "1")(on_gpu, 3).components(on_gpu, top=2)
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.raw_map.is_cuda
            assert one.overlay.is_cuda
            assert one.share == pytest.approx(other.share, abs=1e-5)
            assert one.channels.tolist() == other.channels.tolist()
            torch.testing.assert_close(one.map.cpu(), other.map, atol=1e-4, rtol=0)
