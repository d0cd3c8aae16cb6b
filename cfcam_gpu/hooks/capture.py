"""Activations and gradients of one forward and a backward through the head alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import nn
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..targets.outputs import first_tensor, tensors_in
from ..targets.per_image import ListsOf
from ..targets.request import Request, are_sound, class_indices, logits_for, resolve
from . import own_thread
from .activation_hook import ActivationHook
from .autograd_graph import depends, node_of
from .gradients import (
    all_depend,
    check_callables,
    curvatures_of,
    cut,
    derivatives_of,
    gradients_of,
    independent,
    reentrant,
)
from .guard import Shared, Survey, guarded, noted
from .laying_out import laid_out
from .libragrad import LibraGrad
from .target_layer import TargetLayer

Result = TypeVar("Result")

#: Fused attention has no second derivatives; torch knows one choice for the whole process.
_plain_attention = Shared(lambda: sdpa_kernel(SDPBackend.MATH))

#: Models that write into what their own backward needs, as the heads of YOLOv5 to v7 do.
_write_in_place: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class Captured:
    """What CF-CAM needs to know of one forward.

    Parameters
    ----------
    activations : (B, C, *spatial) tensor
        The target layer's activation, in the model's dtype: (B, C, h, w) of an image.
    gradients : (B, T, C, *spatial) tensor
        Of each of T scores with respect to the activations; float32 where float16 takes part in the backward. Where
        none were asked for, NaN that take no memory.
    logits : (B, K, ...) tensor, or None
        None where a model has no logits and callables are explained.
    indices : (B,) or (B, T) int64 tensor, or None
        The explained classes; None for callables, and where no class was asked for and no score is needed.
    sound : mapping of str to (B,) bool tensor
        Of the logits and of the scores, by name, which images have finite ones; nobody has looked at it yet. See
        :func:`cfcam_gpu.targets.request.are_sound`.
    coarse : tuple of two tensors, or None
        Activations (B, C', ...) and gradients (B, T, C', ...) of the coarse layer, where one was asked for.
    others : tuple of tuples of two tensors
        The same of all other layers that were asked for.
    curvatures : (B, T, C, ...) tensor, or None
        Second derivatives of each score times the activations, where they were asked for.
    layers : tuple of TargetLayer
        The layers with their layouts, which were found in this forward where they were not known.
    libragrad : bool
        Whether the gradients are LibraGrad's.
    """

    activations: torch.Tensor
    gradients: torch.Tensor
    logits: torch.Tensor | None
    indices: torch.Tensor | None
    sound: Mapping[str, torch.Tensor] = field(default_factory=dict)
    coarse: tuple[torch.Tensor, torch.Tensor] | None = None
    others: tuple[tuple[torch.Tensor, torch.Tensor], ...] = ()
    curvatures: torch.Tensor | None = None
    layers: tuple[TargetLayer, ...] = ()
    libragrad: bool = False

    def need_logits(self) -> torch.Tensor:
        """The logits.

        Raises
        ------
        TypeError
            If there are none.
        """
        if self.logits is None:
            raise TypeError(
                "model: expected a tensor of logits, which this method scores again and again; this model's output has "
                "none. Of any other output, take a method of gradients and a callable as the target"
            )
        return self.logits


def capture(
    model: nn.Module,
    layer: TargetLayer,
    images: torch.Tensor,
    request: Request,
    *,
    coarse: TargetLayer | None = None,
    others: Sequence[TargetLayer] = (),
    contrast: float = 0.0,
    gradients: bool = True,
    curvature: bool = False,
    libragrad: bool = False,
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
    others : sequence of TargetLayer
        Any number of further layers, which with the first may come in any order and lie on branches side by side;
        autograd sees what comes after the earliest of them. Not with `coarse`.
    contrast : float
        See :func:`cfcam_gpu.targets.resolve`.
    gradients : bool
        False runs no backward, records no graph and looks at no score. Without a target it needs no logits.
    curvature : bool
        Multiply the second derivatives of each score by the activations, too: one more backward and one through it.
    libragrad : bool
        Take the backward paths of :mod:`cfcam_gpu.hooks.libragrad`. Not with `curvature`.
    survey : Survey, optional
        Of the model, where a caller has one already.

    Notes
    -----
    The first capture of a model may run it once more: where its output has a list that may be one entry an image or
    not, and where it writes in place into what the backward needs.

    Raises
    ------
    TypeError, ValueError
        If a layer never runs, runs twice, gives no floating tensor of a known layout (see
        :mod:`cfcam_gpu.hooks.laying_out`), or the scores don't depend on it, or only by its class token. The last two
        only with `gradients`.
    """
    assert not (coarse and others)
    layers = laid_out(model, images, [layer, *others] if coarse is None else [layer, coarse])
    levels = 1 if coarse is None else 2

    def take() -> Captured:
        return _capture(model, layers, levels, images, request, contrast, gradients, curvature, libragrad, survey)

    return taken(model, layer.name, take)


def taken(model: nn.Module, name: str, take: Callable[[], Result]) -> Result:
    """What `take` makes of a forward and a backward of a model; once more where it writes into what that needs.

    Parameters
    ----------
    model : torch.nn.Module
    name : str
        Of the layer behind which autograd records.
    take : callable

    Raises
    ------
    ValueError
        If the model checkpoints in a way that knows no gradients with respect to an activation.
    """
    try:
        if model not in _write_in_place:
            return take()
    except RuntimeError as error:
        if "use_reentrant=True" in str(error):
            raise reentrant(name) from error
        if "modified by an inplace operation" not in str(error):
            raise
    with _saved_as_they_were():
        result = take()
    _write_in_place.add(model)
    return result


def _saved_as_they_were() -> AbstractContextManager[None]:
    """Inside, a graph keeps copies of what its backward needs, whatever the model writes to the tensors afterwards.

    torch's own ``allow_mutation_on_saved_tensors`` is one for the whole process.
    """
    return saved_tensors_hooks(
        lambda tensor: tensor if isinstance(tensor, nn.Parameter) else tensor.clone(), lambda tensor: tensor
    )


def cut_where_no_other_did(hook: ActivationHook, known: dict[Node, bool], value: Any) -> Any:
    """What a layer's hook makes of a value: a leaf, unless autograd has seen it come from another layer's.

    That it needs a gradient says little: behind another layer it may by trainable parameters alone.
    """
    activation = first_tensor(value)
    hook.cuts = activation is not None and not depends(activation, known)
    changed = hook.replace(value)
    if hook.cuts:
        known[node_of(hook.reached())] = True
    return changed


def _begun(libra: LibraGrad, hook: ActivationHook, change: Callable[[Any], Any], value: Any) -> Any:
    """What a layer's hook makes of a value; what comes after a leaf records the backward paths of LibraGrad."""
    changed = change(value)
    if hook.cuts:
        libra.begin(hook.reached())
    return changed


def _capture(
    model: nn.Module,
    layers: Sequence[TargetLayer],
    levels: int,
    images: torch.Tensor,
    request: Request,
    contrast: float,
    gradients: bool,
    curvature: bool,
    libragrad: bool,
    survey: Survey | None,
) -> Captured:
    hooks = [ActivationHook(each, len(images), cuts=gradients and i == 0) for i, each in enumerate(layers)]
    with guarded(model, survey) as survey:
        in_any_order = gradients and len(layers) > levels
        cut_off: dict[Node, bool] = {}
        changes = [partial(cut_where_no_other_did, hook, cut_off) if in_any_order else hook.replace for hook in hooks]
        libra = LibraGrad() if libragrad and gradients else None
        if libra is not None:
            changes = [partial(_begun, libra, hook, change) for hook, change in zip(hooks, changes)]
        handles = (hook.layer.hook(change) for hook, change in zip(hooks, changes))
        attention = _plain_attention() if curvature else nullcontext()
        with own_thread.hooked(handles), noted(model, images), attention, libra.forward() if libra else nullcontext():
            # An inference tensor can't become a leaf, nor be kept for a backward.
            output = model(images.clone() if images.is_inference() else images)
        reached = [hook.reached() for hook in hooks]
        per_image = ListsOf(model, images)
        # A method that looks at neither gradients nor scores explains no class that it was not asked for.
        blind = not gradients and request.indices is None and request.scores is None
        logits = logits_for(request, output, len(images), per_image, needed=not blind)
        scores: list[torch.Tensor] = []
        by_target: list[tuple[torch.Tensor, ...]] = []
        curvatures: list[torch.Tensor] = []
        if gradients:
            if levels == 2 and not layers[1].checked and not depends(reached[1], {node_of(reached[0]): True}):
                raise cut(layers, model, images) or ValueError(
                    "target_layer: expected the finer layer first, and the coarser one behind it; "
                    f"{layers[1].name} does not depend on {layers[0].name}"
                )
            of_output = tensors_in(output)
            if of_output and not any(tensor.requires_grad for tensor in of_output):
                raise independent(layers[0], model, images)
            if libra is not None:
                libra.check(of_output, model, layers[0].name)
            with torch.enable_grad():
                indices, scores = resolve(
                    request, logits, output, contrast=contrast, per_image=per_image, spatial_dims=images.ndim - 2
                )
                check_callables(request.callables(), scores, logits, reached[0], layers[0].name)
                if curvature:
                    by_score = derivatives_of(partial(curvatures_of, reached[0]), scores, reached[:1])
                    curvatures = [of_score[0] for of_score in all_depend(by_score, layers, model, images)]
                with libra.again() if libra else nullcontext():
                    found = derivatives_of(partial(gradients_of, survey, reached), scores, reached)
                by_target = all_depend(found, layers, model, images)
        elif blind and (logits is None or logits.ndim != 2):
            indices = None
        else:
            indices = class_indices(request, logits)
        sound = are_sound(logits, indices, scores)
    # Where the model is spread over devices, all goes to that of the images.
    activations = [hook.maps(images.device) for hook in hooks]
    by_layer = []
    for hook, of_layer in zip(hooks, zip(*by_target)):
        if hook.layer.needs_check:
            hook.check_patches(of_layer)
        if not hook.layer.checked:
            hook.layer = replace(hook.layer, checked=True)
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
        sound={name: flag.to(images.device) for name, flag in sound.items()},
        coarse=(activations[1], by_layer[1]) if levels == 2 else None,
        others=tuple(zip(activations[levels:], by_layer[levels:])),
        curvatures=hooks[0].stacked(curvatures, images.device) if curvatures else None,
        layers=tuple(hook.layer for hook in hooks),
        libragrad=libra is not None,
    )
