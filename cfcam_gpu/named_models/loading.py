"""A model by name or an exported file, where it runs, and its explainer, tried on a blank image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import nn

from .. import engines, methods
from ..core import axes
from ..deploy.loading import Deployed
from ..explain.cam import CAM
from ..explain.plan import check_libragrad, engine_of
from ..explain.views import Fuse, Views, check_fuse
from ..hooks.target_layer import TargetLayer
from ..image_files.preparation import Preparation
from ..scans.preparation import VolumePreparation
from ..targets.names import imagenet, names_of
from . import class_file, exported, models, volume_input
from .asked_input import AskedInput
from .models import Model, Prepared
from .options import Settings

#: What is explained, by its spatial axes.
_NAMES = {2: "photograph", 3: "volume"}


#: Whose names the classes have: those of ``--classes``, the model's own, ImageNet's, or ``"class 0"``, ...
NamesFrom: TypeAlias = Literal["file", "model", "imagenet", "none"]


@dataclass(frozen=True)
class Loaded:
    """What explains photographs, a model's explainer or an exported file, tried on a blank image.

    ``preset`` is None where a file has the configuration of no preset. ``nobody_said`` has, for people, what was taken
    by itself.
    """

    model: Prepared
    explain: CAM | Deployed
    layers: tuple[TargetLayer, ...]
    engine: str
    preset: str | None
    device: torch.device
    class_names: list[str]
    names_from: NamesFrom
    nobody_said: tuple[str, ...] = ()


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
        names_from="none" if explain.class_names is None else "model",
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
    named = names_given(settings)
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
            class_names=named,
        ),
        named,
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
        engine=settings.engine,  # not what it was on the blank image: others may be too large for that
        libragrad=libragrad,
        config=config,
        class_names=named,
    )
    return replace(loaded, explain=explain)


def _load(settings: Settings, make: Callable[[nn.Module, str], CAM], named: tuple[str, ...] | None) -> LoadedModel:
    """The same with an explainer that is made of the module and the name of an engine; `named` are the names given."""
    where = device_of(settings.device)
    engines.choose(settings.engine, where)  # or the reason why not, before a model is loaded
    found = model_of(settings, named)
    takes: Preparation | VolumePreparation
    if settings.spatial_dims == 3:
        takes = volume_input.preparation(found.module, settings)
        found = replace(found, notes=())  # of images
    elif axes.of_model(found.module) == 3:
        raise ValueError(
            f"spatial_dims: {settings.model} takes volumes, by its first convolution; give --spatial-dims 3"
        )
    else:
        takes = replace(found.preparation, window=settings.window)
    found = replace(found, takes=takes)
    found.module.to(where)
    if settings.size is not None and settings.spatial_dims == 2:
        _check_size(found)
    explain = make(found.module, settings.engine)
    # Shows what is wrong with model, layer and engine, how many classes there are, and which layer was chosen.
    black = takes.blank(1)
    try:
        blank = explain(takes.normalize(black.to(where)))
    except ValueError as error:
        if not str(error).startswith("class_names: "):
            raise
        said = str(error).removeprefix("class_names: ").partition(". ")[0]
        whose = "the model's own names" if settings.classes is None else settings.classes
        raise ValueError(f"classes: {said} ({whose}); give --classes with as many") from error
    except RuntimeError as error:
        what = f"{'image' if settings.spatial_dims == 2 else 'volume'} of {' x '.join(map(str, black.shape[1:]))}"
        raise RuntimeError(
            f"model: {settings.model} fails on a blank {what}: {error}. If it takes another input: --size, --channels"
        ) from error
    assert blank.logits is not None  # the predicted class was asked for
    names = names_for(found, blank.logits.shape[1], named, settings.classes)
    return LoadedModel(
        model=found,
        explain=explain,
        layers=blank.layers,
        engine=engine_of(settings.engine, blank, where),
        preset=settings.preset,
        device=where,
        class_names=list(names.names),
        names_from=names.source,
        nobody_said=(*found.notes, *names.notes),
    )


def names_given(settings: Settings) -> tuple[str, ...] | None:
    """The names of the classes that the options give; None where they give none.

    Raises
    ------
    OSError, ValueError
        If the file is not there, or has no names.
    """
    return None if settings.classes is None else class_file.read(settings.classes)


def model_of(settings: Settings, named: tuple[str, ...] | None) -> Model:
    """The model, with the input that the options ask for, or its own; `named` are the names given.

    Raises
    ------
    OSError, ImportError, TypeError, ValueError, RuntimeError
        As :func:`cfcam_gpu.photographs.load`.
    """
    # How volumes are prepared is found out once the module is there.
    asked = AskedInput.of(settings) if settings.spatial_dims == 2 else None
    return models.load(settings.model, settings.weights, asked=asked, classes=None if named is None else len(named))


class Names(NamedTuple):
    """The names of a model's classes, whose they are, and what is to be told of it; see :class:`Loaded`."""

    names: tuple[str, ...]
    source: NamesFrom
    notes: tuple[str, ...] = ()


def names_for(model: Model, logits: int, given: tuple[str, ...] | None, path: Path | None = None) -> Names:
    """The names of a model's classes: those that are given, its own, ImageNet's of a thousand, or their indices.

    Parameters
    ----------
    model : Model
    logits : int
        How many classes it has.
    given : tuple of str or None
    path : Path or None
        Where they are from.

    Raises
    ------
    ValueError
        If more or fewer are given than there are classes.
    """
    if given is not None:
        class_file.check(given, logits, path)
        return Names(given, "file")
    own = names_of(model.module)
    if own is not None and len(own) == logits:
        return Names(own, "model")
    named = tuple(models.class_names(logits))
    if logits != len(imagenet()):
        return Names(named, "none")
    told = f"{model.name} has {logits} classes and doesn't say their names: ImageNet's are taken; --classes sets others"
    return Names(named, "imagenet", () if model.of_imagenet else (told,))


def _check_size(model: Model) -> None:
    """Refuse a size that was asked for and that the model can't take.

    Raises
    ------
    ValueError
        The message has what the model raises.
    """
    takes = model.preparation
    where = next((value.device for value in model.module.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad():
            model.module(takes.normalize(takes.blank(1).to(where)))
    except Exception as error:  # the user's code raises anything, AssertionError for one
        raise ValueError(
            f"size: {model.name} can't take images of {takes.height} x {takes.width} ({error}); leave --size out, or "
            "give one that it takes"
        ) from error


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
