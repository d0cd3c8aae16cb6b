"""DBSCAN and the order statistic as tensor operators, against scikit-learn and a sort."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.cluster import DBSCAN

from cfcam_gpu.deploy.method_graph import clusters
from cfcam_gpu.deploy.method_graph.distances import NOWHERE, Distances, pair_products
from cfcam_gpu.deploy.method_graph.radius import order_statistic, smallest

from .graphs import numbered

FORMS = pytest.mark.parametrize("unrolled", [False, True], ids=["loop", "unrolled"])


def sklearns(near, min_samples):
    """Labels of a graph in which every point is near itself."""
    edges = sparse.csr_matrix(near.astype(float))
    return DBSCAN(eps=1.0, min_samples=min_samples, metric="precomputed").fit(edges).labels_


def run(graphs, min_samples, *, unrolled):
    """Labels of each graph (M, M), and what converged."""
    far = torch.from_numpy(np.stack([(~near).astype(np.float32) for near in graphs]))
    lowest, converged = clusters.dbscan(far, torch.tensor(min_samples), unrolled=unrolled)
    return [numbered(row, far.shape[1]).numpy() for row in lowest], converged


def symmetric(near):
    near = near | near.T
    np.fill_diagonal(near, True)
    return near


def chain(order):
    near = np.zeros((len(order), len(order)), bool)
    near[order[:-1], order[1:]] = True
    return symmetric(near)


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["random", "points", "whole numbers", "chain", "two chains"]))
    if kind == "random":
        return symmetric(rng.random((count, count)) < draw(st.sampled_from([0.01, 0.03, 0.1, 0.5])))
    if "chain" in kind:
        near = chain(rng.permutation(count))
        if kind == "two chains":
            near[count // 2 :, : count // 2] = near[: count // 2, count // 2 :] = False
        return near
    points = rng.normal(size=(count, 2))
    if kind == "whole numbers":
        points = np.round(2 * points)
    return np.linalg.norm(points[:, None] - points, axis=2) <= draw(st.sampled_from([0.1, 0.5, 1.0]))


def assert_sklearns(near, min_samples, *, unrolled):
    (labels,), converged = run([near], [min_samples], unrolled=unrolled)
    assert converged.all()
    np.testing.assert_array_equal(labels, sklearns(near, min_samples))


@FORMS
@settings(max_examples=80, derandomize=True)
@given(near=graphs(), min_samples=st.integers(1, 6))
def test_labels_are_scikit_learns(unrolled, near, min_samples):
    assert_sklearns(near, min_samples, unrolled=unrolled)


@pytest.mark.long
@FORMS
@settings(max_examples=300, derandomize=True)
@given(near=graphs(), min_samples=st.integers(1, 6))
def test_labels_of_more_graphs_are_scikit_learns(unrolled, near, min_samples):
    assert_sklearns(near, min_samples, unrolled=unrolled)


@FORMS
def test_a_border_point_is_in_the_first_cluster_that_reaches_it(unrolled):
    near = np.zeros((9, 9), bool)
    near[np.ix_([1, 2, 3, 4], [1, 2, 3, 4])] = near[np.ix_([5, 6, 7, 8], [5, 6, 7, 8])] = True
    near[0, 8] = near[0, 4] = True
    (labels,), _ = run([symmetric(near)], [4], unrolled=unrolled)
    assert labels.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]


@FORMS
@pytest.mark.parametrize("count", [2, 3, 31, 64, 200])
def test_chains_in_any_order(count, unrolled):
    rng = np.random.default_rng(count)
    far_apart = sorted(range(count), key=lambda i: f"{i:08b}"[::-1])
    orders = [np.arange(count), np.array(far_apart), *(rng.permutation(count) for _ in range(10))]
    labels, converged = run([chain(order) for order in orders], [1] * len(orders), unrolled=unrolled)
    assert converged.all()
    assert not np.any(labels)


def test_where_steps_were_too_few_is_told(monkeypatch):
    before = clusters.repeat
    monkeypatch.setattr(clusters, "repeat", lambda step, state, times: before(step, state, 2))
    near = [chain(np.random.default_rng(0).permutation(100)), symmetric(np.zeros((100, 100), bool))]
    labels, converged = run(near, [1, 1], unrolled=True)
    assert converged.tolist() == [False, True]
    assert labels[0].any()
    np.testing.assert_array_equal(labels[1], np.arange(100))


@FORMS
@pytest.mark.parametrize("kind", ["any", "ties", "magnitudes", "zeros", "one value"])
@pytest.mark.parametrize("count", [2, 3, 40, 171])
def test_any_order_statistic(count, kind, unrolled):
    rng = np.random.default_rng(count)
    values = rng.random((count, count)).astype(np.float32) + np.float32(0.1)
    values = {
        "any": lambda: values,
        "ties": lambda: np.round(4 * values),
        "magnitudes": lambda: values * 10.0 ** rng.integers(-20, 3, size=values.shape),
        "zeros": lambda: np.where(rng.random(values.shape) < 0.5, 0, values),
        "one value": lambda: np.full_like(values, 0.7),
    }[kind]()
    squares = np.triu(values, 1).astype(np.float32)
    squares += squares.T
    ordered = np.sort(squares.ravel())
    pairs = math.comb(count, 2)
    asked = np.unique([count + 2 * int(share * (pairs - 1)) for share in (0, 0.01, 0.25, 0.5, 0.61, 0.9, 1)])
    # Of fewer points, the others nowhere.
    padded = np.pad(squares, (0, 5), constant_values=NOWHERE)
    many = torch.from_numpy(np.stack([padded] * len(asked)))
    largest = torch.full((len(asked),), 2.5 * float(squares.max()))
    distances = Distances(many, largest, torch.zeros(len(asked)))
    found, converged = order_statistic(distances, torch.from_numpy(asked), unrolled=unrolled)
    assert converged.all()
    np.testing.assert_array_equal(found.numpy(), ordered[asked])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 16, 40])
@pytest.mark.parametrize("count", [40, 48, 127, 504])
def test_the_smallest_of_each_row(count, number, fused):
    squares = torch.from_numpy(np.random.default_rng(number).integers(0, 300, (2, count, count)).astype(np.float32))
    squares[0, :9, number // 2 :] = 2 * NOWHERE
    assert torch.equal(smallest(squares, number, fused=fused), squares.sort(dim=2).values[:, :, :number])


@pytest.mark.parametrize("count", [40, 255, 256, 301])
def test_products_of_all_pairs(count):
    points = torch.randn(2, count, 30, generator=torch.Generator().manual_seed(count))
    added = (torch.arange(count) % 3 == 0).float().expand(2, -1) * NOWHERE
    found, norms = pair_products(points, added)
    assert torch.equal(norms, found.diagonal(dim1=1, dim2=2) * -0.5 + added)
    assert torch.equal(found, found.transpose(1, 2))
    torch.testing.assert_close(found, -2.0 * points @ points.transpose(1, 2))
