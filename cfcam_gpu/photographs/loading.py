"""A model by name or an exported file, where it runs, and its explainer, tried on a blank image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from .. import engines, methods
from ..core import axes
from ..deploy.loading import Deployed
from ..explain.cam import CAM
from ..explain.plan import check_libragrad
from ..explain.views import Fuse, Views, check_fuse
from ..hooks.target_layer import TargetLayer
from ..scans.preparation import VolumePreparation
from . import exported, models, volumes
from .models import Model, Prepared
from .options import Settings
from .photos import Preparation

#: What is explained, by its spatial axes.
_NAMES = {2: "photograph", 3: "volume"}


@dataclass(frozen=True)
class Loaded:
    """What explains photographs, a model's explainer or an exported file, tried on a blank image.

    ``preset`` is None where a file has the configuration of no preset.
    """

    model: Prepared
    explain: CAM | Deployed
    layers: tuple[TargetLayer, ...]
    engine: str
    preset: str | None
    device: torch.device
    class_names: list[str]


@dataclass(frozen=True)
class LoadedModel(Loaded):
    """The same of a model."""

    model: Model
    explain: CAM


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
    FileNotFoundError
        If an exported file is meant that is not there.
    TypeError, ValueError
        The message says why.
    """
    check_libragrad(settings.libragrad, settings.method)
    check_fuse(fuse)
    if settings.file is not None:
        exported.check(settings, fuse=fuse, components=components)
    views = Views.read(list(settings.augment), settings.smooth, 0.0, 0)
    if settings.preset != "default" and settings.method != "cfcam":
        raise ValueError(f"preset: {settings.preset} is a form of the method cfcam; got the method {settings.method}")
    if settings.preset in exported.EXTENTS and settings.layers and (len(settings.layers) == 1 or fuse is not None):
        named = f"fused layers, {', '.join(settings.layers)}" if fuse else f"one named layer, {settings.layers[0]}"
        raise ValueError(
            f"preset: expected default or paper with {named}; got {settings.preset}, which is for two levels, or "
            "for layers that are chosen. Give two layers, the finer one first, without fuse; or name none"
        )
    fused = fuse is not None or (len(settings.layers) > 1 and settings.preset == "paper")
    if components is not None and (settings.method != "cfcam" or views.several or fused):
        raise ValueError("components: only one look by the method cfcam has them, without augment, smooth and fuse")


def load_explainer(settings: Settings, *, fuse: Fuse | None = None) -> Loaded:
    """An exported file, or a model by name, where it is to run, and its explainer. A blank image is explained.

    Parameters
    ----------
    settings : Settings
    fuse : {"mean", "max"}, optional
        As for :class:`cfcam_gpu.CAM`.

    Raises
    ------
    OSError, ImportError, TypeError, ValueError, RuntimeError
        If file, model, weights, layer, engine, device or method can't be what is meant; the message says why.
    """
    if settings.file is None:
        return load_model(settings, fuse=fuse)
    check(settings, fuse=fuse)
    device_of(settings.device)
    explain, takes = exported.load(settings)
    said = explain.description
    if said.segment is not None:
        raise ValueError(
            f"model: {settings.model} explains a segmentation, of which a {_NAMES[settings.spatial_dims]}'s results "
            "have no class; explain tensors with cfcam_gpu.deploy.load"
        )
    blank = takes.normalize(takes.blank(1).to(explain.device))
    # Where a class must be named, any will do.
    found = explain(blank, None if said.classes is None else [[0] * said.classes])
    assert found.logits is not None  # files give them
    return Loaded(
        model=Prepared(name=settings.model, takes=takes, trained=said.trained),
        explain=explain,
        layers=explain.layers,
        engine=explain.runtime.partition(" ")[0],
        preset=exported.preset(explain.config),
        device=explain.device,
        class_names=list(explain.class_names or models.class_names(found.logits.shape[1])),
    )


def load_model(settings: Settings, *, fuse: Fuse | None = None) -> LoadedModel:
    """A model by name, where it is to run, and its explainer. A blank image is explained.

    Parameters
    ----------
    settings : Settings
    fuse : {"mean", "max"}, optional
        As for :class:`cfcam_gpu.CAM`.

    Raises
    ------
    OSError, ImportError, TypeError, ValueError, RuntimeError
        If model, weights, layer, engine, device or method can't be what is meant; the message says why. An exported
        file is refused.
    """
    check(settings, fuse=fuse)
    method = "cfcam-paper" if settings.preset == "paper" else settings.method
    extent = exported.EXTENTS.get(settings.preset)
    chosen = methods.find(method)
    # Methods of one layer may take a forward for each channel, so that Grad-CAM tries the model in their place.
    trial = method if chosen.cluster_filter or chosen.layers == "all" else "gradcam"
    loaded = _load(
        settings,
        lambda module, engine: CAM(
            module,
            list(settings.layers) or None,
            method=trial,
            fuse=fuse,
            engine=engine,
            libragrad=settings.libragrad,
            extent=extent,
        ),
    )
    if trial == method and not settings.augment and not settings.smooth:
        return loaded
    config, libragrad = None, settings.libragrad
    if method == "cfcam":
        # Of layers that are named another configuration and other gradients would be the default.
        config, libragrad = loaded.explain.config, loaded.explain.libragrad
    explain = CAM(
        loaded.model.module,
        [layer.name for layer in loaded.layers],
        method=method,
        fuse=fuse,
        augment=list(settings.augment),
        smooth=settings.smooth,
        engine=loaded.engine,
        libragrad=libragrad,
        config=config,
    )
    return replace(loaded, explain=explain)


def _load(settings: Settings, make: Callable[[nn.Module, str], CAM]) -> LoadedModel:
    """The same with an explainer that is made of the module and the name of an engine."""
    where = device_of(settings.device)
    engines.choose(settings.engine, where)  # or the reason why not, before a model is loaded
    chosen = engines.resolve(settings.engine, where)
    found = models.load(settings.model, settings.weights)
    takes: Preparation | VolumePreparation
    if settings.spatial_dims == 3:
        takes = volumes.preparation(found.module, settings)
    elif axes.of_model(found.module) == 3:
        raise ValueError(
            f"spatial_dims: {settings.model} takes volumes, by its first convolution; give --spatial-dims 3"
        )
    else:
        takes = replace(found.preparation, window=settings.window)
    found = replace(found, takes=takes)
    found.module.to(where)
    explain = make(found.module, settings.engine)
    # Shows what is wrong with model, layer and engine, how many classes there are, and which layer was chosen.
    black = takes.blank(1)
    try:
        blank = explain(takes.normalize(black.to(where)))
    except RuntimeError as error:
        what = f"{'image' if settings.spatial_dims == 2 else 'volume'} of {' x '.join(map(str, black.shape[2:]))}"
        raise RuntimeError(f"model: {settings.model} fails on a blank {what}: {error}") from error
    assert blank.logits is not None  # the predicted class was asked for
    names = models.class_names(blank.logits.shape[1])
    return LoadedModel(
        model=found,
        explain=explain,
        layers=blank.layers,
        engine=chosen,
        preset=settings.preset,
        device=where,
        class_names=names,
    )


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
