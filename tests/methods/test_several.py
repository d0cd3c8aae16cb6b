"""The CAMs of many layers: against their papers' equations in plain loops, and against other libraries."""

import numpy as np
import pytest
import torch

from cfcam_gpu import CAM, targets
from cfcam_gpu.hooks import layers
from cfcam_gpu.hooks.capture import capture
from cfcam_gpu.methods import METHODS
from cfcam_gpu.methods.gradient import layercam
from cfcam_gpu.methods.several import AtLayer, refinecam, winsorcam

from ..cams import Derivation, Net, batch, bilinear, made

LAYERS = ["first", "act", "act2"]


@pytest.fixture
def net():
    return made(Net())


@pytest.fixture
def images():
    return batch()


def taken(net, image, target):
    """Activations and gradients, (C, h, w) float64, of the layers of one image."""
    net, image = net.double(), image[None].double()
    first = net.first(image)
    act = first.relu()
    act2 = net.second(act).relu()
    gradients = torch.autograd.grad(net.tail(act2)[0, target], [first, act, act2])
    net.float()
    return [(a.detach()[0], g[0]) for a, g in zip((first, act, act2), gradients)]


def stretched(field):
    field = np.array(field)
    low, high = field.min(), field.max()
    return (field - low) / (high - low) if high > low else np.zeros_like(field)


def enlarged(field, height=8, width=6):
    return bilinear(field.tolist(), height, width)


def refined(pairs):
    product = np.ones((8, 6))
    for activations, gradients in pairs:
        product = product * stretched(enlarged(stretched(Derivation(activations, gradients).gradcam_plusplus())))
    return product


def winsorized(pairs, percentile=90):
    maps, importances = [], []
    for activations, gradients in pairs:
        weights = [float(channel.mean()) for channel in gradients]
        maps.append(enlarged(stretched(Derivation(activations, gradients).weigh(weights))))
        importances.append(max(sum(weights) / len(weights), 0.0))
    alive = sorted(value for value in importances if value > 0)
    if not alive:
        return np.zeros((8, 6))
    at = (len(alive) - 1) * percentile / 100
    low = int(at)
    cut = alive[low] + (at - low) * (alive[min(low + 1, len(alive) - 1)] - alive[low])
    least, most = min(alive), min(max(alive), cut)
    total = np.zeros((8, 6))
    for value, of_layer in zip(importances, maps):
        if value > 0:
            share = (min(value, cut) - least) / (most - least) if most > least else 1.0
            total += (0.1 + 0.9 * share if most > least else 1.0) * of_layer
    return total


@pytest.mark.parametrize(("name", "equation"), [("refinecam", refined), ("winsorcam", winsorized)])
def test_it_is_its_papers_equation(name, equation, net, images):
    found = CAM(net, LAYERS, method=name)(images, [[0, 1, 2, 3], [3, 2, 1, 0]])
    assert found.raw_maps.shape == (2, 4, 8, 6)
    blank = 0
    for b, classes in enumerate([[0, 1, 2, 3], [3, 2, 1, 0]]):
        for t, target in enumerate(classes):
            expected = equation(taken(net, images[b], target))
            np.testing.assert_allclose(found.raw_maps[b, t], expected, rtol=1e-3, atol=1e-5)
            blank += not expected.any()
    assert blank < 4


def test_winsorcam_cuts_what_is_beyond_the_percentile():
    """Of seven layers, of which one has a negative importance and one far more than the others."""
    drawn = torch.Generator().manual_seed(2)
    activations = [torch.rand(1, 3, 8, 6, generator=drawn, dtype=torch.float64) for _ in range(7)]
    gradients = [torch.full((1, 1, 3, 8, 6), value, dtype=torch.float64) for value in (1, 2, 3, -4, 5, 6, 20)]
    found = winsorcam([AtLayer(a, g) for a, g in zip(activations, gradients)], (8, 6))
    pairs = [(a[0], g[0, 0]) for a, g in zip(activations, gradients)]
    np.testing.assert_allclose(found[0, 0], winsorized(pairs), rtol=1e-5)
    assert np.abs(winsorized(pairs) - winsorized(pairs, 100)).max() > 0.1, "or it would not have mattered"


@pytest.mark.parametrize("run", [refinecam, winsorcam])
def test_layers_that_say_nothing_make_no_nan_and_what_is_nan_stays_it(run):
    activations, gradients = torch.ones(2, 3, 2, 2), torch.ones(2, 1, 3, 2, 2)
    alike = [AtLayer(activations, gradients), AtLayer(activations, -gradients)]
    assert torch.equal(run(alike, (2, 2)), torch.zeros(2, 1, 2, 2))
    activations = torch.arange(24.0).reshape(2, 3, 2, 2)
    activations[1, 0, 0, 0] = torch.nan
    found = run([AtLayer(activations, gradients)] * 2, (2, 2)).isnan().flatten(1).any(dim=1)
    assert found.tolist() == [False, True]


@pytest.mark.parametrize("run", [refinecam, winsorcam])
def test_half_precision_and_other_ranks_are_taken(run):
    for shape, finer in (((4,), (8,)), ((2, 3, 2), (4, 3, 4))):
        drawn = torch.Generator().manual_seed(0)
        halved = [
            AtLayer(torch.rand(2, 3, *size, generator=drawn).half(), torch.rand(2, 2, 3, *size, generator=drawn).half())
            for size in (finer, shape)
        ]
        found = run(halved, finer)
        assert found.shape == (2, 2, *finer)
        assert found.dtype == torch.float32
        exact = run([AtLayer(one.activations.double(), one.gradients.double()) for one in halved], finer)
        torch.testing.assert_close(found, exact.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_pytorch_grad_cam_and_torch_cam_refine_alike(images, peer):
    """pytorch-grad-cam, which has the authors' code, at the image's size: here that of the finest layer, too."""
    grad_cam, torch_cam = peer("pytorch_grad_cam"), peer("torchcam.methods")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net = made(Net(scale=1e4))  # beside such gradients the epsilons in their denominators don't count
    found = CAM(net, LAYERS, method="refinecam")(images, [1, 3]).raw_maps
    cam = grad_cam.RefineCAM(net, [net.first, net.act, net.act2])
    expected = cam(images, [ClassifierOutputTarget(k) for k in (1, 3)])
    for one, other in zip(found, expected):
        np.testing.assert_allclose(stretched(one), other, atol=1e-3)
    # torch-cam's Grad-CAM++ leaves its weights undivided, and it stretches once: so does this product of LayerCAMs.
    with torch_cam.RefineCAM(net, LAYERS, base_method=torch_cam.LayerCAM) as cam:
        expected = cam([1, 3], net(images))[0].detach()
    first, *others = (layers.find(net, layer) for layer in LAYERS)
    captured = capture(net, first, images, targets.read([1, 3], 2), others=others)
    pairs = [(captured.activations, captured.gradients), *captured.others]
    product = torch.stack([AtLayer(*pair).spread(layercam(*pair), (8, 6)) for pair in pairs]).prod(dim=0)
    for one, other in zip(product[:, 0], expected):
        np.testing.assert_allclose(stretched(one), other, atol=1e-4)


def test_which_methods_take_many_layers_is_told():
    assert {name for name, one in METHODS.items() if one.from_layers} == {"refinecam", "winsorcam"}
    assert all(METHODS[name].layers == "all" for name in ("refinecam", "winsorcam", "legrad"))
    assert METHODS["cfcam"].layers == METHODS["gradcam"].layers == "one"
