"""The CPU engine: what the oracle computes, in a fraction of its time.

Labels and radii are those of :mod:`cfcam_gpu.engines.reference` to the last bit, maps within float64's rounding of
what is added up. Step 1 is the oracle's own code; the rest stands in `pairs`, `graph` and `weighing`, and, compiled
where numba is installed, in `compiled`. There are as many threads as torch has: ``torch.set_num_threads`` and
``OMP_NUM_THREADS`` say how many.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from functools import cache
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.cluster_filter import MAX_MAP, MIN_EPS, cluster_channels, set_apart
from ..core.config import Config
from . import EngineResult, graph, reference, workers
from .pairs import InDoubtError, Pairs
from .weighing import Filter, weigh

_log = logging.getLogger(__name__)


def why_missing() -> None:
    """Always there."""


def run(activations: torch.Tensor, gradients: torch.Tensor, config: Config) -> EngineResult:
    """CF-CAM on the host; images and targets side by side on the cores. See :class:`cfcam_gpu.engines.Engine`."""
    device = activations.device
    # NumPy knows no tensor that is the negative of its memory, such as the imaginary part of a conjugate.
    activations, gradients = (tensor.detach().cpu().resolve_neg() for tensor in (activations, gradients))
    batch, targets, channels, *size = gradients.shape
    result = EngineResult(
        raw_maps=torch.empty((batch, targets, *size), dtype=torch.float32),
        labels=torch.empty((batch, targets, channels), dtype=torch.int64),
        weights=torch.empty((batch, targets, channels), dtype=torch.float32),
        eps=torch.empty((batch, targets), dtype=torch.float64),
    )

    compiled = _compiled()  # once, and not by all threads at a time

    def explain(b: int, first: int, end: int) -> None:
        # float64 an image at a time: a whole batch of it would be a second copy of twice the size.
        of_image, of_targets = activations[b].double(), gradients[b, first:end].double()
        labels, eps = _cluster(of_image, of_targets[0], config, compiled)
        maps, weights = _weigh(of_image, of_targets, labels, config, compiled)
        result.raw_maps[b, first:end] = maps
        result.labels[b, first:end] = labels
        result.weights[b, first:end] = weights
        result.eps[b, first:end] = eps

    # Where each target has clusters of its own, targets go side by side, too; else they share an image's clusters.
    each = 1 if config.importance == "contribution" else targets
    jobs = [(b, first, first + each) for b in range(batch) for first in range(0, targets, each)]
    workers.run(explain, jobs)
    return EngineResult(*(value.to(device) for value in result))


def _cluster(
    activations: torch.Tensor, gradients: torch.Tensor, config: Config, compiled: ModuleType | None
) -> tuple[torch.Tensor, float]:
    """Steps 1 and 2: labels (C,) and radius, of one image and target (C, *spatial) float64."""
    pooled: NDArray[np.float64] = np.empty(0)
    if config.importance == "contribution":
        pooled = gradients.numpy().mean(axis=tuple(range(1, gradients.ndim)))
    labels, rest, points = set_apart(activations.numpy(), pooled, config, np)
    if points is None:
        return torch.from_numpy(labels), MIN_EPS
    settle = compiled.settle if compiled and compiled.settles(config) else graph.settle
    try:
        pairs = Pairs(points, compiled.factors_of if compiled else None)
        eps, labels[rest] = settle(pairs, config)
    except InDoubtError:
        clusters = cluster_channels(activations.numpy(), pooled, config, reference.PRIMITIVES)
        labels, eps = clusters.labels, float(clusters.eps)
    return torch.from_numpy(labels), eps


def _weigh(
    activations: torch.Tensor,
    gradients: torch.Tensor,
    labels: torch.Tensor,
    config: Config,
    compiled: ModuleType | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps 3 to 5: maps (T, *spatial) and weights (T, C) of one image (C, *spatial) float64 and its targets."""
    smooth = Filter.of(gradients, config)
    if compiled and compiled.weighs(config, smooth):
        maps, weights = compiled.weigh(activations, gradients, labels, config, smooth)
    else:
        maps, weights = weigh(activations, gradients, labels, config, smooth)
    return maps.clamp_(0.0, MAX_MAP), weights


@cache
def _compiled() -> ModuleType | None:
    """The compiled functions, where numba is installed and works."""
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        found = importlib.import_module(".compiled", __package__)
        found.warm_up()
        return found
    except Exception as error:  # a release that does not go with NumPy's, or what it keeps in a folder is damaged
        _log.warning("engine: 'cpu' runs uncompiled, since numba can't be used: %s", error)
        return None
