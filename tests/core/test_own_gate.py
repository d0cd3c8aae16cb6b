"""The gate of one layer by its own net evidence, and the default for tokens that it is part of."""

import numpy as np
import pytest
import torch
from torch import nn

from cfcam_gpu import CFCAM, Config, cluster_filter_cam
from cfcam_gpu.core.gate import gated
from cfcam_gpu.deploy.method_graph import maps as method_graph
from cfcam_gpu.hooks.layouts import Layout
from cfcam_gpu.hooks.target_layer import TargetLayer, are_tokens_of_one_grid

SIZES = {1: (41,), 2: (9, 7), 3: (5, 4, 3)}


def layer(dims, dtype=torch.float32):
    generator = torch.Generator().manual_seed(dims)
    raw = torch.rand(2, 3, *SIZES[dims], generator=generator)
    activations = torch.randn(2, 16, *SIZES[dims], generator=generator)
    gradients = torch.randn(2, 3, 16, *SIZES[dims], generator=generator) + 0.3 * activations[:, None]
    return raw, activations.to(dtype), gradients.to(dtype)


def by_definition(raw, activations, gradients, constant):
    maps = np.zeros(raw.shape)
    for b, t in np.ndindex(*raw.shape[:2]):
        net = (gradients[b, t].double() * activations[b].double()).sum(0).numpy()
        c = np.maximum(net, 0)
        c = c / c.max()
        maps[b, t] = raw[b, t].double().numpy() * c**2 / (c**2 + constant)
    return torch.from_numpy(maps).float()


@pytest.mark.parametrize("dims", SIZES)
def test_it_is_the_net_evidence_that_gates(dims):
    raw, activations, gradients = layer(dims)
    config = Config(gate=0.07, gate_by="own")
    expected = by_definition(raw, activations, gradients, 0.07)
    found = gated(raw, activations, gradients, config)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert 0.1 < (found / raw).mean() < 0.9  # or else it would tell little
    of_target = method_graph.gate(raw[:, 1], activations, gradients[:, 1], config)
    torch.testing.assert_close(of_target, found[:, 1], rtol=1e-4, atol=1e-5)


def test_sums_are_float32_whatever_the_dtype_and_autocast_say():
    raw, activations, gradients = layer(2, torch.bfloat16)
    config = Config.gated()
    exact = gated(raw, activations.float(), gradients.float(), config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gated(raw, activations, gradients, config), exact)


def test_evidence_against_a_target_as_a_whole_is_an_empty_map():
    raw, activations, _ = layer(2)
    found = gated(raw, activations.abs(), -torch.ones(2, 3, 16, 9, 7), Config.gated())
    assert not found.any()


def test_a_gate_by_a_coarse_layer_needs_one():
    raw, activations, gradients = layer(2)
    with pytest.raises(ValueError, match="coarse: expected two tensors, as the configuration has two levels; got None"):
        gated(raw, activations, gradients, Config.two_level())


def test_arrays_of_one_layer_are_gated_as_well():
    _, activations, gradients = layer(2)
    config = Config.gated()
    ungated = Config(
        **{name: getattr(config, name) for name in config.__dataclass_fields__} | {"gate": None, "gate_by": "coarse"}
    )
    plain = cluster_filter_cam(activations[0], gradients[0, 0], config=ungated)
    found = cluster_filter_cam(activations[0], gradients[0, 0], config=config)
    expected = by_definition(plain[None, None], activations[:1], gradients[:1, :1], 0.07)[0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_gate_is_needed_to_be_gated_by_something():
    assert (Config.gated().levels, Config.two_level().levels) == (1, 2)
    with pytest.raises(ValueError, match="gate_by must be 'coarse' where gate is None; got 'own'"):
        Config(gate_by="own")


class Transformer(nn.Module):
    """Patches, a class token, and blocks of one resolution."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.places = nn.Parameter(0.1 * torch.randn(1, 37, 32))
        block = nn.TransformerEncoderLayer(32, 2, 64, 0.0, nn.functional.gelu, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 3, enable_nested_tensor=False)
        self.head = nn.Linear(32, 5)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(images), -1, -1), tokens], dim=1) + self.places
        return self.head(self.blocks(tokens)[:, 0])


def test_tokens_of_one_grid_have_a_default_of_their_own():
    torch.manual_seed(0)
    model, images = Transformer().eval(), torch.randn(2, 3, 48, 48)
    explain = CFCAM(model)
    found = explain(images)
    assert (found.config, explain.libragrad) == (Config.gated(), True)
    (name,) = (one.name for one in found.layers)
    for layers in (name, [name], found.layers):
        for config in (None, Config.gated()):
            by_name = CFCAM(model, layers, config=config)
            assert torch.equal(by_name(images).maps, found.maps)
            assert (by_name.config, by_name.libragrad) == (Config.gated(), True)
    assert CFCAM(model, extent="tight")(images).config == Config.gated("tight")
    plain = CFCAM(model, libragrad=False)
    assert plain(images).config == Config.gated()
    assert not plain.libragrad
    assert not torch.equal(plain(images).maps, found.maps)


def test_what_is_asked_for_stays_as_it_is():
    torch.manual_seed(0)
    model, images = Transformer().eval(), torch.randn(1, 3, 48, 48)
    two = CFCAM(model, config=Config.two_level())
    assert [len(two(images).layers), two.libragrad] == [2, False]
    one = CFCAM(model, "blocks.layers.2.norm1", config=Config())
    assert (one(images).config, one.libragrad) == (Config(), False)
    plain = CFCAM(model, "blocks.layers.2.norm1", libragrad=False)
    assert (plain.config, plain(images).config, plain.libragrad) == (None, Config.gated(), False)
    named = CFCAM(model, ["blocks.layers.1.norm1", "blocks.layers.2.norm1"])
    assert (named.libragrad, named(images).config, named.libragrad) == (None, Config.two_level(), True)


class Places(nn.Module):
    """Convolutions, and a head that reads each place by weights of its own, of which the mean says nothing."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8 * 36, 2)
        with torch.no_grad():
            self.features[0].weight.abs_()
            self.features[0].bias.zero_()
            weight = self.head.weight.view(2, 8, 6, 6).fill_(-0.2)
            weight[0, :, 1, 1] = weight[1, :, 4, 4] = 1.0

    def forward(self, images):
        return self.head(self.features(images).flatten(1))


def test_a_single_layer_that_is_chosen_is_gated_by_its_own_evidence():
    model, images = Places().eval(), torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    explain = CFCAM(model)
    found = explain(images, target=[0, 1])
    assert (found.config, explain.libragrad) == (Config.gated(), False)
    assert [divmod(int(one.argmax()), 6) for one in found.maps] == [(1, 1), (4, 4)]
    assert CFCAM(model, "features")(images, target=[0, 1]).empty.all()  # of pooled gradients


def test_tokens_that_are_laid_out_on_the_way_are_tokens_of_the_same_grid():
    def of(*kinds_and_grids):
        return [TargetLayer(None, "", layout=Layout(kind, grid)) for kind, grid in kinds_and_grids]

    tokens, laid_out, first = ("tokens", (4, 3)), ("channels last", (4, 3)), ("channels first", (4, 3))
    for layers in ([tokens], [tokens, tokens], [tokens, laid_out], [laid_out, tokens]):
        assert are_tokens_of_one_grid(of(*layers))
    for layers in ([laid_out], [laid_out, laid_out], [tokens, first], [tokens, ("channels last", (2, 2))]):
        assert not are_tokens_of_one_grid(of(*layers))
    assert not are_tokens_of_one_grid([TargetLayer(None, "")])


class LaidOut(Transformer):
    """Behind the blocks, positions in rows and columns, of which the head reads the mean."""

    def __init__(self):
        super().__init__()
        self.rows = Rows()

    def forward(self, images):
        tokens = self.patches(images).flatten(2).mT + self.places[:, 1:]
        return self.head(self.rows(self.blocks(tokens)).mean(dim=(1, 2)))


class Rows(nn.Module):
    def forward(self, tokens):
        return tokens.unflatten(1, (6, 6))


def test_they_have_the_default_of_tokens():
    torch.manual_seed(0)
    explain = CFCAM(LaidOut().eval())
    found = explain(torch.randn(2, 3, 48, 48))
    assert [layer.layout.kind for layer in found.layers] == ["channels last"]
    assert (found.config, explain.libragrad) == (Config.gated(), True)
