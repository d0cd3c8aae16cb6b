"""Detectors by name, for the command line, and how a photograph becomes their input. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..named_models import weights as weight_files
from ..named_models.factories import from_factory, near, package
from ..targets.names import names_of


@dataclass(frozen=True)
class Detector:
    """A detector that is ready to be explained.

    Parameters
    ----------
    module : torch.nn.Module
        On the host, in eval mode.
    prepare : callable
        From a photograph the model's input, (3, H, W) float32.
    names : tuple of str or None
        Of its classes, where they are known.
    trained : bool
        False where its weights are random.
    """

    module: nn.Module
    prepare: Callable[[Image.Image], torch.Tensor]
    names: tuple[str, ...] | None
    trained: bool


def load(
    spec: str,
    weights: Path | None = None,
    names: tuple[str, ...] | None = None,
    *,
    size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Detector:
    """The detector that `spec` names.

    Parameters
    ----------
    spec : str
        ``"torchvision:NAME"``, one of its detectors, with random weights unless `weights` are given;
        ``"transformers:FOLDER"``, what ``save_pretrained`` of a detector and of its image processor wrote; or
        ``"package.module:factory"``, a function that returns a torch module.
    weights : Path, optional
        A state dict. Not with ``transformers:``.
    names : tuple of str, optional
        Of the classes, by index. A detector of torchvision is built with so many: the first is the background's.
    size : (int, int), optional
        Height and width that photographs are resized to. Not with ``transformers:``.
    mean, std : tuple of three floats, optional
        Subtracted, and divided by. Not with ``transformers:``.

    Raises
    ------
    FileNotFoundError, ImportError, RuntimeError, TypeError, ValueError
        If there is no such model, its package is not installed, or weights don't fit; the message says why.
    """
    if weights is not None and not weights.is_file():
        raise FileNotFoundError(f"weights: {weights} is not a file")
    kind, _, name = spec.partition(":")
    if kind == "transformers" and name:
        if weights is not None or size is not None or mean is not None or std is not None:
            raise ValueError("model: transformers:FOLDER has its weights and its preparation; give no others")
        return _transformers(Path(name), names)
    if not kind or not name:
        raise ValueError(
            f"model: expected torchvision:NAME, transformers:FOLDER or package.module:factory; got {spec!r}"
        )
    if kind == "torchvision":
        module, own_names = _torchvision(name, names)
    else:
        module = from_factory(kind, name)
        own_names = names_of(module)
    if weights is not None:
        weight_files.fill(module, weight_files.read(weights), weights, spec)
    trained = weights is not None or kind != "torchvision"
    return Detector(module.eval(), _prepare(size, mean, std), names or own_names, trained)


def _torchvision(name: str, names: tuple[str, ...] | None) -> tuple[nn.Module, tuple[str, ...] | None]:
    models: Any = package("torchvision", "torchvision").models
    known = models.list_models(module=models.detection)
    if name not in known:
        raise ValueError(f"model: torchvision has no detector {name!r}{near(name, known)}")
    number = {} if names is None else {"num_classes": len(names)}
    module: nn.Module = models.get_model(name, weights=None, weights_backbone=None, **number)
    return module, tuple(models.get_model_weights(name).DEFAULT.meta["categories"]) if names is None else names


def _transformers(folder: Path, names: tuple[str, ...] | None) -> Detector:
    if not folder.is_dir():
        raise FileNotFoundError(f"model: {folder} is not a folder; give what save_pretrained(FOLDER) wrote")
    transformers: Any = package("transformers", "transformers")
    try:
        module = transformers.AutoModelForObjectDetection.from_pretrained(folder, local_files_only=True)
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model: {folder} has no detector of transformers with its image processor ({error})"
        ) from error

    def prepare(photograph: Image.Image) -> torch.Tensor:
        # Padding would be part of the picture: an image alone needs none, and the model is given no mask of it.
        unpadded = {"do_pad": False} if getattr(processor, "do_pad", False) else {}
        pixels: torch.Tensor = processor(images=photograph, return_tensors="pt", **unpadded)["pixel_values"][0]
        return pixels

    return Detector(module.eval(), prepare, names or names_of(module), True)


def _prepare(
    size: tuple[int, int] | None, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Callable[[Image.Image], torch.Tensor]:
    for name, value in (("mean", mean), ("std", std)):
        if value is not None and len(value) not in (1, 3):
            raise ValueError(f"{name}: expected one number, or three; got {len(value)}")

    def prepare(photograph: Image.Image) -> torch.Tensor:
        if size is not None:
            photograph = photograph.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(photograph)).movedim(-1, 0).float() / 255
        if mean is not None:
            pixels = pixels - torch.tensor(mean)[:, None, None]
        return pixels if std is None else pixels / torch.tensor(std)[:, None, None]

    return prepare
