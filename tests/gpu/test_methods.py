"""Every method on a GPU: the maps of the CPU, and hardly anything that comes to the host."""

import pytest
import torch
from torch import nn

from bench.trace import copies_to_host
from cfcam_gpu import CAM
from cfcam_gpu.methods import METHODS

pytestmark = pytest.mark.gpu

NAMES = [name for name, method in METHODS.items() if not method.cluster_filter and not method.attention]
#: Their random numbers are the device's own.
DRAWN = ("randomcam", "smoothgradcam++")


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 24, 4, 4), nn.ReLU(), nn.Conv2d(24, 32, 3, padding=1), nn.ReLU()]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 5)]
        return nn.Sequential(*layers, *head).eval().double()  # so that no TF32 comes between the two


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("options", [{}, {"augment": ["flip", "rotate90"]}], ids=["once", "augmented"])
@pytest.mark.parametrize("name", NAMES)
def test_maps_are_those_of_the_cpu(name, options, model, images):
    found = CAM(model.cuda(), ["1", "3"], method=name, **options)(images.cuda(), [[1, 2], [0, 4]])
    assert found.maps.is_cuda
    assert found.overlay(images.cuda()).is_cuda
    if name in DRAWN:
        again = CAM(model, ["1", "3"], method=name, **options)(images.cuda(), [[1, 2], [0, 4]])
        assert torch.equal(found.maps, again.maps)
        return
    expected = CAM(model.cpu(), ["1", "3"], method=name, **options)(images, [[1, 2], [0, 4]])
    torch.testing.assert_close(found.maps.cpu(), expected.maps, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_no_activation_and_no_map_comes_to_the_host(name, model, images, record_property):
    layers = "3" if METHODS[name].layers == "one" else ["1", "3"]
    explain, on_gpu = CAM(model.cuda(), layers, method=name, smooth=2, augment="flip"), images.cuda()
    explain(on_gpu)
    copies = copies_to_host(lambda: explain(on_gpu))
    record_property("copies to the host, of bytes at most", f"{len(copies)}, {max(copies, default=0)}")
    assert copies, "whether maps are finite does come to the host"
    assert max(copies) <= 64, "smaller than any map"


class Attending(nn.Module):
    """A class token, which the head reads, and patches of 4 x 4, in torch's own blocks."""

    def __init__(self):
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 24, 4, stride=4), nn.Parameter(torch.randn(1, 1, 24))
        blocks = [nn.TransformerEncoderLayer(24, 2, 48, 0.0, batch_first=True, norm_first=True) for _ in range(2)]
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(24, 5)

    def forward(self, given):
        tokens = torch.cat([self.token.expand(len(given), -1, -1), self.patch(given).flatten(2).mT], dim=1)
        return self.head(self.blocks(tokens)[:, 0])


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.attention])
def test_maps_of_attention_are_those_of_the_cpu(name, images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Attending().eval().double()
    expected = CAM(network, method=name)(images, [[1, 2], [0, 4]])
    found = CAM(network.cuda(), method=name)(images.cuda(), [[1, 2], [0, 4]])
    assert found.maps.is_cuda
    assert expected.maps.amax() > 0
    torch.testing.assert_close(found.maps.cpu(), expected.maps, rtol=0, atol=1e-4)
