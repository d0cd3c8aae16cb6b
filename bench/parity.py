"""Whether an engine gives the CPU engine's labels and maps."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cfcam_gpu import Config
from cfcam_gpu.core.cluster_filter import Array, Clusters, cluster_channels, weigh
from cfcam_gpu.core.gate import gate
from cfcam_gpu.engines import EngineResult, reference

#: Largest difference of two maps, as a share of the map's maximum.
MAP_TOLERANCE = 1e-5
#: Half a unit in float32's last place: what a radius may move by where an engine rounds it.
EPS_ROUNDING = 2.0**-24


def compare(
    activations: torch.Tensor,
    gradients: torch.Tensor,
    config: Config,
    found: EngineResult,
    *,
    coarse: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> dict[str, Any]:
    """What differs between `found` and the CPU engine's result.

    An image's labels are right if they are the CPU's for eps, or for eps moved up or down by float32's rounding: then
    a distance lies that close to it. Its map is compared with the CPU's for the labels found, so that right labels of
    either kind need the right map.

    Parameters
    ----------
    activations : (B, C, *spatial) floating tensor
    gradients : (B, C, *spatial) floating tensor
    config : Config
    found : EngineResult
        With T = 1, on any device.
    coarse : tuple of two tensors, optional
        Activations (B, C', ...) and gradients (B, 1, C', ...) of the coarse layer, where the maps of a two-level
        configuration went through the gate.

    Returns
    -------
    dict
        ``images``; of them ``labels_equal``, ``labels_within_rounding`` and ``labels_wrong``; ``finite``, whether maps
        and eps are; ``map_error`` and ``eps_error``, the largest, relative; ``clustered``, the mean share of channels
        in a cluster; ``passed``.
    """

    def one(b: int) -> tuple[str, float, float]:
        of_image, of_target = activations[b].double().cpu().numpy(), gradients[b].double().cpu().numpy()
        labels, raw = found.labels[b, 0].cpu().numpy(), found.raw_maps[b, 0].double().cpu().numpy()
        pooled = of_target.mean(axis=tuple(range(1, of_target.ndim)))
        expected = _clusters(of_image, pooled, config, 0.0)
        if np.array_equal(labels, expected.labels):
            verdict = "equal"
        elif any(
            np.array_equal(labels, _clusters(of_image, pooled, config, by).labels)
            for by in (-EPS_ROUNDING, EPS_ROUNDING)
        ):
            verdict = "within_rounding"
        else:
            verdict = "wrong"
        wanted = weigh(of_image, of_target, labels, config, reference.PRIMITIVES).map
        if coarse is not None and config.gate is not None:
            ungated = torch.from_numpy(wanted).float()[None, None]
            layer = (tensor[b : b + 1].cpu() for tensor in coarse)
            wanted = gate(ungated, *layer, config)[0, 0].double().numpy()
        return verdict, _error(raw, wanted), _error(found.eps[b, 0].item(), expected.eps)

    with ThreadPoolExecutor() as pool:
        verdicts, map_errors, eps_errors = zip(*pool.map(one, range(len(activations))))
    counted = {f"labels_{verdict}": verdicts.count(verdict) for verdict in ("equal", "within_rounding", "wrong")}
    finite = bool(found.raw_maps.isfinite().all() and found.eps.isfinite().all())
    right = max(map_errors) <= MAP_TOLERANCE and max(eps_errors) <= 2 * EPS_ROUNDING
    return {
        "images": len(activations),
        **counted,
        "finite": finite,
        "map_error": max(map_errors),
        "eps_error": max(eps_errors),
        "clustered": round(float((found.labels >= 0).double().mean()), 4),
        "passed": counted["labels_wrong"] == 0 and finite and right,
    }


def _clusters(activations: Array, pooled: Array, config: Config, by: float) -> Clusters:
    """The CPU's labels, with the distances that eps is read from larger by a factor of 1 + `by`."""
    moved = replace(
        reference.PRIMITIVES,
        order_statistics=lambda values, k: reference.order_statistics(values, k) * (1 + by),
        squareform=lambda pairs, n: reference.squareform(pairs, n) * (1 + by),
    )
    return cluster_channels(activations, pooled, config, moved)


def _error(found: Any, expected: Any) -> float:
    """The largest difference over the largest expected value; what is not finite counts as 0."""
    difference = float(np.abs(np.nan_to_num(found, posinf=0, neginf=0) - expected).max())
    scale = float(np.abs(expected).max())
    return difference / scale if scale > 0 else difference
