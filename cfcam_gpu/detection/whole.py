"""Activations of whole layers, and the gradients of each detection's score, from one forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from ..hooks import own_thread
from ..hooks.activation_hook import ActivationHook
from ..hooks.autograd_graph import depends
from ..hooks.capture import cut_where_no_other_did, taken
from ..hooks.gradients import Derivatives, derivatives_of, gradients_of
from ..hooks.guard import Survey, guarded, noted
from ..hooks.laying_out import laid_out
from ..hooks.target_layer import TargetLayer
from .evidence import Evidence

#: Of each image the scores of its detections, from what the model returned.
Scores = Callable[[Any], list[list[torch.Tensor]]]


def evidence_at(
    model: nn.Module,
    layers: Sequence[TargetLayer],
    images: torch.Tensor,
    scores_of: Scores,
    hooks: Callable[[], Any],
    survey: Survey,
    call: Callable[[torch.Tensor], Any],
) -> tuple[tuple[TargetLayer, ...], list[list[list[Evidence]]]]:
    """The layers with their layouts; and of each image, of each detection, what its score sees in each layer.

    Parameters
    ----------
    model : torch.nn.Module
    layers : sequence of TargetLayer
    images : (B, C, H, W) tensor
    scores_of : callable
        Finds detections in what the model returned, and gives their scores with autograd's graph.
    hooks : callable
        Handles of further hooks for the forward.
    survey : Survey
        Of the model.
    call : callable
        Runs the model on the images.

    Raises
    ------
    TypeError, ValueError
        If a layer does not run, or gives no tensor of a known layout; or no score of any detection depends on any.
    """
    known = laid_out(model, images, layers)
    return known, taken(model, known[0].name, lambda: _evidence(model, known, images, scores_of, hooks, survey, call))


def _evidence(
    model: nn.Module,
    layers: Sequence[TargetLayer],
    images: torch.Tensor,
    scores_of: Scores,
    hooks: Callable[[], Any],
    survey: Survey,
    call: Callable[[torch.Tensor], Any],
) -> list[list[list[Evidence]]]:
    cutting = [ActivationHook(each, len(images), cuts=i == 0) for i, each in enumerate(layers)]
    with guarded(model, survey):
        cut_off: dict[Any, bool] = {}

        def handles() -> Any:
            for hook in cutting:
                yield hook.layer.hook(partial(cut_where_no_other_did, hook, cut_off))
            yield from hooks()

        with own_thread.hooked(handles()), noted(model, images):
            output = call(images)
        reached = [hook.reached() for hook in cutting]
        with torch.enable_grad():
            of_images = scores_of(output)
            every = [score for scores in of_images for score in scores]
            if every and not any(score.requires_grad and depends(score, dict(cut_off)) for score in every):
                raise ValueError(
                    f"target_layer: no detection's score depends on {', '.join(layer.name for layer in layers)}: it is "
                    "beside the way to the output, or the model cuts the graph behind it (no_grad or detach)"
                )
            gradients = _gradients(survey, reached, of_images)
    # Of each image one tensor for all of its detections, by which they are filtered together.
    activations = list(zip(*(hook.maps(images.device).unbind() for hook in cutting)))
    return [
        [
            [
                _seen(hook, activation, gradient, b)
                for hook, activation, gradient in zip(cutting, activations[b], gradients[t])
                if gradient is not None
            ]
            for t in range(len(scores))
        ]
        for b, scores in enumerate(of_images)
    ]


def _seen(hook: ActivationHook, activation: torch.Tensor, gradient: torch.Tensor, image: int) -> Evidence:
    maps = hook.layout.to_maps(gradient)[image].to(activation.device)
    grid = (int(activation.shape[-2]), int(activation.shape[-1]))
    return Evidence(hook.layer.name, activation, maps, grid, inside=hook.layout.inside)


def _gradients(survey: Survey, reached: list[torch.Tensor], of_images: list[list[torch.Tensor]]) -> Derivatives:
    """For the t-th detections of all images together, the gradients at each layer: images do not meet in a model."""
    most = max((len(scores) for scores in of_images), default=0)
    rows = [torch.stack([scores[t] for scores in of_images if t < len(scores)]).sum()[None] for t in range(most)]
    if not rows:
        return []
    if not all(row.requires_grad for row in rows):  # a row in itself may depend on nothing: its map is empty
        rows = [row if row.requires_grad else row + 0 * reached[0].sum() for row in rows]

    def derive(scores: list[torch.Tensor], keep_graph: bool) -> Derivatives:
        if reached[0].device.type != "cpu":
            return gradients_of(survey, reached, scores, keep_graph)
        # A batched backward saves a GPU its launches; on the host it takes longer than as many single ones.
        last = len(scores) - 1
        return [gradients_of(survey, reached, [score], keep_graph or t != last)[0] for t, score in enumerate(scores)]

    return derivatives_of(derive, rows, reached)
