"""A small detector of two scales, without anchors, trained in a minute on shapes over noise: where they are is known.

A picture has 96 x 96 pixels of smooth noise with two to four discs, squares and triangles, none over another, of 10 to
40 pixels. The detector returns YOLO's one tensor (B, 4 + 3, N).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

SIDE = 96
SHAPES = ("disc", "square", "triangle")
#: From this side on an object is of the coarse scale.
COARSE = 22
STRIDES = (4, 8)
WEIGHTS = Path(__file__).resolve().parents[1] / "out" / "planted-detector.pt"


class Detector(nn.Module):
    """A backbone, a neck down and up, and a head for each scale: 4 numbers of a box and the scores of 3 shapes."""

    class_names = SHAPES

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = _block(3, width, 2)
        self.fine = nn.Sequential(_block(width, 2 * width, 2), _block(2 * width, 2 * width))
        self.deep = nn.Sequential(_block(2 * width, 4 * width, 2), _block(4 * width, 4 * width))
        self.deepest = nn.Sequential(_block(4 * width, 4 * width, 2), _block(4 * width, 4 * width))
        self.top = _block(8 * width, 4 * width)
        self.near = _block(6 * width, 2 * width)
        self.down = _block(2 * width, 2 * width, 2)
        self.far = _block(6 * width, 4 * width)
        self.up = nn.Upsample(scale_factor=2)
        channels = (2 * width, 4 * width)
        self.boxes = nn.ModuleList(nn.Sequential(_block(n, width), nn.Conv2d(width, 4, 1)) for n in channels)
        self.classes = nn.ModuleList(nn.Sequential(_block(n, width), nn.Conv2d(width, 3, 1)) for n in channels)
        for head in self.classes:
            nn.init.constant_(head[1].bias, -4.0)

    def raw(self, images: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of each scale the distances (B, 4, h, w) to a box's sides, in strides and as logarithms, and class logits."""
        fine = self.fine(self.stem(images))
        deep = self.deep(fine)
        deepest = self.deepest(deep)
        top = self.top(torch.cat([self.up(deepest), deep], dim=1))
        near = self.near(torch.cat([self.up(top), fine], dim=1))
        far = self.far(torch.cat([self.down(near), top], dim=1))
        return [(boxes(level), classes(level)) for level, boxes, classes in zip((near, far), self.boxes, self.classes)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 7, N)."""
        parts = []
        for (distances, logits), stride in zip(self.raw(images), STRIDES):
            rows, columns = logits.shape[-2:]
            y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
            centre = torch.stack([x, y])[None].to(images) * stride
            low, high = (distances.clamp(max=4).exp() * stride).chunk(2, dim=1)
            parts.append(torch.cat([centre + (high - low) / 2, low + high, logits.sigmoid()], dim=1).flatten(2))
        return torch.cat(parts, dim=2)


def _block(into: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.SiLU())


def pictures(count: int, seed: int) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Images (N, 3, 96, 96) in about [-1, 1], and of each the boxes (M, 4) and labels (M,)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, SIDE // 4, SIDE // 4, generator=generator)
    images = 0.35 * functional.interpolate(noise, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    images += 0.15 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    all_boxes, all_labels = [], []
    for image in images:
        boxes: list[list[float]] = []
        labels = []
        for _ in range(8):
            side = float(torch.randint(10, 41, (), generator=generator))
            left, top = (torch.rand(2, generator=generator) * (SIDE - side)).round().tolist()
            box = [left, top, left + side, top + side]
            if any(box[0] < o[2] + 2 and o[0] < box[2] + 2 and box[1] < o[3] + 2 and o[1] < box[3] + 2 for o in boxes):
                continue
            label = int(torch.randint(3, (), generator=generator))
            colour = 0.4 + 0.8 * torch.rand(3, generator=generator)
            image[:, _shape(box, label)] = (colour * torch.randint(0, 2, (3,), generator=generator).mul(2).sub(1))[
                :, None
            ]
            boxes.append(box)
            labels.append(label)
            if len(boxes) == 4:
                break
        all_boxes.append(torch.tensor(boxes))
        all_labels.append(torch.tensor(labels))
    return images, all_boxes, all_labels


def _shape(box: list[float], label: int) -> torch.Tensor:
    """(96, 96) bool: the pixels of a shape that fills its box."""
    left, top, right, bottom = box
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    u, v = (x - left) / (right - left), (y - top) / (bottom - top)
    inside = (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
    if SHAPES[label] == "disc":
        return (u - 0.5) ** 2 + (v - 0.5) ** 2 <= 0.25
    return inside if SHAPES[label] == "square" else inside & ((u - 0.5).abs() <= v / 2)


def trained(steps: int = 600, batch: int = 12) -> Detector:
    """The detector, from its file or after as many steps on pictures drawn anew, all seeded."""
    torch.manual_seed(0)
    model = Detector()
    if WEIGHTS.is_file():
        model.load_state_dict(torch.load(WEIGHTS, weights_only=True))
        return model.eval()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps)
    model.train()
    for step in range(steps):
        images, boxes, labels = pictures(batch, seed=10_000 + step)
        loss = _loss(model.raw(images), boxes, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), WEIGHTS)
    return model.eval()


def _loss(
    raw: list[tuple[torch.Tensor, torch.Tensor]], boxes: list[torch.Tensor], labels: list[torch.Tensor]
) -> torch.Tensor:
    """Focal loss of the class at each object's central cell against all others, and L1 of its box's logarithms."""
    total = torch.zeros(())
    count = sum(len(one) for one in boxes)
    for (distances, logits), stride, coarse in zip(raw, STRIDES, (False, True)):
        wanted, counted = torch.zeros_like(logits), torch.ones_like(logits)
        for b, (of_image, classes) in enumerate(zip(boxes, labels)):
            for box, label in zip(of_image, classes):
                if bool(box[2] - box[0] >= COARSE) is not coarse:
                    continue
                centre = (box[:2] + box[2:]) / 2 / stride
                column, row = centre.long().clamp_max(logits.shape[-1] - 1).tolist()
                counted[b, label, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = 0
                counted[b, label, row, column] = wanted[b, label, row, column] = 1
                middle = (torch.tensor([column, row]) + 0.5) * stride
                sides = torch.cat([middle - box[:2], box[2:] - middle]).clamp_min(1) / stride
                total = total + (distances[b, :, row, column] - sides.log()).abs().sum()
        p = logits.sigmoid()
        cross = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        total = total + (counted * cross * (wanted - p).abs() ** 2 * (1 + 3 * wanted)).sum()
    return total / count
