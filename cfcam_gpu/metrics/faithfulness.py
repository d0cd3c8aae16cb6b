"""Whether the map points to what the model looks at, measured by changing the image where the map says.

L is a map in [0, 1], Y the softmax probability of its class on the image, O on the image times L. "Times" is meant in
the model's input space, so that what is covered becomes the value 0 there, for usual normalisations a mid-grey.

Of volumes read (B, C, D, H, W) for images and (B, D, H, W) for maps, of signals (B, C, L) and (B, L); a pixel is then a
voxel or a sample.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from ..core.chunks import DEFAULT_MEMORY, Progress
from ..core.similarity import pearson
from ..targets.request import Target
from .scoring import Explainer, check_fit, check_maps, check_own, class_indices, class_scores, ranked

_CONVOLUTION = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class ConfidenceChange(NamedTuple):
    """What happens to the probability when only what the map shows is left; each (B,) float64, in percent.

    ``drop``: 100 max(0, Y - O) / Y, lower is better; its mean is Average Drop. ``increase``: 100 where O > Y, else 0,
    higher is better; its mean is Average Increase. ``gain``: 100 max(0, O - Y) / (1 - Y), higher is better; its mean is
    Average Gain. NaN where the model's logits of what is left are NaN or infinite.
    """

    drop: torch.Tensor
    increase: torch.Tensor
    gain: torch.Tensor


def confidence_change(
    model: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    target: Target = None,
    *,
    memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> ConfidenceChange:
    """Average Drop, Average Increase and Average Gain, image by image.

    Drop and increase: Chattopadhay et al., "Grad-CAM++", WACV 2018 (arXiv:1710.11063). Gain: Zhang et al., "Opti-CAM",
    CVIU 2024 (arXiv:2301.07002).

    Parameters
    ----------
    model : torch.nn.Module
        Its outputs are logits (B, K).
    images : (B, C, H, W) floating tensor
    maps : (B, H, W) floating tensor in [0, 1]
    target : None, int, str, sequence or (B,) tensor
        The classes that the maps explain; None: the predicted ones.
    memory : int
        Bytes that the activations of one forward may take.
    progress : callable, optional
        Called with (done, total) forwards of an image.

    Returns
    -------
    ConfidenceChange

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or the model's logits of an image are NaN or infinite; the message names it.
    """
    images, maps = check_fit(model, images, maps)
    classes = class_indices(model, images, target, memory)
    # The image as it is (0) and times its map (1), in turn.
    both = torch.stack([torch.ones_like(maps), maps], dim=1).flatten(0, 1)[:, None]

    def batch(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = torch.arange(start, stop, device=images.device) // 2
        return images[image] * both[start:stop].to(images.dtype), classes[image]

    scores = class_scores(model, batch, len(both), memory=memory, progress=progress)
    before, after = scores[0::2], scores[1::2]
    check_own(before)
    drop = torch.where(before > 0, (before - after).clamp(min=0) / before, 0.0)
    gain = torch.where(before < 1, (after - before).clamp(min=0) / (1 - before), 0.0)
    found = (drop, (after > before).double(), gain)
    return ConfidenceChange(*(100 * part.masked_fill(after.isnan(), torch.nan) for part in found))


class Curve(NamedTuple):
    """Probabilities while pixels are changed in the order of the map.

    ``auc`` (B,): area under the curve, in [0, 1]. ``scores`` (B, S + 1): the probability after each of S steps, the
    first before any. ``fractions`` (S + 1,): the share of pixels changed by then. All float64. A probability is NaN,
    and the area with it, where the model's logits of the changed image are NaN or infinite.
    """

    auc: torch.Tensor
    scores: torch.Tensor
    fractions: torch.Tensor


def insertion(
    model: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    target: Target = None,
    *,
    baseline: Literal["blur", "zero"] = "blur",
    step: int = 224,
    memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> Curve:
    """Insertion: the image returns into its baseline, highest values of the map first. A high AUC is better.

    Petsiuk et al., "RISE", BMVC 2018 (arXiv:1806.07421). See :func:`deletion` for the arguments.

    Raises
    ------
    TypeError, ValueError
        As :func:`deletion`.
    """
    images, maps = check_fit(model, images, maps)
    start = _baseline(images, baseline)
    return _curve(model, start, images, images, maps, target, step=step, memory=memory, progress=progress)


def deletion(
    model: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    target: Target = None,
    *,
    baseline: Literal["blur", "zero"] = "zero",
    step: int = 224,
    memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> Curve:
    """Deletion: the image gives way to its baseline, highest values of the map first. A low AUC is better.

    Petsiuk et al., "RISE", BMVC 2018 (arXiv:1806.07421). The area is the trapezoid rule over the share of pixels, so
    that it is right where the last step is a shorter one. Pixels of equal value go in reading order.

    Parameters
    ----------
    model : torch.nn.Module
        Its outputs are logits (B, K).
    images : (B, C, H, W) floating tensor
    maps : (B, H, W) floating tensor in [0, 1]
    target : None, int, str, sequence or (B,) tensor
        The classes that the maps explain; None: the predicted ones.
    baseline : {"zero", "blur"}
        ``"zero"``: 0 in the model's input space. ``"blur"``: a Gaussian of 11 pixels along each axis with sigma 5, as
        in RISE, normalised and reflecting at the border.
    step : int
        Pixels changed between two forwards.
    memory : int
        Bytes that the activations of one forward may take.
    progress : callable, optional
        Called with (done, total) forwards of an image.

    Returns
    -------
    Curve

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or the model's logits of an image are NaN or infinite; the message names it.
    """
    images, maps = check_fit(model, images, maps)
    end = _baseline(images, baseline)
    return _curve(model, images, end, images, maps, target, step=step, memory=memory, progress=progress)


def _curve(
    model: nn.Module,
    start: torch.Tensor,
    end: torch.Tensor,
    images: torch.Tensor,
    maps: torch.Tensor,
    target: Target,
    *,
    step: int,
    memory: int,
    progress: Progress | None,
) -> Curve:
    pixels = maps[0].numel()
    if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step <= pixels:
        raise ValueError(f"step: expected a number of pixels from 1 to {pixels}; got {step!r}")
    classes = class_indices(model, images, target, memory)
    ranks = ranked(maps)
    counts = torch.tensor([*range(0, pixels, step), pixels], device=images.device)

    def batch(first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        jobs = torch.arange(first, last, device=images.device)
        image, at = jobs // len(counts), jobs % len(counts)
        changed = ranks[image] < counts[at].reshape(-1, *(1 for _ in ranks.shape[1:]))
        return torch.where(changed[:, None], end[image], start[image]), classes[image]

    scores = class_scores(model, batch, len(images) * len(counts), memory=memory, progress=progress)
    scores = scores.reshape(len(images), len(counts))
    check_own(scores[:, 0 if start is images else -1])
    fractions = counts.double() / pixels
    return Curve(torch.trapezoid(scores, fractions, dim=1), scores, fractions)


def _baseline(images: torch.Tensor, name: str) -> torch.Tensor:
    if name == "zero":
        return torch.zeros_like(images)
    if name == "blur":
        return gaussian_blur(images)
    raise ValueError(f"baseline: expected 'blur' or 'zero'; got {name!r}")


def gaussian_blur(images: torch.Tensor, size: int = 11, sigma: float = 5.0) -> torch.Tensor:
    """Images (B, C, ...) smoothed along all spatial axes by a normalised Gaussian of `size` pixels.

    It reflects at the border.

    Raises
    ------
    ValueError
        If a side of the images is not longer than half the Gaussian: there is nothing to reflect.
    """
    half, spatial_dims = size // 2, images.ndim - 2
    if min(images.shape[2:]) <= half:
        raise ValueError(
            f"images: a blur of {size} pixels needs at least {half + 1} a side; got {tuple(images.shape[2:])}. Take "
            "baseline='zero'"
        )
    taps = torch.arange(-half, half + 1, dtype=torch.float32, device=images.device)
    taps = torch.exp(-0.5 * (taps / sigma) ** 2)
    taps = (taps / taps.sum()).to(images.dtype)
    flat = functional.pad(images.flatten(0, 1)[:, None], (half, half) * spatial_dims, mode="reflect")
    for axis in range(spatial_dims):
        kernel = taps.reshape(1, 1, *(size if axis == other else 1 for other in range(spatial_dims)))
        flat = _CONVOLUTION[spatial_dims](flat, kernel)
    return flat.reshape(images.shape)


class ADCC(NamedTuple):
    """ADCC and its parts; each (B,) float64 in [0, 1].

    ``adcc`` is the harmonic mean of coherency, 1 - complexity and 1 - average drop, higher is better; 0 where one of
    the three is. ``coherency``: (r + 1) / 2, with r Pearson's correlation of the map with the map of the image times
    the map. ``complexity``: the map's mean. ``drop``: max(0, Y - O) / Y, NaN as in :class:`ConfidenceChange`.
    """

    adcc: torch.Tensor
    coherency: torch.Tensor
    complexity: torch.Tensor
    drop: torch.Tensor


def adcc(
    model: nn.Module,
    explainer: Explainer,
    images: torch.Tensor,
    maps: torch.Tensor,
    target: Target = None,
    *,
    memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> ADCC:
    """Average DCC: a good map drops little, is coherent and is not complex.

    Poppi et al., "Revisiting the Evaluation of Class Activation Mapping for Explainability", CVPR Workshops 2021
    (arXiv:2104.10252). A map that is the same everywhere correlates with nothing: r is 0.

    Parameters
    ----------
    explainer : callable
        ``(images (B, C, H, W), classes (B,)) -> maps (B, H, W)`` in [0, 1]: the method that made `maps`.
    model, images, maps, target, memory, progress
        As in :func:`confidence_change`.

    Returns
    -------
    ADCC

    Raises
    ------
    TypeError, ValueError
        If an argument, or what the explainer returns, is refused, or the model's logits of an image are NaN or
        infinite; the message names it.
    """
    images, maps = check_fit(model, images, maps)
    classes = class_indices(model, images, target, memory)
    drop = confidence_change(model, images, maps, classes, memory=memory, progress=progress).drop / 100
    masked_maps = check_maps(explainer(images * maps[:, None].to(images.dtype), classes), tuple(maps.shape))
    coherency = (pearson(maps, masked_maps) + 1) / 2
    complexity = maps.double().flatten(1).mean(dim=1)
    terms = torch.stack([coherency, 1 - complexity, 1 - drop])
    harmonic = torch.where((terms <= 0).any(dim=0), 0.0, 3 / (1 / terms).sum(dim=0))
    return ADCC(harmonic, coherency, complexity, drop)
