"""The algorithm against a derivation from the equations that shares no code with it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import sklearn.cluster
from scipy.spatial import distance

from cfcam_gpu import Config
from cfcam_gpu.core.cluster_filter import cluster_channels, weigh
from cfcam_gpu.engines import reference

from ..derivation import cf_cam, dbscan
from ..networks import captured

CONFIGS = {
    "paper": Config.paper(),
    "default": Config(),
    "every other choice": Config(
        dead_threshold=1e-3,
        importance="contribution",
        distance="unit_norm",
        eps_rule="neighbor_median",
        min_samples=3,
        boundary="zero",
        combine="elementwise",
    ),
    "zero boundary, no dominance": Config(dominant_percentile=100, boundary="zero", sigma=1.7, eps_percentile=5),
    "two-level": Config.two_level(),
    "own gradients, pooled": Config(gradient="own", boundary="zero", sigma=0.8),
    "positive, no floor": Config(combine="positive", eps_percentile=60),
    "no filter": Config(sigma=0, eps_percentile=60, min_samples=0.2),
}


def assert_derived(activations, gradients, config):
    pooled = gradients.reshape(len(gradients), -1).mean(axis=1)
    clusters = cluster_channels(activations, pooled, config, reference.PRIMITIVES)
    weighted = weigh(activations, gradients, clusters.labels, config, reference.PRIMITIVES)
    labels, eps, weights, evidence = cf_cam(activations, gradients, config)
    np.testing.assert_array_equal(clusters.labels, labels)
    np.testing.assert_allclose(clusters.eps, eps, rtol=1e-9)
    np.testing.assert_allclose(weighted.weights, weights, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(weighted.map, evidence, rtol=1e-7, atol=1e-9 * max(1.0, evidence.max()))
    return clusters.labels


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "shape",
    [
        (3, 1, 1),
        (4, 1, 5),
        (5, 7, 3),
        (37, 4, 9),
        (64, 7, 7),
        (130, 3, 2),
        (31, 13),
        (5, 1),
        (29, 3, 4, 5),
        (4, 1, 6, 2),
    ],
    ids=str,
)
def test_random_activations_of_odd_shapes(name, shape):
    rng = np.random.default_rng(shape)
    alive = (rng.random(shape[0]) > 0.3).reshape(-1, *[1] * (len(shape) - 1))
    activations = np.maximum(rng.normal(size=shape), 0) * alive
    assert_derived(activations, rng.normal(size=shape), CONFIGS[name])


@pytest.mark.parametrize("name", ["paper", "default", "every other choice", "two-level"])
@pytest.mark.parametrize("image", [0, pytest.param(1, marks=pytest.mark.long)])
def test_real_activations_of_the_trained_network(name, image):
    activations, gradients = captured()
    labels = assert_derived(activations[image], gradients[image], CONFIGS[name])
    assert np.unique(labels).size >= 3


def test_several_clusters_and_their_borders():
    # Two tight groups, points between them and strays: clusters, border points and noise all occur.
    rng = np.random.default_rng(5)
    centres = np.array([[0.0, 0, 0, 0], [9, 9, 0, 0], [0, 9, 9, 9]])
    points = np.concatenate([centre + rng.normal(scale=1.4, size=(18, 4)) for centre in centres])
    points = np.concatenate([points, rng.uniform(-30, 40, size=(9, 4)), 60 + rng.normal(size=(21, 4))])
    activations = points.reshape(-1, 2, 2)
    labels = assert_derived(
        activations, rng.normal(size=activations.shape), Config(eps_percentile=8, min_samples=6, boundary="zero")
    )
    assert set(labels) >= {-2, -1, 0, 1, 2}


@pytest.mark.parametrize(("min_samples", "label"), [(1, 0), (2, -1), (0.05, -1)])
@pytest.mark.parametrize("eps_rule", ["pair_percentile", "neighbor_median"])
def test_a_channel_that_is_clustered_alone_is_a_cluster_where_one_sample_makes_one(min_samples, label, eps_rule):
    rng = np.random.default_rng(0)
    activations, gradients = rng.random((2, 2, 3, 3)) + 1
    activations[1] *= 5  # dominant: the other one is left
    config = Config(min_samples=min_samples, eps_rule=eps_rule)
    assert assert_derived(activations, gradients, config).tolist() == [label, -2]


@pytest.mark.parametrize("ties", ["all equal", "few values", "pairs"])
def test_ties_are_decided_as_in_the_derivation(ties):
    rng = np.random.default_rng(3)
    if ties == "all equal":
        activations = np.ones((12, 2, 2))
    elif ties == "few values":
        activations = rng.integers(0, 3, size=(40, 2, 2)).astype(float)
    else:
        activations = np.repeat(rng.random((16, 2, 2)), 2, axis=0)
    for config in (Config.paper(), Config(), Config(eps_rule="neighbor_median", min_samples=3)):
        assert_derived(activations, rng.normal(size=activations.shape), config)


def test_labels_of_a_border_point_in_reach_of_two_clusters():
    # Each border point lies exactly eps from a core of both clusters: the lower number wins, whatever the order.
    line = np.array([0, 0.25, 0.5, 0.75, 1.75, 2.75, 3, 3.25, 3.5])
    for points in (line, line[::-1].copy()):
        pairs = distance.pdist(points[:, None])
        labels = reference.dbscan(pairs <= 1.0, 9, 4)
        assert labels.tolist() == [0] * 5 + [1] * 4
        assert labels.tolist() == dbscan(distance.squareform(pairs), 1.0, 4)


@pytest.mark.parametrize("seed", range(8))
def test_dbscan_is_scikit_learns_own(seed):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 8, size=(150, 2)).astype(float)
    for eps, min_samples in itertools.product((1.0, 1.5, 2.0), (2, 5, 9)):
        expected = sklearn.cluster.DBSCAN(eps=eps, min_samples=min_samples).fit(points).labels_
        np.testing.assert_array_equal(reference.dbscan(distance.pdist(points) <= eps, 150, min_samples), expected)


@pytest.mark.parametrize("kind", ["random", "half zero", "constant", "two values", "sorted", "skewed"])
def test_order_statistics_are_those_of_a_full_sort(kind):
    rng = np.random.default_rng(1)
    values = {
        "random": rng.random(60_000),
        "half zero": np.maximum(rng.normal(size=60_000), 0),
        "constant": np.full(60_000, 2.5),
        "two values": (rng.random(60_000) > 0.9).astype(float),
        "sorted": np.arange(60_000.0),
        "skewed": np.where(np.arange(60_000) % 12 == 0, 1e9, rng.random(60_000)),  # the sample misleads
    }[kind]
    ordered = np.sort(values)
    for k in (0, 1, 14_999, 15_000, 30_000, 59_998, 59_999):
        expected = ordered[[k, min(k + 1, 59_999)]]
        np.testing.assert_array_equal(reference.order_statistics(values, k), expected)
        small = np.sort(values[:7])
        np.testing.assert_array_equal(reference.order_statistics(values[:7], k % 7), small[[k % 7, min(k % 7 + 1, 6)]])


def test_a_reflecting_filter_leaves_pooled_weights_alone_and_a_zero_boundary_does_not():
    activations, gradients = captured()
    rng = np.random.default_rng(0)
    noisy = gradients[0] + rng.normal(scale=gradients[0].std(), size=gradients[0].shape)
    clusters = cluster_channels(activations[0], noisy.mean(axis=(1, 2)), Config(), reference.PRIMITIVES)
    plain, reflect, zero = (
        weigh(activations[0], noisy, clusters.labels, config, reference.PRIMITIVES).weights
        for config in (Config(sigma=0), Config(), Config(boundary="zero"))
    )
    np.testing.assert_allclose(reflect, plain, atol=1e-12)
    assert np.abs(zero - plain).max() > 1e-6


def test_the_papers_softmax_is_uniform_to_half_a_percent_on_a_real_network():
    activations, gradients = captured()
    clusters = cluster_channels(activations[0], gradients[0].mean(axis=(1, 2)), Config.paper(), reference.PRIMITIVES)
    weights = weigh(activations[0], gradients[0], clusters.labels, Config.paper(), reference.PRIMITIVES).weights
    valid = weights[weights > 0]
    assert abs(valid.sum() - 1) < 1e-12
    assert valid.max() / valid.min() < 1.1
    assert valid.std() / valid.mean() < 0.005


@pytest.mark.parametrize("gradient", ["cluster_mean", "own"])
def test_a_softmax_over_no_channel_is_zero(gradient):
    config = Config(weighting="softmax", dead_threshold=0.0, gradient=gradient)
    activations, gradients = np.zeros((9, 3, 3)), np.random.default_rng(0).normal(size=(9, 3, 3))
    clusters = cluster_channels(activations, gradients.mean(axis=(1, 2)), config, reference.PRIMITIVES)
    assert set(clusters.labels) == {-3}
    weighted = weigh(activations, gradients, clusters.labels, config, reference.PRIMITIVES)
    assert not weighted.weights.any()
    assert not weighted.map.any()


def test_a_filter_of_one_tap_has_no_noise_floor():
    activations, gradients = np.random.default_rng(0).random((2, 9, 3, 3))
    narrow, none = (
        weigh(activations, gradients, np.full(9, -2), config, reference.PRIMITIVES)
        for config in (replace(Config.two_level(), sigma=0.1), replace(Config.two_level(), sigma=0.1, noise_floor=0.0))
    )
    assert np.isfinite(narrow.map).all()
    np.testing.assert_array_equal(narrow.map, none.map)
