"""The hook at a target layer: it reads the activation there and has the rest of the network hang on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from ..core.axes import ACTIVATIONS
from ..targets.outputs import first_tensor, with_first_tensor
from . import own_thread
from .layouts import Layout
from .target_layer import TargetLayer


@dataclass(eq=False)
class ActivationHook:
    """The hook at a target layer: the first cuts its activation off and starts recording, a second one listens in.

    Parameters
    ----------
    layer : TargetLayer
        With its layout.
    batch : int
        B, the number of images.
    cuts : bool
    """

    layer: TargetLayer
    batch: int
    cuts: bool
    activation: torch.Tensor | None = None

    @property
    def layout(self) -> Layout:
        """The layer's."""
        assert self.layer.layout is not None
        return self.layer.layout

    def reached(self) -> torch.Tensor:
        """The activation, once the forward is through.

        Raises
        ------
        ValueError
            If the layer did not run.
        """
        if self.activation is None:
            raise did_not_run(self.layer)
        return self.activation

    def maps(self, device: torch.device) -> torch.Tensor:
        """The activation, (B, C, h, w) on `device`."""
        return self.layout.to_maps(self.reached().detach()).to(device)

    def check_patches(self, gradients: tuple[torch.Tensor, ...]) -> None:
        """Refuse tokens of which no patch has a gradient, and a class or register token has one.

        Raises
        ------
        ValueError
            That says which layers would do.
        """
        if self._by_extra_tokens(gradients):
            extra = self.layout.extra
            which = f"the first {extra} of the tokens" if isinstance(extra, int) else "beside those of the patches"
            raise ValueError(
                f"target_layer: at {self.layer.name} the gradient is zero at all patches: from there on the head reads "
                f"the class token alone ({which}); take a layer before the last attention, "
                "such as what its block's first norm returns, leave target_layer out, or take a method without "
                "gradients, such as Eigen-CAM"
            )

    def _by_extra_tokens(self, gradients: tuple[torch.Tensor, ...]) -> bool:
        """Whether tokens that are no patches (B, N, C) have a gradient, and no other has."""
        patches = any(bool(self.layout.of_grid(gradient).any()) for gradient in gradients)
        return not patches and any(bool(gradient.any()) for gradient in gradients)

    def stacked(self, gradients: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
        """(B, T, C, h, w) from T tensors like the layer's own; of one a view of it."""
        maps = [self.layout.to_maps(gradient) for gradient in gradients]
        # Where a head adds up all positions they share one number, expanded: sums of such go in another order.
        shared = 0 in maps[0].stride()
        return (torch.stack(maps, dim=1) if len(maps) > 1 or shared else maps[0].unsqueeze(1)).to(device)

    def replace(self, value: Any) -> Any:
        """The same value with its first tensor replaced by a copy that hangs on `activation`.

        Raises
        ------
        TypeError, ValueError
            If the layer runs twice, or gives no floating tensor of its layout.
        """
        if self.activation is not None:
            raise runs_twice(self.layer.name)
        activation = floating(value, self.layer.name)
        shape = tuple(activation.shape)
        if self.layout.kind == "tokens" and shape[:2] == (self.layout.tokens, self.batch) and shape[0] != self.batch:
            raise tokens_first(self.layer.name, shape)
        if activation.ndim < 3 or self.layout.batch_of(shape) != self.batch:
            raise ValueError(
                f"target_layer: expected an activation {ACTIVATIONS[len(self.layout.grid)]} with B = {self.batch} from "
                f"{self.layer.name}; got shape {shape}"
            )
        self.layout.check(shape, self.layer.name)
        if self.layer.takes_input:
            activation = activation.clone()  # the model may write to what it gave the layer: `x += block(x)`
        if self.cuts:
            torch.set_grad_enabled(True)  # until `guarded` ends: it restores the caller's mode
            # An inference tensor can't become a leaf: what a compiled engine made, say.
            activation = (activation.clone() if activation.is_inference() else activation.detach()).requires_grad_()
        self.activation = activation
        return with_first_tensor(value, activation.clone())


def floating(value: Any, name: str) -> torch.Tensor:
    """The activation in what enters or leaves the layer `name`.

    Raises
    ------
    TypeError
        If there is none, or it is not floating.
    """
    activation = first_tensor(value)
    if activation is None:
        raise TypeError(
            f"target_layer: expected {name} to give a tensor, or a tuple with one; got {type(value).__name__}"
        )
    if not activation.is_floating_point():
        raise TypeError(f"target_layer: expected a floating activation from {name}; got {activation.dtype}")
    return activation


def runs_twice(name: str) -> ValueError:
    """What to raise of a layer `name` that runs more than once where one of its runs has to be meant."""
    return ValueError(
        f"target_layer: {name} runs more than once in a forward, so its activation is ambiguous; say which of its runs "
        f"is meant ('{name}[0]' is the first), or name a layer that runs once, or the input of one ('name.input')"
    )


def tokens_first(name: str, shape: tuple[int, ...], otherwise: str = "") -> ValueError:
    """What to raise of tokens (N, B, C) around a layer `name`; `otherwise` is another way out."""
    return ValueError(
        f"model: expected tokens (B, tokens, C), and its tokens come before the batch: those of {name} are {shape}; "
        "build the model with batch_first=True, and with no tokens moved before the batch: the same state dict "
        f"fits{otherwise}"
    )


def did_not_run(layer: TargetLayer, model: nn.Module | None = None) -> ValueError:
    """What to raise of a layer that a forward does not come to."""
    often = "" if layer.run is None else f" {layer.run + 1} times"
    return ValueError(f"target_layer: {layer.name} did not run{often} in this forward{of_one_graph(model)}")


def of_one_graph(model: nn.Module | None) -> str:
    """For an error: what of a model runs as no module of its own, as in a program that torch.export made."""
    if scripted := scripted_parts(model):
        return f"; {', '.join(scripted)}: TorchScript, which takes no hooks; give the torch.nn.Module it was made from"
    if not isinstance(model, GraphModule) or any(
        node.op == "call_module" and node.target != "_guards_fn" for node in model.graph.nodes
    ):
        return ""
    return (
        "; the model is one graph, in which no layer runs as a module: of a program of torch.export's give "
        "torch.export.unflatten(program)"
    )


def scripted_parts(model: nn.Module | None) -> list[str]:
    """The names of the outermost TorchScript modules of a model."""
    if model is None:
        return []
    hooked = {name for name, _ in own_thread.hookable(model)}
    return [name for name, _ in model.named_modules() if name not in hooked and name.rpartition(".")[0] in hooked]
