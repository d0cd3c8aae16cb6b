"""Activations and gradients of one forward and a backward through the head alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, cast

import torch
from torch import nn
from torch.autograd.graph import Node
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..core.axes import ACTIVATIONS
from ..targets.outputs import first_tensor, with_first_tensor
from ..targets.request import Request, Score, class_indices, logits_for, name_of, resolve
from . import own_thread
from .guard import Shared, Survey, guarded, noted
from .layouts import Evidence
from .target_layer import TargetLayer

#: Targets that one batched backward serves: what it keeps between the layers grows with them.
AT_ONCE = 16

#: Fused attention has no second derivatives; torch knows one choice for the whole process.
_plain_attention = Shared(lambda: sdpa_kernel(SDPBackend.MATH))


@dataclass(frozen=True)
class Captured:
    """What CF-CAM needs to know of one forward.

    Parameters
    ----------
    activations : (B, C, *spatial) tensor
        The target layer's activation, in the model's dtype: (B, C, h, w) of an image.
    gradients : (B, T, C, *spatial) tensor
        Of each of T scores with respect to the activations. Where none were asked for, NaN that take no memory.
    logits : (B, K, ...) tensor, or None
        None where a model has no logits and callables are explained.
    indices : (B,) or (B, T) int64 tensor, or None
        The explained classes; None for callables.
    coarse : tuple of two tensors, or None
        Activations (B, C', ...) and gradients (B, T, C', ...) of the coarse layer, where one was asked for.
    curvatures : (B, T, C, ...) tensor, or None
        Second derivatives of each score times the activations, where they were asked for.
    layers : tuple of TargetLayer
        The layers with their layouts, which were found in this forward where they were not known.
    """

    activations: torch.Tensor
    gradients: torch.Tensor
    logits: torch.Tensor | None
    indices: torch.Tensor | None
    coarse: tuple[torch.Tensor, torch.Tensor] | None = None
    curvatures: torch.Tensor | None = None
    layers: tuple[TargetLayer, ...] = ()

    def need_logits(self) -> torch.Tensor:
        """The logits.

        Raises
        ------
        TypeError
            If there are none.
        """
        if self.logits is None:
            raise TypeError("model: this method scores logits again and again; this model's output has none")
        return self.logits


def capture(
    model: nn.Module,
    layer: TargetLayer,
    images: torch.Tensor,
    request: Request,
    *,
    coarse: TargetLayer | None = None,
    contrast: float = 0.0,
    gradients: bool = True,
    curvature: bool = False,
    survey: Survey | None = None,
) -> Captured:
    """One forward of `images`; autograd sees only what comes after `layer`.

    The layers before it run without a graph. At the layer the activation is cut off and made a leaf; the rest of the
    network works on a copy of it, so that an in-place ReLU right behind changes nothing here. Gradients are taken with
    respect to the leaf alone: no parameter gets a ``.grad``, whether frozen or not. The hooks live for this call and
    answer only the calling thread.

    Parameters
    ----------
    model : torch.nn.Module
    layer : TargetLayer
    images : (B, ...) tensor
    request : Request
    coarse : TargetLayer, optional
        A second layer, which runs after the first.
    contrast : float
        See :func:`cfcam_gpu.targets.resolve`.
    gradients : bool
        False runs no backward, records no graph and looks at no score.
    curvature : bool
        Multiply the second derivatives of each score by the activations, too: one more backward and one through it.
    survey : Survey, optional
        Of the model, where a caller has one already.

    Raises
    ------
    TypeError, ValueError
        If a layer never runs, runs twice, gives no floating tensor of a known layout (see
        :mod:`cfcam_gpu.hooks.layouts`), or the scores don't depend on it, or only by its class token. The last two only
        with `gradients`.
    """
    hooks = [_ActivationHook(layer, len(images), images.ndim, cuts=gradients)]
    if coarse is not None:
        hooks.append(_ActivationHook(coarse, len(images), images.ndim, cuts=False))
    size = tuple(images.shape[2:])
    without_layout = [hook for hook in hooks if not hook.layer.knows_layout(size)]
    evidence = Evidence(model, size)
    with guarded(model, survey) as survey:
        handles = chain((hook.layer.hook(hook.replace) for hook in hooks), evidence.attach() if without_layout else ())
        with own_thread.hooked(handles), noted(model, images), _plain_attention() if curvature else nullcontext():
            # An inference tensor can't become a leaf, nor be kept for a backward.
            output = model(images.clone() if images.is_inference() else images)
        reached = [hook.reached() for hook in hooks]
        for hook in hooks:
            hook.read_layout(evidence if hook in without_layout else None)
        logits = logits_for(request, output, len(images))
        by_target: list[tuple[torch.Tensor, ...]] = []
        curvatures: list[torch.Tensor] = []
        if gradients:
            if coarse is not None and not reached[1].requires_grad:
                raise ValueError(
                    f"target_layer: expected the finer layer first, and the coarser one behind it; {coarse.name} does "
                    f"not depend on {layer.name}"
                )
            with torch.enable_grad():
                indices, scores = resolve(request, logits, output, contrast=contrast)
                curvatures = [_curvature(score, reached[0]) for score in scores] if curvature else []
                _check_callables(request.callables(), scores, logits, reached[0], layer.name)
                by_target = _gradients(survey, scores, reached, hooks)
        else:
            indices = class_indices(request, logits)
    # Where the model is spread over devices, all goes to that of the images.
    activations = [hook.maps(images.device) for hook in hooks]
    by_layer = []
    for hook, of_layer in zip(hooks, zip(*by_target)):
        if hook.layer.needs_check:
            hook.check_patches(of_layer)
        by_layer.append(hook.stacked(of_layer, images.device))
    if not gradients:
        by_layer = [
            maps.new_full((), torch.nan).expand(len(maps), request.count, *maps.shape[1:]) for maps in activations
        ]
    return Captured(
        activations=activations[0],
        gradients=by_layer[0],
        logits=None if logits is None else logits.detach().to(images.device),
        indices=indices,
        coarse=None if coarse is None else (activations[1], by_layer[1]),
        curvatures=hooks[0].stacked(curvatures, images.device) if curvatures else None,
        layers=tuple(hook.layer for hook in hooks),
    )


def _curvature(score: torch.Tensor, activation: torch.Tensor) -> torch.Tensor:
    """The second derivatives of a score (B,) times the activation: zero where the head is linear or constant."""
    if not score.requires_grad:
        return torch.zeros_like(activation)
    try:
        (first,) = torch.autograd.grad(score.sum(), activation, create_graph=True, allow_unused=True)
        if first is None or not first.requires_grad:
            return torch.zeros_like(activation)
        (second,) = torch.autograd.grad(first, activation, activation.detach(), retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "derivative" not in str(error):
            raise
        raise RuntimeError(
            f"method: it needs second derivatives, and an operator behind the target layer has none ({error})"
        ) from error
    return torch.zeros_like(activation) if second is None else second


def _gradients(
    survey: Survey, scores: list[torch.Tensor], reached: list[torch.Tensor], hooks: list[_ActivationHook]
) -> list[tuple[torch.Tensor, ...]]:
    """Of each of T scores (B,), the gradients with respect to what was reached.

    Code of the user's that watches the backward must see tensors, not batches of them that vmap makes.
    """
    dependent = all(score.requires_grad for score in scores)
    by_target: list[tuple[torch.Tensor | None, ...]] = [(None,) * len(reached)]
    if dependent and len(scores) > 1 and not survey.watched():
        by_target = _batched(scores, reached)
    elif dependent:
        by_target = _one_by_one(scores, reached)
    for gradients in by_target:
        for gradient, hook in zip(gradients, hooks):
            if gradient is None:
                raise ValueError(
                    f"target_layer: the target's score does not depend on {hook.layer.name}: it is beside the way to "
                    "the output, or the model cuts the graph behind it (no_grad or detach)"
                )
    return cast(list[tuple[torch.Tensor, ...]], by_target)


def _check_callables(
    callables: list[Score], scores: list[torch.Tensor], logits: torch.Tensor | None, activation: torch.Tensor, name: str
) -> None:
    """Refuse a callable whose score does not depend on the layer, where the logits or other callables' scores do.

    The gradient can't tell: in a sum over images, or in a batch of targets, it would be zero, and the map blank.
    """
    if not callables:
        return
    known = {torch.autograd.graph.get_gradient_edge(activation).node: True}
    # Of each target the scores of all images, which were stacked.
    of_images = zip(*(() if score.grad_fn is None else score.grad_fn.next_functions for score in scores))
    nodes = [node for of_image in of_images for node, _ in of_image]
    independent = [i for i, node in enumerate(nodes) if node is None or not _leads_to(node, known)]
    logits_node = None if logits is None else logits.grad_fn
    if independent and (len(independent) < len(nodes) or (logits_node is not None and _leads_to(logits_node, known))):
        called, image = name_of(callables[independent[0]]), independent[0] // len(scores)
        raise ValueError(f"target: what callable {called} returned for image {image} does not depend on {name}")


def _leads_to(node: Node, known: dict[Node, bool]) -> bool:
    """Whether a graph has one of the nodes that are `known` to be true; what is found on the way joins them."""
    path = [node]
    while path:
        successors = [successor for successor, _ in path[-1].next_functions if successor is not None]
        unvisited = next((successor for successor in successors if successor not in known), None)
        if path[-1] in known or unvisited is None or any(known.get(successor) for successor in successors):
            visited = path.pop()
            known.setdefault(visited, any(known.get(successor, False) for successor in successors))
        else:
            path.append(unvisited)
    return known[node]


def _one_by_one(scores: list[torch.Tensor], reached: list[torch.Tensor]) -> list[tuple[torch.Tensor | None, ...]]:
    last = len(scores) - 1
    return [
        torch.autograd.grad(score, reached, torch.ones_like(score), retain_graph=t != last, allow_unused=True)
        for t, score in enumerate(scores)
    ]


def _batched(scores: list[torch.Tensor], reached: list[torch.Tensor]) -> list[tuple[torch.Tensor | None, ...]]:
    """The same by backward passes that serve many targets each.

    One by one where an operator has no batched form, or memory does not suffice.
    """
    with suppress(RuntimeError):
        return _many_at_once(scores, reached)
    return _one_by_one(scores, reached)


def _many_at_once(scores: list[torch.Tensor], reached: list[torch.Tensor]) -> list[tuple[torch.Tensor | None, ...]]:
    by_target: list[tuple[torch.Tensor | None, ...]] = []
    for first in range(0, len(scores), AT_ONCE):
        # Of these alone: each pass would else go through the heads of all targets.
        sums = torch.stack(scores[first : first + AT_ONCE]).sum(dim=1)
        unit_vectors = torch.eye(len(sums), dtype=sums.dtype, device=sums.device)
        batched = torch.autograd.grad(
            sums, reached, unit_vectors, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
        by_target += zip(*([None] * len(sums) if gradients is None else gradients.unbind() for gradients in batched))
    return by_target


def _by_extra_tokens(gradients: tuple[torch.Tensor, ...], extra: int) -> bool:
    """Whether the first `extra` tokens (B, N, C) have a gradient, and no other has."""
    patches = any(bool(gradient[:, extra:].any()) for gradient in gradients)
    return not patches and any(bool(gradient.any()) for gradient in gradients)


@dataclass(eq=False)
class _ActivationHook:
    """The hook at a target layer: the first cuts its activation off and starts recording, a second one listens in."""

    layer: TargetLayer
    batch: int
    ndim: int
    cuts: bool
    activation: torch.Tensor | None = None

    def reached(self) -> torch.Tensor:
        """The activation, once the forward is through."""
        if self.activation is None:
            raise ValueError(f"target_layer: {self.layer.name} did not run in this forward")
        return self.activation

    def read_layout(self, evidence: Evidence | None) -> None:
        """Put the layout on `layer` from what this forward told, or check that the known one holds."""
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
        """Refuse tokens of which no patch has a gradient, and a class or register token has one."""
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
        """The same value with its first tensor replaced by a copy that hangs on `activation`."""
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
