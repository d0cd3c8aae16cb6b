"""What a layer's activations are to a score, and how much of it gradients times activations account for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from ..engines.execution import are_finite, check_finite
from ..hooks.capture import Captured
from ..hooks.guard import guarded
from ..targets.outputs import logits_of
from ..targets.request import Request, are_sound, pinned, resolve
from .substituted_activations import substituted


class Completeness(NamedTuple):
    """Of each image, (B,) float64 in units of the score.

    ``gap``: |evidence - change| / |change|, 0 where both are the same and infinite where `change` alone is 0; lower is
    better. ``evidence``: the sum of gradient times activation over the layer's channels and positions. ``change``: the
    score less what is left of it with all these activations zero. `gap` and `change` are NaN where the model has no
    finite answer without them, as behind a division by the activations' own norm.
    """

    gap: torch.Tensor
    evidence: torch.Tensor
    change: torch.Tensor


def completeness(
    model: nn.Module, images: torch.Tensor, captured: Captured, request: Request, *, contrast: float = 0.0
) -> Completeness:
    """The completeness of gradient times activation at the layer of a capture, by one more forward.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, ...) tensor
    captured : Captured
        Of these images, with the model's own gradients. Of several targets an image the first is meant.
    request : Request
        What it was captured for: classes, no callables, and no objective that picks others by their logits.
    contrast : float
        See :func:`cfcam_gpu.targets.resolve`.

    Raises
    ------
    NotFiniteError
        If an image's activations, logits, score or gradients are NaN or infinite.
    """
    activations, gradients = captured.activations, captured.gradients[:, 0]
    check_finite({"activations": are_finite(activations), **captured.sound, "gradients": are_finite(gradients)})
    evidence = (gradients.float() * activations.float()).flatten(1).sum(dim=1, dtype=torch.float64)
    settled = pinned(request, captured.indices)
    with guarded(model), substituted(captured.layers[0], torch.zeros_like(activations)):
        without = logits_of(model(images)).to(images.device)
    _, scores = resolve(settled, captured.need_logits(), contrast=contrast)
    _, left = resolve(settled, without, contrast=contrast)
    answered = torch.stack(list(are_sound(without, settled.indices, left).values())).all(dim=0)
    change = scores[0].double() - left[0].double().masked_fill(~answered, torch.nan)
    missed = (evidence - change).abs()
    return Completeness(torch.where(missed == 0, 0.0, missed / change.abs()), evidence, change)
