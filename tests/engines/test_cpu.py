"""The CPU engine against the oracle: the same labels and radii, to the last bit, and the same maps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cfcam_gpu import CFCAM, Config, engines
from cfcam_gpu.engines import cpu, graph, pairs, reference

from .. import needs
from ..cases import COMBINATIONS, CONFIGS, draw
from ..derivation import dbscan
from ..networks import captured
from ..small import Network, assert_same
from ..small import draw as images

PRESETS = {"default": Config(), "paper": Config.paper(), "two-level": Config.two_level()}
#: Before anything is put in its place.
ORIGINAL = cpu._compiled
RANDOM = [*dict.fromkeys([*CONFIGS.values(), *(config for _, config in COMBINATIONS.values())])]


@pytest.fixture(
    params=["compiled", "numpy", pytest.param("compiled, two threads", marks=pytest.mark.long)],
    autouse=True,
    scope="module",
)
def how(request):
    patch, before = pytest.MonkeyPatch(), torch.get_num_threads()
    torch.set_num_threads(2 if "two" in request.param else 1)
    if request.param == "numpy":
        patch.setattr(cpu, "_compiled", lambda: None)
    else:
        needs.module("numba", "PEERS")
        assert cpu._compiled() is not None
    yield request.param
    patch.undo()
    torch.set_num_threads(before)


@pytest.fixture
def fallbacks(monkeypatch):
    """How often the oracle was asked for an image's clusters."""
    asked, cluster_channels = [], cpu.cluster_channels

    def count(*given):
        asked.append(given)
        return cluster_channels(*given)

    monkeypatch.setattr(cpu, "cluster_channels", count)
    return asked


def assert_the_oracles(activations, gradients, config):
    """Of activations (B, C, *spatial) and gradients (B, T, C, *spatial)."""
    given = tuple(torch.from_numpy(np.array(array)) for array in (activations, gradients))
    before = tuple(tensor.clone() for tensor in given)
    found, expected = cpu.run(*given, config), reference.run(*given, config)
    assert all(torch.equal(one, other) for one, other in zip(given, before))
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.eps, expected.eps)
    assert all(one.dtype == other.dtype and one.shape == other.shape for one, other in zip(found, expected))
    for ours, theirs in ((found.raw_maps, expected.raw_maps), (found.weights, expected.weights)):
        largest = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * largest)
    return found


def assert_the_oracles_of(name):
    case, config = COMBINATIONS[name]
    activations, gradients = draw(case)
    other = np.random.default_rng(1).normal(size=gradients.shape).astype(np.float32)
    assert_the_oracles([activations, activations[::-1].copy()], np.array([[gradients, other]] * 2), config)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_case_with_every_option(name):
    assert_the_oracles_of(name)


@pytest.mark.parametrize("how", ["compiled, two threads"], indirect=True)
def test_two_threads_find_the_same(how):
    for name in [*COMBINATIONS][::4]:
        assert_the_oracles_of(name)
    activations, gradients = captured()
    for config in PRESETS.values():
        assert_the_oracles(activations[:3], gradients[:3, None], config)


@pytest.mark.parametrize("preset", PRESETS)
def test_real_activations_of_the_trained_network(preset, fallbacks):
    activations, gradients = captured()
    found = assert_the_oracles(activations, gradients[:, None], PRESETS[preset])
    assert found.labels.unique().numel() >= 3
    assert not fallbacks


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("channels", [127, 128, 129, 130, 171, 257, 343])
def test_numbers_of_channels_around_whole_bands(channels, preset):
    rng = np.random.default_rng(channels)
    activations = np.maximum(rng.normal(size=(2, channels, 4, 3)), 0).astype(np.float32)
    assert_the_oracles(activations, rng.normal(size=(2, 1, channels, 4, 3)).astype(np.float32), PRESETS[preset])


@pytest.mark.parametrize("size", [(5, 6, 7), (300,), (3, 150), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("name", ["default", "two-level", "positive means"])
def test_volumes_signals_and_long_axes(size, name):
    config = {
        "default": Config(),
        "two-level": Config.two_level(),
        "positive means": Config(combine="positive", noise_floor=0.5, boundary="zero"),
    }[name]
    rng = np.random.default_rng(len(size))
    activations = np.maximum(rng.normal(size=(1, 60, *size)), 0).astype(np.float32)
    assert_the_oracles(activations, rng.normal(size=(1, 2, 60, *size)).astype(np.float32), config)


@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1e15, 1e37])
@pytest.mark.parametrize("name", ["default", "two-level"])
def test_any_scale(scale, name):
    activations, gradients = draw("groups")
    scaled = activations / np.abs(activations).max() * np.float32(scale)
    assert_the_oracles([scaled], gradients[None, None], PRESETS[name])


def test_norms_of_many_magnitudes():
    rng = np.random.default_rng(0)
    activations = rng.normal(size=(2, 200, 3, 3)) * 10.0 ** rng.integers(-9, 4, size=(2, 200, 1, 1))
    gradients = rng.normal(size=(2, 1, 200, 3, 3))
    for config in CONFIGS.values():
        assert_the_oracles(activations, gradients, config)


@pytest.mark.parametrize("rule", ["pair_percentile", "neighbor_median"])
def test_distances_that_are_all_alike_are_left_to_the_oracle(rule, fallbacks):
    """One position for each channel: all are the root of two apart, and float32 can't tell any from eps."""
    activations = np.eye(200).reshape(1, 200, 10, 20)
    gradients = np.random.default_rng(0).normal(size=(1, 1, 200, 10, 20))
    assert_the_oracles(activations, gradients, Config(eps_rule=rule, importance="contribution"))
    assert len(fallbacks) == 1


@pytest.mark.parametrize("rule", ["pair_percentile", "neighbor_median"])
def test_whole_numbers_of_which_few_distances_come(rule):
    rng = np.random.default_rng(0)
    activations = rng.integers(0, 2, size=(1, 200, 2, 3)).astype(np.float64)
    config = Config(eps_rule=rule, dominant_percentile=90)
    assert_the_oracles(activations, rng.normal(size=(1, 1, 200, 2, 3)), config)


@pytest.mark.parametrize("alike", [1e-3, 1e-5])
def test_channels_that_differ_little_are_compared_around_their_mean(alike, fallbacks):
    rng = np.random.default_rng(0)
    activations = 1 + alike * rng.normal(size=(1, 200, 4, 4))
    assert_the_oracles(activations, rng.normal(size=(1, 1, 200, 4, 4)), Config())
    assert not fallbacks


@pytest.mark.parametrize("share", [0.2, 0.95, 1.0])
def test_channels_that_are_zero_take_part_where_none_is_set_aside(share, fallbacks):
    rng = np.random.default_rng(0)
    activations = np.maximum(rng.normal(size=(1, 160, 3, 4)), 0) * (np.arange(160) >= share * 160)[:, None, None]
    gradients = rng.normal(size=(1, 1, 160, 3, 4))
    for rule in ("pair_percentile", "neighbor_median"):
        for percentile in (0.0, 4.0, 25.0, 90.2):
            config = replace(Config.paper(), eps_rule=rule, eps_percentile=percentile)
            assert_the_oracles(activations, gradients, config)
    assert not fallbacks


@st.composite
def problems(draw):
    channels = draw(st.integers(1, 200))
    size = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.normal(size=(1, channels, *size))
    each = (1, channels, *(1 for _ in size))
    kind = draw(st.sampled_from(["any", "relu", "whole", "dead", "alike", "magnitudes", "copies", "cut"]))
    values = {
        "any": lambda: values,
        "relu": lambda: np.maximum(values, 0),
        "whole": lambda: np.round(values),
        "dead": lambda: np.maximum(values, 0) * (rng.random(each) > 0.6),
        "alike": lambda: 1 + 1e-4 * values,
        "magnitudes": lambda: values * 10.0 ** rng.integers(-12, 3, size=each),
        "copies": lambda: values[:, rng.integers(0, channels // 3 + 1, size=channels)],
        "cut": lambda: np.clip(4 * values, 0, 6),
    }[kind]()
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return values.astype(dtype), rng.normal(size=(1, 2, channels, *size)).astype(dtype), draw(st.sampled_from(RANDOM))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(problem=problems())
def test_whatever_comes(problem):
    assert_the_oracles(*problem)


@pytest.mark.long
@settings(max_examples=150, deadline=None, derandomize=True)
@given(problem=problems())
def test_whatever_comes_and_more(problem):
    assert_the_oracles(*problem)


@pytest.mark.parametrize("count", [2, 3, 40, 131, 300])
def test_the_error_of_the_squares_is_within_its_bound(count):
    rng = np.random.default_rng(count)
    for scale in (1.0, 1e-3):
        points = 1.0 + scale * rng.normal(size=(count, 37))
        found = pairs.Pairs(points)
        found.finish()
        exact = ((points[:, None] - points) ** 2).sum(axis=2) / found.unit**2
        one, other = found._ends(np.arange(found.squares.size))
        real = np.isfinite(found.squares)
        assert real.sum() == math.comb(count, 2)
        assert (one[real] < other[real]).all()
        assert np.abs(found.squares - exact[one, other])[real].max() <= found.error
        assert found.error < 1e-4


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_no_setting_of_torchs_rounds_the_distances(precision):
    activations, gradients = draw("groups")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert not pairs._multiplies_in_float32()
        assert_the_oracles([activations], gradients[None, None], Config())
    finally:
        torch.set_float32_matmul_precision(before)
    assert pairs._multiplies_in_float32()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_the_oracles([activations], gradients[None, None], Config())


@pytest.mark.parametrize("density", [0.01, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("min_samples", [1, 3, 9, 10**12])
def test_clusters_of_a_graph(density, min_samples):
    rng = np.random.default_rng(int(100 * density))
    near = rng.random((300, 300)) < density / 2
    near |= near.T
    np.fill_diagonal(near, True)
    expected = dbscan(np.where(near, 0.0, 2.0), 1.0, min_samples)
    np.testing.assert_array_equal(graph.dbscan(near, min_samples), expected)


def test_engines_have_their_names_and_the_oracle_is_one():
    assert engines.ENGINES == ("cpu", "rapids", "fused", "reference")
    explain = CFCAM(Network().eval(), "late", engine="reference")
    assert_same(
        explain(images(0)), CFCAM(explain.model, "late", engine="cpu")(images(0)), but=("weights", "raw_maps", "maps")
    )
    assert engines.choose("reference", torch.device("cuda")) is reference


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_whatever_autograd_does_meanwhile(mode):
    activations, gradients = (torch.from_numpy(np.stack([array, array])) for array in draw("groups"))
    expected = cpu.run(activations, gradients[:, None], Config.two_level())
    with mode():
        found = cpu.run(activations * 1, (gradients * 1)[:, None], Config.two_level())
    for ours, theirs in zip(found, expected):
        assert torch.equal(ours, theirs)
        assert not ours.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_whatever_torchs_default_dtype_is(dtype):
    activations, gradients = draw("groups")
    torch.set_default_dtype(dtype)
    try:
        for config in PRESETS.values():
            assert_the_oracles([activations], gradients[None, None], config)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("scale", [1e-160, 1e-300])
def test_numbers_that_only_float64_has(scale):
    rng = np.random.default_rng(0)
    activations = np.abs(rng.normal(size=(1, 40, 3, 3))) * scale
    for config in PRESETS.values():
        assert_the_oracles(activations, rng.normal(size=(1, 1, 40, 3, 3)), config)


@pytest.mark.parametrize("sigma", [0.1, 0.125, 0.15, 0.2])
@pytest.mark.parametrize("gradient", ["own", "cluster_mean"])
def test_a_filter_so_narrow_that_next_to_nothing_is_left_of_it(sigma, gradient):
    activations, gradients = draw("groups")
    config = Config(gradient=gradient, sigma=sigma, combine="positive", noise_floor=1.0)
    found = assert_the_oracles([activations], gradients[None, None], config)
    assert found.raw_maps.isfinite().all()


def test_compiled_functions_that_do_not_work_are_not_used(caplog):
    def damaged():
        raise EOFError("Ran out of input")

    compiled = needs.module("cfcam_gpu.engines.compiled", "PEERS")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "warm_up", damaged)
        assert ORIGINAL.__wrapped__() is None
    assert "'cpu' runs uncompiled, since numba can't be used: Ran out of input" in caplog.text
