"""explain_point: why a model that segments what is pointed at, such as SAM, draws the mask that it draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from PIL import Image
from torch import nn

from ..core.maps import interpolate
from ..hooks import layers
from ..hooks.guard import check_model
from ..hooks.target_layer import Layer, TargetLayer
from ..methods import find
from ..results.explanation import Explanation
from ..results.seen import Seen
from ..targets.request import Request
from .cam import CAM
from .cfcam import check_images
from .prepared import Pictured, check_photographs, pixels_of

#: Models of transformers whose vision encoder is the image's part, and whose masks are the best of those predicted.
_TYPES = ("sam", "sam2")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PointExplanation(Pictured):
    """The explanation of the masks that P points give on each of B images, with what the model saw.

    `logits` are those of the masks, (B, P, h, w), at the model's own size.

    Parameters
    ----------
    images : (B, 3, H, W) uint8 tensor
        The images as the model saw them, scaled and padded by its processor: what maps and masks lie on.
    points : (B, P, 2) float32 tensor
        x and y of the points in `images`.
    masks : (B, P, H, W) bool tensor
        The masks that are explained.
    """

    points: torch.Tensor
    masks: torch.Tensor


def explain_point(
    model: nn.Module,
    processor: Any,
    images: Any,
    points: Any,
    *,
    target_layer: Layer | Sequence[Layer] | None = None,
    method: str = "cfcam",
    **options: Any,
) -> PointExplanation:
    """Why a model segments what it segments at a point: a map for each image and each point.

    What is explained is the mean logit of the mask, over its own pixels. Of the masks that the model offers for a point
    it is the one that it rates best. The image encoder runs once for all points of an image, and images go one by one.

    Parameters
    ----------
    model : torch.nn.Module
        ``SamModel`` or ``Sam2Model`` of transformers. Nothing of it is changed.
    processor : processor
        The model's own; None where images are prepared already.
    images : PIL image, list of these, or (B, 3, H, W) floating tensor
        A tensor is prepared as the model wants it, on the model's device.
    points : sequence, array or tensor
        x and y in the pixels of `images`, of photographs as their EXIF data turn them, each point for a mask of its
        own: (B, P, 2). Of one PIL image (P, 2) or (2,).
    target_layer : Layer, sequence of these, or None
        Of the image encoder; None chooses there.
    method : str
        A key of :data:`cfcam_gpu.methods.METHODS`.
    **options
        As for :class:`cfcam_gpu.CAM`: `augment`, `smooth`, `config`, `engine` and others.

    Returns
    -------
    PointExplanation

    Raises
    ------
    TypeError, ValueError
        If the model is none of these, an argument is none of these, or a point is outside its image.

    Examples
    --------
    >>> result = explain_point(model, processor, photograph, [(120, 80)])  # doctest: +SKIP
    >>> result.masks, result.overlay()  # doctest: +SKIP
    """
    model = check_model(model)
    if getattr(getattr(model, "config", None), "model_type", None) not in _TYPES:
        raise TypeError(
            f"model: expected SamModel or Sam2Model of transformers; got {type(model).__name__}. Of another give "
            "CFCAM a module that returns the mask's logits (B, 1, h, w) of images, and targets.Segment(0) as the target"
        )
    chosen = find(method)
    asked, inputs, at, extents = _prepared(model, processor, images, points)
    check_images(model, inputs)
    if target_layer is None and not chosen.attention:
        target_layer = _layers(model, inputs[:1], method, options.get("config"))
    explained, masks = [], []
    for b, (of_image, extent) in enumerate(zip(at, extents)):
        scores = tuple(_Mask(p, extent) for p in range(len(of_image)))
        explainer = CAM(_Prompted(model, of_image), target_layer, method=method, **options)
        found = explainer._explain(inputs[b : b + 1], Request(scores=(scores,)))
        target_layer = explainer.layers
        assert found.logits is not None
        masks.append(extent.cut(interpolate(found.logits.float(), tuple(inputs.shape[2:])) > 0))
        explained.append(found)
    found = _joined(explained)
    pixels = pixels_of(inputs, getattr(processor, "image_processor", None))
    known = {each.name: getattr(found, each.name) for each in fields(found)}
    known |= {"seen": Seen.of(pixels), "called": tuple(tuple(map(_called, row)) for row in asked.tolist())}
    return PointExplanation(**known, images=pixels, points=at, masks=torch.cat(masks))


class _Prompted(nn.Module):
    """From images (B, 3, H, W) to the logits (B, P, h, w) of the masks that the points (P, 2) give on each of them."""

    def __init__(self, model: nn.Module, points: torch.Tensor) -> None:
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        self.training = model.training
        self._model = (model,)  # in a tuple it is no module of this one, and layers have the names that they have there
        self._points = points

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        points = self._points[None, :, None].expand(len(images), -1, -1, -1)
        output = self._model[0](pixel_values=images, input_points=points)
        best = output.iou_scores.argmax(dim=2)[..., None, None, None]
        masks: torch.Tensor = output.pred_masks
        return masks.take_along_dim(best, dim=2)[:, :, 0]


class _Encoder(nn.Module):
    """The image encoder alone, from images to their embedding (B, C, h, w), with the names that layers have in all."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_encoder = model.vision_encoder
        self.training = model.training

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output = self.vision_encoder(images)
        pyramid = getattr(output, "fpn_hidden_states", None)
        embedding: torch.Tensor = output.last_hidden_state if pyramid is None else pyramid[-1]
        return embedding


class _Extent(NamedTuple):
    """Where the image ends in what the model sees, as shares of both sides: to the right and below may be padding."""

    height: float = 1.0
    width: float = 1.0

    def cut(self, masks: torch.Tensor) -> torch.Tensor:
        """Masks (..., H, W) without what is in the padding."""
        of_image = torch.zeros_like(masks)
        rows, columns = (math.ceil(share * n) for share, n in zip(self, masks.shape[-2:]))
        of_image[..., :rows, :columns] = masks[..., :rows, :columns]
        return of_image


@dataclass(frozen=True)
class _Mask:
    """The mean logit of the mask of a point over its own pixels; of a mask without pixels nothing is explained."""

    point: int
    extent: _Extent
    in_place: ClassVar[bool] = True

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        of_point = logits[self.point].float()
        inside = self.extent.cut(of_point > 0).float()
        return (of_point * inside).sum() / inside.sum().clamp_min(1)


def _prepared(
    model: nn.Module, processor: Any, images: Any, points: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[_Extent]]:
    """The points (B, P, 2) as they were given, images and points as the model takes them, and where the images end."""
    alone = isinstance(images, Image.Image)
    asked = _points(points, alone)
    if isinstance(images, torch.Tensor):
        sizes, count = [tuple(images.shape[-2:])] * len(images), len(images)
    else:
        photographs = check_photographs(images)
        sizes, count = [(one.height, one.width) for one in photographs], len(photographs)
    if len(asked) != count:
        raise ValueError(f"points: expected (B, P, 2) with B = {count}, as there are images; got {tuple(asked.shape)}")
    for b, (height, width) in enumerate(sizes):
        outside = (asked[b] < 0).any(dim=1) | (asked[b] >= asked.new_tensor([width, height])).any(dim=1)
        if bool(outside.any()):
            x, y = asked[b][outside][0].tolist()
            raise ValueError(
                f"points: expected x and y inside image {b}, {width} wide and {height} high; got ({x:g}, {y:g})"
            )
    if isinstance(images, torch.Tensor):
        return asked, images, asked.to(images.device), [_Extent()] * count
    if not callable(processor):
        raise TypeError(
            "processor: expected the model's own, which prepares photographs and points; got "
            f"{type(processor).__name__}. Or give images that are prepared already, a tensor (B, 3, H, W)"
        )
    made = processor(images=photographs, input_points=asked[:, :, None].tolist(), return_tensors="pt")
    parameter = next(model.parameters())
    at = made["input_points"][:, :, 0].to(parameter.device, torch.float32)
    pixels = made["pixel_values"].to(parameter.device, parameter.dtype)
    height, width = pixels.shape[2:]
    scaled = made["reshaped_input_sizes"].tolist() if "reshaped_input_sizes" in made else [(height, width)] * count
    return asked, pixels, at, [_Extent(rows / height, columns / width) for rows, columns in scaled]


def _points(points: Any, alone: bool) -> torch.Tensor:
    """(B, P, 2) float32.

    Raises
    ------
    TypeError, ValueError
    """
    try:
        read = torch.as_tensor(points).detach().to("cpu", torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"points: expected x and y of each, (B, P, 2); got {type(points).__name__} ({error})") from None
    shape = tuple(read.shape)
    while alone and read.ndim < 3:
        read = read[None]
    if read.ndim != 3 or read.shape[2] != 2 or not read.numel():
        raise ValueError(
            f"points: expected (B, P, 2), of one PIL image (P, 2) or (2,), one at least; got shape {shape}"
        )
    if not bool(read.isfinite().all()):
        raise ValueError("points: expected finite numbers; got NaN or infinity")
    return read


def _layers(model: nn.Module, images: torch.Tensor, method: str, config: Any) -> tuple[TargetLayer, ...]:
    """Layers of the image encoder, as they would be chosen in a model of the encoder alone.

    Behind it, what the points have told the decoder has positions, too, and is no state of the image.
    """
    chosen, encoder, request = find(method), _Encoder(model), Request(scores=(torch.sum,))
    if chosen.choose is not None:
        return tuple(chosen.choose(encoder, images, request))
    config = config or chosen.config
    if chosen.cluster_filter and (config is None or config.levels == 2):
        return layers.choose_two(encoder, images, request)
    return (layers.choose(encoder, images, request),)


def _joined(explained: Sequence[Explanation]) -> Explanation:
    """One explanation of all images from those of each; of several the model can't be asked again."""
    first = explained[0]
    if len(explained) == 1:
        return first
    known = {each.name: getattr(first, each.name) for each in fields(first)}
    for name, value in known.items():
        if isinstance(value, torch.Tensor):
            known[name] = torch.cat([getattr(one, name) for one in explained])
    return Explanation(**known | {"origin": None, "seen": None})


def _called(point: Sequence[float]) -> str:
    return f"point ({point[0]:g}, {point[1]:g})"
