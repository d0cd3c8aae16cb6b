"""The hook at a target layer: it reads the activation there and has the rest of the network hang on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..core.axes import ACTIVATIONS
from ..targets.outputs import first_tensor, with_first_tensor
from .layouts import Evidence
from .target_layer import TargetLayer


@dataclass(eq=False)
class ActivationHook:
    """The hook at a target layer: the first cuts its activation off and starts recording, a second one listens in."""

    layer: TargetLayer
    batch: int
    ndim: int
    cuts: bool
    activation: torch.Tensor | None = None

    def reached(self) -> torch.Tensor:
        """The activation, once the forward is through.

        Raises
        ------
        ValueError
            If the layer did not run.
        """
        if self.activation is None:
            raise ValueError(f"target_layer: {self.layer.name} did not run in this forward")
        return self.activation

    def read_layout(self, evidence: Evidence | None) -> None:
        """Put the layout on `layer` from what this forward told, or check that the known one holds.

        Raises
        ------
        ValueError
            If the layout can't be told, or does not hold.
        """
        shape = self.reached().shape
        if evidence is not None:
            self.layer = replace(self.layer, layout=evidence.layout(shape, self.layer.name), checked=False)
        assert self.layer.layout is not None
        self.layer.layout.check(shape, self.layer.name)

    def maps(self, device: torch.device) -> torch.Tensor:
        """The activation, (B, C, h, w) on `device`."""
        assert self.layer.layout is not None
        return self.layer.layout.to_maps(self.reached().detach()).to(device)

    def check_patches(self, gradients: tuple[torch.Tensor, ...]) -> None:
        """Refuse tokens of which no patch has a gradient, and a class or register token has one.

        Raises
        ------
        ValueError
            That says which layers would do.
        """
        assert self.layer.layout is not None
        extra = self.layer.layout.extra
        if _by_extra_tokens(gradients, extra):
            raise ValueError(
                f"target_layer: at {self.layer.name} the gradient is zero at all patches: from there on the head reads "
                f"the class token alone (the first {extra} of the tokens); take a layer before the last attention, "
                "such as what its block's first norm returns, leave target_layer out, or take a method without "
                "gradients, such as Eigen-CAM"
            )
        self.layer = replace(self.layer, checked=True)

    def stacked(self, gradients: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
        """(B, T, C, h, w) from T tensors like the layer's own; of one a view of it."""
        layout = self.layer.layout
        assert layout is not None
        maps = [layout.to_maps(gradient) for gradient in gradients]
        # Where a head adds up all positions they share one number, expanded: sums of such go in another order.
        shared = 0 in maps[0].stride()
        return (torch.stack(maps, dim=1) if len(maps) > 1 or shared else maps[0].unsqueeze(1)).to(device)

    def replace(self, value: Any) -> Any:
        """The same value with its first tensor replaced by a copy that hangs on `activation`.

        Raises
        ------
        TypeError, ValueError
            If the layer runs twice, or gives no floating tensor (B, C, h, w) or (B, N, C).
        """
        if self.activation is not None:
            raise ValueError(
                f"target_layer: {self.layer.name} runs more than once in a forward, so its activation is ambiguous; "
                "name a layer that runs once, or the input of one ('name.input')"
            )
        activation = first_tensor(value)
        if activation is None:
            raise TypeError(
                f"target_layer: expected {self.layer.name} to give a tensor, or a tuple with one; got "
                f"{type(value).__name__}"
            )
        shape = tuple(activation.shape)
        if activation.ndim < 3 or shape[0] != self.batch:
            raise ValueError(
                f"target_layer: expected an activation {ACTIVATIONS[self.ndim - 2]} with B = {self.batch} from "
                f"{self.layer.name}; got shape {shape}"
            )
        if not activation.is_floating_point():
            raise TypeError(
                f"target_layer: expected a floating activation from {self.layer.name}; got {activation.dtype}"
            )
        if self.layer.takes_input:
            activation = activation.clone()  # the model may write to what it gave the layer: `x += block(x)`
        if self.cuts:
            torch.set_grad_enabled(True)  # until `guarded` ends: it restores the caller's mode
            # An inference tensor can't become a leaf: what a compiled engine made, say.
            activation = (activation.clone() if activation.is_inference() else activation.detach()).requires_grad_()
        self.activation = activation
        return with_first_tensor(value, activation.clone())


def _by_extra_tokens(gradients: tuple[torch.Tensor, ...], extra: int) -> bool:
    """Whether the first `extra` tokens (B, N, C) have a gradient, and no other has."""
    patches = any(bool(gradient[:, extra:].any()) for gradient in gradients)
    return not patches and any(bool(gradient.any()) for gradient in gradients)
