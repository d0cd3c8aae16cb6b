"""What a model says of images without some channels of a layer: these are zero there, and what follows runs again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple, cast

import torch

from ..core.chunks import DEFAULT_MEMORY, chunk_size
from ..hooks.capture import Captured
from ..hooks.forward_memory import forward_bytes
from ..hooks.guard import guarded
from ..methods.substituted_activations import first_copy_only, substituted
from ..targets.outputs import probabilities, samples
from ..targets.per_image import ListsOf
from ..targets.request import Request, Score, logits_for, resolve
from .agreement import agree
from .record import Record


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
    head = _Head(explanation, captured, images)
    found = []
    assert explanation.origin is not None
    with guarded(explanation.origin.model):
        size = chunk_size(DEFAULT_MEMORY, head.bytes_each())
        for b, of_image in enumerate(groups):
            activation = captured.activations[b]
            gone = torch.zeros(1 + len(of_image), len(activation), dtype=torch.bool, device=activation.device)
            for k, channels in enumerate(of_image, start=1):
                gone[k, channels] = True
            gone = gone.reshape(*gone.shape, *(1 for _ in activation.shape[1:]))
            parts = [head(b, activation.masked_fill(chunk, 0.0)) for chunk in torch.split(gone, size)]
            head.check(b, parts[0])
            found.append(head.said(b, parts))
    return found


class _Ran(NamedTuple):
    """The scores (N,) and the logits, if any, of N copies of an image."""

    scores: torch.Tensor
    logits: torch.Tensor | None


class _Head:
    """What comes after the layer, on many activations of one image."""

    def __init__(self, explanation: Record, captured: Captured, images: torch.Tensor) -> None:
        assert explanation.origin is not None
        self.explanation, self.captured, self.images = explanation, captured, images
        self.model, self.callables = explanation.origin.model, explanation.origin.scores
        # Beside logits an output may hold what comes from before the layer: of one copy, where callables want it of N.
        self.trunk_once = captured.logits is not None and not any(
            getattr(score, "whole_output", False) for score in self.callables or ()
        )

    def bytes_each(self) -> int:
        """What a copy takes at the peak. Found out beside it: whether what is before the layer may run on one copy.

        No, where the batches of both sides of the layer meet in a way that doesn't broadcast, as in a DenseNet.
        """
        activation = self.captured.activations[:1]
        twice = activation.repeat(2, *(1 for _ in activation.shape[1:]))
        if self.trunk_once:
            try:
                each = forward_bytes(self.model, lambda: self.check(0, self(0, twice)), 2)
            except Exception:  # whatever it is, it comes again below if the batches are not to blame
                self.trunk_once = False
            else:
                return each
        return forward_bytes(self.model, lambda: self(0, twice), 2)

    def __call__(self, b: int, activations: torch.Tensor) -> _Ran:
        image, count = self.images[b : b + 1], len(activations)
        copies = image.expand(count, *image.shape[1:])
        shared_trunk = first_copy_only(self.model, copies) if self.trunk_once else nullcontext()
        with substituted(self.captured.layers[0], activations), shared_trunk:
            output = self.model(copies if self.trunk_once else copies.contiguous())
        per_image = ListsOf(self.model, copies)
        request = self._request(b, count)
        logits = logits_for(request, output, count, per_image)
        if request.scores is None:
            assert self.explanation.config is not None
            _, (scores,) = resolve(request, logits, contrast=self.explanation.config.contrast)
        else:
            score = cast("Score", request.scores[0])  # tuples are of several targets an image
            looks_at = output if logits is None or getattr(score, "whole_output", False) else logits
            scores = torch.stack([score(part).reshape(()) for part in samples(looks_at, count, per_image)])
        return _Ran(scores.float().cpu(), None if logits is None else logits.cpu())

    def check(self, b: int, ran: _Ran) -> None:
        """Refuse what the model says of a copy with all its channels if it is not what it said of the image.

        Raises
        ------
        ValueError
        """
        before = self.captured.logits
        if before is not None and not (ran.logits is not None and agree(ran.logits[:1], before[b : b + 1].cpu())):
            raise ValueError(
                "measured: expected a model that says of an image the same in any batch; what this one says of copies "
                f"of image {b}, run from {self.captured.layers[0].name} on, is something else. Leave measured out"
            )

    def said(self, b: int, parts: Sequence[_Ran]) -> Said:
        """What all copies of an image came to, run in parts."""
        scores, target = torch.cat([part.scores for part in parts]), self.explanation.target
        if target is None or (self.captured.logits is not None and self.captured.logits.shape[1] == 1):
            return Said(scores, None)
        shares = [probabilities(part.logits)[:, int(target[b])] for part in parts if part.logits is not None]
        return Said(scores, torch.cat(shares))

    def _request(self, b: int, count: int) -> Request:
        if self.callables is not None:
            return Request(scores=(self.callables[b],) * count)
        assert self.explanation.target is not None
        return Request(indices=self.explanation.target[b].expand(count), checked=True)
