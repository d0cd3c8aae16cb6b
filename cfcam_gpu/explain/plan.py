"""Which layers, and what is computed of them: the steps that a call and a CUDA graph share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from .. import engines
from ..core.config import Config
from ..hooks.capture import Captured, capture
from ..hooks.guard import Survey
from ..hooks.target_layer import TargetLayer
from ..results.explanation import Explanation
from ..results.record import Origin
from ..targets.request import Request


@dataclass(frozen=True)
class Plan:
    """Target layers, the finest first, and a configuration for as many."""

    layers: tuple[TargetLayer, ...]
    config: Config

    @classmethod
    def of(cls, layers: tuple[TargetLayer, ...], given_config: Config | None) -> Plan:
        """The layers with the configuration that was given, or the default for as many.

        Raises
        ------
        ValueError
            If the configuration is for another number of layers.
        """
        config = given_config or (Config() if len(layers) == 1 else Config.two_level())
        if config.levels != len(layers):
            names = ", ".join(layer.name for layer in layers)
            raise ValueError(
                f"config: a configuration of {config.levels} level{'s' * (config.levels > 1)} needs as many target "
                f"layers; got {names}"
            )
        return cls(layers, config)

    def with_layouts_of(self, captured: Captured) -> Plan:
        """The same plan with the layouts that a capture found."""
        return self if captured.layers == self.layers else replace(self, layers=captured.layers)

    def capture(
        self, model: nn.Module, images: torch.Tensor, request: Request, survey: Survey | None = None
    ) -> Captured:
        """What an engine needs. See :func:`cfcam_gpu.hooks.capture.capture`."""
        coarse = self.layers[1] if len(self.layers) == 2 else None
        return capture(
            model, self.layers[0], images, request, coarse=coarse, contrast=self.config.contrast, survey=survey
        )

    def explanation(
        self,
        model: nn.Module,
        captured: Captured,
        result: engines.EngineResult,
        images: torch.Tensor,
        request: Request,
    ) -> Explanation:
        """The result, without a T axis where the request has none."""
        if not request.several:
            result = engines.EngineResult(*(value.squeeze(1) for value in result))
        return Explanation(
            raw_maps=result.raw_maps,
            target=captured.indices,
            logits=captured.logits,
            labels=result.labels,
            weights=result.weights,
            eps=result.eps,
            layers=self.layers,
            config=self.config,
            size=tuple(images.shape[2:]),
            origin=Origin(model, request.scores, partial(self.capture, model)),
        )
