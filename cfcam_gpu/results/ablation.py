"""What a model says of images without some channels of a layer: these are zero there, and what follows runs again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch

from ..core.chunks import DEFAULT_MEMORY, chunk_size
from ..hooks.capture import Captured
from ..hooks.guard import guarded
from ..methods.head import Head
from ..targets.outputs import samples
from ..targets.per_image import ListsOf
from ..targets.request import Request, Score, logits_for, resolve
from .record import Origin, Record


class Said(NamedTuple):
    """Of one image, with all channels, then without each group: what was explained, and its class's probability.

    Both are (1 + groups,) float32 on the host. ``probabilities`` are None where no class has one: of callables, and of
    a model of a single logit.
    """

    scores: torch.Tensor
    probabilities: torch.Tensor | None


def without(
    explanation: Record, captured: Captured, images: torch.Tensor, groups: Sequence[Sequence[torch.Tensor]]
) -> list[Said]:
    """What the model says of each of B images without each of its groups of channels.

    From the layer on, an image's copies run side by side, within :data:`cfcam_gpu.core.chunks.DEFAULT_MEMORY`. What
    comes before the layer works on one of them, where the model lets it.

    Parameters
    ----------
    explanation : Record
        Of one target an image, with its origin and configuration.
    captured : Captured
        Of these images, at the explanation's layers.
    images : (B, ...) tensor
    groups : B sequences of (N,) int64 tensors
        Channels of the first layer.

    Raises
    ------
    ValueError
        If the model does not say of copies of an image what it said of the images.
    """
    origin = explanation.origin
    assert origin is not None
    found = []
    with guarded(origin.model):
        # Beside logits an output may hold what comes from before the layer: of one copy, where callables want it of N.
        whole = captured.logits is None or any(getattr(score, "whole_output", False) for score in origin.scores or ())
        head = Head(origin.model, images, captured, "Leave measured out", trunk_once=not whole)
        size = chunk_size(DEFAULT_MEMORY, head.bytes_each)
        for b, of_image in enumerate(groups):
            activation = captured.activations[b]
            gone = torch.zeros(1 + len(of_image), len(activation), dtype=torch.bool, device=activation.device)
            for k, channels in enumerate(of_image, start=1):
                gone[k, channels] = True
            gone = gone.reshape(*gone.shape, *(1 for _ in activation.shape[1:]))
            parts: list[_Read] = []
            for chunk in torch.split(gone, size):
                output = head(b, activation.masked_fill(chunk, 0.0))
                if not parts:
                    head.check(b, output, len(chunk))
                parts.append(_read(explanation, output, b, head.copies(b, len(chunk))))
            found.append(_said(explanation, b, parts))
    return found


class _Read(NamedTuple):
    """The scores (N,) and the logits, if any, of N copies of an image, on the host."""

    scores: torch.Tensor
    logits: torch.Tensor | None


def _read(explanation: Record, output: Any, b: int, copies: torch.Tensor) -> _Read:
    """What an output says of copies (N, ...) of image `b`."""
    count, per_image = len(copies), ListsOf(cast("Origin", explanation.origin).model, copies)
    request = _request(explanation, b, count)
    logits = logits_for(request, output, count, per_image)
    if request.scores is None:
        assert explanation.config is not None
        _, (scores,) = resolve(request, logits, contrast=explanation.config.contrast)
    else:
        score = cast("Score", request.scores[0])  # tuples are of several targets an image
        looks_at = output if logits is None or getattr(score, "whole_output", False) else logits
        scores = torch.stack([score(part).reshape(()) for part in samples(looks_at, count, per_image)])
    return _Read(scores.float().cpu(), None if logits is None else logits.cpu())


def _request(explanation: Record, b: int, count: int) -> Request:
    scores = cast("Origin", explanation.origin).scores
    if scores is not None:
        return Request(scores=(scores[b],) * count)
    assert explanation.target is not None
    return Request(indices=explanation.target[b].expand(count), checked=True)


def _said(explanation: Record, b: int, parts: Sequence[_Read]) -> Said:
    """What all copies of an image came to, read in parts."""
    scores, target = torch.cat([part.scores for part in parts]), explanation.target
    logits = [part.logits for part in parts if part.logits is not None]
    if target is None or logits[0].shape[1] == 1:
        return Said(scores, None)
    return Said(scores, torch.cat([explanation.probabilities_of(part)[:, int(target[b])] for part in logits]))
