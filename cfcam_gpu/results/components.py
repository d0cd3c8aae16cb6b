"""The parts of an explanation: which groups of channels carry the evidence, and where each group sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster import hierarchy

from ..core.cluster_filter import MAX_MAP, channel_evidence
from ..core.config import Config
from ..core.gate import gated
from ..core.maps import upsample
from ..core.similarity import is_same
from ..engines.reference import PRIMITIVES
from ..hooks.capture import Captured
from ..targets.request import Request
from . import ablation, overlays
from .record import Record, arranged
from .same import check_images

REST = "rest"

#: Channels are put into the fewest groups in which they see alike: the cosine similarity of their filtered evidence,
#: averaged within the groups, reaches that of two patterns 45 degrees apart. bench/components.py has other choices.
LIKENESS = 0.7

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Component:
    """A group of channels that see the evidence in the same places. Tensors are on the device of the images.

    Parameters
    ----------
    name : str
        ``"group 1"``, the strongest, ``"group 2"``, ...; ``"rest"`` for all other channels.
    share : float
        Of the evidence, in [0, 1]: the sum of `raw_map` over that of the explanation's raw map. 0 if that is empty.
    channels : (N,) int64 tensor
        Of the target layer, the finer one of two, in ascending order.
    labels : (N,) int64 tensor
        What CF-CAM called each of them: >= 0 its cluster, -1 noise, -2 dominant, -3 dead.
    raw_map : (h, w) float32 tensor
        The channels' part of the explanation's raw map: those of an image's components add up to it.
    map : (H, W) float32 tensor in [0, 1]
        At the image's size and on its own scale, 1 where the group is strongest, so that a weak group is seen, too.
    image : (3, H, W) tensor
        The image as the model got it. Volumes and signals have other axes than (H, W), as in the explanation.
    probability, probability_without : float or None
        Where measured, of the explained class: the softmax of the logits with all channels, and with these set to zero.
        None of a callable, and of a model of one logit.
    score, score_without : float or None
        Where measured, the same of what was explained: the class's logit less the configuration's contrast, or what
        the callable returned.
    """

    name: str
    share: float
    channels: torch.Tensor
    labels: torch.Tensor
    raw_map: torch.Tensor
    map: torch.Tensor
    image: torch.Tensor
    probability: float | None = None
    probability_without: float | None = None
    score: float | None = None
    score_without: float | None = None

    def __repr__(self) -> str:
        """One line: how much of the evidence, in how many channels, and what was measured without them."""
        count = f"{len(self.channels)} channel{'s' * (len(self.channels) != 1)}"
        without = ""
        if self.probability is not None and self.probability_without is not None:
            without = f"; probability {self.probability:.3f}, without them {self.probability_without:.3f}"
        elif self.score is not None and self.score_without is not None:
            without = f"; score {self.score:.3f}, without them {self.score_without:.3f}"
        return f"<Component {self.name}: {self.share:.0%} of the evidence, {count}{without}>"

    @cached_property
    def overlay(self) -> torch.Tensor:
        """The map in colour over the image, (H, W, 3) uint8. See :func:`cfcam_gpu.results.overlay`."""
        return overlays.overlay(self.map[None], self.image[None])[0]

    def describe(self) -> dict[str, Any]:
        """What is known of it beside its map, as JSON takes it: `name`, `share`, `channels`, and what was measured."""
        about = {"name": self.name, "share": self.share, "channels": self.channels.tolist()}
        if self.score is None:
            return about
        names = ("probability", "probability_without", "score", "score_without")
        values = ((name, getattr(self, name)) for name in names)
        return about | {name: value if value is not None and math.isfinite(value) else None for name, value in values}


def decompose(
    explanation: Record, images: torch.Tensor, top: int = 4, *, measured: bool = False
) -> list[list[Component]]:
    """The groups of channels that carry an explanation's evidence.

    A channel's evidence is what it adds to the raw map (equations in :func:`channel_evidence`); where channels speak
    against the target, too, what they take off is taken off the others in proportion, and with two levels the gate
    applies to all channels alike. So what belongs to the channels is nowhere negative and adds up to the raw map.

    Channels are grouped by where their evidence is: by Ward's method (J. H. Ward, JASA 58, 1963) on the evidence,
    smoothed by the configuration's Gaussian filter and scaled to unit norm, in the fewest groups within which the mean
    cosine similarity reaches 0.7. CF-CAM's own clusters stay to be read in ``labels`` but are not the groups: they are
    made so that noise can be told, and one of them is nearly always large and spread over the whole map, while the
    dominant channels, which carry most of the evidence, are not clustered at all.

    Parameters
    ----------
    explanation : Explanation
        With one target an image, as a :class:`~cfcam_gpu.CFCAM` gave it.
    images : (B, 3, H, W) floating tensor
        The images explained, prepared as they were then. They go through the model once more.
    top : int
        How many groups to name, at least 1; there may be fewer.
    measured : bool
        Measure each component: set its channels to zero at the layer, run what follows, and keep what the model says of
        the target then. That is a forward from the layer on of all components of an image at once. A share says how
        much of the map a component is; this says what it is to the model.

    Returns
    -------
    list of B lists of Component
        At most `top` groups, by falling share, and last ``"rest"``, which is always there: the smaller groups, and the
        channels without evidence. Each channel is in one component; shares add to 1, or are 0 where the map is empty.
        The same call gives the same groups, whatever `top` is.

    Raises
    ------
    TypeError, ValueError
        If `top` is no int of at least 1, `measured` no bool, `images` are not those explained, the model has changed
        since, or the explanation has several targets an image or was not made by a CFCAM. With `measured`, if the model
        says of copies of an image something else than of the image.
    """
    if isinstance(top, bool) or not isinstance(top, int):
        raise TypeError(f"top: expected an int; got {type(top).__name__}")
    if top < 1:
        raise ValueError(f"top: expected at least 1; got {top}")
    if not isinstance(measured, bool):
        raise TypeError(f"measured: expected True or False; got {type(measured).__name__}")
    captured, parts = _look(explanation, images)
    found = [_components(explanation, images, b, part, top) for b, part in enumerate(parts)]
    if not measured:
        return found
    said = ablation.without(explanation, captured, images, [[one.channels for one in of_image] for of_image in found])
    return [_measured(of_image, *of_it) for of_image, of_it in zip(found, said)]


def evidence(explanation: Record, images: torch.Tensor) -> list[Floats]:
    """What of the raw map belongs to each channel: for each of B images (C, *spatial), >= 0.

    Raises
    ------
    TypeError, ValueError
        As :func:`decompose`.
    """
    return _look(explanation, images)[1]


def _look(explanation: Record, images: torch.Tensor) -> tuple[Captured, list[Floats]]:
    """What the model is seen to do with the images again, and :func:`evidence` of it."""
    origin, config, labels_of_all = explanation.origin, explanation.config, explanation.labels
    if config is None or labels_of_all is None:
        kind = (
            "another method's" if config is None else "of several looks (augment, smooth, fuse), or an exported file's"
        )
        raise ValueError(
            f"components: only one look by CF-CAM knows its channels' labels; this explanation is {kind}. Explain the "
            "images with CFCAM(model, layer)"
        )
    if origin is None or origin.capture is None:
        raise ValueError(
            "components: this explanation does not know its model; use one that a CFCAM returned, where it was made"
        )
    if explanation.several:
        raise ValueError(
            f"components: expected one target an image; this explanation has {explanation.raw_maps.shape[1]}. Explain "
            "each target in a call of its own: explain(images, target[:, t])"
        )
    check_images(explanation, images)
    request = Request(indices=explanation.target, scores=origin.scores)
    captured = origin.capture(images, request)
    of_channels = [
        channel_evidence(activation.double().numpy(), gradient.double().numpy(), labels.numpy(), config, PRIMITIVES)
        for activation, gradient, labels in zip(
            captured.activations.cpu(), captured.gradients[:, 0].cpu(), labels_of_all.cpu()
        )
    ]
    raw_maps = torch.as_tensor(np.stack([channels.sum(axis=0) for channels in of_channels])).clamp(0, MAX_MAP).float()
    raw_maps = gated(
        raw_maps[:, None].to(images.device), captured.activations, captured.gradients, config, captured.coarse
    )[:, 0]
    if not (is_same(raw_maps.cpu(), explanation.raw_maps.cpu()) and _same_logits(captured.logits, explanation.logits)):
        raise ValueError(
            "images: expected those that were explained, prepared in the same way and under the same autocast; the "
            "model sees other evidence in these, or has changed since"
        )
    raw_maps_before = explanation.raw_maps.cpu().double().numpy()
    return captured, [_apportioned(channels, raw) for channels, raw in zip(of_channels, raw_maps_before)]


def group(parts: Floats, config: Config, *, likeness: float = LIKENESS) -> NDArray[np.int64]:
    """The number of each channel's group, 0 the one of most evidence; -1 for channels without evidence.

    Parameters
    ----------
    parts : (C, *spatial) float64, >= 0
        From :func:`evidence`.
    config : Config
        Its filter is used.
    likeness : float in [0, 1]
        The mean cosine similarity within groups.

    Returns
    -------
    (C,) int64
    """
    axes = tuple(range(1, parts.ndim))
    shares = parts.sum(axis=axes)
    numbers = np.full(len(parts), -1)
    members = np.flatnonzero(shares > 0)
    if not members.size:
        return numbers
    patterns = parts[members] / parts[members].max(axis=axes, keepdims=True)  # squares of tiny numbers would be 0
    if config.sigma > 0:
        patterns = cast(Floats, PRIMITIVES.gaussian(patterns, config.sigma, config.boundary))
    patterns = patterns.reshape(members.size, -1)
    groups = _alike(patterns / np.linalg.norm(patterns, axis=1, keepdims=True), likeness)
    # `minlength` has no say, and sums in the channels' order, so equal shares keep the order of their first channels.
    order = np.argsort(-np.bincount(groups, shares[members]), kind="stable")
    numbers[members] = np.argsort(order)[groups]
    return numbers


def _alike(patterns: Floats, likeness: float) -> NDArray[np.int64]:
    """Numbers of the groups of (N, D) unit vectors, in the order of their first members."""
    count = len(patterns)
    if count == 1:
        return np.zeros(1, dtype=np.int64)
    tree = hierarchy.ward(patterns)
    # A merge at height t adds t^2 / 2 to the squared distances from the groups' means. Of unit vectors these are on
    # average 1 minus the cosine similarity within a group, each vector's with itself included.
    spreads = np.cumsum(tree[:, 2] ** 2 / 2) / count
    merges = np.searchsorted(spreads, 1 - likeness, side="right")
    numbers = hierarchy.cut_tree(tree, n_clusters=count - merges)[:, 0]
    return np.unique(numbers, return_inverse=True)[1]


def _apportioned(signed: Floats, raw: Floats) -> Floats:
    """The raw map (*spatial) shared out among the channels that speak for the target, (C, *spatial)."""
    positive = np.maximum(signed, 0.0)
    total = positive.sum(axis=0)
    share: Floats = np.divide(raw, total, out=np.zeros_like(raw), where=total > 0)
    return positive * share


def _components(explanation: Record, images: torch.Tensor, b: int, parts: Floats, top: int) -> list[Component]:
    config, labels = explanation.config, explanation.labels
    assert config is not None
    assert labels is not None
    numbers = group(parts, config)
    total = parts.sum()
    named = min(top, int(numbers.max()) + 1)
    members = [numbers == k for k in range(named)] + [(numbers < 0) | (numbers >= named)]
    result = []
    for k, is_member in enumerate(members):
        group_map = parts[is_member].sum(axis=0)
        channels = torch.as_tensor(np.flatnonzero(is_member), device=images.device)
        raw_map = torch.as_tensor(group_map, dtype=torch.float32, device=images.device)
        result.append(
            Component(
                name=f"group {k + 1}" if k < named else REST,
                share=float(group_map.sum() / total) if total > 0 else 0.0,
                channels=channels,
                labels=labels[b, channels],
                raw_map=raw_map,
                map=upsample(raw_map, explanation.size, saturation=config.saturation, inside=explanation.inside),
                image=arranged(explanation, images)[b],
            )
        )
    return result


def _measured(components: list[Component], scores: torch.Tensor, shares: torch.Tensor | None) -> list[Component]:
    """Components with what the model said with all channels, the first entry, and without each of them."""
    score, *scores_without = scores.tolist()
    share, *shares_without = [None] * len(scores) if shares is None else shares.tolist()
    return [
        replace(
            component, probability=share, probability_without=share_without, score=score, score_without=score_without
        )
        for component, share_without, score_without in zip(components, shares_without, scores_without, strict=True)
    ]


def _same_logits(again: torch.Tensor | None, before: torch.Tensor | None) -> bool:
    return again is before if again is None or before is None else is_same(again, before)
