"""How a model wants its volumes: as it says itself, an exported file says, or the options."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from ..core import axes
from ..scans.preparation import VolumePreparation
from .options import Settings

#: Attributes of a module that say how it wants its input, as timm's models have them.
_DESCRIPTIONS = ("pretrained_cfg", "default_cfg")


def preparation(module: nn.Module, settings: Settings) -> VolumePreparation:
    """How a model wants its volumes: as the options say, or else as it says itself.

    Parameters
    ----------
    module : torch.nn.Module
        May have a mapping ``pretrained_cfg``, with ``input_size``, (C, D, H, W), ``mean`` and ``std``, as timm's models
        have it, and further fields of :class:`cfcam_gpu.scans.VolumePreparation`.
    settings : Settings

    Raises
    ------
    ValueError
        If it is of images, nothing says how large its volumes are, or what says it is no preparation.
    """
    if (dims := axes.of_model(module)) not in (None, 3):
        raise ValueError(
            f"spatial_dims: the first convolution of {settings.model} works on {dims} axes; expected a model of "
            "volumes with --spatial-dims 3"
        )
    said = next((cfg for name in _DESCRIPTIONS if isinstance(cfg := getattr(module, name, None), Mapping)), {})
    fields = {name: said[name] for name in ("axcodes", "window", "percentiles", "mean", "std") if name in said}
    shape = said.get("input_size")
    if shape is not None and (not isinstance(shape, Sequence) or len(shape) != 4):
        raise ValueError(f"model: {settings.model} says input_size={shape!r}; expected C, D, H and W")
    size = settings.size or (shape and shape[1:])
    if size is None:
        raise ValueError(
            f"size: {settings.model} doesn't say how large its volumes are (pretrained_cfg with an input_size of C, D, "
            "H and W); give --size N or D,H,W"
        )
    channels = settings.channels or (shape[0] if shape else _first_channels(module))
    if settings.mean is not None or settings.std is not None:
        fields |= _asked(settings.mean, settings.std)
    return made(settings.model, {**fields, "size": size, "channels": channels}, settings.window)


def _asked(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> dict[str, tuple[float, ...]]:
    """Mean and std of the options."""
    if mean is None or std is None:
        raise ValueError(f"mean and std: expected both or neither; got {'std' if mean is None else 'mean'} alone")
    if max(map(abs, (*mean, *std))) > 1:
        raise ValueError(
            "mean and std: expected those of values in [0, 1], which a window makes of a volume's (--window); got "
            f"{mean} and {std}"
        )
    return {"mean": mean, "std": std}


def made(model: str, said: Mapping[str, Any], window: tuple[float, float] | None) -> VolumePreparation:
    """The preparation that a model, or an exported file, describes.

    Parameters
    ----------
    model : str
        For errors.
    said : mapping
        Its fields; lists for tuples.
    window : (float, float) or None
        Of the options, before its own.

    Raises
    ------
    ValueError
        If it is none.
    """
    plain = VolumePreparation((1, 1, 1))
    try:
        depth, height, width = map(int, said["size"])
        own = said.get("window")
        found = VolumePreparation(
            (depth, height, width),
            int(said.get("channels", 1)),
            str(said.get("axcodes", plain.axcodes)),
            own if own is None else _two(own),
            _two(said.get("percentiles", plain.percentiles)),
            tuple(map(float, said.get("mean", plain.mean))),
            tuple(map(float, said.get("std", plain.std))),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"model: {model} says in another way how a volume becomes its input: {error}") from error
    return found if window is None else dataclasses.replace(found, window=window)


def _first_channels(module: nn.Module) -> int:
    """The channels of a model's input, by its first convolution."""
    return next((one.in_channels for one in module.modules() if isinstance(one, nn.Conv3d)), 1)


def _two(values: Iterable[Any]) -> tuple[float, float]:
    first, second = map(float, values)
    return first, second
