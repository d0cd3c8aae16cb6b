"""Photographs as a model of transformers, open_clip or clip takes them, and as people see what it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import nn

from ..results.explanation import Explanation

#: Modes of Pillow's that RGB is made of without a loss of what can be seen.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Pictured(Explanation):
    """An explanation that has what the model saw.

    Parameters
    ----------
    images : (B, 3, H, W) uint8 tensor
    """

    images: torch.Tensor

    def overlay(
        self, images: torch.Tensor | None = None, *, alpha: float = 0.6, colormap: str = "turbo"
    ) -> torch.Tensor:
        """The maps in colour over the images that the model saw: (B, H, W, 3) uint8, or (B, T, H, W, 3).

        See :func:`cfcam_gpu.results.overlay`.

        Raises
        ------
        TypeError, ValueError
            As :meth:`cfcam_gpu.Explanation.overlay`.
        """
        return super().overlay(self.images if images is None else images, alpha=alpha, colormap=colormap)


def parts_of(processor: Any) -> tuple[Any, Any]:
    """What prepares images, and what texts: of a processor of transformers, or of a pair; None where there is none.

    Raises
    ------
    TypeError
        If `processor` is neither, nor a tokenizer alone.
    """
    if isinstance(processor, (tuple, list)) and len(processor) == 2:
        return processor[0], processor[1]
    parts = getattr(processor, "image_processor", None), getattr(processor, "tokenizer", None)
    if any(part is not None for part in parts):
        return parts
    if processor is None or callable(processor):
        return None, processor
    raise TypeError(
        "processor: expected a processor of transformers, a pair (preprocess, tokenizer), or a tokenizer where images "
        f"are prepared already; got {type(processor).__name__}"
    )


def prepare(images: Any, preprocess: Any, model: nn.Module) -> torch.Tensor:
    """Images (B, 3, H, W) as the model takes them, on its device and of its dtype.

    Parameters
    ----------
    images : PIL image, sequence of these, or (B, 3, H, W) floating tensor
        A tensor is prepared already, and stays as it is.
    preprocess : callable or None
        An image processor of transformers, or what makes (3, H, W) of one PIL image.
    model : torch.nn.Module

    Raises
    ------
    TypeError, ValueError
        If `images` are none of these, or what prepares them is missing or gives no such tensor.
    """
    if isinstance(images, torch.Tensor):
        return images
    photographs = check_photographs(images)
    if preprocess is None:
        raise ValueError(
            "processor: expected one that prepares images, or a pair (preprocess, tokenizer), as images are "
            "photographs; got none. Or give images that are prepared already, a tensor (B, 3, H, W)"
        )
    if _of_transformers(preprocess):
        pixels = preprocess(photographs, return_tensors="pt")["pixel_values"]
    else:
        pixels = torch.stack([_preprocessed(one, preprocess) for one in photographs])
    if not isinstance(pixels, torch.Tensor) or pixels.ndim != 4:
        shape = tuple(pixels.shape) if isinstance(pixels, torch.Tensor) else type(pixels).__name__
        raise ValueError(
            f"processor: expected it to make (B, 3, H, W) of images; got {shape}. Models of patches in any number "
            "(NaFlex) are not supported; take one with images of a fixed size"
        )
    parameter = next(model.parameters())
    return pixels.to(parameter.device, parameter.dtype)


def _preprocessed(photograph: Image.Image, preprocess: Any) -> torch.Tensor:
    try:
        made = preprocess(photograph)
    except (AttributeError, TypeError, ValueError) as error:  # as a tokenizer in its place raises
        made = error
    if not isinstance(made, torch.Tensor):
        got = f"{type(made).__name__}{f' ({made})' if isinstance(made, Exception) else ''}"
        raise TypeError(
            "processor: expected a pair (preprocess, tokenizer), in this order, whose first makes a tensor (3, H, W) "
            f"of a photograph; got {got} from {type(preprocess).__name__}"
        )
    return made


def check_photographs(images: Any) -> list[Image.Image]:
    """Photographs, one or a list of them, in RGB, turned as their EXIF data say.

    Raises
    ------
    TypeError, ValueError
        If they are no PIL images, or of a mode that RGB would lose something of.
    """
    photographs = [images] if isinstance(images, Image.Image) else images
    if not isinstance(photographs, Sequence) or not photographs or not all(map(_is_photograph, photographs)):
        raise TypeError(
            "images: expected a PIL image, a list of them, or a floating tensor (B, 3, H, W) that is prepared already; "
            f"got {_what(images)}"
        )
    unknown = next((one.mode for one in photographs if one.mode not in _MODES), None)
    if unknown is not None:
        raise ValueError(f"images: expected 8 bits a channel; got mode {unknown!r}. Scale it to 8 bits first")
    return [ImageOps.exif_transpose(one).convert("RGB") for one in photographs]


def pixels_of(images: torch.Tensor, preprocess: Any) -> torch.Tensor:
    """Prepared images as pictures: (B, 3, H, W) uint8.

    The normalisation of `preprocess` is undone, where it is known and values in [0, 1] come of that; else each image is
    stretched to its own range.
    """
    found = images.detach().float()
    moments = _normalisation(preprocess)
    if moments is not None and found.ndim == 4 and found.shape[1] == len(moments[0]):
        mean, std = (found.new_tensor(list(values)).reshape(1, -1, 1, 1) for values in moments)
        undone = found * std + mean
        if bool(((undone > -0.01) & (undone < 1.01)).all()):
            return (undone.clamp(0, 1) * 255).round().to(torch.uint8)
    low, high = found.amin(dim=(1, 2, 3), keepdim=True), found.amax(dim=(1, 2, 3), keepdim=True)
    return ((found - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)


def _of_transformers(preprocess: Any) -> bool:
    return hasattr(preprocess, "image_mean")


def _normalisation(preprocess: Any) -> tuple[Sequence[float], Sequence[float]] | None:
    """The mean and standard deviation of an image processor of transformers, or of torchvision's Compose."""
    if _of_transformers(preprocess):
        if getattr(preprocess, "do_normalize", True) and preprocess.image_mean is not None:
            return preprocess.image_mean, preprocess.image_std
        return None
    steps = getattr(preprocess, "transforms", ())
    return next(((step.mean, step.std) for step in steps if hasattr(step, "mean") and hasattr(step, "std")), None)


def _is_photograph(value: object) -> bool:
    return isinstance(value, Image.Image)


def _what(images: Any) -> str:
    if isinstance(images, (list, tuple)):
        kinds = sorted({type(one).__name__ for one in images})
        return f"a {type(images).__name__} of {', '.join(kinds) or 'none'}"
    return type(images).__name__
