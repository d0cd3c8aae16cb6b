"""What maps of ten boxes of a detector cost beside that of one, and how much of a map is in its object.

``python -m bench.detections`` measures and writes a JSON file; see bench/README.md. Cost is of networks with random
weights, as time knows no other; localisation is of :mod:`bench.planted_detector`, whose objects are known.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from cfcam_gpu import CAM, explain_detections
from cfcam_gpu.detection import Detections
from cfcam_gpu.detection.candidates import corners
from cfcam_gpu.latency.machine import cores_time, machine, taken_by_others
from cfcam_gpu.latency.timing import keep_freed_memory, ratios, summary, times_in_turn
from cfcam_gpu.targets.references import iou

from . import planted_detector
from .latency import ROOT, record_path, versions, write
from .torchvision_shim import import_torchvision

BOXES = 10
#: Of ten boxes over one, the whole call.
BAR = 1.5
#: The largest difference between a map of ten and the same alone.
TOLERANCE = 1e-3
SIDE = 320


def _plain_operators() -> None:
    """Where torchvision's compiled part is for another torch, its operators in plain torch."""
    import torchvision

    from examples.plain_nms import nms

    if torchvision.extension._has_ops():
        return
    align = importlib.import_module("torchvision.ops.roi_align")
    align._roi_align = getattr(align._roi_align, "__wrapped__", align._roi_align)
    torchvision.ops.boxes.nms = nms


def torchvision_model(name: str, **options: Any) -> nn.Module:
    """One of torchvision's detectors with random weights, which finds nothing by itself: we choose the boxes."""
    import_torchvision()
    from torchvision.models import get_model

    _plain_operators()
    torch.manual_seed(0)
    sizes = {} if name.startswith("ssd") else {"min_size": SIDE, "max_size": SIDE}
    module: nn.Module = get_model(name, weights=None, weights_backbone=None, **sizes, **options)
    return module.eval()


def detr() -> nn.Module:
    """DETR on a ResNet-50, as Carion et al. have it, with random weights."""
    import_torchvision()
    import transformers

    torch.manual_seed(0)
    config = transformers.DetrConfig(
        backbone_config={"model_type": "resnet", "out_features": ["stage4"]},
        backbone=None,
        use_timm_backbone=False,
        use_pretrained_backbone=False,
    )
    module: nn.Module = transformers.DetrForObjectDetection(config).eval()
    return module


def yolo() -> nn.Module:
    """The planted detector, four times as wide, with random weights."""
    torch.manual_seed(0)
    return planted_detector.Detector(64).eval()


_FEW = {"rpn_pre_nms_top_n_test": 100, "rpn_post_nms_top_n_test": 100, "box_score_thresh": 0.9}
CELLS: dict[str, Callable[[], nn.Module]] = {
    "RetinaNet ResNet-50 FPN": partial(torchvision_model, "retinanet_resnet50_fpn", score_thresh=0.9),
    "FCOS ResNet-50 FPN": partial(torchvision_model, "fcos_resnet50_fpn", score_thresh=0.9),
    "Faster R-CNN ResNet-50 FPN": partial(torchvision_model, "fasterrcnn_resnet50_fpn", **_FEW),
    "SSDlite MobileNetV3": partial(torchvision_model, "ssdlite320_mobilenet_v3_large", score_thresh=0.9),
    "DETR ResNet-50": detr,
    "YOLO-like": yolo,
}


def cost(name: str, rounds: int) -> dict[str, Any]:
    """Times of one box and of ten in turn, gated by the maps of ten being those of each alone."""
    model = CELLS[name]()
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    (some,) = explain_detections(model, image, threshold=0.0, top=4 * BOXES)
    threshold = float(some.scores[-1])
    find = partial(explain_detections, model, image, threshold=threshold)
    (ten,) = find(top=BOXES)
    differences = []
    for i in range(len(ten)):
        # Its own box, which its own candidate speaks for: of equal scores and boxes another one may.
        (alone,) = explain_detections(model, image, boxes=ten.boxes[i][None], labels=int(ten.labels[i]))
        if float(alone.scores[0]) == float(ten.scores[i]):
            differences.append(float((alone.maps[0] - ten.maps[i]).abs().max()))
    calls: dict[str, Callable[[torch.Tensor], Any]] = {
        "one box": lambda x: find(top=1),
        "ten boxes": lambda x: find(top=BOXES),
    }
    before = cores_time()
    times = times_in_turn(calls, image, rounds).clock
    figures = {key: summary(values) for key, values in times.items()}
    return {
        "gate": {
            "difference": max(differences, default=float("nan")),
            "compared": len(differences),
            "tolerance": TOLERANCE,
            "passed": len(ten) == BOXES and bool(differences) and max(differences) <= TOLERANCE,
        },
        "latency_ms": figures,
        "ratios": ratios(figures, ["one box"]),
        "layers": list(ten.layers[0]),
        "taken_by_others": taken_by_others(before, cores_time()),
    }


def localisation(count: int) -> dict[str, Any]:
    """On objects that the planted detector finds: the share of each map in its box, and whether its peak is there."""
    model = planted_detector.trained()
    images, boxes, labels = planted_detector.pictures(count, seed=1)
    found = explain_detections(model, images, threshold=0.4)
    scores: dict[str, list[tuple[float, float]]] = {}
    number = right = 0
    for image, detections, of_image, classes in zip(images, found, boxes, labels):
        matched = _matched(detections, of_image, classes)
        number += len(of_image)
        right += len(matched)
        for own in matched:
            box = detections.boxes[own]
            inside = _inside(box)
            maps = {"CF-CAM": detections.maps[own]} | _others(model, image, box, int(detections.labels[own]))
            for name, values in maps.items():
                total = float(values.sum())
                share = float((values * inside).sum()) / total if total > 0 else 0.0
                peak = total > 0 and bool(inside.flatten()[values.argmax()])
                scores.setdefault(name, []).append((share, float(peak)))
            scores.setdefault("by area", []).append((float(inside.float().mean()), float(inside.float().mean())))
    return {
        "images": count,
        "objects": number,
        "found": right,
        "layers": list(found[0].layers[0]),
        "maps": {
            name: {
                "energy_in_box": round(sum(share for share, _ in values) / len(values), 4),
                "pointing_game": round(sum(peak for _, peak in values) / len(values), 4),
            }
            for name, values in scores.items()
        },
    }


def _inside(box: torch.Tensor) -> torch.Tensor:
    """Which pixels of a picture have their centres in a box."""
    middles = torch.arange(planted_detector.SIDE) + 0.5
    rows, columns = (middles >= box[1]) & (middles <= box[3]), (middles >= box[0]) & (middles <= box[2])
    return rows[:, None] & columns


def _others(model: nn.Module, image: torch.Tensor, box: torch.Tensor, label: int) -> dict[str, torch.Tensor]:
    """What people do with Grad-CAM libraries: one layer, or several, and the score of the class that fits the box."""

    def score(rows: torch.Tensor) -> torch.Tensor:
        placed = corners(rows[:4].T).detach()
        return (iou(placed, box) * rows[4 + label]).max()

    calls = {
        "Grad-CAM, last neck layer": CAM(model, "far", method="gradcam"),
        "Grad-CAM, our layers": CAM(model, ["near", "top", "deepest"], method="gradcam"),
        "HiResCAM, our layers": CAM(model, ["near", "top", "deepest"], method="hirescam"),
    }
    maps = {}
    for name, explain in calls.items():
        try:
            maps[name] = explain(image[None], score).maps[0]
        except ValueError:  # the score does not depend on the layer
            maps[name] = torch.zeros(image.shape[-2:])
    return maps


def _matched(detections: Detections, boxes: torch.Tensor, labels: torch.Tensor) -> list[int]:
    """The detections of the right class that overlap an object by half; one for each object."""
    found = []
    for box, label in zip(boxes, labels):
        overlaps = iou(detections.boxes, box) * (detections.labels == label)
        if len(overlaps) and float(overlaps.max()) >= 0.5:
            found.append(int(overlaps.argmax()))
    return found


def main(argv: list[str] | None = None) -> int:
    """0, or 1 where a gate failed. A bar that is not met is reported and changes nothing: it is a result."""
    parser = argparse.ArgumentParser(prog="python -m bench.detections", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder for the record")
    parser.add_argument("--cells", nargs="*", choices=CELLS, default=list(CELLS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=60)
    options = parser.parse_args(argv)
    console = Console()
    keep_freed_memory()
    record: dict[str, Any] = {
        "benchmark": "detections",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions([]),
        "settings": {"boxes": BOXES, "side": SIDE, "rounds": options.rounds},
        "localisation": localisation(options.images),
        "bar": {"of": "ten boxes", "over": "one box", "limit": BAR},
        "cells": {},
    }
    for name, figures in record["localisation"]["maps"].items():
        console.print(f"{name}: energy in the box {figures['energy_in_box']:.1%}, peak {figures['pointing_game']:.1%}")
    for name in options.cells:
        found = record["cells"][name] = cost(name, options.rounds)
        value = found["ratios"]["ten boxes / one box"]["median"]
        found["met"] = value <= BAR
        verdict = f"at most {BAR}: {'met' if found['met'] else 'NOT met'}"
        console.print(f"{name}: ten boxes / one box = {value:.2f}, {verdict}; gate {found['gate']}")
    path = record_path(options.out, record["machine"], "detections")
    write(record, path)
    console.print(f"written to {path}")
    return 0 if all(found["gate"]["passed"] for found in record["cells"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
