"""Two levels: a fine layer and a coarse one, from one forward."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from bench.models import resnet50
from cfcam_gpu import CFCAM, Config, cluster_filter_cam
from cfcam_gpu.core.gate import gate
from cfcam_gpu.core.maps import upsample
from cfcam_gpu.hooks import layers

from ..derivation import cf_cam
from ..networks import lite0, photographs

FINE, COARSE = "_blocks.11._depthwise_conv.input", "_avg_pooling.input"


@pytest.fixture(scope="module")
def images():
    return photographs()[1] * 2 - 1


def by_whole_backward(images, target):
    """Activations and gradients of both layers, from ordinary autograd over the whole network."""
    kept = {}

    def keep(name):
        def hook(module, args):
            args[0].retain_grad()
            kept[name] = args[0]

        return hook

    model = lite0()
    handles = [
        model.get_submodule(name.removesuffix(".input")).register_forward_pre_hook(keep(name))
        for name in (FINE, COARSE)
    ]
    logits = model(images.clone().requires_grad_())
    rivals = [j for j in range(1000) if j != target]
    (logits[:, target] - 0.75 * logits[:, rivals].logsumexp(1)).sum().backward()
    for handle in handles:
        handle.remove()
    model.zero_grad()
    return [(kept[name].detach(), kept[name].grad) for name in (FINE, COARSE)]


def test_the_map_is_the_derived_one(images):
    result = CFCAM(lite0(), [FINE, COARSE])(images[:1], 282)
    (fine, gradients), (coarse, coarse_gradients) = by_whole_backward(images[:1], 282)
    labels, eps, weights, evidence = cf_cam(fine[0].numpy(), gradients[0].numpy(), Config.two_level())
    np.testing.assert_array_equal(result.labels[0], labels)
    np.testing.assert_allclose(result.eps[0], eps, atol=1e-5)
    np.testing.assert_allclose(result.weights[0], weights, atol=1e-5)

    gradcam = np.maximum((coarse_gradients[0].mean((1, 2))[:, None, None] * coarse[0]).sum(0).numpy(), 0)
    larger = functional.interpolate(torch.tensor(gradcam)[None, None], size=(14, 14), mode="bilinear")[0, 0].numpy()
    c = larger / larger.max()
    raw = evidence * c**2 / (c**2 + 0.07)
    np.testing.assert_allclose(result.raw_maps[0], raw, atol=1e-5)
    x = functional.interpolate(torch.tensor(raw)[None, None], size=(224, 224), mode="bilinear")[0, 0].numpy()
    x = x / x.max()
    np.testing.assert_allclose(result.maps[0], x * 1.25 / (x + 0.25), atol=1e-4)


def test_without_layers_two_are_chosen_and_told(images):
    explain = CFCAM(lite0())
    result = explain(images[:2])
    assert [layer.name for layer in result.layers] == [FINE, COARSE]
    assert "twice the last one's resolution, 672 x 14 x 14" in result.layers[0].reason
    assert result.config == explain.config == Config.two_level()
    assert torch.equal(result.maps, CFCAM(lite0(), (FINE, COARSE))(images[:2]).maps)
    assert [layer.name for layer in layers.choose_two(resnet50(), images[:1])] == ["layer3", "layer4"]


class Mixer(nn.Module):
    """Six residual blocks of one resolution behind a stem of patches."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 16, 16)
        self.blocks = nn.Sequential(*[Block() for _ in range(6)])
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(8, 8, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, x):
        return x + self.act(self.mix(x))


def test_one_scale_has_its_fine_layer_shortly_before(images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mixer().eval()
    result = CFCAM(model)(images[:1])
    assert [layer.name for layer in result.layers] == ["blocks.3", "blocks"]
    told = "returns an activation of the last one's resolution, shortly before it, 8 x 14 x 14"
    assert result.layers[0].reason == told
    assert result.config == Config.two_level()


def test_convnext_has_its_third_and_fourth_stage(peer):
    peer("torchvision")
    from torchvision.models import convnext_tiny

    chosen = layers.choose_two(convnext_tiny(weights=None).eval(), torch.zeros(1, 3, 64, 64))
    assert [layer.name for layer in chosen] == ["features.5", "features"]


def test_one_activation_is_explained_at_one_level(images):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    result = CFCAM(model.eval())(images[:1])
    assert [layer.name for layer in result.layers] == ["1"]
    assert result.config == Config.gated()


def test_several_targets_from_one_forward(images):
    explain = CFCAM(lite0())
    several = explain(images[:2], [[281, 207], [967, 1]])
    assert several.raw_maps.shape == (2, 2, 14, 14)
    for t in range(2):
        single = explain(images[:2], several.target[:, t])
        torch.testing.assert_close(several.maps[:, t], single.maps, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "mosaics",
    [
        ([0, 1, 2, 5], [1, 5, 4, 0]),
        pytest.param(([0, 1, 2, 5], [1, 5, 4, 0], [2, 0, 5, 1], [4, 2, 1, 5]), marks=pytest.mark.long),
    ],
    ids=len,
)
def test_on_mosaics_the_right_cell_has_most_of_the_energy(images, mosaics):
    classes = CFCAM(lite0())(images).target.tolist()
    shares = []
    for members in mosaics:
        cells = images[members]
        mosaic = torch.cat([torch.cat([cells[0], cells[1]], 2), torch.cat([cells[2], cells[3]], 2)], 1)
        for t, energy in enumerate(CFCAM(lite0())(mosaic[None], [[classes[member] for member in members]]).maps[0]):
            row, column = divmod(t, 2)
            own = energy[row * 224 : (row + 1) * 224, column * 224 : (column + 1) * 224]
            shares.append(float(own.sum() / energy.sum()))
    assert np.mean(shares) > 0.7


def test_saturation_keeps_the_order_and_the_ends():
    raw = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0))
    plain, shown = upsample(raw, (11, 11)), upsample(raw, (11, 11), saturation=0.3)
    assert torch.equal(plain.flatten().argsort(), shown.flatten().argsort())
    assert bool((shown >= plain - 1e-6).all())
    torch.testing.assert_close(shown.amax((1, 2)), torch.ones(2))
    assert not upsample(raw * 0, (11, 11), saturation=0.3).any()


def test_no_coarse_evidence_is_an_empty_map():
    activations, gradients = torch.rand(1, 3, 2, 2), -torch.rand(1, 1, 3, 2, 2)
    gated = gate(torch.rand(1, 1, 4, 4), activations, gradients, Config(gate=0.05))
    assert not gated.any()
    assert bool(torch.isfinite(gated).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_the_gate_of_a_half_precision_layer_is_that_of_its_numbers_in_float32(dtype, size):
    # At 100 the sums over channels, some 10^5, are beyond float16's 65504.
    generator = torch.Generator().manual_seed(0)
    raw, activations = torch.rand(2, 3, 9, 7, generator=generator), torch.rand(2, 64, 5, 4, generator=generator)
    gradients = torch.randn(2, 3, 64, 5, 4, generator=generator) + 0.3
    activations, gradients = (activations * size).to(dtype), (gradients * size).to(dtype)
    exact = gate(raw, activations.double().float(), gradients.double().float(), Config.two_level())
    gated = gate(raw, activations, gradients, Config.two_level())
    assert gated.dtype == torch.float32
    torch.testing.assert_close(gated, exact, rtol=1e-6, atol=1e-7)
    # Against an own sum in float64: what is left of it is float32's rounding.
    coarse = torch.einsum("btc,bchw->bthw", gradients.double().mean((3, 4)), activations.double()).relu()
    larger = functional.interpolate(coarse, size=(9, 7), mode="bilinear")
    c = larger / larger.amax((2, 3), keepdim=True)
    torch.testing.assert_close(gated.double(), raw.double() * c**2 / (c**2 + 0.07), rtol=1e-4, atol=1e-5)
    assert 0.1 < (gated / raw).median() < 0.99  # or else it would tell little


def test_layers_and_configuration_have_to_fit(images):
    with pytest.raises(ValueError, match=f"configuration of 2 levels needs as many target layers; got {COARSE}"):
        CFCAM(lite0(), COARSE, config=Config.two_level())
    with pytest.raises(ValueError, match=f"configuration of 1 level needs as many target layers; got {FINE}, {COARSE}"):
        CFCAM(lite0(), [FINE, COARSE], config=Config.paper())
    with pytest.raises(ValueError, match="target_layer: expected one layer, or two, the finer one first; got 3"):
        CFCAM(lite0(), [FINE, COARSE, FINE])
    with pytest.raises(ValueError, match=f"expected the finer layer first.*{FINE} does not depend on {COARSE}"):
        CFCAM(lite0(), [COARSE, FINE])(images[:1])
    with pytest.raises(ValueError, match="cluster_filter_cam takes the arrays of one layer"):
        cluster_filter_cam(np.ones((2, 2, 2)), np.ones((2, 2, 2)), config=Config.two_level())


def test_nothing_of_the_model_changes(images):
    model = lite0()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    CFCAM(model)(images[:1])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_the_gate_is_float32_whatever_autocast_says():
    generator = torch.Generator().manual_seed(0)
    raw, activations = torch.rand(2, 3, 8, 8, generator=generator), torch.rand(2, 16, 4, 4, generator=generator)
    gradients = torch.randn(2, 3, 16, 4, 4, generator=generator)
    expected = gate(raw, activations, gradients, Config(gate=0.05))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gate(raw, activations, gradients, Config(gate=0.05))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
