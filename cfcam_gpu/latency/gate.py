"""Whether what is timed computes what it should: the engine's labels, eps and maps beside the reference's."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .. import engines, targets
from ..core.config import Config
from ..engines import execution
from ..explain.plan import Plan
from ..hooks.capture import Captured
from ..hooks.target_layer import TargetLayer

#: The engine that the others are held to.
REFERENCE = "reference"
#: Of maps in [0, 1].
MAPS = 1e-6
#: Half a unit in float32's last place, twice: engines on a GPU keep eps in float32.
EPS_ON_CUDA = 2.0**-23
#: Of maps in [0, 1] of engines on a GPU, whose sums have another order.
MAPS_ON_CUDA = 1e-5


class Check(NamedTuple):
    """One comparison of a gate: the largest difference seen, and the largest that passes."""

    what: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """NaN passes nothing."""
        return self.difference <= self.tolerance

    def as_json(self) -> dict[str, Any]:
        """Its fields, and whether it passed."""
        return {**self._asdict(), "passed": self.passed}


def apart(ours: torch.Tensor | NDArray[Any], theirs: torch.Tensor | NDArray[Any]) -> float:
    """Largest difference, as a fraction of the largest magnitude; from any device."""
    first, second = (one.double().cpu().numpy() if isinstance(one, torch.Tensor) else one for one in (ours, theirs))
    return float(np.abs(first - second).max() / max(np.abs(second).max(), np.finfo(np.float64).tiny))


def check(
    model: nn.Module,
    layers: tuple[TargetLayer, ...],
    config: Config,
    engine: str,
    images: torch.Tensor,
    *,
    libragrad: bool = False,
) -> list[Check]:
    """An engine's result beside the reference's, both from one capture of the predicted classes.

    Parameters
    ----------
    model : torch.nn.Module
    layers : tuple of TargetLayer
        As many as `config` has levels, the finest first.
    config : Config
    engine : str
        A key of :data:`cfcam_gpu.engines.ENGINES`.
    images : (B, C, *size) floating tensor
        On the model's device.
    libragrad : bool
        As for :class:`cfcam_gpu.CFCAM`.
    """
    plan, request = Plan.of(layers, config, libragrad), targets.read(None, len(images))
    captured = plan.capture(model, images, request)
    plan = plan.with_layers(captured.layers)  # with the layouts
    found = _launched(captured, config, engine, images.device)
    wanted = _launched(captured, config, REFERENCE, torch.device("cpu"))
    ours, theirs = (plan.explanation(model, captured, one, images, request).maps for one in (found, wanted))
    on_cuda = engine in ("rapids", "fused")
    return [
        Check("labels that differ from the reference's", int((found.labels != wanted.labels).sum()), 0),
        Check("eps, against the reference", apart(found.eps, wanted.eps), EPS_ON_CUDA if on_cuda else 0.0),
        Check("maps, against the reference", float((ours - theirs).abs().max()), MAPS_ON_CUDA if on_cuda else MAPS),
    ]


def _launched(captured: Captured, config: Config, engine: str, device: torch.device) -> engines.EngineResult:
    """An engine's result on that device, brought to the host."""
    activations, gradients = captured.activations.to(device), captured.gradients.to(device)
    coarse = None if captured.coarse is None else (captured.coarse[0].to(device), captured.coarse[1].to(device))
    result = execution.launch(engines.choose(engine, device), activations, gradients, config, coarse=coarse)
    return engines.EngineResult(*(value.cpu() for value in result))
