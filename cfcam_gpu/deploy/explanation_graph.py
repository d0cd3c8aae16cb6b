"""The whole explanation as one module of tensor operators: forward, head's backward, CF-CAM and maps."""

from __future__ import annotations

import torch
from torch import nn

from ..core.config import Config
from ..core.maps import Inside
from .method_graph import MethodGraph, is_empty, shown
from .tracing import Head, Traced

#: What a file gives, in this order; ONNX lets no output be called as an input is.
OUTPUTS = ("maps", "raw_maps", "logits", "target", "empty", "converged")
OUTPUTS_BESIDE_TARGET = ("maps", "raw_maps", "logits", "explained", "empty", "converged")


class ExplanationGraph(nn.Module):
    """Images, and classes where they are an input, to the outputs of a file.

    Parameters
    ----------
    traced : Traced
    head : Head
        As `traced` was made with.
    config : Config
    size : tuple of int
        (H, W) of a map.
    inside : tuple of (float, float) or None
        As of :class:`cfcam_gpu.Explanation`.
    targets : int or None
        T, with a T axis; None without one.
    unrolled, fused : bool
        As for :class:`~cfcam_gpu.deploy.method_graph.MethodGraph`.
    """

    def __init__(
        self,
        traced: Traced,
        head: Head,
        config: Config,
        *,
        size: tuple[int, ...],
        inside: Inside | None,
        targets: int | None,
        unrolled: bool,
        fused: bool,
    ) -> None:
        super().__init__()
        self.traced = traced
        self._head = head
        self._config = config
        self._size, self._inside = size, inside
        self._targets = targets
        self._method = MethodGraph(config, unrolled=unrolled, fused=fused)

    def forward(self, images: torch.Tensor, target: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """See :data:`OUTPUTS`.

        Parameters
        ----------
        images : (B, C, H, W) float32
        target : (B,) or (B, T) int64, optional
            A negative class is the predicted one.

        Returns
        -------
        maps : (B[, T], H, W) float32 in [0, 1]
        raw_maps : (B[, T], h, w) float32, >= 0
            NaN, as the map, of an image of which no explanation can be made: where a logit is NaN, say.
        logits : (B, K) float32
        target : (B[, T]) int64
        empty, converged : (B[, T]) bool
        """
        levels, count = self._config.levels, self._head.classes
        columns = target if target is None or target.ndim == 2 else target[:, None]
        logits, chosen, *found = self.traced(images, *(() if columns is None else (columns,)))
        activations = [_for_each(each, count) for each in found[:levels]]
        gradients = [_together(found[levels + level :: levels]) for level in range(levels)]
        coarse = (activations[1], gradients[1]) if levels == 2 else None
        raw_maps, converged = self._method(activations[0], gradients[0], coarse)
        raw_maps = torch.where(self._sound(logits, chosen, raw_maps.ndim), raw_maps, torch.nan)
        maps = shown(raw_maps, self._size, saturation=self._config.saturation, inside=self._inside)
        empty = is_empty(raw_maps)
        if self._targets is None:
            return maps, raw_maps, logits, chosen[:, 0], empty, converged
        maps, raw_maps, empty, converged = (
            each.reshape(-1, count, *each.shape[1:]) for each in (maps, raw_maps, empty, converged)
        )
        return maps, raw_maps, logits, chosen, empty, converged

    def _sound(self, logits: torch.Tensor, chosen: torch.Tensor, axes: int) -> torch.Tensor:
        """Of each map whether a score can be made of the logits, as :func:`cfcam_gpu.targets.request.are_sound`."""
        # Each is compared first: ONNX Runtime's maximum may pass a NaN over.
        below = (logits.flatten(1) < torch.inf).float().amin(dim=1, keepdim=True) > 0
        sound = below & (self._head.scores(logits, chosen).abs() < torch.inf)
        return sound.reshape(-1, *[1] * (axes - 1))


def _for_each(activations: torch.Tensor, targets: int) -> torch.Tensor:
    """(B * T, C, ...) from (B, C, ...)."""
    if targets == 1:
        return activations
    return activations[:, None].expand(-1, targets, *activations.shape[1:]).flatten(0, 1)


def _together(gradients: list[torch.Tensor]) -> torch.Tensor:
    """(B * T, C, ...) from T tensors (B, C, ...)."""
    return gradients[0] if len(gradients) == 1 else torch.stack(gradients, dim=1).flatten(0, 1)
