"""The tables of the records of ``bench.evidence``: means, paired gains, ranks, and what the networks are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from typing import Any

from cfcam_gpu.evaluation.candidates import LIBRAGRAD, PLAIN
from cfcam_gpu.evaluation.ranks import Ranks, rank
from cfcam_gpu.evaluation.table import Summary
from cfcam_gpu.metrics import Interval

from . import bars
from .bars import EVALUATION, OURS
from .cost_tables import markdown
from .variants import COLUMNS

#: The networks in the order of the tables, with what they are.
NETWORKS = {
    "lite0": "EfficientNet-Lite0",
    "mobilenet-v2": "MobileNetV2, class prototypes",
    "vgg16": "VGG-16, class prototypes",
    "vit": "ViT-S/14 (DINOv2's shape), class prototypes",
    "thin-resnet": "thin ResNet-50, two classes",
    "linknet3d": "LinkNet, volumes",
    "crepe": "CREPE, signals",
}
TITLES = COLUMNS | {
    "grid_3x3": "grid 3 x 3",
    "adcc": "ADCC",
    "insertion_auc": "insertion",
    "deletion_auc": "deletion",
    "gradient_noise_ssim": "SSIM under gradient noise",
    "classifier_randomisation_ssim": "SSIM, classifier randomised",
    "class_agreement": "agreement of two classes' maps",
    "average_drop": "Average Drop",
    "average_increase": "Average Increase",
    "average_gain": "Average Gain",
    "energy_pointing_game": "energy in mask",
    "pointing_game": "pointing game",
}
METHODS = {
    "gradcam": "Grad-CAM, last layer",
    "gradcam++": "Grad-CAM++",
    "hirescam": "HiResCAM",
    "xgradcam": "XGrad-CAM",
    "layercam": "LayerCAM",
    "layercam-fine": "LayerCAM, fine layer",
    "gradcam*layercam-fine": "Grad-CAM x LayerCAM fine, square root",
    "eigengradcam": "Eigen-Grad-CAM",
    "finercam": "Finer-CAM",
    "refinecam": "RefineCAM",
    "winsorcam": "Winsor-CAM",
    "legrad": "LeGrad",
    "cfcam-paper": "CF-CAM, paper",
    "cfcam-one": "CF-CAM, one level",
    "cfcam": "**CF-CAM, default**",
    "smoothgradcam++": "Smooth Grad-CAM++",
    "ablationcam": "Ablation-CAM",
    "ablationcam, fine layer": "Ablation-CAM, fine layer",
    "scorecam": "Score-CAM",
}
#: A column each, in the tables of means and of gains.
METRICS = [
    *("energy_pointing_game", "pointing_game", "best_iou", "grid_2x2", "grid_3x3", "average_drop", "insertion_auc"),
    *("deletion_auc", "gradient_noise_ssim", "classifier_randomisation_ssim", "class_agreement"),
]
#: What the table of gains has ours against.
RIVALS = ["gradcam", "winsorcam", "refinecam", "layercam-fine"]
BRIEF = ["gradcam", "layercam-fine", "winsorcam", "refinecam", "cfcam-paper", "cfcam"]
IN_BRIEF = [
    *("energy_pointing_game", "pointing_game", "best_iou", "grid_2x2", "average_drop", "insertion_auc"),
    *("gradient_noise_ssim", "classifier_randomisation_ssim"),
]


def title(method: str) -> str:
    """A method in print."""
    if method.endswith(LIBRAGRAD):
        return f"{METHODS[method.removesuffix(LIBRAGRAD)].strip('*')}, LibraGrad"
    if method.endswith(PLAIN):
        return f"{METHODS[method.removesuffix(PLAIN)].strip('*')}, plain gradients"
    return METHODS[method]


def record(network: str) -> dict[str, Any] | None:
    """What was measured on a network, or None."""
    path = EVALUATION / f"evidence-{network}.json"
    return json.loads(path.read_text()) if path.exists() else None


def records() -> dict[str, dict[str, Any]]:
    """Of all networks that were measured."""
    found = {network: record(network) for network in NETWORKS}
    return {network: one for network, one in found.items() if one is not None}


def means(network: str, names: Sequence[str] = (), metrics: Sequence[str] = METRICS) -> Iterator[str]:
    """Means in percent, a row for each method; by default for all that were measured."""
    about = record(network) or {"table": [], "methods": {}}
    found = {(line["method"], line["metric"]): line["mean"] for line in about["table"]}
    columns = [metric for metric in metrics if any(found.get((name, metric)) for name in about["methods"])]
    rows = [
        [title(name), *(_told(found.get((name, metric))) for metric in columns)]
        for name in names or about["methods"]
        if name in about["methods"]
    ]
    return markdown(["", *(TITLES[metric] for metric in columns)], rows)


def _told(mean: Mapping[str, float] | None) -> str:
    return "" if mean is None else f"{mean['mean']:.1f}"


def networks() -> Iterator[str]:
    """What was measured on which network, at which layers."""
    rows = []
    for network, about in records().items():
        inputs = dict.fromkeys(("energy_pointing_game", "average_drop", "grid_2x2", "grid_3x3"), 0)
        inputs |= {line["metric"]: line["images"] for line in about["table"] if line["method"] == OURS}
        plain, mosaics = inputs["average_drop"], inputs["grid_2x2"] + inputs["grid_3x3"]
        told = f"{max(plain, inputs['energy_pointing_game'])} ({inputs['energy_pointing_game']} with a mask)"
        layers = " and ".join(f"`{layer}`" for layer in about["methods"][OURS])
        rows.append([NETWORKS[network], about["accuracy"], layers, told, str(mosaics or "")])
    return markdown(["network", "accuracy", "layers of the default", "explained", "mosaics"], rows)


def gains() -> Iterator[str]:
    """What the default gains over its rivals, paired, on every network."""
    rows, measured = [], {network: bars.gains(network, EVALUATION) for network in records()}
    columns = [metric for metric in METRICS if any(metric in key for found in measured.values() for key in found)]
    for network, found in measured.items():
        for rival in RIVALS:
            if any(key[0] == rival for key in found):
                told = [bars.told(found.get((rival, metric))) for metric in columns]
                rows.append([NETWORKS[network].partition(",")[0], title(rival), *told])
    return markdown(["network", "against", *(TITLES[metric] for metric in columns)], rows)


def verdicts() -> Iterator[str]:
    """Where the default is ahead of Grad-CAM, and what it is behind, on every network."""
    rows = []
    for network in records():
        verdict = bars.judge(bars.gains(network, EVALUATION))
        ahead = ", ".join(f"{TITLES[metric]} {bars.told(gain)}" for metric, gain in verdict.ahead.items())
        behind = ", ".join(
            f"{title(method)} in {TITLES[metric]} {bars.told(gain)}"
            for (method, metric), gain in verdict.behind.items()
        )
        rows.append([NETWORKS[network].partition(",")[0], ahead or "nothing", behind or "nothing"])
    return markdown(["network", "ahead of Grad-CAM in", "behind"], rows)


def ranks() -> Iterator[str]:
    """The mean rank of each method over the metrics of each network, and how far these agree."""
    found = {network: ranks_of(about) for network, about in records().items()}
    names = [name for name in METHODS if any(name in one.mean for one in found.values())]
    rows = [
        [title(name), *(f"{one.mean[name]:.1f}" if name in one.mean else "" for one in found.values())]
        for name in names
    ]
    rows.append(["metrics", *(str(len(one.by_metric)) for one in found.values())])
    rows.append(
        ["Kendall's W", *("" if isnan(one.concordance) else f"{one.concordance:.2f}" for one in found.values())]
    )
    return markdown(["mean rank", *(NETWORKS[network].partition(",")[0] for network in found)], rows)


def ranks_of(about: Mapping[str, Any]) -> Ranks:
    """Of a record, in the metrics of the tables, of the methods with plain gradients or the default's."""
    lines = [
        Summary(**{**line, "mean": line["mean"] and Interval(**line["mean"]), "difference": None})
        for line in about["table"]
        if line["metric"] in METRICS and not line["method"].endswith((LIBRAGRAD, PLAIN))
    ]
    return rank(lines)
