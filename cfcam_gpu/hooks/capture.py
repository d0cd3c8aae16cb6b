"""Activations and gradients of one forward and a backward through the head alone."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..targets.request import Request, class_indices, logits_for, resolve
from . import own_thread
from .activation_hook import ActivationHook
from .gradients import check_callables, curvature_of, gradients_of
from .guard import Shared, Survey, guarded, noted
from .layouts import Evidence
from .target_layer import TargetLayer

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
    hooks = [ActivationHook(layer, len(images), images.ndim, cuts=gradients)]
    if coarse is not None:
        hooks.append(ActivationHook(coarse, len(images), images.ndim, cuts=False))
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
                curvatures = [curvature_of(score, reached[0]) for score in scores] if curvature else []
                check_callables(request.callables(), scores, logits, reached[0], layer.name)
                by_target = gradients_of(survey, scores, reached, hooks)
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
