"""Whether gradient times activation accounts for what a layer is to the score."""

from __future__ import annotations

import torch
from torch import nn

from .. import targets
from ..hooks import layers
from ..hooks.capture import capture
from ..hooks.guard import check_model, warn_of_training
from ..hooks.target_layer import Layer
from ..methods.completeness import Completeness, completeness
from .scoring import check_images


def completeness_gap(
    model: nn.Module,
    target_layer: Layer,
    images: torch.Tensor,
    target: targets.Target = None,
) -> Completeness:
    """How much of what a layer is to the class's logit is missing from the evidence that maps share out.

    Maps of gradients share out the sum of gradient times activation over a layer's channels and positions. It is what
    the layer's activations are to the logit y, y less what is left of y with all of them zero, where y is linear in
    them, and an approximation else: the completeness axiom of Sundararajan et al., "Axiomatic Attribution for Deep
    Networks", ICML 2017 (arXiv:1703.01365), asked of the layer. The gap belongs to the model and the layer, not to one
    map: a large one says that a map there, whatever the method, rests on a slope that does not reach that far. Of
    tokens, those that are no position of the map keep their values.

    The gradients are the model's own. LibraGrad's promise another sum: the logit itself is that of gradient times
    activation and of each bias times its gradient, whatever is left without the activations.

    Parameters
    ----------
    model : torch.nn.Module
        Its outputs are logits (B, K).
    target_layer : torch.nn.Module, str or TargetLayer
        As for :class:`cfcam_gpu.CFCAM`.
    images : (B, C, H, W) floating tensor
        Or volumes (B, C, D, H, W), or signals (B, C, L). They go through the model twice, all at once, and through what
        follows the layer once back.
    target : None, int, str, sequence or (B,) tensor
        The classes; None: the predicted ones.

    Returns
    -------
    Completeness

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or what an image is explained with is NaN or infinite; the message names it.
    """
    images = check_images(images, model)
    request = targets.read(target, len(images), targets.ClassNames(None, model))
    if request.scores is not None or request.several:
        raise ValueError("target: expected None or one class index for each image; the metric is about one logit")
    model = check_model(model)
    layer = layers.find(model, target_layer)
    captured = capture(model, layer, images, request, survey=warn_of_training(model))
    return completeness(model, images, captured, request)
