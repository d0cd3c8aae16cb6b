"""Whether a method tells classes apart: how much the maps of the two likeliest classes have in common."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from ..core.chunks import DEFAULT_MEMORY
from ..core.similarity import TOP, agreement
from ..hooks.guard import check_model, warn_of_training
from .numbers import is_number
from .scoring import Explainer, check_images, check_maps, logits_of_images
from .statistics import checked


class ClassSensitivity(NamedTuple):
    """How alike the maps of two classes are.

    ``agreement`` (B,) float64 in [0, 1]: the share of their top positions that the two maps have in common; lower is
    better, and 1 is a map that knows nothing of the class; NaN where one of the maps is empty. ``classes`` (B, 2)
    int64: the two.
    """

    agreement: torch.Tensor
    classes: torch.Tensor


def class_sensitivity(
    model: nn.Module, explainer: Explainer, images: torch.Tensor, *, top: float = TOP, memory: int = DEFAULT_MEMORY
) -> ClassSensitivity:
    """Agreement of the maps of an image's two likeliest classes: CASE's test for maps that are blind to the class.

    Williamson et al., "CASE: Contrastive Activation for Saliency Estimation", 2025 (arXiv:2506.07327): the share of the
    top 5% of positions of the one map, at the images' size, that are among those of the other. Of equal values those
    that come first in reading order are taken. Theirs are always exactly 5%; here positions without evidence are never
    top ones, so that of two maps with fewer than that the larger number divides. With an empty map, any 5% of which
    would agree with the other's by chance, it is NaN. Over a data set, see :func:`class_sensitivity_test`.

    Parameters
    ----------
    model : torch.nn.Module
        Its outputs are logits (B, K) with K of at least 2.
    explainer : callable
        ``(images (B, C, H, W), classes (B,)) -> maps (B, H, W)`` in [0, 1].
    images : (B, C, H, W) floating tensor
        Or volumes (B, C, D, H, W), or signals (B, C, L).
    top : float
        In (0, 1): the share of a map's positions that are its top ones.
    memory : int
        Bytes that the activations of one forward may take.

    Returns
    -------
    ClassSensitivity

    Raises
    ------
    TypeError, ValueError
        If an argument, or what the explainer returns, is refused, or the model's logits of an image are NaN or
        infinite; the message names it.
    """
    images = check_images(images, model)
    if not (is_number(top) and 0 < top < 1):
        raise ValueError(f"top: expected a share between 0 and 1; got {top!r}")
    model = check_model(model)
    warn_of_training(model)
    classes = _two_likeliest(logits_of_images(model, images, memory)).to(images.device)
    first, second = (
        check_maps(explainer(images, column), (len(images), *images.shape[2:])) for column in classes.unbind(dim=1)
    )
    return ClassSensitivity(agreement(first, second, top), classes)


def _two_likeliest(logits: torch.Tensor) -> torch.Tensor:
    if logits.shape[1] < 2:
        raise ValueError("model: expected logits of at least two classes, whose maps can be compared; got one")
    return logits.topk(2, dim=1).indices


class SignedRank(NamedTuple):
    """A one-sided Wilcoxon signed-rank test: its statistic, the sum of the ranks above, and the p-value."""

    statistic: float
    p_value: float


def class_sensitivity_test(agreement: torch.Tensor, *, threshold: float = 0.5) -> SignedRank:
    """Whether the agreement of the maps of two classes lies below a threshold, over a data set.

    Wilcoxon's signed-rank test of agreement minus threshold against the alternative that it is less, as in CASE (see
    :func:`class_sensitivity`). Its authors' code takes a threshold of 0.7; one half, which asks for more, is this
    library's. A small p-value says that the method tells classes apart; images whose agreement is the threshold count
    for neither side, and if all do p is 1.

    Parameters
    ----------
    agreement : (N,) tensor
        One number for each image. Those of images with an empty map, NaN, are to be left out by the caller, who then
        says how many they are.
    threshold : float
        In [0, 1].

    Returns
    -------
    SignedRank

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or a value is NaN or infinite.
    """
    from scipy import stats  # slow to import, and of no use to the other metrics

    if not (is_number(threshold) and 0 <= threshold <= 1):
        raise ValueError(f"threshold: expected a share from 0 to 1; got {threshold!r}")
    above = checked("agreement", agreement).numpy() - threshold
    if not above.any():
        return SignedRank(0.0, 1.0)
    found = stats.wilcoxon(above, alternative="less")
    return SignedRank(float(found.statistic), float(found.pvalue))
