"""Exported files in a model's place: which options are theirs already, and how photographs become their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..core.config import Config, Extent
from ..deploy import loading
from ..deploy.description import Description
from ..deploy.loading import Deployed
from ..image_files.preparation import Preparation
from ..scans.preparation import VolumePreparation
from . import volume_input
from .asked_input import COMMON
from .options import Settings

#: The presets that are the default with another extent.
EXTENTS: dict[str, Extent] = {"broad": "broad", "tight": "tight"}
#: The presets by name; what an explainer of another configuration was exported with has none.
_PRESETS = {"default": (Config(), Config.two_level(), Config.gated()), "paper": (Config.paper(),)} | {
    name: (Config.two_level(extent), Config.gated(extent)) for name, extent in EXTENTS.items()
}


def check(settings: Settings, *, fuse: str | None = None, components: int | None = None) -> None:
    """Refuse options that a file has no place for, before it is loaded.

    Parameters
    ----------
    settings : Settings
    fuse : {"mean", "max"}, optional
    components : int, optional

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        The message names the option.
    """
    path = Path(settings.model)
    held = {
        "weights": settings.weights,
        "layer": settings.layers,
        "method": settings.method if settings.method != "cfcam" else None,
        "preset": settings.preset if settings.preset != "default" else None,
        "augment": settings.augment,
        "smooth": settings.smooth,
        "libragrad": None if settings.libragrad is None else str(settings.libragrad),
        "fuse": fuse,
        "size": settings.size,
        "channels": settings.channels,
        "mean": settings.mean,
        "std": settings.std,
        "classes": settings.classes,
    }
    for name, value in held.items():
        if value:
            raise ValueError(
                f"{name}: expected none with {path.name}, an exported file, which holds one method at its layers; got "
                f"{_told(value)}. Give the model itself, or export it anew"
            )
    if settings.engine != "auto":
        raise ValueError(
            f"engine: expected auto with {path.name}, an exported file, which its runtime plays; got {settings.engine}"
        )
    if components is not None:
        raise ValueError(
            f"components: {path.name}, an exported file, does not give the channels' evidence; give the model itself"
        )
    if not path.is_file():
        raise FileNotFoundError(f"model: {path} is not a file")


def load(settings: Settings) -> tuple[Deployed, Preparation | VolumePreparation]:
    """A file, and how photographs, or volumes, become its images.

    Raises
    ------
    OSError, ImportError, ValueError, RuntimeError
        As :func:`cfcam_gpu.deploy.load`, and if the file does not say how it is prepared for.
    """
    explain = loading.load(settings.model, device=settings.device)
    if settings.spatial_dims != len(explain.description.size):
        raise ValueError(
            f"spatial_dims: expected {len(explain.description.size)}, as {settings.model} was exported for; got "
            f"{settings.spatial_dims}"
        )
    if settings.spatial_dims == 3:
        return explain, _of_volumes(explain.description, settings)
    return explain, replace(preparation(explain.description, settings.model), window=settings.window)


def _of_volumes(description: Description, settings: Settings) -> VolumePreparation:
    """How a volume becomes an image of a file: the fields of a VolumePreparation."""
    if description.preparation is None:
        raise ValueError(
            f"model: {settings.model} does not say how a volume becomes an image of it; export it with preparation="
            "dataclasses.asdict(VolumePreparation(...)) in Python"
        )
    found = volume_input.made(settings.model, description.preparation, settings.window)
    if description.images != (found.channels, *found.size):
        raise ValueError(
            f"model: {settings.model} takes {description.images}, and its preparation makes "
            f"{(found.channels, *found.size)}"
        )
    return found


def preparation(description: Description, where: str) -> Preparation:
    """How a photograph becomes an image of a file.

    Parameters
    ----------
    description : Description
    where : str
        The file, for errors.

    Raises
    ------
    ValueError
        If the file does not say it, or is not of photographs.
    """
    said = description.preparation
    if said is None:
        raise ValueError(
            f"model: {where} does not say how a photograph becomes an image of it; export it with a preparation "
            "(cfcam-gpu export, or preparation= in Python)"
        )
    try:
        found = Preparation(
            size=_sides(said["size"]),
            resize=_sides(said["resize"]),
            interpolation=Image.Resampling[str(said["interpolation"]).upper()],
            mean=tuple(map(float, said["mean"])),
            std=tuple(map(float, said["std"])),
            squash=bool(said.get("squash", False)),
            rounding=said.get("rounding", "nearest"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"model: {where} says in another way how a photograph becomes an image of it: expected size, resize, "
            f"interpolation, mean and std; got {said} ({error})"
        ) from error
    made = found.channels, found.height, found.width
    if description.images != made:
        raise ValueError(f"model: {where} takes {description.images}, and its preparation makes {made}")
    return found


def described(wants: Preparation) -> dict[str, Any]:
    """A preparation as a file has it: as :func:`preparation` reads it."""
    said: dict[str, Any] = {
        "size": wants.size if isinstance(wants.size, int) else list(wants.size),
        "resize": wants.resize if isinstance(wants.resize, int) else list(wants.resize),
        "interpolation": wants.interpolation.name.lower(),
        "mean": list(wants.mean),
        "std": list(wants.std),
    }
    # What was always so goes without saying.
    later = {"squash": wants.squash, "rounding": wants.rounding}
    return said | {name: value for name, value in later.items() if value != getattr(COMMON, name)}


def preset(config: Config) -> str | None:
    """The preset that a configuration is; None where it is of neither."""
    return next((name for name, configs in _PRESETS.items() if config in configs), None)


def check_targets(explain: object, targets: Sequence[object]) -> None:
    """Refuse classes, one or several of each photograph, that a file does not explain; what is no file explains any.

    Parameters
    ----------
    explain : Deployed or another explainer
    targets : sequence
        Of each photograph; none is the predicted class.

    Raises
    ------
    ValueError
        The message has what the file explains.
    """
    if not isinstance(explain, Deployed):
        return
    name, said = explain.path.name, explain.description
    if said.target == "predicted" and targets:
        raise ValueError(
            f"target: expected none, as {name} was exported to explain the predicted class; got "
            f"{', '.join(map(str, targets))}. Export it with --target input"
        )
    wanted = said.classes or 1
    if said.target == "input" and len(targets) != wanted and (targets or said.classes is not None):
        raise ValueError(
            f"target: expected {wanted} {'class' if wanted == 1 else 'classes'} of each photograph, as {name} was "
            f"exported for; got {len(targets)}. Export it with --classes {max(1, len(targets))}"
        )


def is_of_predicted(explain: object) -> bool:
    """Whether an explainer is a file that explains each image's predicted class alone."""
    return isinstance(explain, Deployed) and explain.description.target == "predicted"


def _sides(value: Any) -> int | tuple[int, int]:
    if not isinstance(value, (list, tuple)):
        return int(value)
    height, width = map(int, value)
    return height, width


def _told(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
