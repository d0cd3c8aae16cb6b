"""A model by name, where it runs, and its explainer, tried on a blank image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn

from .. import engines
from ..core.config import Config
from ..explain.cam import CAM
from ..explain.cfcam import CFCAM
from ..hooks.target_layer import TargetLayer
from . import models
from .models import Model

Explainer = TypeVar("Explainer", CAM, CFCAM)


@dataclass(frozen=True)
class Loaded(Generic[Explainer]):
    """A model and its explainer, tried on a blank image."""

    model: Model
    explain: Explainer
    layers: tuple[TargetLayer, ...]
    engine: str
    device: torch.device
    class_names: list[str]


def load(
    model: str,
    weights: Path | None,
    make: Callable[[nn.Module, str], Explainer],
    *,
    engine: str = "auto",
    device: str = "auto",
) -> Loaded[Explainer]:
    """A model by name, where it is to run, and its explainer; see :class:`Job`. A blank image is explained.

    Parameters
    ----------
    model : str
    weights : Path or None
    make : callable
        Makes an explainer of the module and the name of an engine.
    engine, device : str

    Raises
    ------
    OSError, ImportError, TypeError, ValueError, RuntimeError
        If model, weights, layer, engine or device can't be what is meant; the message says why.
    """
    where = _device(device)
    engines.choose(engine, where)  # or the reason why not, before a model is loaded
    chosen = engines.resolve(engine, where)
    found = models.load(model, weights)
    found.module.to(where)
    explain = make(found.module, chosen)
    # Shows what is wrong with model, layer and engine, how many classes there are, and which layer was chosen.
    size = found.preparation.size
    try:
        blank = explain(found.preparation.normalize(found.preparation.blank(1).to(where)))
    except RuntimeError as error:
        raise RuntimeError(f"model: {model} fails on a blank image of {size} x {size}: {error}") from error
    assert blank.logits is not None  # the predicted class was asked for
    names = models.class_names(blank.logits.shape[1])
    return Loaded(model=found, explain=explain, layers=blank.layers, engine=chosen, device=where, class_names=names)


def cfcam(layers: Sequence[str], preset: str) -> Callable[[nn.Module, str], CFCAM]:
    """What makes a CFCAM of a job's layers and preset, for :func:`load`."""
    config = Config.paper() if preset == "paper" else None
    return lambda module, engine: CFCAM(module, list(layers) or None, config=config, engine=engine)


def _device(name: str) -> torch.device:
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise RuntimeError(
            f"device: torch sees no CUDA device (it is {built}); use --device cpu, or see cfcam-gpu info"
        )
    return torch.device("cpu" if name == "cpu" or not there else "cuda")
