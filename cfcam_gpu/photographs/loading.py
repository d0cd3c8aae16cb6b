"""A model by name, where it runs, and its explainer, tried on a blank image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from .. import engines, methods
from ..explain.cam import CAM
from ..explain.views import Fuse, Views, check_fuse
from ..hooks.target_layer import TargetLayer
from . import models
from .models import Model
from .options import Settings


@dataclass(frozen=True)
class Loaded:
    """A model and its explainer, tried on a blank image."""

    model: Model
    explain: CAM
    layers: tuple[TargetLayer, ...]
    engine: str
    device: torch.device
    class_names: list[str]


def check(settings: Settings, *, fuse: str | None = None, components: int | None = None) -> None:
    """Refuse a method, preset and views that are none or don't go together, before a model is loaded.

    Parameters
    ----------
    settings : Settings
    fuse : {"mean", "max"}, optional
    components : int, optional
        How many groups of channels are asked for, too.

    Raises
    ------
    TypeError, ValueError
        The message says why.
    """
    methods.find(settings.method)
    check_fuse(fuse)
    views = Views.read(list(settings.augment), settings.smooth, 0.0, 0)
    if settings.preset != "default" and settings.method != "cfcam":
        raise ValueError(f"preset: {settings.preset} is a form of the method cfcam; got the method {settings.method}")
    fused = fuse is not None or (len(settings.layers) > 1 and settings.preset != "default")
    if components is not None and (settings.method != "cfcam" or views.several or fused):
        raise ValueError("components: only one look by the method cfcam has them, without augment, smooth and fuse")


def load_explainer(settings: Settings, *, fuse: Fuse | None = None) -> Loaded:
    """A model by name, where it is to run, and its explainer. A blank image is explained.

    Parameters
    ----------
    settings : Settings
    fuse : {"mean", "max"}, optional
        As for :class:`cfcam_gpu.CAM`.

    Raises
    ------
    OSError, ImportError, TypeError, ValueError, RuntimeError
        If model, weights, layer, engine, device or method can't be what is meant; the message says why.
    """
    check(settings)
    method = "cfcam-paper" if settings.preset == "paper" else settings.method
    # Other methods may take a forward for each channel, so that Grad-CAM tries the model in their place.
    trial = method if methods.find(method).cluster_filter else "gradcam"
    loaded = _load(
        settings,
        lambda module, engine: CAM(module, list(settings.layers) or None, method=trial, fuse=fuse, engine=engine),
    )
    if trial == method and not settings.augment and not settings.smooth:
        return loaded
    explain = CAM(
        loaded.model.module,
        [layer.name for layer in loaded.layers],
        method=method,
        fuse=fuse,
        augment=list(settings.augment),
        smooth=settings.smooth,
        engine=loaded.engine,
    )
    return replace(loaded, explain=explain)


def _load(settings: Settings, make: Callable[[nn.Module, str], CAM]) -> Loaded:
    """The same with an explainer that is made of the module and the name of an engine."""
    where = device_of(settings.device)
    engines.choose(settings.engine, where)  # or the reason why not, before a model is loaded
    chosen = engines.resolve(settings.engine, where)
    found = models.load(settings.model, settings.weights)
    found.module.to(where)
    explain = make(found.module, settings.engine)
    # Shows what is wrong with model, layer and engine, how many classes there are, and which layer was chosen.
    size = found.preparation.size
    try:
        blank = explain(found.preparation.normalize(found.preparation.blank(1).to(where)))
    except RuntimeError as error:
        raise RuntimeError(f"model: {settings.model} fails on a blank image of {size} x {size}: {error}") from error
    assert blank.logits is not None  # the predicted class was asked for
    names = models.class_names(blank.logits.shape[1])
    return Loaded(model=found, explain=explain, layers=blank.layers, engine=chosen, device=where, class_names=names)


def device_of(name: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``cuda`` means here.

    Raises
    ------
    RuntimeError
        If it is ``cuda``, and torch sees none.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise RuntimeError(
            f"device: torch sees no CUDA device (it is {built}); use --device cpu, or see cfcam-gpu info"
        )
    return torch.device("cpu" if name == "cpu" or not there else "cuda")
