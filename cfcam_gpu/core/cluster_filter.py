"""CF-CAM of one image, volume or signal, written once over an array namespace. Read this first.

Every engine that works image by image runs this file: NumPy with SciPy and scikit-learn on the host, CuPy with cuML
and cuCIM on a GPU. What differs between them is handed in as :class:`Primitives`. All arithmetic is float64, so that
two engines agree on which distances are within eps of each other.

Equations and the numbers of their steps are those of the authors' code (arXiv:2504.00060, commit c227652). What they
say of an image's positions (h, w) is said here of those of a volume, (d, h, w), and of a signal, (l,), too: shapes are
(C, *spatial).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import exp, expm1, log1p
from sys import float_info
from typing import Any, NamedTuple

from .config import Config

NOISE = -1
DOMINANT = -2
DEAD = -3

#: eps is never smaller: DBSCAN needs a positive radius even where many channels coincide.
MIN_EPS = 1e-5

#: Maps leave as float32: what lies beyond its range becomes its largest number, not infinity.
MAX_MAP = 3.4028234663852886e38

Array = Any  # an array of the namespace `Primitives.xp`


@dataclass(frozen=True)
class Primitives:
    """What an engine brings to the algorithm.

    Parameters
    ----------
    xp : module
        The array namespace: ``numpy`` or ``cupy``.
    pdist : callable
        ``points (N, D) -> (N (N - 1) / 2,)``: Euclidean distances of all pairs i < j, row by row.
    order_statistics : callable
        ``(values (M,), k) -> (2,)``: the k-th and the (k + 1)-th smallest, counted from 0.
    squareform : callable
        ``(pairs (N (N - 1) / 2,), N) -> (N, N)``: the symmetric matrix with a zero diagonal.
    dbscan : callable
        ``(near (N (N - 1) / 2,) bool, N, min_samples) -> (N,)``: scikit-learn's labels, given which pairs are near.
    gaussian : callable
        ``(maps (K, *spatial), sigma, boundary) -> (K, *spatial)``: each map smoothed on its own, along all its axes.
    """

    xp: Any
    pdist: Callable[[Array], Array]
    order_statistics: Callable[[Array, int], Array]
    squareform: Callable[[Array, int], Array]
    dbscan: Callable[[Array, int, int], Array]
    gaussian: Callable[[Array, float, str], Array]


class Clusters(NamedTuple):
    """Labels of the channels of one image.

    ``labels`` is (C,) int64: >= 0 a cluster, -1 noise, -2 dominant, -3 dead. ``eps`` is DBSCAN's radius, 0-d float64.
    """

    labels: Array
    eps: Array


class Weighted(NamedTuple):
    """The map of one image and one target: (*spatial) float64, not normalised; the channels' weights: (C,) float64."""

    map: Array
    weights: Array


def cluster_filter(
    activations: Array, gradients: Iterable[Array], config: Config, ops: Primitives
) -> Iterator[tuple[Clusters, Weighted]]:
    """CF-CAM of one image, for each of its targets.

    Parameters
    ----------
    activations : (C, *spatial) float64
    gradients : iterable of (C, *spatial) float64
        Of each target's score with respect to the activations.
    config : Config
    ops : Primitives

    Yields
    ------
    Clusters, Weighted
        The channels are clustered once for all targets, unless their importance depends on the gradient.
    """
    clusters = None
    for of_target in gradients:
        if clusters is None or config.importance == "contribution":
            pooled = of_target.mean(axis=tuple(range(1, of_target.ndim)))
            clusters = cluster_channels(activations, pooled, config, ops)
        yield clusters, weigh(activations, of_target, clusters.labels, config, ops)


def cluster_channels(activations: Array, pooled_gradients: Array, config: Config, ops: Primitives) -> Clusters:
    """Steps 1 and 2: which channels are dominant, which cluster together, which are noise.

    Parameters
    ----------
    activations : (C, *spatial) float64
    pooled_gradients : (C,) float64
        Spatial means of the gradients; only ``importance="contribution"`` looks at them.
    config : Config
    ops : Primitives

    Returns
    -------
    Clusters
    """
    xp = ops.xp
    labels, rest, points = set_apart(activations, pooled_gradients, config, xp)
    if points is None:
        return Clusters(labels, xp.asarray(MIN_EPS))
    distances = ops.pdist(points)
    eps = xp.maximum(_eps(distances, rest.size, config, ops), MIN_EPS)
    labels[rest] = ops.dbscan(distances <= eps, rest.size, config.min_samples_for(rest.size))
    return Clusters(labels, eps)


def set_apart(
    activations: Array, pooled_gradients: Array, config: Config, xp: Any
) -> tuple[Array, Array, Array | None]:
    """Step 1: the dead and the dominant channels, and the rest as points to cluster.

    Parameters
    ----------
    activations : (C, *spatial) float64
    pooled_gradients : (C,) float64
        As for :func:`cluster_channels`.
    config : Config
    xp : module
        The array namespace.

    Returns
    -------
    labels : (C,) int64
        Those of the rest are to be filled in, where there are points.
    rest : (N,) int64
        The channels that are neither dead nor dominant.
    points : (N, D) float64 or None
        None where there are fewer than two: they have their labels.
    """
    channels = activations.reshape(activations.shape[0], -1)
    norms = xp.sqrt((channels * channels).sum(axis=1))
    labels = xp.full(channels.shape[0], DEAD, dtype=xp.int64)
    alive = xp.arange(channels.shape[0])
    if config.dead_threshold is not None:
        alive = xp.nonzero(norms > config.dead_threshold * norms.max())[0]
    if alive.size == 0:
        return labels, alive, None

    importance = norms[alive]
    if config.importance == "contribution":
        importance = importance * xp.abs(pooled_gradients[alive])
    dominant = importance >= xp.percentile(importance, config.dominant_percentile)
    labels[alive[dominant]] = DOMINANT

    rest = alive[~dominant]
    if rest.size < 2:
        labels[rest] = NOISE if config.min_samples_for(rest.size) > 1 else 0
        return labels, rest, None
    points = channels[rest]
    if config.distance == "unit_norm":
        # A dead channel that was not set aside has no direction: it stays at the origin.
        points = points / xp.where(norms[rest] > 0, norms[rest], 1.0)[:, None]
    return labels, rest, points


def _eps(distances: Array, n: int, config: Config, ops: Primitives) -> Array:
    """DBSCAN's radius from the pairwise distances, 0-d."""
    if config.eps_rule == "pair_percentile":
        k, share = percentile_rank(distances.size, config.eps_percentile)
        low, high = ops.order_statistics(distances, k)
        return low + (high - low) * share if share > 0 else low
    square = ops.squareform(distances, n)
    k = min(config.eps_neighbor, n) - 1
    return ops.xp.median(ops.xp.partition(square, k, axis=1)[:, k])


def percentile_rank(pairs: int, percentile: float) -> tuple[int, float]:
    """Where a percentile of the distances of ordered pairs lies among those of `pairs` unordered ones.

    Returns
    -------
    k : int
        The rank, counted from 0, of the distance at or below it.
    share : float
        How far it lies on the way from that one to the next.
    """
    # Over ordered pairs every distance stands twice, so rank r of that list is rank r // 2 of this one.
    rank = percentile / 100.0 * (2 * pairs - 1)
    below = int(rank)
    between = below % 2 == 1 and below != 2 * pairs - 1
    return below // 2, rank - below if between else 0.0


def weigh(activations: Array, gradients: Array, labels: Array, config: Config, ops: Primitives) -> Weighted:
    """Steps 3 to 5: filtered gradients, weights and the map.

    Parameters
    ----------
    activations, gradients : (C, *spatial) float64
    labels : (C,) int64
        From :func:`cluster_channels`.
    config : Config
    ops : Primitives

    Returns
    -------
    Weighted
        ``map``: ReLU(sum_k w_k A_k); ReLU(sum_k G'_k * A_k) with ``combine="elementwise"``; the same with
        ReLU(G'_k - floor_k) for G'_k with ``combine="positive"``. ``weights``: w_k, the spatial mean of what multiplies
        A_k (its softmax, if so configured); 0 for channels that take no part.
    """
    filtered, weights = _multipliers(gradients, labels, config, ops)
    if config.combine == "pooled":
        evidence = (weights @ activations.reshape(len(activations), -1)).reshape(activations.shape[1:])
    else:
        evidence = (filtered * activations).sum(axis=0)
    return Weighted(ops.xp.clip(evidence, 0.0, MAX_MAP), weights)


def channel_evidence(activations: Array, gradients: Array, labels: Array, config: Config, ops: Primitives) -> Array:
    """What each channel adds to the map of :func:`weigh`, whose ReLU comes after their sum: (C, *spatial) float64.

    Parameters
    ----------
    activations, gradients, labels, config, ops
        As for :func:`weigh`.
    """
    filtered, weights = _multipliers(gradients, labels, config, ops)
    return (_by_channel(weights, gradients) if config.combine == "pooled" else filtered) * activations


def _multipliers(gradients: Array, labels: Array, config: Config, ops: Primitives) -> tuple[Array, Array]:
    """Steps 3 and 4: filtered gradients (C, *spatial), above the noise floor if so configured, and weights (C,)."""
    xp = ops.xp
    filtered = filter_gradients(gradients, labels, config, ops)
    if config.combine == "positive":
        floor = noise_floor(gradients, filtered, labels, config, ops)
        filtered = xp.maximum(filtered - _by_channel(floor, filtered), 0.0)
    weights = filtered.reshape(len(filtered), -1).mean(axis=1)
    if config.weighting == "softmax":
        valid = (labels == DOMINANT) | (labels >= 0)
        shifted = xp.where(valid, weights, -xp.inf)
        # The bounds are for the case that no channel is valid: weights of 0. Else the sum holds an exp(0).
        weights = xp.exp(shifted - xp.maximum(shifted.max(), -float_info.max))
        weights = weights / xp.maximum(weights.sum(), 1.0)
    return filtered, weights


def filter_gradients(gradients: Array, labels: Array, config: Config, ops: Primitives) -> Array:
    """Step 3: what stands for each channel's gradient, (C, *spatial); zero where a channel takes no part."""
    xp = ops.xp
    if config.gradient == "own":
        smooth = ops.gaussian(gradients, config.sigma, config.boundary) if config.sigma > 0 else gradients
        return xp.where(_by_channel(labels != DEAD, smooth), smooth, 0.0)
    filtered = xp.where(_by_channel(labels == DOMINANT, gradients), gradients, 0.0)
    clustered = xp.nonzero(labels >= 0)[0]
    if clustered.size:
        ids = labels[clustered]
        member = _members(ids, xp)
        means = member @ gradients[clustered].reshape(clustered.size, -1) / member.sum(axis=1, keepdims=True)
        means = means.reshape(-1, *gradients.shape[1:])
        if config.sigma > 0:
            means = ops.gaussian(means, config.sigma, config.boundary)
        filtered[clustered] = means[ids]
    return filtered


def noise_floor(gradients: Array, filtered: Array, labels: Array, config: Config, ops: Primitives) -> Array:
    """`noise_floor` standard deviations of the noise that the filter left in each channel, (C,).

    It is told from the residual, see :func:`noise_left`. Variances are averaged over each cluster and over the noise
    channels; dominant channels keep their own.
    """
    xp = ops.xp
    channels, *size = gradients.shape
    left = 0.0 if config.noise_floor == 0 else noise_left(config.sigma, len(size))
    if left == 0:
        return xp.zeros(channels)
    # A zero boundary pulls the filtered gradient down; the residual is taken from the mean of what is inside.
    inside = ops.gaussian(xp.ones((1, *size)), config.sigma, config.boundary)
    residual = gradients - filtered / inside
    variance = (residual * residual).reshape(channels, -1).mean(axis=1) * left
    shared = xp.nonzero(labels >= NOISE)[0]
    if shared.size:
        ids = labels[shared] - NOISE  # the noise channels are a group like a cluster
        member = _members(ids, xp)
        counts = xp.maximum(member.sum(axis=1), 1.0)  # there may be no noise channel
        variance[shared] = (member @ variance[shared] / counts)[ids]
    return config.noise_floor * xp.sqrt(variance)


def noise_left(sigma: float, axes: int) -> float:
    """What white noise leaves in the filtered gradient over what it leaves in the residual.

    0 of a filter so narrow that the residual tells as much of rounding as of noise.

    White noise of variance v leaves v q in the filtered gradient and v (1 - 2 k + q) in the residual, with q the sum of
    the filter's squared taps and k its centre tap. The filter is a product of one along each axis, and so are q and k.

    Parameters
    ----------
    sigma : float
        Above 0, in positions.
    axes : int
    """
    reach = int(4 * sigma + 0.5)
    others = [exp(-0.5 * (k / sigma) ** 2) for k in range(1, reach + 1)]  # beside a centre tap of 1, on either side
    total, squares = 2 * sum(others), 2 * sum(tap * tap for tap in others)
    if total < 1e-6:
        return 0.0
    # 1 - 2 k + q = (1 - k)^2 + (q - k^2), which a narrow filter leaves next to nothing of.
    centre = (1 + total) ** -axes
    beside = centre * centre * expm1(axes * log1p(squares))
    return (centre * centre + beside) / (expm1(-axes * log1p(total)) ** 2 + beside)


def _by_channel(values: Array, maps: Array) -> Array:
    """Values (C,) in a shape that broadcasts over maps (C, *spatial)."""
    return values.reshape(-1, *[1] * (maps.ndim - 1))


def _members(ids: Array, xp: Any) -> Array:
    """(K, N) float64, 1 where point n is of cluster k, from (N,) cluster numbers."""
    return (xp.arange(int(ids.max()) + 1)[:, None] == ids).astype(xp.float64)
