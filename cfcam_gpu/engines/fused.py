"""The fused engine: whole batches by the CUDA kernels in kernels/, nothing read back by the host.

The sequence of launches stands here once; the tests run it with the kernels' sources compiled for the host. All memory
is torch's, all work on torch's current stream, and which kernels run on how much depends on shapes alone: a CUDA graph
can capture it once the kernels are compiled, as they are after a first call.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import exp
from typing import NamedTuple

import torch

from ..chunking import chunk_size
from ..config import Config
from . import EngineResult, kernels, rapids
from .kernels import Argument, Arguments, Launch

#: Largest shapes that the kernels' shared memory is laid out for.
MAX_CHANNELS = 4096
MAX_SIDE = 64
#: The neighbours that a thread keeps in its registers.
MAX_NEIGHBOR = 16
#: Bytes that the workspace of one chunk of images may take: 256 MiB.
MEMORY = 1 << 28

#: The host does not wait for what `run` starts.
ASYNCHRONOUS = True

_MAX_GRID = 65535  # along y
# As in kernels/common.cuh.
_TILE, _COARSE_BINS, _FINE_BINS = 32, 1024, 4096
_BOUNDARY = {"reflect": 0, "zero": 1, "nearest": 2}


def why_missing() -> str | None:
    """None where this machine has the engine, else the reason and the remedy in one sentence."""
    reason = rapids.why_missing(("cupy",))
    if reason is None and not kernels.folder().is_dir():
        reason = f"its kernels are not in {kernels.folder()}; install cfcam-gpu again"
    return reason


def why_not(config: Config, shape: Sequence[int]) -> str | None:
    """What of a configuration or a shape the kernels do not cover, or None.

    Parameters
    ----------
    config : Config
        Of a two-level one, what concerns the fine layer.
    shape : sequence of int
        (..., C, h, w), of the activations, or of the gradients: (B, T, C, h, w).
    """
    channels, height, width = shape[-3:]
    if channels > MAX_CHANNELS:
        return f"takes at most {MAX_CHANNELS} channels; got {channels}"
    if max(height, width) > MAX_SIDE:
        return f"takes maps of at most {MAX_SIDE} x {MAX_SIDE}; got {height} x {width}"
    if len(shape) == 5 and shape[1] > _MAX_GRID:
        return f"takes at most {_MAX_GRID} targets; got {shape[1]}"
    if config.eps_rule == "neighbor_median" and config.eps_neighbor > MAX_NEIGHBOR:
        return f"takes an eps_neighbor of at most {MAX_NEIGHBOR}; got {config.eps_neighbor}"
    return None


def run(activations: torch.Tensor, gradients: torch.Tensor, config: Config) -> EngineResult:
    """CF-CAM of the batch on the GPU, without waiting for it. See :class:`cfcam_gpu.engines.Engine`.

    Raises
    ------
    ValueError
        If :func:`why_not` names something.
    """
    with kernels.on_gpu(activations.device) as launch:
        return compute(activations, gradients, config, launch)


def compute(
    activations: torch.Tensor, gradients: torch.Tensor, config: Config, launch: Launch, *, memory: int = MEMORY
) -> EngineResult:
    """CF-CAM by `launch`, chunk by chunk, so that the workspace stays within `memory` bytes, or holds one image."""
    reason = why_not(config, gradients.shape)
    if reason is not None:
        raise ValueError(f"engine: 'fused' {reason}; use engine='rapids' or 'cpu'")
    wide = torch.float64 in (activations.dtype, gradients.dtype)
    dtype = torch.float64 if wide else torch.float32
    activations, gradients = (tensor.detach().to(dtype).contiguous() for tensor in (activations, gradients))

    launch = partial(launch, INPUT="double" if wide else "float")

    batch, targets, channels, height, width = gradients.shape
    empty = partial(torch.empty, device=activations.device)
    result = EngineResult(
        raw_maps=empty((batch, targets, height, width), dtype=torch.float32),
        labels=empty((batch, targets, channels), dtype=torch.int64),
        weights=empty((batch, targets, channels), dtype=torch.float32),
        eps=empty((batch, targets), dtype=torch.float64),
    )
    double = partial(empty, dtype=torch.float64)
    smoothing = _Filter(
        *(double(shape) for shape in ((height, height), (width, width), (height, width), (height, width)))
    )
    boundary = _BOUNDARY[config.boundary]
    launch("filter_matrix", (1, 1), (256, 1), height, width, float(config.sigma), boundary, *smoothing)

    bytes_each = _bytes_each(config, targets, channels, height * width)
    images = min(batch, chunk_size(memory, bytes_each), max(1, _MAX_GRID // targets))
    for first in range(0, batch, images):
        part = slice(first, first + images)
        chunk = _Chunk(launch, config, smoothing, activations[part], gradients[part])
        chunk.explain(EngineResult(*(value[part] for value in result)))
    return result


class _Filter(NamedTuple):
    """What filter_matrix.cu writes."""

    rows: torch.Tensor
    columns: torch.Tensor
    profile: torch.Tensor
    inside: torch.Tensor


def _stride(config: Config, channels: int) -> int:
    """The most channels that may be left to cluster, in whole blocks of pair_distances.cu."""
    most = min(channels, int(config.dominant_percentile / 100 * (channels - 1)) + 2)
    return -(-most // 64) * 64


def _tiles(stride: int) -> int:
    return stride // _TILE * (stride // _TILE + 1) // 2


def _bytes_each(config: Config, targets: int, channels: int, positions: int) -> int:
    """Workspace of an image."""
    stride = _stride(config, channels)
    tiles = _tiles(stride)
    cluster = 4 * tiles * _TILE * _TILE + 12 * stride * positions + stride * stride // 8
    if config.eps_rule == "pair_percentile":
        cluster += 8 * tiles * _TILE * _TILE + 4 * (_COARSE_BINS + _FINE_BINS)
    weigh = 8 * channels * positions * targets if config.combine != "pooled" else 0
    return cluster * (targets if config.importance == "contribution" else 1) + weigh


class _Chunk:
    """Some images of the batch: B of them, T targets each, Q = B T maps, and P problems: times that channels cluster.

    P is B, or Q where the channels' importance depends on the gradient. The kernels' headers tell the shapes.
    """

    def __init__(
        self, launch: Launch, config: Config, smoothing: _Filter, activations: torch.Tensor, gradients: torch.Tensor
    ) -> None:
        self.start, self.config, self.filter = launch, config, smoothing
        self.activations, self.gradients = activations, gradients
        self.images, self.targets, self.channels, self.height, self.width = gradients.shape
        self.positions = self.height * self.width
        self.maps = self.images * self.targets
        by_target = config.importance == "contribution"
        self.problems = self.maps if by_target else self.images
        self.per_image = self.targets if by_target else 1  # problems
        self.per_problem = 1 if by_target else self.targets  # maps
        self.stride = _stride(config, self.channels)
        self.tiles = _tiles(self.stride)
        self.integers = partial(torch.empty, dtype=torch.int32, device=activations.device)
        self.floats = partial(torch.empty, dtype=torch.float32, device=activations.device)
        self.doubles = partial(torch.empty, dtype=torch.float64, device=activations.device)

    def each_problem(self, name: str, blocks: int, threads: int, *arguments: Argument, **macros: int) -> None:
        """Launch `blocks` blocks for each problem."""
        self.start(name, (blocks, self.problems), (threads, 1), *arguments, **macros)

    def each_map(self, name: str, blocks: int, threads: int, *arguments: Argument) -> None:
        """Launch `blocks` blocks for each map."""
        self.start(name, (blocks, self.maps), (threads, 1), *arguments)

    def explain(self, result: EngineResult) -> None:
        """Fill `result`, the part of it that belongs to these images."""
        config, channels = self.config, self.channels
        norms = self.doubles((self.images, channels))
        pooled, smoothed = self.doubles((self.maps, channels)), self.doubles((self.maps, channels))
        importance = self.doubles((self.maps, channels)) if config.importance == "contribution" else None
        given = self.activations, self.gradients, self.filter.profile, channels, self.positions, self.targets
        found = norms, pooled, smoothed, importance
        self.each_map("channel_statistics", -(-channels // 32), 256, *given, *found)
        labels, eps = self.cluster(norms, norms if importance is None else importance)
        if config.combine == "pooled":
            self.weigh_pooled(labels, pooled, smoothed, result)
        else:
            self.weigh_products(labels, result)
        shape = self.images, self.per_image
        result.labels.copy_(labels.view(*shape, channels).expand_as(result.labels))
        result.eps.copy_(eps.view(shape).expand_as(result.eps))

    def cluster(self, norms: torch.Tensor, importance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels (P, C) int32 and eps (P,); cluster_filter.cluster_channels."""
        config, channels, stride, per_image = self.config, self.channels, self.stride, self.per_image
        dead = -1.0 if config.dead_threshold is None else float(config.dead_threshold)
        dominant, unit_norm = config.dominant_percentile / 100, int(config.distance == "unit_norm")
        labels, members, counts = (self.integers((self.problems, *of)) for of in ((channels,), (stride,), ()))
        order, alive, bound = (
            self.doubles((self.problems, 2)),
            self.integers(self.problems),
            self.doubles(self.problems),
        )

        ranked = importance, None if dead < 0 else norms, None
        sizes: Arguments = channels, channels, per_image
        self.each_problem("order_statistics", -(-channels // 256), 256, *ranked, *sizes, dead, dominant, order, alive)

        given: Arguments = importance, norms, order, alive, channels, per_image, dead, dominant, stride, unit_norm
        self.start("split_channels", (self.problems, 1), (1024, 1), *given, labels, members, counts, bound)

        shape = self.problems, self.positions, stride
        points, scaled = self.doubles(shape), self.floats(shape)
        chosen = self.activations, norms, members, counts, bound
        sizes = channels, self.positions, per_image, unit_norm, stride
        self.start("gather_points", (stride // 32, self.problems), (32, 8), *chosen, *sizes, points, scaled)

        approximate = self.floats((self.problems, self.tiles, _TILE, _TILE))
        by_pairs = config.eps_rule == "pair_percentile"
        coarse = self.integers((self.problems, _COARSE_BINS)).zero_() if by_pairs else None
        sizes, blocks = (self.positions, stride, self.tiles), stride // 64 * (stride // 64 + 1) // 2
        self.each_problem("pair_distances", blocks, 256, scaled, counts, *sizes, approximate, coarse)

        fraction = -1.0
        if coarse is not None:
            fraction = config.eps_percentile / 100
            self.order_pairs(approximate, counts, coarse, points, fraction, order)
        else:
            self.middle_neighbor(approximate, counts, points, order)
        near, eps = self.integers((self.problems, stride, stride // 32)), self.doubles(self.problems)
        given = approximate, counts, bound, points, order, fraction
        self.each_problem("near_pairs", -(-self.tiles // 4), 128, *given, *sizes, near, eps)
        self.dbscan(near, counts, members, labels)
        return labels, eps

    def order_pairs(
        self,
        approximate: torch.Tensor,
        counts: torch.Tensor,
        coarse: torch.Tensor,
        points: torch.Tensor,
        fraction: float,
        order: torch.Tensor,
    ) -> None:
        """Fill `order` (P, 2) with the distances at eps_percentile; Primitives.order_statistics."""
        fine, following = self.integers((self.problems, _FINE_BINS)).zero_(), self.integers(self.problems).fill_(-1)
        below, found = self.integers(self.problems).zero_(), self.integers(self.problems).zero_()
        capacity, blocks = self.tiles * _TILE * _TILE, min(-(-self.tiles // 8), 128)
        candidates = torch.empty((self.problems, capacity), dtype=torch.int64, device=points.device)
        given = approximate, counts, coarse
        self.each_problem("pair_bracket", blocks, 256, *given, fraction, self.tiles, fine, following)
        sizes, results = (self.positions, self.stride, self.tiles), (below, found, candidates)
        self.each_problem("pair_band", blocks, 256, *given, fine, following, points, fraction, *sizes, *results)
        self.start("pair_select", (self.problems, 1), (256, 1), counts, *results, fraction, capacity, order)

    def middle_neighbor(
        self, approximate: torch.Tensor, counts: torch.Tensor, points: torch.Tensor, order: torch.Tensor
    ) -> None:
        """Fill `order` (P, 2) with the two middle distances to the neighbour; cluster_filter._eps."""
        stride, nearest, scrap = self.stride, self.doubles((self.problems, self.stride)), self.integers(self.problems)
        given: Arguments = approximate, counts, points, self.positions, stride, self.tiles
        self.each_problem("neighbor_distances", stride // 32, 256, *given, nearest, NEIGHBOR=self.config.eps_neighbor)
        given, sizes = (nearest, None, counts), (stride, stride, 1)
        self.each_problem("order_statistics", -(-stride // 256), 256, *given, *sizes, -1.0, 0.5, order, scrap)

    def dbscan(self, near: torch.Tensor, counts: torch.Tensor, members: torch.Tensor, labels: torch.Tensor) -> None:
        """Fill in the labels of the members; Primitives.dbscan."""
        stride, wanted = self.stride, self.config.min_samples
        core, parents = self.integers((self.problems, stride // 32)), self.integers((self.problems, stride))
        share, samples = (wanted, 0) if isinstance(wanted, float) else (0.0, min(wanted, MAX_CHANNELS + 1))
        self.each_problem("core_points", stride // 32, 256, near, counts, share, samples, stride, core, parents)
        self.each_problem("components", stride // 8, 256, near, core, counts, stride, parents)
        given = near, core, counts, members, stride, self.channels
        self.each_problem("cluster_labels", stride // 32, 256, *given, parents, labels)

    def average(self, values: torch.Tensor, others: torch.Tensor, labels: torch.Tensor, lowest: int) -> torch.Tensor:
        """Means of `values` (Q, C) over each cluster; `others` where the label is below `lowest`."""
        averages, sizes = torch.empty_like(values), (self.channels, self.per_problem)
        blocks = -(-self.channels // 256)
        self.each_map("cluster_average", blocks, 256, values, others, labels, *sizes, lowest, averages)
        return averages

    def weigh_pooled(
        self, labels: torch.Tensor, pooled: torch.Tensor, smoothed: torch.Tensor, result: EngineResult
    ) -> None:
        """cluster_filter.weigh where only the means of the filtered gradients matter."""
        own, softmax = int(self.config.gradient == "own"), int(self.config.weighting == "softmax")
        weights = smoothed if own else self.average(smoothed, pooled, labels, 0)
        sizes = self.channels, self.positions, self.targets, self.per_problem, own, softmax
        given = self.activations, labels, weights
        self.each_map("pooled_maps", -(-self.positions // 32), 512, *given, *sizes, result.weights, result.raw_maps)

    def weigh_products(self, labels: torch.Tensor, result: EngineResult) -> None:
        """cluster_filter.weigh where gradients and activations are multiplied position by position."""
        config, channels, positions = self.config, self.channels, self.positions
        own, positive, floor = config.gradient == "own", int(config.combine == "positive"), float(config.noise_floor)
        filtered, variance = self.doubles((self.maps, channels, positions)), None
        given = self.gradients, labels, self.filter.rows, self.filter.columns
        sizes: Arguments = self.height, self.width, self.per_problem, int(own)
        self.each_map("filter_gradients", channels, 128, *given, *sizes, filtered)
        if not own:
            self.each_map("cluster_gradients", channels, 128, labels, positions, self.per_problem, filtered)
        if floor > 0:
            variance, factor = self.doubles((self.maps, channels)), _left_of_noise(config.sigma)
            sizes = channels, positions, factor
            self.each_map(
                "residual_variance",
                -(-channels // 8),
                256,
                self.gradients,
                filtered,
                self.filter.inside,
                *sizes,
                variance,
            )
            variance = self.average(variance, variance, labels, -1)
        multiplied = filtered, variance
        sizes = channels, positions, positive, floor
        self.each_map("filtered_weights", -(-channels // 8), 256, *multiplied, *sizes, result.weights)
        sizes = channels, positions, self.targets, positive, floor
        blocks = -(-positions // 32)
        self.each_map("product_maps", blocks, 512, self.activations, *multiplied, *sizes, result.raw_maps)


def _left_of_noise(sigma: float) -> float:
    """What white noise leaves in the filtered gradient, over what it leaves in the residual; noise_floor."""
    reach = int(4 * sigma + 0.5)
    taps = [exp(-0.5 * (k / sigma) ** 2) for k in range(-reach, reach + 1)]
    squares, centre = (sum(tap * tap for tap in taps) / sum(taps) ** 2) ** 2, (taps[reach] / sum(taps)) ** 2
    residual = 1 - 2 * centre + squares
    return squares / residual if residual > 0 else 0.0  # one tap leaves no residual to tell the noise from
