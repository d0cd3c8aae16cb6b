"""torchvision's detectors of one stage: RetinaNet and FCOS, whose heads are explained window by window, and SSD.

A head of convolutions scores a place of a level of the feature pyramid by what lies around it. So it suffices to run
the head again on a window around each detection: that is exact, and ten windows cost less than one backward through the
head at all places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from ..core.maps import Inside
from ..hooks import own_thread
from .candidates import Candidates, Place
from .evidence import Evidence


@dataclass(eq=False)
class DenseForward:
    """What hooks keep of one forward of RetinaNet, FCOS or SSD.

    Parameters
    ----------
    model : torch.nn.Module
    sizes : sequence of (int, int)
        Height and width of each given image.
    """

    model: Any
    sizes: Sequence[tuple[int, int]]
    features: list[torch.Tensor] = field(default_factory=list)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)
    anchors: list[torch.Tensor] = field(default_factory=list)
    resized: list[tuple[int, int]] = field(default_factory=list)
    padded: tuple[int, int] = (0, 0)
    norms: dict[tuple[nn.Module, int], tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    runs: dict[nn.Module, int] = field(default_factory=dict)

    def hooks(self) -> Any:
        """Handles of the hooks that keep it, for a forward in this thread."""
        yield own_thread.after(self.model.transform, self._transformed)
        yield own_thread.after(self.model.head, self._headed)
        yield own_thread.after(self.model.anchor_generator, self._anchored)
        for module in self.model.head.classification_head.modules():
            if isinstance(module, nn.GroupNorm):
                yield own_thread.after(module, self._normed)

    def _transformed(self, module: nn.Module, args: Any, output: Any) -> None:
        images = output[0]
        self.resized = [(int(height), int(width)) for height, width in images.image_sizes]
        self.padded = tuple(images.tensors.shape[-2:])

    def _headed(self, module: nn.Module, args: Any, output: Any) -> None:
        self.features, self.outputs = list(args[0]), output

    def _anchored(self, module: nn.Module, args: Any, output: Any) -> None:
        self.anchors = output

    def _normed(self, module: nn.Module, args: Any, output: Any) -> None:
        """Keep what a group norm subtracts and divides by, of each level: a window alone would have others."""
        assert isinstance(module, nn.GroupNorm)
        grouped = args[0].detach().unflatten(1, (module.num_groups, -1)).flatten(2)
        run = self.runs.get(module, 0)
        self.runs[module] = run + 1
        means, variances = grouped.mean(dim=2), grouped.var(dim=2, unbiased=False)
        self.norms[module, run] = means, (variances + module.eps).rsqrt()

    def candidates(self, image: int, *, graph: bool = False) -> Candidates:
        """What was considered in an image."""
        logits, deltas = self.outputs["cls_logits"][image], self.outputs["bbox_regression"][image].detach()
        raw = logits.detach().float()
        score_of: Callable[[int, int], torch.Tensor] = partial(_logit, logits)
        centred = self.outputs.get("bbox_ctrness")
        if centred is not None:  # FCOS
            scores = (raw.sigmoid() * centred[image].detach().float().sigmoid()).sqrt()
            boxes = self.model.box_coder.decode(deltas, self.anchors[image])
        else:
            of_ssd = not hasattr(self.model.head.classification_head, "num_anchors")
            scores = raw.softmax(dim=-1) if of_ssd else raw.sigmoid()
            if of_ssd:
                scores[:, 0] = -1.0  # the background
                score_of = partial(log_odds, logits)
            boxes = self.model.box_coder.decode_single(deltas, self.anchors[image])
        return Candidates(
            boxes=in_image(boxes.float(), self.resized[image], self.sizes[image]),
            scores=scores,
            score_of=score_of if graph else None,
            overlap=float(self.model.nms_thresh),
        )

    def evidence(self, image: int, places: Sequence[Place]) -> list[list[Evidence]]:
        """Of each detection the window of its level that its class's logit depends on, from one backward for all.

        Group norms are those of the whole level, and count as constants: what one place adds to their mean and variance
        is small, and nowhere in particular.
        """
        inside = inside_of(self.resized[image], self.padded)
        with torch.enable_grad():
            windows = [self.window(image, place) for place in places]
            leaves = [leaf for _, _, leaf, _ in windows]
            gradients = torch.autograd.grad(torch.stack([score for *_, score in windows]).sum(), leaves)
        grids = self._grids()
        return [
            [Evidence(self.level_name(level), leaf.detach(), gradient, grids[level], corner, inside)]
            for (level, corner, leaf, _), gradient in zip(windows, gradients)
        ]

    def window(self, image: int, place: Place) -> tuple[int, tuple[int, int], torch.Tensor, torch.Tensor]:
        """The level of a detection, where its window begins there, the features in it, and the logit made of them."""
        grids = self._grids()
        anchors = self.outputs["cls_logits"].shape[1] // sum(height * width for height, width in grids)
        ends = list(accumulate(height * width * anchors for height, width in grids))
        level = next(i for i, end in enumerate(ends) if place.candidate < end)
        cell, anchor = divmod(place.candidate - (ends[level - 1] if level else 0), anchors)
        row, column = divmod(cell, grids[level][1])
        head = self.model.head.classification_head
        radius = _radius(head)
        top, left = max(0, row - radius), max(0, column - radius)
        features = self.features[level][image, :, top : row + radius + 1, left : column + radius + 1]
        leaf = features.detach().clone().requires_grad_()
        with own_thread.hooked(self._frozen(level, image)):
            logits = head([leaf[None]])[0]
        return (
            level,
            (top, left),
            leaf,
            logits[((row - top) * leaf.shape[-1] + column - left) * anchors + anchor, place.label],
        )

    def _grids(self) -> list[tuple[int, int]]:
        return [(int(level.shape[-2]), int(level.shape[-1])) for level in self.features]

    def level_name(self, level: int) -> str:
        """What a level of the feature pyramid is called."""
        return f"backbone[{level}]"

    def _frozen(self, level: int, image: int) -> Any:
        """Hooks that have each group norm work with the mean and variance of the whole level."""
        for (module, run), (means, scales) in self.norms.items():
            if run == level:
                yield own_thread.after(module, partial(_normalised, means[image], scales[image]))


def _normalised(
    means: torch.Tensor, scales: torch.Tensor, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor
) -> torch.Tensor:
    assert isinstance(module, nn.GroupNorm)
    each = module.num_channels // module.num_groups
    mean, scale = (value.repeat_interleave(each)[:, None, None] for value in (means, scales))
    normalised = (args[0] - mean) * scale
    return (
        normalised if module.weight is None else normalised * module.weight[:, None, None] + module.bias[:, None, None]
    )


def _radius(head: nn.Module) -> int:
    """How far around a place the head looks, in cells of its level."""
    convolutions = [module for module in head.modules() if isinstance(module, nn.Conv2d)]
    return sum(int(one.dilation[0]) * (int(one.kernel_size[0]) - 1) // 2 for one in convolutions)


def _logit(logits: torch.Tensor, candidate: int, label: int) -> torch.Tensor:
    return logits[candidate, label]


def log_odds(logits: torch.Tensor, candidate: int, label: int) -> torch.Tensor:
    """Of a softmax over classes: an increasing function of the probability that does not saturate."""
    row = logits[candidate].float()
    others = torch.arange(len(row), device=row.device) != label
    return row[label] - row[others].logsumexp(dim=0)


def in_image(boxes: torch.Tensor, resized: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """Boxes (..., 4) of a resized image in pixels of the given one, within it."""
    height, width = (own / other for own, other in zip(size, resized))
    scale = boxes.new_tensor([width, height, width, height])
    limit = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    return (boxes * scale).clamp_min(0).minimum(limit)


def inside_of(resized: tuple[int, int], padded: tuple[int, int]) -> Inside | None:
    """Where an image lies in what the model pads it to: None where that is all of it."""
    if resized == padded:
        return None
    return tuple((0.0, own / whole) for own, whole in zip(resized, padded))
