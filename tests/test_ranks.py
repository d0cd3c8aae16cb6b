"""Volumes (B, C, D, H, W) and signals (B, C, L): what is explained follows the rank of the input."""

import itertools
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import scipy.ndimage
import skimage.filters
import torch
from torch import nn
from torch.nn import functional

from cfcam_gpu import CAM, CFCAM, Config, cluster_filter_cam
from cfcam_gpu.core.gate import gate
from cfcam_gpu.core.maps import upsample
from cfcam_gpu.engines import dlpack, rapids, reference
from cfcam_gpu.hooks import layers
from cfcam_gpu.methods import METHODS

from .derivation import cf_cam, gaussian
from .engines.test_rapids import LikeCuML
from .pairwise import in_pairs
from .ranks import network, noise

CONFIGS = {
    "default": Config(),
    "paper": Config.paper(),
    "two-level": Config.two_level(),
    "elementwise": Config(combine="elementwise", sigma=0.8, eps_percentile=60),
}
SIZES = {"signal": (11,), "image": (5, 4), "volume": (3, 4, 5)}


def layer(size, channels=40, batch=2):
    rng = np.random.default_rng(len(size))
    activations = np.maximum(rng.normal(size=(batch, channels, *size)), 0)
    activations[:, ::4] = 0
    return activations, 0.3 + rng.normal(size=activations.shape)


# The algorithm, in both of the engines that take every rank


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("kind", SIZES)
def test_maps_are_the_derived_ones(kind, config):
    activations, gradients = layer(SIZES[kind])
    if config == "two-level":
        given = torch.tensor(activations), torch.tensor(gradients)[:, None]
        found = reference.run(*given, CONFIGS[config]).raw_maps[:, 0]
    else:
        found = cluster_filter_cam(activations, gradients, config=CONFIGS[config], spatial_dims=len(SIZES[kind]))
        single = cluster_filter_cam(activations[1], gradients[1], config=CONFIGS[config], spatial_dims=len(SIZES[kind]))
        np.testing.assert_array_equal(single, found[1])
    assert found.shape == (2, *SIZES[kind])
    for b in range(2):
        expected = cf_cam(activations[b], gradients[b], CONFIGS[config])[3]
        np.testing.assert_allclose(found[b], expected, rtol=1e-5, atol=1e-6 * expected.max())
        assert expected.any()


@in_pairs(config=CONFIGS, kind=["signal", "volume"], smooth=["as cupyx", "as cucim"])
def test_rapids_gives_what_the_cpu_gives(monkeypatch, smooth, kind, config):
    filters = {
        "as cupyx": rapids.of_ndimage(scipy.ndimage.gaussian_filter),
        "as cucim": rapids.of_skimage(skimage.filters.gaussian),
    }
    ops = rapids.primitives(
        np, pdist=reference.PRIMITIVES.pdist, dbscan_class=LikeCuML, gaussian=filters[smooth], synchronize=lambda: None
    )
    monkeypatch.setattr(dlpack, "cupy_on_torch", lambda device: nullcontext())
    monkeypatch.setattr(dlpack, "to_cupy", lambda tensor: tensor.detach().numpy())
    monkeypatch.setattr(rapids, "_on_gpu", lambda: ops)
    activations, gradients = map(torch.tensor, layer(SIZES[kind]))
    gradients = torch.stack([gradients, gradients.flip(1)], dim=1)
    found = rapids.run(activations, gradients, CONFIGS[config])
    for ours, theirs in zip(found, reference.run(activations, gradients, CONFIGS[config])):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("boundary", ["reflect", "zero"])
@pytest.mark.parametrize("size", [(9,), (3, 4, 5), (1, 6, 2)], ids=str)
def test_each_map_is_smoothed_along_all_its_axes(size, boundary):
    maps = np.random.default_rng(0).normal(size=(2, *size))
    expected = [gaussian(one, 1.3, boundary) for one in maps]
    for smooth in (
        reference.gaussian,
        rapids.of_ndimage(scipy.ndimage.gaussian_filter),
        rapids.of_skimage(skimage.filters.gaussian),
    ):
        np.testing.assert_allclose(smooth(maps, 1.3, boundary), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", ["default", "paper", "elementwise"])
def test_an_axis_of_length_one_changes_nothing_where_the_filter_keeps_its_sum(config):
    for size in ((11,), (5, 4)):
        activations, gradients = layer(size)
        explain = partial(cluster_filter_cam, config=CONFIGS[config])
        expected = explain(activations, gradients, spatial_dims=len(size))
        for axis in range(2, len(size) + 3):
            wider = [np.expand_dims(array, axis) for array in (activations, gradients)]
            found = explain(*wider, spatial_dims=len(size) + 1)
            np.testing.assert_allclose(found.squeeze(axis - 1), expected, rtol=1e-6)


@pytest.mark.parametrize("config", ["default", "paper", "elementwise"])
def test_a_volume_of_equal_slices_has_the_slices_map_in_each(config):
    """Norms, distances and eps all grow by one factor; a filter that keeps its sum changes nothing along the slices."""
    activations, gradients = layer((5, 4))
    expected = cluster_filter_cam(activations, gradients, config=CONFIGS[config])
    volumes = [np.repeat(array[:, :, None], 6, axis=2) for array in (activations, gradients)]
    found = cluster_filter_cam(*volumes, config=CONFIGS[config], spatial_dims=3)
    np.testing.assert_allclose(found, np.repeat(expected[:, None], 6, axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:], ids=str)
def test_axes_in_another_order_give_the_map_in_that_order(order, levels):
    """Whatever the network does to each axis: its weights are put into that order, too."""
    model, turned = network(3).double(), network(3).double()
    for convolution in (turned.early[0], turned.late[0]):
        convolution.weight.data = convolution.weight.data.permute(0, 1, *[2 + axis for axis in order]).contiguous()
    names = ["early", "late"][-levels:]
    volumes = noise(2, 2, 6, 7, 8).double()
    plain = CFCAM(model, names)(volumes, [[0, 1], [2, 3]])
    found = CFCAM(turned, names)(volumes.permute(0, 1, *[2 + axis for axis in order]), [[0, 1], [2, 3]])
    for name in ("raw_maps", "maps"):
        expected = getattr(plain, name).permute(0, 1, *[2 + axis for axis in order])
        torch.testing.assert_close(getattr(found, name), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.labels, plain.labels)
    assert not plain.empty.any()


@pytest.mark.parametrize("size", [(11,), (5, 4), (3, 4, 5)], ids=str)
def test_the_gate_is_the_derived_one(size):
    activations, gradients = (torch.tensor(array) for array in layer(size, channels=6))
    gradients = torch.stack([gradients, gradients.flip(1)], dim=1)
    larger = tuple(2 * n for n in size)
    raw = torch.rand(2, 2, *larger)
    found = gate(raw, activations, gradients, Config(gate=0.1))
    for b, t in itertools.product(range(2), range(2)):
        weights = [float(gradient.mean()) for gradient in gradients[b, t]]
        c = np.maximum(sum(w * a.numpy() for w, a in zip(weights, activations[b])), 0)
        c = enlarged(c, larger)
        c = c / (c.max() or 1)
        np.testing.assert_allclose(found[b, t], raw[b, t].numpy() * c**2 / (c**2 + 0.1), atol=1e-5)


# The whole call


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.layers == "one"])
def test_an_image_as_a_volume_of_one_slice_has_its_map(method):
    """Under a network that works on slices, whatever the method."""
    flat, deep = network(2), network(3)
    deep.early[0], deep.late[0] = of_slices(flat.early[0]), of_slices(flat.late[0])
    deep.head = flat.head
    images = noise(2, 2, 8, 7)
    expected = CAM(flat, "late", method=method)(images)
    found = CAM(deep, "late", method=method)(images[:, :, None])
    assert found.maps.shape == (2, 1, 8, 7)
    torch.testing.assert_close(found.raw_maps[:, 0], expected.raw_maps, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.maps[:, 0], expected.maps, rtol=1e-4, atol=1e-5)
    assert not expected.empty.all()


def of_slices(flat):
    """The convolution of each slice of a volume."""
    shapes = {"stride": (1, *flat.stride), "padding": (0, *flat.padding)}
    found = nn.Conv3d(flat.in_channels, flat.out_channels, (1, *flat.kernel_size), **shapes)
    found.weight.data, found.bias.data = flat.weight.data[:, :, None], flat.bias.data
    return found


@pytest.mark.parametrize("size", [(32,), (6, 9, 8)], ids=["signal", "volume"])
def test_two_levels_are_the_derived_ones(size):
    dims = len(size)
    model, images = network(dims), noise(1, 2, *size)
    result = CFCAM(model)(images)
    (target,) = result.target.tolist()
    assert [layer.name for layer in result.layers] == ["early", "late"]

    fine = model.early(images).detach().requires_grad_()
    coarse = model.late(fine)
    logits = model.head(coarse.flatten(2).mean(2))
    rivals = [k for k in range(4) if k != target]
    score = logits[0, target] - 0.75 * logits[0, rivals].logsumexp(0)
    gradients, coarse_gradients = torch.autograd.grad(score, (fine, coarse))
    labels, eps, weights, evidence = cf_cam(fine[0].detach().numpy(), gradients[0].numpy(), Config.two_level())
    np.testing.assert_array_equal(result.labels[0], labels)
    np.testing.assert_allclose(result.eps[0], eps, rtol=1e-5)
    np.testing.assert_allclose(result.weights[0], weights, atol=1e-6)

    means = coarse_gradients[0].reshape(24, -1).mean(1).numpy()
    gradcam = np.maximum(np.tensordot(means, coarse[0].detach().numpy(), 1), 0)
    c = enlarged(gradcam, size)
    c = c / c.max()
    raw = evidence * c**2 / (c**2 + 0.07)
    np.testing.assert_allclose(result.raw_maps[0], raw, atol=1e-5 * raw.max())
    x = raw / raw.max()
    np.testing.assert_allclose(result.maps[0], x * 1.25 / (x + 0.25), atol=1e-4)
    assert result.maps.shape == (1, *size)


def enlarged(field, size):
    """Linear interpolation along each axis between the centres of cells, level beyond the outermost ones."""
    for axis, length in enumerate(size):
        at = (np.arange(length) + 0.5) * field.shape[axis] / length - 0.5
        cells = np.arange(field.shape[axis])
        field = np.apply_along_axis(partial(np.interp, at, cells), axis, field)
    return field


@pytest.mark.parametrize("size", [(4,), (4, 3), (2, 3, 4)], ids=str)
def test_maps_are_interpolated_along_each_axis_and_over_their_maximum(size):
    raw = np.random.default_rng(0).random((2, 3, *size))
    raw[1, 2] = 0
    larger = tuple(5 * n + 1 for n in size)
    found = upsample(torch.tensor(raw, dtype=torch.float32), larger)
    assert found.shape == (2, 3, *larger)
    for b, t in itertools.product(range(2), range(3)):
        expected = enlarged(raw[b, t], larger)
        np.testing.assert_allclose(found[b, t], expected / (expected.max() or 1), atol=1e-5)


@pytest.mark.parametrize("size", [(16,), (6, 9, 8)], ids=["signal", "volume"])
def test_several_targets_callables_and_arrays(size):
    explain, images = CFCAM(network(len(size)), "late"), noise(3, 2, *size)
    several = explain(images, [[0, 1]] * 3)
    assert several.maps.shape == (3, 2, *size)
    assert several.empty.shape == several.eps.shape == (3, 2)
    torch.testing.assert_close(several.raw_maps[:, 1], explain(images, 1).raw_maps)
    torch.testing.assert_close(explain(images, lambda logits: logits[1]).raw_maps, explain(images, 1).raw_maps)
    assert several.numpy().shape == torch.from_dlpack(several).shape == (3, 2, *size)
    model = network(len(size))
    nn.init.constant_(model.head.weight, -1.0)
    assert CFCAM(model, "late")(images, 0).empty.tolist() == [True] * 3


@pytest.mark.parametrize("size", [(16,), (6, 9, 8)], ids=["signal", "volume"])
def test_components_add_up_to_the_map(size):
    images = noise(2, 2, *size)
    result = CFCAM(network(len(size)))(images)
    for b, parts in enumerate(result.components(images)):
        torch.testing.assert_close(sum(part.raw_map for part in parts), result.raw_maps[b])
        assert sum(part.share for part in parts) == pytest.approx(1)
        assert parts[0].map.shape == size
        assert parts[0].overlay.shape == result.overlay(images)[b].shape
    with pytest.raises(ValueError, match=r"images: expected those that were explained, \(2, .*; got \(2, 2, 5\)"):
        result.components(images.flatten(2)[..., :5])


# Layers


def test_slices_may_keep_their_number_from_scale_to_scale():
    chosen = layers.choose_two(network(3, stride=(1, 2, 2)), noise(1, 2, 5, 12, 12))
    assert [(layer.name, layer.reason) for layer in chosen] == [
        ("early", "returns an activation of twice the last one's resolution, 16 x 5 x 12 x 12"),
        ("late", "returns the last spatial activation, 24 x 5 x 6 x 6"),
    ]


class Encoder(nn.Module):
    """A transformer of patches of a signal."""

    def __init__(self, after):
        super().__init__()
        self.patch = nn.Conv1d(2, 8, 4, stride=4)
        self.blocks = nn.Sequential(Block(), Block())
        self.after = after

    def forward(self, x):
        tokens = self.after(self.blocks(self.patch(x).transpose(1, 2)))
        return (tokens[0] if isinstance(tokens, tuple) else tokens).mean(1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x):
        return x + self.mix(self.norm(x))


@pytest.mark.parametrize(
    "after",
    [nn.LayerNorm(8), nn.Linear(8, 3), nn.Sequential(nn.Linear(8, 3)), nn.LSTM(8, 3, batch_first=True)],
    ids=["norm", "linear", "in a container", "recurrent"],
)
def test_channels_of_a_signals_tokens_are_no_positions(after):
    """There are 16 tokens, of 8 or 3 channels; they may also be refused."""
    model, refused = Encoder(after).eval(), None
    try:
        assert CFCAM(model)(noise(1, 2, 64)).raw_maps.shape == (1, 16)
    except ValueError as error:
        refused = str(error)
    assert refused is None or "name a" in refused
    assert CFCAM(model, "patch")(noise(1, 2, 64)).raw_maps.shape == (1, 16)


class Hybrid(nn.Module):
    """Convolutions around a mixture of tokens."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv1d(2, 14, 4, stride=4)
        self.mix = nn.Sequential(nn.LayerNorm(14), nn.Linear(14, 14))
        self.late = nn.Sequential(nn.Conv1d(14, 12, 3, padding=1), nn.ReLU())

    def forward(self, x):
        tokens = self.mix(self.patch(x).transpose(1, 2))
        return self.late(functional.avg_pool1d(tokens.transpose(1, 2), 2)).mean(2)


def test_tokens_between_convolutions_are_no_fine_layer_of_a_signal():
    """The fine layer has 16 positions; the tokens have 14 channels, about twice the late layer's 8 positions."""
    assert CFCAM(Hybrid().eval())(noise(1, 2, 64)).raw_maps.shape == (1, 16)


def test_a_layer_of_another_rank_is_refused_by_shape():
    model = nn.Sequential(nn.Flatten(2, 3), nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    volumes = noise(2, 2, 3, 4, 9)
    with pytest.raises(ValueError, match=r"expected an activation \(B, C, d, h, w\) from 2; got shape \(1,"):
        CFCAM(model.eval(), "2")(volumes)
    assert layers.choose(model, volumes).name == "0.input"


# What is refused


@pytest.mark.parametrize(
    ("dims", "shape", "message"),
    [
        (2, (2, 8, 8), r"images: expected shape \(B, 3, H, W\), nothing of it empty; got \(2, 8, 8\)"),
        (3, (2, 8, 8, 8), r"images: expected shape \(B, C, D, H, W\), nothing of it empty; got \(2, 8, 8, 8\)"),
        (1, (2, 8), r"images: expected shape \(B, C, L\), nothing of it empty; got \(2, 8\)"),
        (3, (1, 2, 8, 0, 8), r"nothing of it empty; got \(1, 2, 8, 0, 8\)"),
        (3, (1, 2, 8, 8, 8, 8), r"images: expected shape \(B, C, D, H, W\)"),
    ],
)
def test_an_input_without_its_batch_axis_is_refused_before_the_model_runs(dims, shape, message):
    model = network(dims)
    model.register_forward_pre_hook(lambda *args: pytest.fail("the model ran"))
    with pytest.raises(ValueError, match=message):
        CFCAM(model)(torch.zeros(shape))


def test_a_model_without_convolutions_says_all_that_fits():
    with pytest.raises(ValueError, match=r"expected shape \(B, C, L\) or \(B, 3, H, W\) or \(B, C, D, H, W\), "):
        CFCAM(nn.Linear(3, 2))(torch.rand(3, 2))


@pytest.mark.parametrize(
    ("shape", "spatial_dims", "message"),
    [
        ((4, 3), 2, r"expected shape \(C, h, w\) or \(B, C, h, w\) for spatial_dims=2; got \(4, 3\)"),
        ((2, 4, 3, 3, 3), 2, r"\(B, C, h, w\) for spatial_dims=2; got \(2, 4, 3, 3, 3\)"),
        ((2, 4, 3, 3), 1, r"\(C, l\) or \(B, C, l\) for spatial_dims=1"),
        ((4, 3), 3, r"\(C, d, h, w\) or \(B, C, d, h, w\) for spatial_dims=3"),
        ((4, 3), 4, "spatial_dims: expected 1, 2 or 3; got 4"),
    ],
)
def test_arrays_of_another_rank_are_refused(shape, spatial_dims, message):
    with pytest.raises(ValueError, match=message):
        cluster_filter_cam(np.ones(shape), np.ones(shape), spatial_dims=spatial_dims)


def test_overlays_want_what_was_explained():
    result = CFCAM(network(3), "late")(noise(2, 2, 4, 5, 6))
    with pytest.raises(ValueError, match=r"images: expected \(B, C, D, H, W\), as those explained; got \(2, 2, 5, 6\)"):
        result.overlay(torch.rand(2, 2, 5, 6))
    with pytest.raises(ValueError, match=r"with B, D, H, W = \(2, 4, 5, 6\), as the maps; got \(2, 2, 4, 5, 7\)"):
        result.overlay(torch.rand(2, 2, 4, 5, 7))
