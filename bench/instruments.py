"""What the benchmarks of known evidence share: every method by the public face, and records of what was measured.

`bench.exact`, `bench.shapes` and `bench.innocence` measure maps where the truth is known: networks built by hand, small
networks trained on shapes, and networks trained to look innocent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from cfcam_gpu import CAM, environment, methods
from cfcam_gpu.evaluation.measures import Better
from cfcam_gpu.evaluation.table import Row, summarise
from cfcam_gpu.hooks import layers
from cfcam_gpu.results import durable

RESULTS = Path(__file__).resolve().parent / "results" / "evaluation"
REFERENCE = "gradcam"
LIBRAGRAD = "+libragrad"
#: Maps (B, T, H, W) in [0, 1] of images (B, C, H, W) and classes (B, T).
Explain: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def explainers(model: nn.Module, images: torch.Tensor) -> tuple[dict[str, CAM], dict[str, str]]:
    """Every method at the layers that it chooses, and why some do not take this model.

    ``"cfcam"`` is what `CFCAM` does by itself. ``"layercam-fine"`` is LayerCAM at its finer layer. Of a model of
    tokens, every method of gradients is there with those of the model and, as ``NAME+libragrad``, with LibraGrad's.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, C, H, W) floating tensor
        The first is explained once, to see what is refused.

    Returns
    -------
    dict of str to CAM
    dict of str to str
        The messages of the methods that refuse the model.
    """
    fine, *coarse = layers.choose_two(model, images)
    tokens = fine.layout is not None and fine.layout.kind != "channels first"
    asked: dict[str, dict[str, Any]] = {name: {"method": name} for name in methods.METHODS}
    if coarse:
        asked["layercam-fine"] = {"method": "layercam", "target_layer": fine}
    if tokens:
        of_gradients = [name for name in asked if methods.METHODS[asked[name]["method"]].gradients]
        plain = {name: asked[name] | {"libragrad": False} for name in of_gradients if name != "cfcam"}
        libra = {name + LIBRAGRAD: asked[name] | {"libragrad": True} for name in of_gradients}
        asked |= plain | {"cfcam, plain gradients": {"method": "cfcam", "libragrad": False}} | libra
    found, refused = {}, {}
    for name, options in asked.items():
        try:
            found[name] = CAM(model, **options)
            found[name](images[:1])
        except (ValueError, RuntimeError) as error:
            found.pop(name, None)
            refused[name] = str(error)
    return found, refused


def explain(explainer: CAM) -> Explain:
    """An explainer as a function of images and classes."""
    return lambda images, classes: explainer(images, classes).maps


def rows(method: str, images: Iterable[str], metric: str, values: torch.Tensor) -> list[Row]:
    """Rows of a metric, from values (N,)."""
    return [Row.of(method, image, metric, float(value)) for image, value in zip(images, values, strict=True)]


def summary(found: Sequence[Row], measured: Mapping[str, Better], names: Sequence[str]) -> list[dict[str, Any]]:
    """Means, and differences from Grad-CAM, as ``cfcam-gpu bench`` writes them."""
    return [one.as_json() for one in summarise(found, measured, names, REFERENCE)]


def write(path: Path, benchmark: str, record: Mapping[str, Any]) -> None:
    """Write a record, with the versions that made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"benchmark": benchmark, "versions": environment.describe()["versions"], **record}
    with durable.replacing(path) as file:
        file.write(json.dumps(whole, indent=1).encode() + b"\n")


def means(table: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """The mean of each method and metric of a record's table."""
    return {(line["method"], line["metric"]): line["mean"]["mean"] for line in table if line["mean"] is not None}
