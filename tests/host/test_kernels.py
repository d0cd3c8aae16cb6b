"""Single kernels where the whole engine would hardly lead them: filters beyond their maps, clusters of any form."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial import distance

from cfcam_gpu import Config
from cfcam_gpu.engines import fused, reference

from ..pairwise import in_pairs
from .emulator import launch

SCIPY_BOUNDARY = {"reflect": "reflect", "zero": "constant"}


@in_pairs(
    shape=[(7, 7), (1, 1), (1, 5), (14, 3), (9,), (1,), (256,), (3, 4, 5), (1, 1, 4)],
    sigma=[1.5, 0.0, 0.1, 0.7, 9.0, 64.0],
    boundary=fused._BOUNDARY,
)
def test_filter_matrix_is_scipys_gaussian(shape, sigma, boundary):
    found = fused._filter(Config(sigma=sigma, boundary=boundary), shape, launch, torch.device("cpu"))
    matrices = found.planes, found.rows, found.columns
    profile, inside = (table.reshape(shape).numpy() for table in (found.profile, found.inside))
    field = np.random.default_rng(0).normal(size=shape)

    def smooth(field):
        return ndimage.gaussian_filter(field, sigma, mode=SCIPY_BOUNDARY[boundary], truncate=4.0) if sigma else field

    expected = smooth(field)
    filtered = np.einsum("zyx,za,yb,xc->abc", field.reshape(found.sides), *(table.numpy() for table in matrices))
    np.testing.assert_allclose(filtered.reshape(shape), expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose((profile * field).sum(), expected.sum(), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(inside, smooth(np.ones(shape)), rtol=1e-12)


def chain(n, rng):
    """One long chain through the points in random order."""
    order = rng.permutation(n)
    return [(order[i], order[i + 1]) for i in range(n - 1)]


def borders(n, rng):
    """Cliques of four with a point between each and every other one, in random order: no core point of four or more."""
    order = rng.permutation(n)
    cliques = [order[i : i + 4] for i in range(0, n - n % 4, 4)][: n // 8]
    between = order[4 * len(cliques) :]
    edges = [(a, b) for clique in cliques for a in clique for b in clique]
    if len(cliques) < 2:
        return edges
    return edges + [(point, rng.choice(cliques[c])) for point in between for c in rng.permutation(len(cliques))[:2]]


GRAPHS = {
    "borders": borders,
    "a chain": chain,
    "a chain in order": lambda n, rng: [(i, i + 1) for i in range(n - 1)],
    "a chain against the order": lambda n, rng: (
        [(i, n - 1 - i) for i in range(n // 2)] + [(i, i + 1) for i in range(n // 2)]
    ),
    "a star": lambda n, rng: [(n - 1, i) for i in range(n - 1)],
    "pairs": lambda n, rng: [(i, n - 1 - i) for i in range(n // 2)],
    "no edge": lambda n, rng: [],
    "all": lambda n, rng: [(i, j) for i in range(n) for j in range(i)],
    "sparse": lambda n, rng: rng.integers(0, n, size=(n // 2, 2)),
    "denser": lambda n, rng: rng.integers(0, n, size=(2 * n, 2)),
}


@pytest.mark.parametrize("min_samples", [1, 3, *(pytest.param(count, marks=pytest.mark.long) for count in (2, 4))])
@pytest.mark.parametrize("graph", GRAPHS)
def test_dbscan_of_any_graph(graph, min_samples):
    """scikit-learn's labels, for problems of different sizes side by side."""
    counts, stride = [190, 33, 64, 2], 192
    near = torch.full((len(counts), stride, stride // 32), -1, dtype=torch.int32)  # what is beyond is never read
    members = torch.arange(stride, dtype=torch.int32).expand(len(counts), stride).flip(1).contiguous()
    labels = torch.full((len(counts), stride), 77)
    expected = []
    for p, n in enumerate(counts):
        square = np.eye(n, dtype=bool)
        for i, j in GRAPHS[graph](n, np.random.default_rng(p)):
            square[i, j] = square[j, i] = True
        expected.append(reference.dbscan(square[np.triu_indices(n, 1)], n, min_samples))
        words = np.zeros((n, -(-n // 32) * 32), dtype=bool)
        words[:, :n] = square
        packed = np.packbits(words, axis=1, bitorder="little").view(np.int32)
        near[p, :n, : packed.shape[1]] = torch.as_tensor(packed)
    sizes = torch.tensor(counts, dtype=torch.int32)
    core, parents = torch.full((len(counts), stride // 32), -1, dtype=torch.int32), torch.empty_like(members)
    hub, points = torch.zeros(len(counts), dtype=torch.int32), (stride // 8, len(counts))
    given = near, sizes, 0.0, min_samples, stride
    launch("core_points", (stride // 32, len(counts)), (256, 1), *given, core, parents, hub)
    launch("link_lowest", points, (256, 1), near, core, sizes, stride, parents)
    launch("components", points, (256, 1), near, core, sizes, hub, stride, parents)
    launch("cluster_labels", points, (256, 1), near, core, sizes, members, stride, stride, parents, labels)
    for p, n in enumerate(counts):
        assert labels[p].flip(0)[:n].tolist() == expected[p].tolist()
        assert (labels[p].flip(0)[n:] == 77).all()


SPREADS = {
    "ties": lambda rng, size: rng.integers(0, size, size=(2, size)) / 8.0,
    "one value": lambda rng, size: np.full((2, size), 0.3),
    "all magnitudes": lambda rng, size: 10.0 ** rng.uniform(-300, 300, size=(2, size)),
    "neighbours": lambda rng, size: np.float64(1) + rng.integers(0, 2 * size, size=(2, size)) * 2.0**-52,
    "many are infinite": lambda rng, size: np.where(rng.random((2, size)) < 0.7, np.inf, 1.0),
}


@in_pairs(spread=SPREADS, size=[4096, 1, 2, 255, 256, 257], fraction=[0.5, 0.0, 0.25, 0.77, 1.0])
def test_order_statistics_by_radix(spread, size, fraction):
    values = torch.as_tensor(SPREADS[spread](np.random.default_rng(size), size))
    counts = torch.tensor([size, max(1, size // 2)], dtype=torch.int32)
    order = torch.empty((2, 2), dtype=torch.float64)
    launch("order_statistics", (2, 1), (1024, 1), values, counts, size, fraction, order)
    for p, n in enumerate(counts.tolist()):
        ordered, low = np.sort(values[p, :n]), int(fraction * (n - 1))
        assert order[p].tolist() == [ordered[low], ordered[min(low + 1, n - 1)]]


@in_pairs(positions=[49, 1, 196, 4096], spread=[1.0, 1e-3, 1e-9], each=[4, 8])
def test_approximate_distances_are_within_half_of_the_error_allowed_for(positions, spread, each):
    """common.cuh allows for twice what it derives; points far apart, close together and as good as equal."""
    rng, count, stride = np.random.default_rng(0), 70, 128
    points = 1 + spread * rng.normal(size=(count, positions))
    points *= 1 / (1.01 * 2 * np.linalg.norm(points, axis=1).max())  # distances of less than 1: nothing to scale
    scaled = torch.full((1, positions, stride), torch.nan)
    scaled[0, :, :count] = torch.as_tensor(points.T.copy(), dtype=torch.float32)
    tiles = fused._tiles(stride)
    found, coarse = torch.full((1, tiles, 32, 32), torch.inf), torch.zeros((1, fused._COARSE_BINS), dtype=torch.int32)
    counts = torch.tensor([count], dtype=torch.int32)
    side = -(-stride // (16 * each))
    given = scaled, counts, positions, stride, tiles, found, coarse
    launch("pair_distances", (side * (side + 1) // 2, 1), (256, 1), *given, EACH=each)
    square = torch.full((stride, stride), torch.nan)
    for column in range(stride // 32):
        for row in range(column + 1):
            tile = found[0, column * (column + 1) // 2 + row]
            square[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32] = tile
    lower = np.tril_indices(96)
    assert np.isnan(square.numpy()[lower]).all()  # no pair
    assert square[96:, 96:].isinf().all()  # not written
    assert coarse.sum() == count * (count - 1) // 2
    approximate = square[:count, :count].double().numpy()[np.triu_indices(count, 1)]
    exact = distance.pdist(points)
    assert (np.abs(approximate - exact) <= (positions + 4) * 2.0**-25 * exact + 2.0**-23).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 4), (3, 3), (7, 7), (1, 129), (14, 14), (25, 12), (64, 64)])
def test_norms_and_means_are_numpys_to_the_last_bit(shape):
    """Added up in another order, some of them would differ."""
    channels, positions = 40, shape[0] * shape[1]
    activations, gradients = np.random.default_rng(0).normal(size=(2, channels, *shape)).astype(np.float32)
    found = [torch.empty(channels, dtype=torch.float64) for _ in range(4)]
    given = torch.as_tensor(activations), torch.as_tensor(gradients), torch.ones(positions, dtype=torch.float64)
    launch("channel_statistics", (2, 1), (256, 1), *given, channels, positions, 1, *found, INPUT="float")
    norms, pooled, smoothed, importance = (values.numpy() for values in found)
    exact = activations.astype(np.float64).reshape(channels, -1)
    np.testing.assert_array_equal(norms, np.sqrt((exact * exact).sum(axis=1)))
    np.testing.assert_array_equal(pooled, gradients.astype(np.float64).mean(axis=(1, 2)))
    np.testing.assert_array_equal(importance, norms * np.abs(pooled))
    np.testing.assert_allclose(smoothed, pooled, rtol=1e-12, atol=1e-15)


def test_cluster_gradients_are_their_clusters_mean():
    """More positions than threads, and clusters whose lowest channel stands anywhere."""
    rng = np.random.default_rng(0)
    labels, filtered = rng.integers(-3, 5, size=(2, 40)), rng.normal(size=(4, 40, 300))
    found = torch.as_tensor(filtered.copy())
    given = torch.as_tensor(labels), filtered.shape[2], 2
    launch("cluster_gradients", (40, 4), (128, 1), *given, found)
    for q, clusters in enumerate(labels.repeat(2, axis=0)):
        for label in range(5):
            filtered[q, clusters == label] = filtered[q, clusters == label].mean(axis=0)
    np.testing.assert_allclose(found, filtered, rtol=1e-12, atol=1e-14)
