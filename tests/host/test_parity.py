"""The fused engine's sequence of launches, its kernels run on the CPU, against the CPU engine."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cfcam_gpu import CFCAM, Config, targets
from cfcam_gpu.engines import execution, fused, reference
from cfcam_gpu.hooks.capture import capture

from ..cases import CASES, COMBINATIONS, CONFIGS, draw
from ..networks import lite0, photographs
from ..pairwise import in_pairs
from .emulator import launch

PRESETS = {"default": Config(), "paper": Config.paper(), "two levels": Config.two_level()}
ANY = (1, 1, 1, 1, 1)
COVERED = {name: row for name, row in COMBINATIONS.items() if fused.why_not(row[1], ANY) is None}


def explain(activations, gradients, config, **options):
    found, finite = fused.compute(torch.as_tensor(activations), torch.as_tensor(gradients), config, launch, **options)
    assert finite.dtype == torch.bool
    for values, flags in zip((activations, gradients), finite.unbind(dim=1)):
        expected = execution.are_finite(torch.as_tensor(values))
        assert torch.equal(flags, expected)
    return found


def assert_parity(activations, gradients, config):
    """Labels and eps are the CPU's, weights and maps within 1e-5 of their largest; (B, C, h, w), (B, T, C, h, w)."""
    activations, gradients = torch.as_tensor(activations), torch.as_tensor(gradients)
    found, expected = explain(activations, gradients, config), reference.run(activations, gradients, config)
    for name, ours, theirs in zip(found._fields, found, expected):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.eps, expected.eps, rtol=1e-13)
    for ours, theirs in ((found.weights, expected.weights), (found.raw_maps, expected.raw_maps)):
        scale = theirs.double().abs().amax(dim=tuple(range(2, theirs.ndim)), keepdim=True)
        assert bool(((ours.double() - theirs.double()).abs() <= 1e-5 * scale).all())
    return found


def one(activations, gradients, config):
    return assert_parity(activations[None], gradients[None, None], config)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("case", CASES)
def test_every_case_with_every_preset(case, preset):
    one(*draw(case), PRESETS[preset])


@pytest.mark.parametrize(("case", "config"), COVERED.values(), ids=COVERED)
def test_every_option(case, config):
    one(*draw(case), config)


def test_all_but_far_neighbors_is_covered():
    assert set(COMBINATIONS) - set(COVERED) == {"groups, far neighbor"}


@in_pairs(channels=[1, 2, 3, 31, 32, 33, 64, 65, 100], side=[(1, 1), (1, 2), (3, 5), (7, 7), (14, 14)], preset=PRESETS)
def test_shapes(channels, side, preset):
    rng = np.random.default_rng(channels)
    activations = np.maximum(rng.normal(size=(2, channels, *side)), 0).astype(np.float32)
    activations[1] *= rng.random((channels, 1, 1)) > 0.4  # so that the images have different counts to cluster
    gradients = rng.normal(size=(2, 1, channels, *side)).astype(np.float32)
    assert_parity(activations, gradients, PRESETS[preset])


@in_pairs(channels=[1, 2, 33, 70], size=[(1,), (13,), (157,), (2, 3, 4), (5, 1, 3), (7, 7, 7)], preset=PRESETS)
def test_signals_and_volumes(channels, size, preset):
    rng = np.random.default_rng(channels)
    activations = np.maximum(rng.normal(size=(2, channels, *size)), 0).astype(np.float32)
    gradients = rng.normal(size=(2, 3, channels, *size)).astype(np.float32)
    assert_parity(activations, gradients, PRESETS[preset])


@in_pairs(size=[(40,), (4, 3, 5), (1, 1, 6)], boundary=["reflect", "zero"], gradient=["cluster_mean", "own"])
def test_nothing_is_filtered_along_axes_that_maps_do_not_have(size, boundary, gradient):
    rng = np.random.default_rng(0)
    activations, gradients = rng.normal(size=(2, 40, *size)).astype(np.float32)
    floor = Config(combine="positive", noise_floor=0.7, boundary=boundary, gradient=gradient)
    for config in (floor, Config(boundary=boundary, gradient=gradient), Config(boundary=boundary, sigma=9.0)):
        one(activations, gradients, config)


@in_pairs(size=[(13,), (3, 5), (3, 2, 4), (9, 9, 13)], gradient=["cluster_mean", "own"], blocks=[8, 40])
def test_blocks_of_several_channels(monkeypatch, size, gradient, blocks):
    """As a large batch has them: up to sixteen, or as many as there is room for; the last block has fewer."""
    monkeypatch.setattr(fused, "_BLOCKS", blocks)
    rng = np.random.default_rng(0)
    activations = np.maximum(rng.normal(size=(2, 33, *size)), 0).astype(np.float32)
    gradients = rng.normal(size=(2, 3, 33, *size)).astype(np.float32)
    assert_parity(activations, gradients, Config(combine="positive", gradient=gradient))


@pytest.mark.parametrize("side", [(64, 64), (64, 1), (1, 64), (17, 23), (256,), (16, 256), (16, 16, 16), (64, 8, 8)])
def test_large_maps(side):
    rng = np.random.default_rng(0)
    activations, gradients = rng.normal(size=(2, 9, *side)).astype(np.float32)
    for config in (*PRESETS.values(), Config(combine="positive", sigma=64.0, noise_floor=0.5, boundary="zero")):
        one(activations, gradients, config)


@pytest.mark.slow
def test_the_most_channels():
    rng = np.random.default_rng(0)
    activations, gradients = rng.normal(size=(2, fused.MAX_CHANNELS, 1, 2)).astype(np.float32)
    found = one(activations, gradients, Config(eps_percentile=0.01, min_samples=3, dominant_percentile=100))
    assert found.labels.max() > 100


@in_pairs(importance=["activation", "contribution"], combine=["pooled", "positive"], gradient=["cluster_mean", "own"])
def test_several_targets_and_chunks(importance, combine, gradient):
    rng = np.random.default_rng(0)
    activations = np.maximum(rng.normal(size=(3, 40, 3, 4)), 0).astype(np.float32)
    gradients = rng.normal(size=(3, 2, 40, 3, 4)).astype(np.float32)
    floor = 0.7 if combine == "positive" else 0.0
    config = Config(importance=importance, combine=combine, gradient=gradient, noise_floor=floor)
    whole = assert_parity(activations, gradients, config)
    for memory in (1, 150_000 if importance == "activation" else 400_000):  # an image at a time, and two
        for ours, theirs in zip(explain(activations, gradients, config, memory=memory), whole):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-12, 1e12, 1e30, 3e37])
def test_huge_and_tiny_numbers(scale):
    activations, gradients = draw("a layer")
    for preset in ("default", "two levels"):
        one((activations * scale).astype(np.float32), gradients, PRESETS[preset])
        one(activations, (gradients * scale).astype(np.float32), PRESETS[preset])


@pytest.mark.parametrize("eps_rule", ["pair_percentile", "neighbor_median"])
@pytest.mark.parametrize(("min_samples", "label"), [(1, 0), (2, -1), (0.05, -1)])
def test_a_channel_that_is_clustered_alone(min_samples, label, eps_rule):
    activations, gradients = draw("two channels")
    found = one(activations, gradients, Config(min_samples=min_samples, eps_rule=eps_rule))
    assert sorted(found.labels.flatten().tolist()) == [-2, label]


def test_what_is_beyond_float32_is_its_largest_number():
    activations = np.full((3, 2, 2), 3e38, np.float32)
    assert one(activations, activations, Config()).raw_maps.max() == torch.finfo(torch.float32).max


@pytest.mark.parametrize("gradient", ["cluster_mean", "own"])
def test_a_softmax_over_no_channel_is_zero(gradient):
    activations, gradients = (values.copy() for values in draw("a layer"))
    activations[:] = 0
    found = one(activations, gradients, Config(weighting="softmax", dead_threshold=0.0, gradient=gradient))
    assert set(found.labels.flatten().tolist()) == {-3}
    assert not bool(found.weights.any())
    assert not bool(found.raw_maps.any())


def test_a_wide_spread_of_magnitudes():
    """Distances far below the first histogram's lowest octave decide about eps."""
    rng = np.random.default_rng(0)
    scales = 10.0 ** rng.uniform(-30, 30, size=(90, 1, 1))
    activations = (rng.normal(size=(90, 3, 3)) * scales).astype(np.float32)
    gradients = rng.normal(size=activations.shape).astype(np.float32)
    for percentile in (1, 25, 60, 99):
        one(activations, gradients, Config(eps_percentile=percentile, dominant_percentile=100))


@pytest.mark.parametrize("percentile", [0, 3, 40, 50, 77, 100])
def test_many_ties_that_are_not_zero(percentile):
    """More pairs share the decisive distance than there is room for candidates."""
    rng = np.random.default_rng(0)
    activations = np.eye(5, 6, dtype=np.float32)[rng.integers(0, 5, 150)].reshape(150, 2, 3)
    gradients = rng.normal(size=activations.shape).astype(np.float32)
    one(activations, gradients, Config(eps_percentile=percentile, dominant_percentile=100))
    one(activations * (1 + 1e-6 * rng.random((150, 1, 1))), gradients, Config(eps_percentile=percentile))


@pytest.mark.parametrize("case", ["a layer", "ties", "groups"])
def test_more_candidates_than_there_is_room_for(monkeypatch, case):
    """They are found among all pairs, then, and the result is the same to the last byte."""
    activations, gradients = (values[None] for values in draw(case))
    expected = explain(activations, gradients[:, None], Config())
    for room in (1, 2):
        monkeypatch.setattr(fused, "CANDIDATES", room)
        found = explain(activations, gradients[:, None], Config())
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_and_memory_formats(dtype):
    torch.manual_seed(0)
    activations = torch.randn(2, 70, 5, 4).relu().to(dtype).contiguous(memory_format=torch.channels_last)
    gradients = torch.randn(2, 1, 70, 5, 4).to(dtype).transpose(-1, -2).contiguous().transpose(-1, -2)
    for config in PRESETS.values():
        assert_parity(activations, gradients, config)


def test_the_same_bytes_on_every_run():
    activations, gradients = draw("groups")
    for config in PRESETS.values():
        first, second = (explain(activations[None], gradients[None, None], config) for _ in range(2))
        assert all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(first, second))


@in_pairs(
    config=[name for name, config in CONFIGS.items() if fused.why_not(config, ANY) is None],
    bad=[np.nan, np.inf, -np.inf],
    share=[0.01, 1.0],
    both=[True, False],
)
def test_nothing_hangs_or_writes_beyond_its_memory_where_numbers_are_not_finite(config, bad, share, both):
    activations, gradients = (values.copy() for values in draw("a layer"))
    for values in (activations, gradients) if both else (activations,):
        values[np.random.default_rng(0).random(values.shape) < share] = bad
    explain(activations[None], gradients[None, None], CONFIGS[config])


# Above 0 far from the smallest doubles: the emulator takes subnormal ones for zero, which no GPU does.
LEVELS = st.floats(1e-200, 100) | st.sampled_from([0.0, 50.0, 100.0])


@st.composite
def configurations(draw):
    combine = draw(st.sampled_from(["pooled", "elementwise", "positive"]))
    sigma = draw(st.sampled_from([0.0, 0.3, 1.0, 1.5, 4.0]))
    return Config(
        dead_threshold=draw(st.sampled_from([None, 0.0, 1e-3, 0.5])),
        importance=draw(st.sampled_from(["activation", "contribution"])),
        dominant_percentile=draw(LEVELS),
        distance=draw(st.sampled_from(["euclidean", "unit_norm"])),
        eps_rule=draw(st.sampled_from(["pair_percentile", "neighbor_median"])),
        eps_percentile=draw(LEVELS),
        eps_neighbor=draw(st.sampled_from([2, 3, 16])),
        min_samples=draw(st.integers(1, 5) | st.floats(0.01, 0.5)),
        gradient=draw(st.sampled_from(["cluster_mean", "own"])),
        sigma=sigma,
        boundary=draw(st.sampled_from(["reflect", "zero"])),
        combine=combine,
        noise_floor=draw(st.sampled_from([0.0, 1.0, 2.5])) if combine == "positive" and sigma > 0.3 else 0.0,
        weighting="linear",
    )


@settings(max_examples=25)
@given(configurations(), st.integers(0, 2**32 - 1))
def test_random_configurations(config, seed):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 90)), int(rng.integers(1, 6)), int(rng.integers(1, 6)))
    make = (rng.normal(size=shape), rng.integers(-1, 2, size=shape), np.maximum(rng.normal(size=shape), 0))
    activations = make[seed % 3] * (rng.random(shape[0]) > 0.3 * rng.random())[:, None, None]
    one(activations.astype(np.float32), rng.normal(size=shape).astype(np.float32), config)


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=[pytest.mark.long] * (name != "default")) for name in PRESETS]
)
def test_a_trained_network(preset):
    """1280 x 7 x 7 and 672 x 14 x 14 of EfficientNet-Lite0 on photographs."""
    explainer, images = CFCAM(lite0()), photographs()[1][:1] * 2 - 1
    explainer(images)
    for layer in explainer.layers:
        found = capture(lite0(), layer, images, targets.read(None, 1))
        assert_parity(found.activations, found.gradients, PRESETS[preset])
