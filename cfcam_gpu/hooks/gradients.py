"""Gradients of scores with respect to what was reached on the way to them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from typing import Any, TypeAlias, cast

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointFunction

from ..targets.request import Score, name_of
from . import own_thread
from .autograd_graph import leads_to, node_of, reached_from
from .guard import Survey
from .target_layer import TargetLayer

#: Targets that one batched backward serves: what it keeps between the layers grows with them.
AT_ONCE = 16

#: What scores are multiplied by before a backward in float16, whose smallest normal number is 2^-14; a power of two, so
#: that only exponents change. Two bits are left up to the largest one, for derivatives of a score beyond 1.
SCALE = 2.0**14

#: For each of T scores a tensor for each of those that it was differentiated by; None where it doesn't depend on one.
Derivatives: TypeAlias = list[tuple[torch.Tensor | None, ...]]


def derivatives_of(
    derive: Callable[[list[torch.Tensor], bool], Derivatives], scores: list[torch.Tensor], reached: list[torch.Tensor]
) -> Derivatives:
    """What `derive` makes of scores (B,), which is linear in them; in float32 where it works in float16.

    In float16 small derivatives are lost, and with them a whole map where a head takes means over many positions: of
    the scores times :data:`SCALE` they are not. Images in which that is too much for float16 get those of the scores
    themselves. While a CUDA graph is captured, where nobody can look, both are computed for all.

    Parameters
    ----------
    derive : callable
        Gets the scores, and whether to keep the graph for another time.
    scores : list of T tensors (B,)
    reached : list of tensors
        What the scores are differentiated by.
    """
    if not _in_float16(scores, reached):
        return derive(scores, False)
    scaled = [
        tuple(None if one is None else one.float() / SCALE for one in of_score)
        for of_score in derive([score.float() * SCALE for score in scores], True)
    ]
    within = [
        [None if one is None else one.flatten(1).isfinite().all(dim=1) for one in of_score] for of_score in scaled
    ]
    capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    if not capturing and _all_of([flag for flags in within for flag in flags if flag is not None]):
        return scaled
    return [
        tuple(
            None if one is None or flag is None or plain is None else one.where(_beside(flag, one), plain.float())
            for one, flag, plain in zip(*of_score)
        )
        for of_score in zip(scaled, within, derive(scores, False))
    ]


def _in_float16(scores: list[torch.Tensor], reached: list[torch.Tensor]) -> bool:
    """Whether a backward has float16 in it; under autocast what it begins and ends with does not tell."""
    device_type = reached[0].device.type
    return any(tensor.dtype == torch.float16 for tensor in (*scores, *reached)) or (
        torch.amp.is_autocast_available(device_type)
        and torch.is_autocast_enabled(device_type)
        and torch.get_autocast_dtype(device_type) == torch.float16
    )


def _all_of(flags: list[torch.Tensor]) -> bool:
    """Whether all are true; the host waits once."""
    return not flags or bool(torch.stack([flag.all().to(flags[0].device) for flag in flags]).all())


def _beside(flags: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    return flags.reshape(-1, *(1 for _ in tensor.shape[1:]))


def curvatures_of(activation: torch.Tensor, scores: list[torch.Tensor], keep_graph: bool) -> Derivatives:
    """The second derivatives of each score (B,) times the activation: zero where the head is linear or constant.

    The graph is kept in any case.

    Raises
    ------
    RuntimeError
        If an operator on the way has none.
    """
    with _in_order(scores):
        return [(_curvature_of(activation, score),) for score in scores]


def _curvature_of(activation: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
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


def gradients_of(
    survey: Survey, reached: list[torch.Tensor], scores: list[torch.Tensor], keep_graph: bool
) -> Derivatives:
    """Of each of T scores (B,), the gradients with respect to what was reached.

    Code of the user's that watches the backward must see tensors, not batches of them that vmap makes.
    """
    if not all(score.requires_grad for score in scores):
        return [(None,) * len(reached)]
    with _in_order(scores):
        if len(scores) > 1 and not survey.watched():
            return _batched(scores, reached, keep_graph)
        return _one_by_one(scores, reached, keep_graph)


@contextmanager
def _in_order(scores: list[torch.Tensor]) -> Iterator[None]:
    """Inside, batch norms on the CPU get gradients with their channels first.

    torch's (2.13; see findings/torch_batch_norm_gradient_order.sh) reads one of a single image that has its channels
    last as if they came first: what leaves it is another gradient, without a word.
    """
    on_cpu = [score.grad_fn for score in scores if score.device.type == "cpu"]
    norms = [node for node in reached_from(on_cpu) if "BatchNorm" in node.name()]
    handles = [node.register_prehook(_contiguous) for node in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _contiguous(gradients: tuple[torch.Tensor | None, ...]) -> tuple[torch.Tensor | None, ...]:
    return tuple(None if gradient is None else gradient.contiguous() for gradient in gradients)


def all_depend(
    by_target: Derivatives, layers: Sequence[TargetLayer], model: nn.Module, images: torch.Tensor
) -> list[tuple[torch.Tensor, ...]]:
    """The derivatives, of which none is None.

    Raises
    ------
    ValueError
        If a score does not depend on one of the layers; the message says why.
    """
    for of_target in by_target:
        for derivative, layer in zip(of_target, layers):
            if derivative is None:
                raise independent(layer, model, images)
    return cast(list[tuple[torch.Tensor, ...]], by_target)


def independent(layer: TargetLayer, model: nn.Module, images: torch.Tensor) -> ValueError:
    """The error that says why a score does not depend on a layer."""
    return cut([layer], model, images) or ValueError(
        f"target_layer: the target's score does not depend on {layer.name}: it is beside the way to the output, or the "
        "model cuts the graph behind it (no_grad or detach)"
    )


def cut(layers: Sequence[TargetLayer], model: nn.Module, images: torch.Tensor) -> ValueError | None:
    """The error of a model that has no gradients behind one of the layers; None where no reason for that is known.

    Another forward tells: a quantised module runs behind a layer, or a checkpoint is among a layer's callers.
    """
    quantised = {module: name for name, module in model.named_modules() if _is_quantised(module)}
    reached: list[str] = []
    errors: list[ValueError] = []

    def look(layer: TargetLayer, value: Any) -> Any:
        reached.append(layer.name)
        frame = inspect.currentframe()
        while frame is not None and frame.f_code is not CheckpointFunction.forward.__code__:
            frame = frame.f_back
        if frame is not None:
            errors.append(reentrant(layer.name))
        return value

    def run(module: nn.Module, args: tuple[Any, ...]) -> None:
        if reached:
            errors.append(
                ValueError(
                    f"model: {quantised[module]} is quantised ({type(module).__name__}), and quantised layers have no "
                    "gradients; explain the model from before its quantisation, or take a method without gradients: "
                    "'eigencam', 'scorecam', 'ablationcam', 'reciprocam' or, as a floor, 'randomcam'"
                )
            )

    handles = chain(
        (layer.hook(partial(look, layer)) for layer in layers),
        (own_thread.before(module, run) for module in quantised),
    )
    with torch.no_grad(), own_thread.hooked(handles):
        model(images)
    return next(iter(errors), None)


def reentrant(name: str) -> ValueError:
    """The error of a checkpoint that knows no gradients with respect to an activation."""
    return ValueError(
        f"model: it checkpoints {name}, or what is behind it, with use_reentrant=True, which gives gradients to "
        "parameters alone; use torch.utils.checkpoint with use_reentrant=False, or turn checkpointing off"
    )


def _is_quantised(module: nn.Module) -> bool:
    """Whether a module is one of torch's that work on integers."""
    path = type(module).__module__.split(".")
    return path[0] == "torch" and "quantized" in path


def check_callables(
    callables: list[Score], scores: list[torch.Tensor], logits: torch.Tensor | None, activation: torch.Tensor, name: str
) -> None:
    """Refuse a callable whose score does not depend on the layer, where the logits or other callables' scores do.

    The gradient can't tell: in a sum over images, or in a batch of targets, it would be zero, and the map blank.

    Raises
    ------
    ValueError
        That names the callable and the image.
    """
    if not callables:
        return
    known = {node_of(activation): True}
    # Of each target the scores of all images, which were stacked.
    of_images = zip(*(() if score.grad_fn is None else score.grad_fn.next_functions for score in scores))
    nodes = [node for of_image in of_images for node, _ in of_image]
    independent = [i for i, node in enumerate(nodes) if node is None or not leads_to(node, known)]
    logits_node = None if logits is None else logits.grad_fn
    if independent and (len(independent) < len(nodes) or (logits_node is not None and leads_to(logits_node, known))):
        called, image = name_of(callables[independent[0]]), independent[0] // len(scores)
        raise ValueError(f"target: what callable {called} returned for image {image} does not depend on {name}")


def _one_by_one(scores: list[torch.Tensor], reached: list[torch.Tensor], keep_graph: bool) -> Derivatives:
    last = len(scores) - 1
    return [
        torch.autograd.grad(
            # Of their sum: given a gradient for each score, torch imports SymPy, a second of the first call.
            score if score.numel() == 1 else score.sum(),
            reached,
            retain_graph=keep_graph or t != last,
            allow_unused=True,
        )
        for t, score in enumerate(scores)
    ]


def _batched(scores: list[torch.Tensor], reached: list[torch.Tensor], keep_graph: bool) -> Derivatives:
    """The same by backward passes that serve many targets each.

    One by one where an operator has no batched form, or memory does not suffice.
    """
    with suppress(RuntimeError):
        return _many_at_once(scores, reached)
    return _one_by_one(scores, reached, keep_graph)


def _many_at_once(scores: list[torch.Tensor], reached: list[torch.Tensor]) -> Derivatives:
    by_target: Derivatives = []
    for first in range(0, len(scores), AT_ONCE):
        # Of these alone: each pass would else go through the heads of all targets.
        sums = torch.stack(scores[first : first + AT_ONCE]).sum(dim=1)
        unit_vectors = torch.eye(len(sums), dtype=sums.dtype, device=sums.device)
        batched = torch.autograd.grad(
            sums, reached, unit_vectors, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
        by_target += zip(*([None] * len(sums) if gradients is None else gradients.unbind() for gradients in batched))
    return by_target
