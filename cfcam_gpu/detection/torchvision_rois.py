"""torchvision's detectors of two stages: Faster, Mask and Keypoint R-CNN.

The score of a box depends on the features in its proposal alone. So the second stage is run again on the proposals of
the detections, each with a copy of the few cells of its level that it reads: one backward has all gradients apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from ..hooks import own_thread
from .candidates import Candidates, Place
from .evidence import Evidence
from .torchvision_dense import in_image, inside_of, log_odds

#: Boxes with a shorter side are none, as in torchvision.
_LEAST_SIDE = 1e-2


@dataclass(eq=False)
class RoIForward:
    """What hooks keep of one forward of a detector with ``roi_heads``.

    Parameters
    ----------
    model : torch.nn.Module
    sizes : sequence of (int, int)
        Height and width of each given image.
    """

    model: Any
    sizes: Sequence[tuple[int, int]]
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    proposals: list[torch.Tensor] = field(default_factory=list)
    logits: tuple[torch.Tensor, ...] = ()
    deltas: torch.Tensor | None = None
    resized: list[tuple[int, int]] = field(default_factory=list)
    padded: tuple[int, int] = (0, 0)

    def hooks(self) -> Any:
        """Handles of the hooks that keep it, for a forward in this thread."""
        heads = self.model.roi_heads
        yield own_thread.after(self.model.transform, self._transformed)
        yield own_thread.after(heads.box_roi_pool, self._pooled)
        yield own_thread.after(heads.box_predictor, self._predicted)

    def _transformed(self, module: nn.Module, args: Any, output: Any) -> None:
        images = output[0]
        self.resized = [(int(height), int(width)) for height, width in images.image_sizes]
        self.padded = tuple(images.tensors.shape[-2:])

    def _pooled(self, module: nn.Module, args: Any, output: Any) -> None:
        self.features, self.proposals = dict(args[0]), list(args[1])

    def _predicted(self, module: nn.Module, args: Any, output: Any) -> None:
        counts = [len(each) for each in self.proposals]
        self.logits, self.deltas = output[0].split(counts), output[1]

    def candidates(self, image: int, *, graph: bool = False) -> Candidates:
        """What was considered in an image."""
        assert self.deltas is not None
        heads = self.model.roi_heads
        scores = self.logits[image].detach().float().softmax(dim=-1)
        scores[:, 0] = -1.0  # the background
        counts = [len(each) for each in self.proposals]
        boxes = heads.box_coder.decode(self.deltas.detach(), self.proposals).split(counts)[image]
        boxes = in_image(boxes.float(), self.resized[image], self.sizes[image])
        scores[(boxes[..., 2:] - boxes[..., :2]).amin(dim=-1) < _LEAST_SIDE] = -1.0
        return Candidates(
            boxes=boxes,
            scores=scores,
            score_of=partial(log_odds, self.logits[image]) if graph else None,
            overlap=float(heads.nms_thresh),
        )

    def evidence(self, image: int, places: Sequence[Place]) -> list[list[Evidence]]:
        """Of each detection the cells of its level that its proposal reads, from one backward for all."""
        from torchvision.ops import roi_align

        heads = self.model.roi_heads
        pool = heads.box_roi_pool
        names = [name for name in pool.featmap_names if name in self.features]
        chosen = [self.proposals[image][place.candidate] for place in places]
        levels = [0] * len(chosen) if len(names) == 1 else pool.map_levels([torch.stack(chosen)]).tolist()
        inside = inside_of(self.resized[image], self.padded)
        windows: list[tuple[str, tuple[int, int], torch.Tensor]] = []
        pooled = []
        with torch.enable_grad():
            for proposal, level in zip(chosen, levels):
                feature, scale = self.features[names[level]][image], pool.scales[level]
                left, top, right, bottom = (scale * proposal).tolist()
                # Bilinear sampling reads one cell more on each side.
                corner = max(0, math.floor(top) - 1), max(0, math.floor(left) - 1)
                window = feature[:, corner[0] : math.ceil(bottom) + 2, corner[1] : math.ceil(right) + 2]
                leaf = window.detach().clone().requires_grad_()
                shift = proposal.new_tensor([corner[1], corner[0], corner[1], corner[0]]) / scale
                pooled.append(
                    roi_align(
                        leaf[None],
                        [(proposal - shift)[None]],
                        output_size=pool.output_size,
                        spatial_scale=scale,
                        sampling_ratio=pool.sampling_ratio,
                    )
                )
                windows.append((names[level], corner, leaf))
            logits = heads.box_predictor(heads.box_head(torch.cat(pooled)))[0]
            scores = [log_odds(logits, row, place.label) for row, place in enumerate(places)]
            gradients = torch.autograd.grad(torch.stack(scores).sum(), [leaf for *_, leaf in windows])
        return [
            [
                Evidence(
                    f"backbone[{name!r}]",
                    leaf.detach(),
                    gradient,
                    (int(self.features[name].shape[-2]), int(self.features[name].shape[-1])),
                    corner,
                    inside,
                )
            ]
            for (name, corner, leaf), gradient in zip(windows, gradients)
        ]

    def masks(self, image: int, boxes: torch.Tensor, places: Sequence[Place]) -> torch.Tensor | None:
        """Of Mask R-CNN, how sure it is of each pixel of each box's instance: (N, H, W) in [0, 1]; None of others."""
        heads = self.model.roi_heads
        if not heads.has_mask():
            return None
        height, width = self.sizes[image]
        if not places:
            return boxes.new_zeros(0, height, width)
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        resized = self.resized[image]
        scale = boxes.new_tensor([resized[1] / width, resized[0] / height] * 2)
        features = {name: feature[image : image + 1] for name, feature in self.features.items()}
        pooled = heads.mask_roi_pool(features, [boxes * scale], [resized])
        logits = heads.mask_predictor(heads.mask_head(pooled))
        labels = torch.tensor([place.label for place in places], device=logits.device)
        of_class = logits[torch.arange(len(places), device=logits.device), labels][:, None].sigmoid()
        masks: torch.Tensor = paste_masks_in_image(of_class.float(), boxes, (height, width))[:, 0]
        return masks
