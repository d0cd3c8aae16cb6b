"""How each family of detectors is run, and where what it considered is found."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import nn

from .candidates import Candidates, Place
from .evidence import Evidence
from .outputs import Find, OutputForward
from .torchvision_dense import DenseForward
from .torchvision_rois import RoIForward


class Forward(Protocol):
    """What is kept of one forward."""

    def hooks(self) -> Iterator[Any]:
        """Handles of the hooks that keep it."""
        ...

    def candidates(self, image: int, *, graph: bool = False) -> Candidates:
        """What was considered in an image; with `graph`, its scores can be differentiated."""
        ...


class WindowedForward(Forward, Protocol):
    """One whose head can be run again on a part of the features."""

    def evidence(self, image: int, places: Sequence[Place]) -> list[list[Evidence]]:
        """What each detection's score sees."""
        ...


#: torchvision's detectors, and the modules that have them.
_HOMES = {"RetinaNet": "retinanet", "FCOS": "fcos", "SSD": "ssd", "FasterRCNN": "faster_rcnn"}
#: The layer of SSD that all its scales are made of, by its backbone.
_OF_SSD = {"SSDLiteFeatureExtractorMobileNet": "backbone.features.0", "SSDFeatureExtractorVGG": "backbone.features"}


def is_torchvision(model: nn.Module) -> bool:
    """Whether a model is one of torchvision's detectors, which take a list of images."""
    return _is_of(model, *_HOMES)


def forward_of(model: nn.Module, sizes: Sequence[tuple[int, int]], classes: int | None, find: Find | None) -> Forward:
    """What keeps a forward of this model.

    Parameters
    ----------
    model : torch.nn.Module
    sizes : sequence of (int, int)
        Height and width of each image.
    classes : int or None
        How many classes the model says it has.
    find : callable, optional
        Given, it alone says what was found.
    """
    if find is None and _is_of(model, "RetinaNet", "FCOS", "SSD"):
        return DenseForward(model, sizes)
    if find is None and _is_of(model, "FasterRCNN"):
        return RoIForward(model, sizes)
    return OutputForward(sizes, classes, find)


def has_windows(model: nn.Module, forward: Forward) -> bool:
    """Whether the model's head can be run again on windows, as that which torchvision builds can."""
    if isinstance(forward, RoIForward):
        return True
    if not isinstance(forward, DenseForward) or _is_of(model, "SSD"):
        return False
    head: Any = model.head
    known = [
        _of_torchvision("retinanet", "RetinaNetClassificationHead"),
        _of_torchvision("fcos", "FCOSClassificationHead"),
    ]
    return type(head.classification_head) in known


def default_layers(model: nn.Module) -> list[str] | None:
    """The names of the layers of SSD that all its scales are made of; None of others."""
    name = _OF_SSD.get(type(model.backbone).__name__) if _is_of(model, "SSD") else None
    return None if name is None else [name]


def _is_of(model: nn.Module, *kinds: str) -> bool:
    known = [_of_torchvision(_HOMES[kind], kind) for kind in kinds]
    return isinstance(model, tuple(kind for kind in known if kind is not None))


def _of_torchvision(home: str, name: str) -> Any:
    """A class of torchvision's detectors; None where it was not imported, so that no model is of it."""
    return getattr(sys.modules.get(f"torchvision.models.detection.{home}"), name, None)
