"""Detectors explained: boxes found, or given, and a map of each, from one forward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any, TypeAlias, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .. import engines
from ..core.config import Config
from ..engines.execution import check_config
from ..hooks import layers as hooks_layers
from ..hooks import own_thread
from ..hooks.guard import Survey, check_model, guarded, noted, warn_of_training
from ..hooks.target_layer import Layer, TargetLayer
from ..targets.names import ClassNames
from . import families, head_layers, outputs
from .asked import Asked
from .candidates import Candidates, Place
from .detections import Detections, named
from .evidence import Evidence, active
from .maps import raw_maps
from .outputs import Find
from .torchvision_rois import RoIForward
from .whole import evidence_at

#: A class, by index or by name.
Label: TypeAlias = "int | str"

#: Of each model the layers that were chosen or named, with their layouts for images of a size: to find them takes
#: several forwards.
_known: WeakKeyDictionary[nn.Module, dict[Any, tuple[TargetLayer, ...]]] = WeakKeyDictionary()


def explain_detections(
    model: nn.Module,
    images: torch.Tensor | Sequence[torch.Tensor],
    *,
    boxes: Any = None,
    labels: Label | Sequence[Any] | None = None,
    threshold: float = 0.5,
    top: int = 10,
    find: Find | None = None,
    target_layer: Layer | Sequence[Layer] | None = None,
    config: Config | None = None,
    engine: str = "auto",
    class_names: Sequence[str] | None = None,
) -> list[Detections]:
    """Find the objects in each image, and explain each of them: where in the image the score of its class comes from.

    Detectors of these families are known:

    - torchvision's Faster, Mask and Keypoint R-CNN, RetinaNet, FCOS and SSD;
    - those of transformers that return ``logits`` and ``pred_boxes``: DETR, Conditional, DAB-, Deformable
      and RT-DETR, YOLOS, ...;
    - those that return YOLO's one tensor: (B, 4 + K, N) of centre, size and scores of classes, as since YOLOv8, or
      (B, N, 5 + K) with an objectness, as YOLOv5's; in pixels, scores in [0, 1];
    - those that return for each image a dict of ``boxes``, ``labels`` and ``scores``.

    Any other takes `find`. What is explained is the score of the class at the anchor, proposal or query that a box came
    from, so that no other box has a part in it.

    Parameters
    ----------
    model : torch.nn.Module
        In eval mode. Used as it is; nothing of it is changed.
    images : (B, C, H, W) floating tensor, or sequence of (C, H, W) tensors
        Prepared as the model wants them, on its device. Those of a sequence may have different sizes.
    boxes : (N, 4) tensor or array, or sequence of B of them, optional
        Explain these boxes, x1 y1 x2 y2 in the image's pixels, and not those that are found: an object that was missed,
        say. Of the model's candidates that of the largest product of score and overlap with a box speaks for it. One
        array is for one image.
    labels : int, str, or sequence, optional
        Without `boxes`: find objects of these classes alone. With `boxes`: their classes, one for all, or one for each
        box (of several images B sequences); None is the class that scores highest there.
    threshold : float in [0, 1]
        The least score of an object that is found.
    top : int
        At most so many objects are found in an image, those of the highest scores.
    find : callable, optional
        Gets what the model returned, and returns for each image a dict of ``boxes`` (N, 4) in the image's pixels,
        ``labels`` (N,) and ``scores`` (N,), the scores with their gradients.
    target_layer : torch.nn.Module, str, TargetLayer, or sequence of these, optional
        As for :class:`~cfcam_gpu.CFCAM`; maps of several layers are added. None takes the level of the feature pyramid
        that a box comes from, where torchvision's detectors have one, and else the last activations that boxes and
        their classes are both made of, one of each resolution.
    config : Config, optional
        Of one layer; defaults to ``Config.gated()``.
    engine : {"auto", "cpu", "rapids", "fused", "reference"}
        As for :class:`~cfcam_gpu.CFCAM`.
    class_names : sequence of str, optional
        What the classes are called, by index; None are the model's own names, if it has any.

    Returns
    -------
    list of B Detections
        Of an image in which nothing is found, one of no detections.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or it can't be told what the model returned; the message names the argument, what was
        expected and what came.
    RuntimeError
        If this machine lacks the engine that is named.

    Notes
    -----
    RetinaNet, FCOS and detectors of two stages run without autograd's graph, and then the head alone on the windows
    that the detections depend on: ten boxes cost little more than one. Group norms in these heads count as constants.
    Other detectors take a backward for each of the boxes, from the head to the layer.

    Examples
    --------
    >>> (found,) = cfcam_gpu.explain_detections(detector, image[None])  # doctest: +SKIP
    >>> found.names, found.maps.shape  # doctest: +SKIP
    (('dog', 'bicycle'), torch.Size([2, 480, 640]))
    """
    module = check_model(model)
    config = Config.gated() if config is None else check_config(config)
    if config.levels != 1:
        raise ValueError("config: expected a configuration of one layer, such as Config.gated(); got a two-level one")
    engines.check_name(engine)
    given = _images(module, images)
    names = ClassNames(class_names, module).names
    asked = Asked.read(len(given), boxes, labels, threshold, top, names)
    if find is not None and not callable(find):
        raise TypeError(f"find: expected a callable; got {type(find).__name__}")
    if families.is_torchvision(module) and module.training:
        raise ValueError(
            "model: expected eval mode, as torchvision's detectors return losses in training; got training"
        )
    engines.choose(engine, given[0].device)
    layers = _layers(module, target_layer)
    survey = warn_of_training(module)
    work = _Work(module, asked, names, find, layers, config, engine, survey)
    return work.explain(given)


class _Work:
    """One call."""

    def __init__(
        self,
        model: nn.Module,
        asked: Asked,
        names: Sequence[str] | None,
        find: Find | None,
        layers: tuple[TargetLayer, ...] | None,
        config: Config,
        engine: str,
        survey: Survey,
    ) -> None:
        self.model, self.asked, self.names, self.find = model, asked, names, find
        self.layers, self.config, self.engine, self.survey = layers, config, engine, survey
        self.classes = outputs.classes_of(model, names)
        self.lists = families.is_torchvision(model)

    def explain(self, images: Sequence[torch.Tensor]) -> list[Detections]:
        """Explain images together where the model takes them together."""
        forward = families.forward_of(self.model, [_size(image) for image in images], self.classes, self.find)
        if self.layers is None and families.has_windows(self.model, forward):
            return self._by_windows(images, cast(families.WindowedForward, forward))
        found: list[Detections | None] = [None] * len(images)
        for places in _of_one_size(images):
            batch = torch.stack([images[b] for b in places])
            for b, detections in zip(places, self._by_layers(batch, places)):
                found[b] = detections
        return [one for one in found if one is not None]

    def _by_windows(self, images: Sequence[torch.Tensor], forward: families.WindowedForward) -> list[Detections]:
        found = []
        with guarded(self.model, self.survey):
            with own_thread.hooked(forward.hooks()), noted(self.model, images[0]):
                self.model([_plain(image) for image in images])
            for b, image in enumerate(images):
                candidates = forward.candidates(b)
                places = self.asked.places(candidates, b)
                seen = forward.evidence(b, places) if places else []
                masks = None
                if isinstance(forward, RoIForward):
                    masks = forward.masks(b, self.asked.boxes_of(candidates, places, b), places)
                found.append(self._detections(image, b, candidates, places, seen, masks))
        return found

    def _by_layers(self, images: torch.Tensor, numbers: Sequence[int]) -> list[Detections]:
        forward = families.forward_of(self.model, [_size(image) for image in images], self.classes, self.find)
        named_layers = None if self.layers is None else tuple(layer.name for layer in self.layers)
        key = named_layers, self.find is None, tuple(images.shape[1:])
        layers = _remembered(self.model, key) or self.layers
        if layers is None:
            of_images = self._considered(images, numbers)
            some = next((b for b, (_, places) in enumerate(of_images) if places), None)
            if some is None:
                return [
                    self._detections(image, number, candidates, [], [], None)
                    for image, number, (candidates, _) in zip(images, numbers, of_images)
                ]
            layers = self._chosen(images.roll(-some, 0))
        chosen: list[tuple[Candidates, list[Place]]] = []

        def scores_of(output: Any) -> list[list[torch.Tensor]]:
            if isinstance(forward, outputs.OutputForward):
                forward.read(output)
            chosen.clear()
            scores = []
            for b, number in enumerate(numbers):
                candidates = forward.candidates(b, graph=True)
                places = self.asked.places(candidates, number)
                assert candidates.score_of is not None
                chosen.append((candidates, places))
                scores.append([candidates.score_of(*place) for place in places])
            return scores

        known, seen = evidence_at(self.model, layers, images, scores_of, forward.hooks, self.survey, self._call)
        if self.layers is None or all(layer.layout is None for layer in self.layers):
            _known.setdefault(self.model, {})[key] = known
        return [
            self._detections(image, number, candidates, places, of_image, None)
            for image, number, (candidates, places), of_image in zip(images, numbers, chosen, seen)
        ]

    def _considered(self, images: torch.Tensor, numbers: Sequence[int]) -> list[tuple[Candidates, list[Place]]]:
        """What there is in each image, without a graph: where nothing is, no layer can be chosen."""
        forward = families.forward_of(self.model, [_size(image) for image in images], self.classes, self.find)
        with guarded(self.model, self.survey), own_thread.hooked(forward.hooks()), noted(self.model, images):
            output = self._call(images)
            if isinstance(forward, outputs.OutputForward):
                forward.read(output)
        each = [forward.candidates(b) for b in range(len(images))]
        return [(candidates, self.asked.places(candidates, number)) for candidates, number in zip(each, numbers)]

    def _call(self, images: torch.Tensor) -> Any:
        images = _plain(images)
        return self.model(list(images) if self.lists else images)

    def _chosen(self, images: torch.Tensor) -> tuple[TargetLayer, ...]:
        names = families.default_layers(self.model)
        if names is not None:
            return tuple(hooks_layers.find(self.model, name) for name in names)
        return head_layers.choose(self.model, images, outputs.roots(self.classes, self.find))

    def _detections(
        self,
        image: torch.Tensor,
        number: int,
        candidates: Candidates,
        places: Sequence[Place],
        seen: Sequence[Sequence[Evidence]],
        masks: torch.Tensor | None,
    ) -> Detections:
        device = image.device
        labels = [place.label for place in places]
        scores = torch.stack([candidates.score(place) for place in places]).to(device) if places else image.new_zeros(0)
        have_part = active(seen)
        return Detections(
            boxes=self.asked.boxes_of(candidates, places, number).to(device),
            labels=torch.tensor(labels, dtype=torch.int64, device=device),
            names=named(labels, self.names),
            scores=scores.float(),
            raw_maps=raw_maps(seen, have_part, _size(image), self.config, self.engine).to(device),
            layers=tuple(
                tuple(one.layer for one in compress(of_detection, parts))
                for of_detection, parts in zip(seen, have_part)
            ),
            masks=masks,
            saturation=self.config.saturation,
        )


def _remembered(model: nn.Module, key: Any) -> tuple[TargetLayer, ...] | None:
    """What is known of the model's layers; None where one of them was replaced by another module since."""
    layers = _known.get(model, {}).get(key)
    own = {id(module) for module in model.modules()}
    return layers if layers is not None and all(id(layer.module) in own for layer in layers) else None


def _images(model: nn.Module, images: Any) -> list[torch.Tensor]:
    """Each image, if they are such as a detector takes."""
    if isinstance(images, torch.Tensor):
        if images.ndim != 4:
            hint = "; of one image give image[None]" if images.ndim == 3 else ""
            raise ValueError(f"images: expected shape (B, C, H, W); got {tuple(images.shape)}{hint}")
        listed = list(images)
    elif isinstance(images, (list, tuple)):
        listed = list(images)
    else:
        raise TypeError(
            f"images: expected a tensor (B, C, H, W), or a list of tensors (C, H, W); got {type(images).__name__}"
        )
    if not listed:
        raise ValueError("images: expected at least one image; got none")
    device = next((parameter.device for parameter in model.parameters()), None)
    for i, image in enumerate(listed):
        if not isinstance(image, torch.Tensor):
            raise TypeError(f"images: expected tensors (C, H, W); got {type(image).__name__} for image {i}")
        if image.ndim != 3 or not image.numel():
            raise ValueError(f"images: expected tensors (C, H, W), nothing of them empty; got {tuple(image.shape)}")
        if not image.is_floating_point():
            raise TypeError(f"images: expected a floating dtype; got {image.dtype} (scale and normalise them first)")
        if device is not None and image.device != device:
            raise ValueError(f"images: expected device '{device}', as the model; got '{image.device}' for image {i}")
        if not bool(image.isfinite().all()):
            raise ValueError(f"images: expected finite numbers; image {i} has NaN or infinity")
    return listed


def _layers(model: nn.Module, target_layer: Any) -> tuple[TargetLayer, ...] | None:
    if target_layer is None:
        return None
    asked = list(target_layer) if isinstance(target_layer, (list, tuple)) else [target_layer]
    found = tuple(hooks_layers.find(model, layer) for layer in asked)
    twice = next((one.name for i, one in enumerate(found) if one.name in [each.name for each in found[:i]]), None)
    if not found or twice is not None:
        raise ValueError(
            f"target_layer: expected different layers, one or more; got {twice or 'none'}{' twice' if twice else ''}"
        )
    return found


def _of_one_size(images: Sequence[torch.Tensor]) -> Iterable[list[int]]:
    """The places of the images of each size."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for b, image in enumerate(images):
        by_size.setdefault(tuple(image.shape), []).append(b)
    return by_size.values()


def _plain(image: torch.Tensor) -> torch.Tensor:
    """An inference tensor can't become a leaf, nor be kept for a backward."""
    return image.clone() if image.is_inference() else image


def _size(image: torch.Tensor) -> tuple[int, int]:
    return int(image.shape[-2]), int(image.shape[-1])
