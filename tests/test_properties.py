"""Whatever comes in: a clear error or a finite map, never a crash or a silent NaN."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cfcam_gpu import Config, cluster_filter_cam
from cfcam_gpu.core.maps import upsample

CONFIGS = st.builds(
    Config,
    dead_threshold=st.sampled_from([None, 0.0, 1e-3, 0.5]),
    importance=st.sampled_from(["activation", "contribution"]),
    dominant_percentile=st.sampled_from([0, 50, 75.0, 100]),
    distance=st.sampled_from(["euclidean", "unit_norm"]),
    eps_rule=st.sampled_from(["pair_percentile", "neighbor_median"]),
    eps_percentile=st.sampled_from([0, 25.0, 99.9, 100]),
    eps_neighbor=st.integers(2, 5),
    min_samples=st.sampled_from([1, 2, 7, 0.05, 0.9]),
    sigma=st.sampled_from([0, 0.3, 1.0, 9]),
    boundary=st.sampled_from(["reflect", "zero"]),
    gradient=st.sampled_from(["cluster_mean", "own"]),
    combine=st.sampled_from(["pooled", "elementwise", "positive"]),
) | st.sampled_from([Config.paper(), replace(Config.two_level(), gate=None)])

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 5))
DTYPES = st.sampled_from(["f2", "f4", "f8", ">f4", ">f8"])
# Few distinct values make ties, zeros dead channels; the rest goes to the ends of float32.
NUMBERS = st.sampled_from([0.0, 0.0, 1.0, -1.0, 0.5, 1e-4]) | st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def pairs(draw, numbers=NUMBERS):
    """Activations and gradients of one shape and of any dtype and strides."""
    shape = draw(SHAPES)

    def array():
        dtype = np.dtype(draw(DTYPES))
        limit = float(np.finfo(dtype).max)
        values = draw(arrays.arrays(np.float64, shape, elements=numbers)).clip(-limit, limit).astype(dtype)
        layout = draw(st.sampled_from(["C", "F", "reversed", "strided", "readonly"]))
        if layout == "reversed":
            return values[::-1, :, ::-1]
        if layout == "strided":
            return np.repeat(values, 2, axis=1)[:, ::2]
        if layout == "readonly":
            values.setflags(write=False)
            return values
        return np.asarray(values, order=layout)

    return array(), array()


@settings(max_examples=200)
@given(pairs(), CONFIGS)
def test_finite_input_gives_a_finite_map(pair, config):
    activations, gradients = pair
    before = activations.copy(), gradients.copy()
    maps = cluster_filter_cam(activations, gradients, config=config)
    assert isinstance(maps, np.ndarray)
    assert maps.shape == activations.shape[1:]
    assert maps.dtype == np.float32
    assert np.isfinite(maps).all()
    assert (maps >= 0).all()
    np.testing.assert_array_equal(activations, before[0])
    np.testing.assert_array_equal(gradients, before[1])
    shown = upsample(torch.tensor(maps), (9, 6))
    assert bool(torch.isfinite(shown).all())
    assert float(shown.max()) in (0.0, 1.0)


@settings(max_examples=60)
@given(pairs(), st.sampled_from([np.nan, np.inf, -np.inf]), st.booleans(), st.integers(0, 10**6))
def test_what_is_not_finite_is_refused_by_name_and_image(pair, wrong, in_gradients, place):
    batch = [np.stack([np.zeros_like(array), array]) for array in pair]
    spoiled = batch[in_gradients][1]
    spoiled.flat[place % spoiled.size] = wrong
    name = ("activations", "gradients")[in_gradients]
    with pytest.raises(
        ValueError, match=f"{name}: expected finite numbers within float32; image 1 has NaN or infinity"
    ):
        cluster_filter_cam(*batch)


@settings(max_examples=60)
@given(pairs(), CONFIGS, st.sampled_from([0.25, 2.0, 1024.0]))
def test_the_map_scales_with_the_gradient(pair, config, factor):
    """Linear weights are linear: a score k times as large has a map k times as large, and the same labels."""
    assume(config.weighting == "linear")
    activations, gradients = (array.astype(np.float32).clip(-1e3, 1e3) for array in pair)
    plain = cluster_filter_cam(activations, gradients, config=config)
    scaled = cluster_filter_cam(activations, gradients * np.float32(factor), config=config)
    np.testing.assert_allclose(scaled, plain * np.float32(factor), rtol=1e-5, atol=1e-6 * max(1, np.abs(scaled).max()))


@settings(max_examples=60)
@given(pairs(), CONFIGS)
def test_a_batch_is_its_images(pair, config):
    activations, gradients = pair
    double = np.stack([activations, activations * 0]), np.stack([gradients, gradients])
    maps = cluster_filter_cam(*double, config=config)
    np.testing.assert_array_equal(maps[0], cluster_filter_cam(activations, gradients, config=config))
    assert not maps[1].any()
