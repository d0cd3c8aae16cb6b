"""How models say that their images are to be prepared: torchvision's, timm's and transformers' ways of saying it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..image_files.preparation import Preparation
from .asked_input import IMAGENET_MEAN, IMAGENET_STD

#: timm's own, for what a data config leaves out.
_CROP_PCT = 0.875
#: What image processors may do that a Preparation does, too.
_DONE = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_reduce_labels"}
#: How far pixels may be apart from an image processor's, of 255: its kernels are torchvision's, ours Pillow's.
_APART = 4.0


def read(said: object, where: str) -> Preparation:
    """The preparation that a description stands for.

    Parameters
    ----------
    said : mapping, torchvision preset, transformers image processor, or Preparation
        A mapping is a data config of timm.
    where : str
        What said it, for errors.

    Raises
    ------
    TypeError
        If it is none of them.
    ValueError
        If it does what a Preparation does not; the message names it.
    """
    if isinstance(said, Preparation):
        return said
    if isinstance(said, Mapping):
        return of_timm(said, where)
    kind = type(said)
    if kind.__module__ == "torchvision.transforms._presets" and kind.__name__ == "ImageClassification":
        return of_torchvision(said)
    if hasattr(said, "to_dict") and hasattr(said, "preprocess"):
        return of_processor(said)
    raise TypeError(
        f"model: expected {where} to describe its images by torchvision's Weights.transforms(), a data config of timm, "
        f"or an image processor of transformers; got {kind.__name__}"
    )


def of_torchvision(preset: Any) -> Preparation:
    """That of what ``Weights.transforms()`` of a classifier of torchvision gives."""
    resize = tuple(preset.resize_size)
    return Preparation(
        size=_sides(preset.crop_size),
        resize=_sides(resize),
        interpolation=Image.Resampling[preset.interpolation.value.upper()],
        mean=tuple(map(float, preset.mean)),
        std=tuple(map(float, preset.std)),
        squash=len(resize) == 2,
        rounding="torchvision",
    )


def of_timm(config: Mapping[str, Any], where: str) -> Preparation:
    """That of a data config of timm; ``pretrained_cfg`` is one.

    Raises
    ------
    ValueError
        If it has no input size of images, or another way to crop.
    """
    shape = config.get("input_size")
    if not isinstance(shape, Sequence) or len(shape) != 3:
        raise ValueError(f"model: {where} says input_size={shape!r}; expected C, H and W")
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise ValueError(f"model: {where} crops by {mode}; expected center or squash")
    channels, *size = map(int, shape)
    share = float(config.get("crop_pct") or _CROP_PCT)
    mean, std = (
        tuple(map(float, config.get(name) or default))
        for name, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
    )
    if not len(mean) == len(std) == channels:
        raise ValueError(
            f"model: {where} says {channels} channels, and mean and std of {len(mean)} and {len(std)}; give --mean and "
            "--std"
        )
    return Preparation(
        size=_sides(size),
        resize=_sides([math.floor(side / share) for side in size]),
        interpolation=Image.Resampling[str(config.get("interpolation") or "bicubic").upper()],
        mean=mean,
        std=std,
        squash=mode == "squash",
        rounding="torchvision",
    )


def of_processor(processor: Any) -> Preparation:
    """That of an image processor of transformers, whose pixels of two pictures it makes, too.

    Raises
    ------
    ValueError
        If the processor does something else, or makes other pixels.
    """
    name, said = type(processor).__name__, processor.to_dict()
    others = [key for key, value in said.items() if key.startswith("do_") and value is True and key not in _DONE]
    if others:
        raise ValueError(f"model: {name} does what is not done here: {', '.join(others)}")
    if not said.get("do_resize"):
        raise ValueError(f"model: {name} resizes no image (do_resize), so that none of another size can be taken")
    size, resize, squash = _of_sizes(name, said)
    # All in units of values in [0, 1].
    white = 255 * (float(said["rescale_factor"]) if said.get("do_rescale") else 1.0)
    mean, std = (said["image_mean"], said["image_std"]) if said.get("do_normalize") else ((0.0,) * 3, (1.0,) * 3)
    found = Preparation(
        size=size,
        resize=resize,
        interpolation=Image.Resampling(int(said["resample"])),
        mean=tuple(float(value) / white for value in mean),
        std=tuple(float(value) / white for value in std),
        squash=squash,
        rounding="transformers",
    )
    _check(found, processor, name)
    return found


def _of_sizes(name: str, said: Mapping[str, Any]) -> tuple[int | tuple[int, int], int | tuple[int, int], bool]:
    """Size, resize and squash of an image processor."""
    given = {key: int(value) for key, value in said["size"].items() if value is not None}
    if set(given) == {"height", "width"}:
        resize = given["height"], given["width"]
        squash = True
    elif set(given) == {"shortest_edge"}:
        side, share = given["shortest_edge"], said.get("crop_pct")
        if share is not None:  # ConvNeXT's: below 384 pixels the middle is cut out
            cropped = int(side / share) if side < 384 else side
            return side, cropped, side >= 384
        resize, squash = (side, side), False
    else:
        raise ValueError(f"model: {name} says size={given}; expected height and width, or shortest_edge")
    if said.get("do_center_crop"):
        crop = {key: int(value) for key, value in said["crop_size"].items() if value is not None}
        return (crop["height"], crop["width"]), resize, squash
    if not squash:
        raise ValueError(f"model: {name} gives images of many shapes (shortest_edge without do_center_crop)")
    return resize, resize, True


def _check(found: Preparation, processor: Any, name: str) -> None:
    """Refuse a processor that makes other pixels of a wide picture and a high one than `found` does."""
    draw = np.random.default_rng(0).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    for size in ((400, 200), (200, 400)):
        # So smooth that the kernels of two libraries are alike on it.
        picture = Image.fromarray(draw).resize(size, Image.Resampling.BICUBIC)
        ours = found.normalize(found.pixels(picture)[None])
        theirs = torch.as_tensor(np.asarray(processor(images=picture, return_tensors="np")["pixel_values"]))
        white = 255 * torch.tensor(found.std)[:, None, None]
        if theirs.shape != ours.shape or float(((ours - theirs) * white).abs().max()) > _APART:
            raise ValueError(
                f"model: {name} makes another input of an image than its settings say: {tuple(theirs.shape[1:])}; "
                f"expected what they say, {tuple(ours.shape[1:])}. Let a factory return the model alone, and give "
                "--size, --mean and --std"
            )


def own(module: nn.Module, where: str) -> Preparation | None:
    """The preparation that a module itself describes, as timm's do; None where it describes none.

    Raises
    ------
    ValueError
        As :func:`of_timm`.
    """
    for name in ("pretrained_cfg", "default_cfg"):
        said = getattr(module, name, None)
        # Of volumes there are four.
        if isinstance(said, Mapping) and len(said.get("input_size") or ()) == 3:
            return of_timm(said, where)
    return None


def own_size(module: nn.Module) -> tuple[int, int] | None:
    """Height and width of the images that the config of a model of transformers says; None where it says none."""
    side = getattr(getattr(module, "config", None), "image_size", None)
    if isinstance(side, int):
        return side, side
    if isinstance(side, (list, tuple)) and len(side) == 2 and all(isinstance(each, int) for each in side):
        return side[0], side[1]
    return None


def first_channels(module: nn.Module) -> int | None:
    """The channels of a model's images, by its first convolution; None where it has none."""
    return next((one.in_channels for one in module.modules() if isinstance(one, nn.Conv2d)), None)


def _sides(values: Sequence[Any]) -> int | tuple[int, int]:
    sides = [int(value) for value in values]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])
