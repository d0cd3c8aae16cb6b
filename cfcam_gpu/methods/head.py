"""What comes after a layer, on many activations of one image."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from ..core.similarity import is_same
from ..hooks.capture import Captured
from ..hooks.forward_memory import forward_bytes
from ..targets.outputs import logits_of
from .substituted_activations import first_copy_only, substituted


class Head:
    """What comes after the first layer of a capture, on many activations of one image.

    An image's copies run side by side. What comes before the layer works on one of them, where the model lets it: not,
    where the batches of both sides of the layer meet in a way that doesn't broadcast, as in a DenseNet. It is tried out
    here, on two copies of the first image.

    Parameters
    ----------
    model : torch.nn.Module
        Guarded, as in all calls.
    images : (B, ...) tensor
    captured : Captured
        Of these images.
    way_out : str
        What the user of a model that is refused can do.
    trunk_once : bool
        False where the output is asked for what comes from before the layer, of every copy.

    Attributes
    ----------
    bytes_each : int
        What a copy takes at the peak.
    tried : output of the model
        Of two copies of the first image: with its own activation, and with one of zeros.

    Raises
    ------
    ValueError
        If the model has logits, and those of a copy are not those of the image.
    """

    def __init__(
        self, model: nn.Module, images: torch.Tensor, captured: Captured, way_out: str, *, trunk_once: bool = True
    ) -> None:
        self.model, self.images, self.captured, self.way_out = model, images, captured, way_out
        self.trunk_once = trunk_once
        if trunk_once:
            try:
                self.bytes_each = forward_bytes(model, self._try, 2)
            except Exception:  # whatever it is, it comes again below if the batches are not to blame
                self.trunk_once = False
        if not self.trunk_once:
            self.bytes_each = forward_bytes(model, self._try, 2)

    def _try(self) -> None:
        activation = self.captured.activations[:1]
        # Where images of a batch mix, the zeros show in the other copy.
        self.tried: Any = self(0, torch.cat([activation, torch.zeros_like(activation)]))
        self.check(0, self.tried, 2)

    def __call__(self, b: int, activations: torch.Tensor) -> Any:
        """The model's output of copies of image `b` that have these activations (N, C, *spatial) at the layer."""
        copies = self.copies(b, len(activations))
        shared_trunk = first_copy_only(self.model, copies) if self.trunk_once else nullcontext()
        with substituted(self.captured.layers[0], activations), shared_trunk:
            return self.model(copies if self.trunk_once else copies.contiguous())

    def copies(self, b: int, count: int) -> torch.Tensor:
        """Image `b`, (count, ...), of which all are the same memory."""
        return self.images[b : b + 1].expand(count, *self.images.shape[1:])

    def check(self, b: int, output: Any, count: int) -> None:
        """Refuse an output of `count` copies, the first with the image's own activation, if that is not as before.

        Raises
        ------
        ValueError
        """
        if self.captured.logits is None:
            return
        logits, before = logits_of(output), self.captured.logits[b : b + 1]
        if not (len(logits) == count and is_same(logits[:1].to(before.device), before)):
            raise ValueError(
                "model: expected one that says of an image the same in any batch; what this one says of copies of "
                f"image {b}, run from {self.captured.layers[0].name} on, is something else. {self.way_out}"
            )
