"""The graph, eagerly, against the engine `cpu`: the same labels, the same maps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cfcam_gpu import Config
from cfcam_gpu.core.cluster_filter import MAX_MAP
from cfcam_gpu.deploy.method_graph import MethodGraph, is_empty, refuse

from ...cases import COMBINATIONS, CONFIGS, draw
from ...networks import captured
from .graphs import assert_the_librarys, errors, expected, labels, relu

PRESETS = {"default": Config(), "paper": Config.paper(), "two-level": Config.two_level()}
FORMS = pytest.mark.parametrize("unrolled", [False, True], ids=["loop", "unrolled"])


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_case_with_every_option(name):
    case, config = COMBINATIONS[name]
    activations, gradients = map(torch.from_numpy, draw(case))
    other = torch.from_numpy(np.random.default_rng(1).normal(size=gradients.shape).astype(np.float32))
    activations = torch.stack([activations, activations.flip(0), activations])
    assert_the_librarys(activations, torch.stack([gradients, other, other]), config)


@pytest.mark.parametrize("preset", PRESETS)
def test_real_activations_of_the_trained_network(preset):
    activations, gradients = (torch.from_numpy(array[:2]).float() for array in captured())
    assert_the_librarys(activations, gradients, PRESETS[preset], rounding=0)
    assert labels(activations, gradients, PRESETS[preset]).unique().numel() >= 3


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(2, 64, 14, 14), (2, 672, 14, 14), (1, 2048, 7, 7)], ids=str)
def test_layers_of_usual_sizes(shape, preset):
    assert_the_librarys(*relu(3, *shape), PRESETS[preset], unrolled=[False], rounding=0)


@pytest.mark.parametrize("size", [(5, 6, 7), (300,), (3, 150), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_volumes_signals_and_long_axes(size, preset):
    assert_the_librarys(*relu(0, 2, 60, *size), PRESETS[preset])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("alive", [0, 1, 2, 3])
def test_few_channels_that_are_alive(alive, preset):
    activations, gradients = relu(0, 2, 20, 3, 4)
    activations[0, alive:] = 0
    found = assert_the_librarys(activations, gradients.abs(), PRESETS[preset])
    assert is_empty(found).tolist() == [alive == 0, False]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_few_channels(channels, preset):
    assert_the_librarys(*relu(1, 3, channels, 3, 3), PRESETS[preset])


@pytest.mark.parametrize("rule", ["pair_percentile", "neighbor_median"])
@pytest.mark.parametrize("distance", ["euclidean", "unit_norm"])
@pytest.mark.parametrize("channels", [200, 500])
def test_channels_that_are_equal_have_no_distance_at_all(channels, rule, distance):
    """Rounding of the products would tell them apart: eps is the least that there is."""
    each, gradients = relu(2, 2, 40, 7, 7)
    chosen = torch.from_numpy(np.random.default_rng(0).integers(0, 40, size=channels))
    activations, gradients = each[:, chosen], gradients[:, chosen]
    for percentile in (0.0, 1.0, 25.0):
        config = Config(eps_rule=rule, eps_percentile=percentile, distance=distance, min_samples=2)
        assert_the_librarys(activations, gradients, config, unrolled=[False])


@pytest.mark.parametrize("rule", ["pair_percentile", "neighbor_median"])
@pytest.mark.parametrize("channels", [200, 500])
def test_directions_that_are_equal_have_no_distance_at_all(channels, rule):
    each, gradients = relu(2, 2, 40, 7, 7)
    rng = np.random.default_rng(0)
    chosen = torch.from_numpy(rng.integers(0, 40, size=channels))
    factors = torch.from_numpy(rng.uniform(0.1, 30, size=(channels, 1, 1)).astype(np.float32))
    config = Config(eps_rule=rule, eps_percentile=1.0, distance="unit_norm", min_samples=2)
    assert_the_librarys(each[:, chosen] * factors, gradients[:, chosen], config, unrolled=[False])


@pytest.mark.parametrize("rule", ["pair_percentile", "neighbor_median"])
def test_distances_that_are_equal_stay_equal(rule):
    rng = np.random.default_rng(0)
    activations = torch.from_numpy(rng.integers(0, 3, size=(3, 200, 2, 3)).astype(np.float32))
    gradients = torch.from_numpy(rng.normal(size=(3, 200, 2, 3)).astype(np.float32))
    for percentile in (1.0, 10.0, 25.0, 61.8) if rule == "pair_percentile" else (25.0,):
        config = Config(eps_rule=rule, eps_percentile=percentile, dominant_percentile=90)
        assert_the_librarys(activations, gradients, config, unrolled=[percentile == 25.0])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("constant", ["activations", "gradients", "both"])
def test_maps_that_are_flat(constant, preset):
    activations, gradients = relu(4, 2, 60, 6, 5)
    if constant != "gradients":
        activations = activations.mean((2, 3), keepdim=True).expand_as(activations).contiguous()
    if constant != "activations":
        gradients = gradients.mean((2, 3), keepdim=True).expand_as(gradients).contiguous()
    assert_the_librarys(activations, gradients, PRESETS[preset])


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_of_zero_give_an_empty_map(name):
    activations, gradients = relu(5, 2, 30, 4, 4)
    gradients[0] = 0
    found = assert_the_librarys(activations, gradients, CONFIGS[name])
    # A softmax of weights that are all 0 is none of zeros.
    assert bool(is_empty(found)[0]) == (CONFIGS[name].weighting == "linear")


@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1e6, 1e15, 1e35])
@pytest.mark.parametrize("preset", PRESETS)
def test_any_scale_of_the_activations(scale, preset):
    activations, gradients = relu(12, 2, 80, 5, 5)
    activations[0] *= scale
    assert_the_librarys(activations, gradients, PRESETS[preset])


@pytest.mark.parametrize("scale", [1e-37, 1e-20, 1e15, 1e36])
@pytest.mark.parametrize("preset", ["default", "two-level"])
def test_any_scale_of_the_gradients(scale, preset):
    activations, gradients = relu(13, 1, 80, 5, 5)
    for factor in (1.0, 5.0 / scale):  # what is too large and too small may meet
        assert_the_librarys(activations * factor, gradients * scale, PRESETS[preset])


@pytest.mark.parametrize("preset", ["default", "two-level"])
def test_maps_beyond_float32_are_its_largest_number(preset):
    activations, gradients = relu(14, 1, 40, 3, 3)
    found, _ = MethodGraph(replace(PRESETS[preset], gate=None), unrolled=False)(activations * 1e30, gradients * 1e30)
    assert found.max() == MAX_MAP


def test_norms_of_many_magnitudes():
    rng = np.random.default_rng(0)
    activations = rng.normal(size=(2, 200, 3, 3)) * 10.0 ** rng.integers(-9, 4, size=(2, 200, 1, 1))
    activations = torch.from_numpy(activations.astype(np.float32))
    gradients = torch.from_numpy(rng.normal(size=(2, 200, 3, 3)).astype(np.float32))
    for config in CONFIGS.values():
        assert_the_librarys(activations, gradients, config)


@FORMS
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_makes_no_map_of_that_image_alone(value, preset, unrolled):
    activations, gradients = relu(6, 5, 50, 4, 4)
    coarse = relu(7, 5, 20, 2, 2)
    config = PRESETS[preset]
    coarse = None if config.gate is None else coarse
    clean, _ = MethodGraph(config, unrolled=unrolled)(activations, gradients, coarse)
    activations[1, 3, 2, 2] = gradients[3, 49, 0, 0] = value
    if coarse is not None:
        coarse[0][4, 5, 1, 1] = coarse[1][2, 0, 0, 0] = value
    found, _ = MethodGraph(config, unrolled=unrolled)(activations, gradients, coarse)
    spoilt = [1, 3] if coarse is None else [1, 2, 3, 4]
    for n in range(5):
        assert found[n].isnan().all() if n in spoilt else torch.equal(found[n], clean[n])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("preset", PRESETS)
def test_half_precision_is_taken_as_float32(preset, dtype):
    activations, gradients = (tensor.to(dtype) for tensor in relu(8, 2, 40, 4, 4))
    coarse = tuple(tensor.to(dtype) for tensor in relu(9, 2, 24, 2, 2))
    config = PRESETS[preset]
    found, _ = MethodGraph(config, unrolled=False)(activations, gradients, coarse)
    wanted, _ = MethodGraph(config, unrolled=False)(
        activations.float(), gradients.float(), tuple(tensor.float() for tensor in coarse)
    )
    assert torch.equal(found, wanted)


def test_two_levels_are_the_librarys():
    config = Config.two_level()
    activations, gradients = relu(10, 3, 96, 14, 14)
    coarse = relu(11, 3, 128, 7, 7)
    coarse[1][2] = -coarse[1][2].abs()  # nothing coarse speaks for it
    wanted, _ = expected(activations, gradients, config, coarse)
    found, _ = MethodGraph(config, unrolled=False)(activations, gradients, coarse)
    assert (errors(found, wanted) <= 1e-6).all()
    assert is_empty(found).tolist() == [False, False, True]


def test_a_gate_without_a_coarse_layer_is_refused():
    with pytest.raises(ValueError, match="coarse: expected"):
        MethodGraph(Config.two_level(), unrolled=False)(*relu(0, 1, 8, 3, 3))


@st.composite
def problems(draw):
    channels = draw(st.integers(1, 120))
    size = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.normal(size=(2, channels, *size))
    kind = draw(st.sampled_from(["any", "relu", "whole", "dead", "copies", "cut"]))
    values = {
        "any": lambda: values,
        "relu": lambda: np.maximum(values, 0),
        "whole": lambda: np.round(values),
        "dead": lambda: np.maximum(values, 0) * (rng.random((2, channels, *(1 for _ in size))) > 0.6),
        "copies": lambda: values[:, rng.integers(0, channels // 3 + 1, size=channels)],
        "cut": lambda: np.clip(4 * values, 0, 6),
    }[kind]()
    tensors = (torch.from_numpy(array.astype(np.float32)) for array in (values, rng.normal(size=values.shape)))
    return *tensors, draw(st.sampled_from([*CONFIGS.values(), *(config for _, config in COMBINATIONS.values())]))


@settings(max_examples=40, derandomize=True)
@given(problem=problems())
def test_whatever_comes(problem):
    assert_the_librarys(*problem)


@pytest.mark.long
@settings(max_examples=150, derandomize=True)
@given(problem=problems())
def test_whatever_comes_and_more(problem):
    assert_the_librarys(*problem)


def test_too_many_channels_for_a_runtime_are_refused():
    refuse(Config(), 5000, (7, 7), unrolled=True)
    refuse(Config(), 9000, (7, 7), unrolled=False)
    with pytest.raises(ValueError, match=r"dominant_percentile: expected .* fewer than 3840 .* got 9000 channels"):
        refuse(Config(), 9000, (7, 7), unrolled=True)
    with pytest.raises(ValueError, match="dominant_percentile"):
        refuse(Config(dominant_percentile=10), 4300, (7, 7), unrolled=True)
    with pytest.raises(ValueError, match="1, 2 or 3 spatial axes"):
        refuse(Config(), 64, (2, 2, 2, 2), unrolled=False)
