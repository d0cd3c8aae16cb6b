"""The fused engine: whole batches by the CUDA kernels in kernels/, nothing read back by the host.

The sequence of launches stands here once; the tests run it with the kernels' sources compiled for the host. All memory
is torch's, all work on torch's current stream, and which kernels run on how much depends on shapes alone: a CUDA graph
can capture it once the kernels are compiled, as they are after a first call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch

from ..core.chunks import chunk_size
from ..core.cluster_filter import noise_left
from ..core.config import Config
from . import EngineResult, kernels, rapids
from .kernels import Argument, Arguments, Launch, Memory

#: Largest shapes that the kernels' shared memory is laid out for.
MAX_CHANNELS = 4096
MAX_POSITIONS = 4096
#: Largest side for which the filter's matrices are small.
MAX_SIDE = 256
#: The neighbours that a thread keeps in its registers.
MAX_NEIGHBOR = 16
#: Bytes that the workspace of one chunk of images may take: 512 MiB.
MEMORY = 1 << 29
#: For how many undecided pairs of an image there is room: those too near to the decisive distance to tell from it. A
#: slower way finds it among more.
CANDIDATES = 1 << 16

_MAX_GRID = 65535  # along y
_BLOCKS = 1056  # that keep a large GPU busy: eight for each of 132 multiprocessors
# As in kernels/common.cuh.
_TILE, _COARSE_BINS, _FINE_BINS = 32, 1024, 4096
_BOUNDARY = {"reflect": 0, "zero": 1}


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
        (B, T, C, *spatial), of the gradients.
    """
    _, targets, channels, *size = shape
    if channels > MAX_CHANNELS:
        return f"takes at most {MAX_CHANNELS} channels; got {channels}"
    if math.prod(size) > MAX_POSITIONS or max(size) > MAX_SIDE:
        got = " x ".join(map(str, size))
        return f"takes maps of at most {MAX_POSITIONS} positions, {MAX_SIDE} along an axis; got {got}"
    if targets > _MAX_GRID:
        return f"takes at most {_MAX_GRID} targets; got {targets}"
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
    return run_checked(activations, gradients, config)[0]


def run_checked(
    activations: torch.Tensor, gradients: torch.Tensor, config: Config
) -> tuple[EngineResult, torch.Tensor]:
    """As :func:`run`, and (B, 2) bool: whether an image's activations, and its gradients, are finite in float32."""
    with kernels.on_gpu(activations.device) as launch:
        return compute(activations, gradients, config, launch)


def compute(
    activations: torch.Tensor, gradients: torch.Tensor, config: Config, launch: Launch, *, memory: int = MEMORY
) -> tuple[EngineResult, torch.Tensor]:
    """CF-CAM by `launch`, chunk by chunk, so that the workspace stays within `memory` bytes, or holds one image.

    Raises
    ------
    ValueError
        If the engine does not cover `config` or the shape, see :func:`why_not`.
    """
    reason = why_not(config, gradients.shape)
    if reason is not None:
        raise ValueError(f"engine: 'fused' {reason}; use engine='rapids' or 'cpu'")
    wide = torch.float64 in (activations.dtype, gradients.dtype)
    dtype = torch.float64 if wide else torch.float32
    given = (activations, gradients)
    activations, gradients = (tensor.detach().resolve_neg().to(dtype).contiguous() for tensor in given)

    launch = partial(launch, INPUT="double" if wide else "float")

    batch, targets, channels, *size = gradients.shape
    empty = partial(torch.empty, device=activations.device)
    result = EngineResult(
        raw_maps=empty((batch, targets, *size), dtype=torch.float32),
        labels=empty((batch, targets, channels), dtype=torch.int64),
        weights=empty((batch, targets, channels), dtype=torch.float32),
        eps=empty((batch, targets), dtype=torch.float64),
    )
    finite = empty((batch, 2), dtype=torch.bool)
    smoothing = _filter(config, size, launch, activations.device)
    bytes_each = sum(scratch(config, (1, *gradients.shape[1:])).values())
    images = min(batch, chunk_size(memory, bytes_each), max(1, _MAX_GRID // targets))
    for first in range(0, batch, images):
        part = slice(first, first + images)
        chunk = _Chunk(launch, config, smoothing, activations[part], gradients[part])
        chunk.explain(EngineResult(*(value[part] for value in result)), finite[part])
    return result, finite


class _Filter(NamedTuple):
    """What filter_matrix.cu writes, and (d, h, w): of maps with fewer axes the first are 1."""

    sides: tuple[int, ...]
    planes: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    profile: torch.Tensor
    inside: torch.Tensor


def _filter(config: Config, size: Sequence[int], launch: Launch, device: torch.device) -> _Filter:
    """The filter of maps of this size."""
    sides = (*[1] * (3 - len(size)), *size)
    positions = math.prod(size)
    shapes = *((side, side) for side in sides), (positions,), (positions,)
    matrices = [torch.empty(shape, dtype=torch.float64, device=device) for shape in shapes]
    boundary = _BOUNDARY[config.boundary]
    launch("filter_matrix", (1, 1), (1024, 1), *sides, len(size), float(config.sigma), boundary, *matrices)
    return _Filter(sides, *matrices)


def _stride(config: Config, channels: int) -> int:
    """The most channels that may be left to cluster, in whole blocks of pair_distances.cu."""
    most = min(channels, int(config.dominant_percentile / 100 * (channels - 1)) + 2)
    return -(-most // 64) * 64


def _tiles(stride: int) -> int:
    return stride // _TILE * (stride // _TILE + 1) // 2


def _candidates(config: Config, tiles: int) -> int:
    """For how many undecided pairs there is room: all, where channels may be zero everywhere and share a distance."""
    pairs = tiles * _TILE * _TILE
    return pairs if config.dead_threshold is None else min(pairs, CANDIDATES)


#: What begins as zeros; it comes first.
_ZEROS = ("hub", "coarse", "fine", "next", "below", "found")


def scratch(config: Config, shape: Sequence[int]) -> dict[str, int]:
    """Bytes of what a chunk needs beside its result; the kernels' headers say of what. `shape` is the gradients'."""
    images, targets, channels, *size = shape
    positions, maps = math.prod(size), images * targets
    by_target = config.importance == "contribution"
    problems = maps if by_target else images
    stride = _stride(config, channels)
    tiles = _tiles(stride)
    by_pairs = {
        "coarse": 4 * problems * _COARSE_BINS,
        "fine": 4 * problems * _FINE_BINS,
        "next": 4 * problems,
        "below": 4 * problems,
        "found": 4 * problems,
        "candidates": 8 * problems * _candidates(config, tiles),
        "bands": 8 * problems,
    }
    sizes = {
        "hub": 4 * problems,
        **(by_pairs if config.eps_rule == "pair_percentile" else {"nearest": 8 * problems * stride}),
        "norms": 8 * images * channels,
        "pooled": 8 * maps * channels,
        "smoothed": 8 * maps * channels,
        "importance": 8 * maps * channels if by_target else 0,
        "members": 4 * problems * stride,
        "counts": 4 * problems,
        "bound": 8 * problems,
        "points": 8 * problems * positions * stride,
        "scaled": 4 * problems * positions * stride,
        "approximate": 4 * problems * tiles * _TILE * _TILE,
        "order": 16 * problems,
        "near": problems * stride * stride // 8,
        "core": problems * stride // 8,
        "parents": 4 * problems * stride,
        "averages": 8 * maps * channels,
    }
    if config.combine != "pooled":
        sizes |= {"filtered": 8 * maps * channels * positions, "variance": 8 * maps * channels}
    return {name: -(-size // 256) * 256 for name, size in sizes.items()}


def allocate(sizes: dict[str, int], zeros: int, device: torch.device) -> dict[str, Memory]:
    """Memory of these sizes in bytes, multiples of 256, in one block, whose first `zeros` bytes are zero."""
    block = torch.empty(sum(sizes.values()), dtype=torch.uint8, device=device)
    block[:zeros].zero_()
    parts, address = {}, block.data_ptr()
    for name, size in sizes.items():
        parts[name] = Memory(address, block)
        address += size
    return parts


class _Chunk:
    """Some images of the batch: B of them, T targets each, Q = B T maps, and P problems: times that channels cluster.

    P is B, or Q where the channels' importance depends on the gradient. The kernels' headers tell the shapes.
    """

    def __init__(
        self, launch: Launch, config: Config, smoothing: _Filter, activations: torch.Tensor, gradients: torch.Tensor
    ) -> None:
        self.start, self.config, self.filter = launch, config, smoothing
        self.activations, self.gradients = activations, gradients
        self.images, self.targets, self.channels, *size = gradients.shape
        self.positions, self.axes = math.prod(size), len(size)
        self.maps = self.images * self.targets
        by_target = config.importance == "contribution"
        self.problems = self.maps if by_target else self.images
        self.per_image = self.targets if by_target else 1  # problems
        self.per_problem = 1 if by_target else self.targets  # maps
        self.stride = _stride(config, self.channels)
        self.tiles = _tiles(self.stride)
        sizes = scratch(config, gradients.shape)
        self.at = allocate(sizes, sum(sizes.get(name, 0) for name in _ZEROS), activations.device)

    def each_problem(self, name: str, blocks: int, threads: int, *arguments: Argument, **macros: int) -> None:
        """Launch `blocks` blocks for each problem."""
        self.start(name, (blocks, self.problems), (threads, 1), *arguments, **macros)

    def once_a_problem(self, name: str, *arguments: Argument) -> None:
        """Launch one block of 1024 threads for each problem."""
        self.start(name, (self.problems, 1), (1024, 1), *arguments)

    def each_map(self, name: str, blocks: int, threads: int, *arguments: Argument) -> None:
        """Launch `blocks` blocks for each map."""
        self.start(name, (blocks, self.maps), (threads, 1), *arguments)

    def explain(self, result: EngineResult, finite: torch.Tensor) -> None:
        """Fill `result` and `finite`, the part of them that belongs to these images."""
        config, channels, at, shared = self.config, self.channels, self.at, self.problems < self.maps
        norms, pooled, smoothed = at["norms"], at["pooled"], at["smoothed"]
        importance = at["importance"] if config.importance == "contribution" else None
        inputs = self.activations, self.gradients, self.filter.profile, channels, self.positions, self.targets
        self.each_map("channel_statistics", -(-channels // 32), 256, *inputs, norms, pooled, smoothed, importance)
        # Where a problem is one map's alone, its labels are the result's.
        empty = partial(torch.empty, device=finite.device)
        labels = empty((self.images, 1, channels), dtype=torch.int64) if shared else result.labels
        eps = empty((self.images, 1), dtype=torch.float64) if shared else result.eps
        flags = finite if self.per_image == 1 else empty((self.images, self.per_image, 2), dtype=torch.bool)
        self.cluster(norms if importance is None else importance, labels, eps, flags)
        if config.combine == "pooled":
            self.weigh_pooled(labels, result)
        else:
            self.weigh_products(labels, result)
        if shared:
            result.labels.copy_(labels.expand_as(result.labels))
            result.eps.copy_(eps.expand_as(result.eps))
        if flags is not finite:
            finite.copy_(flags.all(dim=1))

    def cluster(self, importance: Memory, labels: torch.Tensor, eps: torch.Tensor, finite: torch.Tensor) -> None:
        """Labels (P, C), eps (P,) and finite (P, 2); cluster_filter.cluster_channels."""
        config, channels, stride, at = self.config, self.channels, self.stride, self.at
        dead = -1.0 if config.dead_threshold is None else float(config.dead_threshold)
        dominant, unit_norm = config.dominant_percentile / 100, int(config.distance == "unit_norm")
        members, counts, bound = at["members"], at["counts"], at["bound"]
        points, scaled, approximate, order = at["points"], at["scaled"], at["approximate"], at["order"]

        inputs: Arguments = importance, at["norms"], at["pooled"], channels, self.per_image, self.per_problem, dead
        self.once_a_problem(
            "split_channels", *inputs, dominant, stride, unit_norm, labels, members, counts, bound, finite
        )
        inputs = self.activations, at["norms"], members, counts, bound, channels, self.positions, self.per_image
        blocks = stride // 32 * -(-self.positions // 32)
        self.start("gather_points", (blocks, self.problems), (32, 8), *inputs, unit_norm, stride, points, scaled)

        side = -(-stride // 128)
        each = 8 if side * (side + 1) // 2 * self.problems >= _BLOCKS // 4 else 4
        side = -(-stride // (16 * each))
        by_pairs = config.eps_rule == "pair_percentile"
        coarse, sizes = at["coarse"] if by_pairs else None, (self.positions, stride, self.tiles)
        inputs = scaled, counts, *sizes, approximate, coarse
        self.each_problem("pair_distances", side * (side + 1) // 2, 256, *inputs, EACH=each)

        fraction = -1.0
        if by_pairs:
            fraction = config.eps_percentile / 100
            self.order_pairs(fraction)
        else:
            self.middle_neighbor()
        inputs = approximate, counts, bound, points, order, fraction
        self.each_problem("near_pairs", -(-self.tiles // 4), 128, *inputs, *sizes, at["near"], eps)
        self.dbscan(labels)

    def order_pairs(self, fraction: float) -> None:
        """Fill `order` with the distances at eps_percentile; Primitives.order_statistics."""
        at, sizes = self.at, (self.positions, self.stride, self.tiles)
        approximate, counts, points = at["approximate"], at["counts"], at["points"]
        capacity = _candidates(self.config, self.tiles)
        blocks = max(1, min(-(-self.tiles // 8), 128, _BLOCKS // self.problems))
        inputs: Arguments = approximate, counts, at["coarse"]
        self.each_problem("pair_bracket", blocks, 256, *inputs, fraction, self.tiles, at["fine"], at["next"])
        candidates = at["below"], at["found"], at["candidates"], at["bands"]
        lookup = at["fine"], at["next"], points, fraction
        self.each_problem("pair_band", blocks, 256, *inputs, *lookup, *sizes, capacity, *candidates)
        inputs = approximate, counts, points, *candidates, fraction, *sizes, capacity
        self.start("pair_select", (self.problems, 1), (256, 1), *inputs, at["order"])

    def middle_neighbor(self) -> None:
        """Fill `order` with the two middle distances to the neighbour; cluster_filter._eps."""
        at, nearest = self.at, self.at["nearest"]
        inputs: Arguments = at["approximate"], at["counts"], at["points"], self.positions, self.stride, self.tiles
        macros = {"NEIGHBOR": self.config.eps_neighbor}
        self.each_problem("neighbor_distances", self.stride // 32, 256, *inputs, nearest, **macros)
        self.once_a_problem("order_statistics", nearest, at["counts"], self.stride, 0.5, at["order"])

    def dbscan(self, labels: torch.Tensor) -> None:
        """Fill in the labels of the members; Primitives.dbscan."""
        at, stride, least = self.at, self.stride, self.config.min_samples
        near, core, counts, parents, hub = at["near"], at["core"], at["counts"], at["parents"], at["hub"]
        share, samples = (least, 0) if isinstance(least, float) else (0.0, min(least, MAX_CHANNELS + 1))
        self.each_problem("core_points", stride // 32, 256, near, counts, share, samples, stride, core, parents, hub)
        self.each_problem("link_lowest", stride // 8, 256, near, core, counts, stride, parents)
        self.each_problem("components", stride // 8, 256, near, core, counts, hub, stride, parents)
        inputs = near, core, counts, at["members"], stride, self.channels
        self.each_problem("cluster_labels", stride // 8, 256, *inputs, parents, labels)

    def average(self, values: Memory, otherwise: Memory, labels: torch.Tensor, lowest: int) -> Memory:
        """Means of `values` (Q, C) over each cluster; `otherwise` where the label is below `lowest`."""
        averages, sizes = self.at["averages"], (self.channels, self.per_problem)
        self.each_map(
            "cluster_average", -(-self.channels // 256), 256, values, otherwise, labels, *sizes, lowest, averages
        )
        return averages

    def weigh_pooled(self, labels: torch.Tensor, result: EngineResult) -> None:
        """cluster_filter.weigh where only the means of the filtered gradients matter."""
        own, softmax = int(self.config.gradient == "own"), int(self.config.weighting == "softmax")
        smoothed = self.at["smoothed"]
        weights = smoothed if own else self.average(smoothed, self.at["pooled"], labels, 0)
        sizes = self.channels, self.positions, self.targets, self.per_problem, own, softmax
        inputs = self.activations, labels, weights
        self.each_map("pooled_maps", -(-self.positions // 32), 1024, *inputs, *sizes, result.weights, result.raw_maps)

    def weigh_products(self, labels: torch.Tensor, result: EngineResult) -> None:
        """cluster_filter.weigh where gradients and activations are multiplied position by position."""
        config, channels, positions = self.config, self.channels, self.positions
        own, positive, floor = config.gradient == "own", int(config.combine == "positive"), float(config.noise_floor)
        filtered, variance = self.at["filtered"], None
        # As many channels a block as its shared memory holds, and as leave enough blocks.
        group = max(1, min(16, MAX_POSITIONS // positions, channels * self.maps // _BLOCKS))
        inputs: Arguments = self.gradients, labels, self.filter.planes, self.filter.rows, self.filter.columns
        sizes: Arguments = channels, *self.filter.sides, self.per_problem, int(own), group
        self.each_map("filter_gradients", -(-channels // group), 256, *inputs, *sizes, filtered)
        if not own:
            self.each_map("cluster_gradients", channels, 128, labels, positions, self.per_problem, filtered)
        if floor > 0:
            inputs = self.gradients, filtered, self.filter.inside
            sizes, spread = (channels, positions, noise_left(config.sigma, self.axes)), self.at["variance"]
            self.each_map("residual_variance", -(-channels // 8), 256, *inputs, *sizes, spread)
            variance = self.average(spread, spread, labels, -1)
        multiplied = filtered, variance
        sizes = channels, positions, positive, floor
        self.each_map("filtered_weights", -(-channels // 8), 256, *multiplied, *sizes, result.weights)
        sizes = channels, positions, self.targets, positive, floor
        self.each_map("product_maps", -(-positions // 32), 1024, self.activations, *multiplied, *sizes, result.raw_maps)
