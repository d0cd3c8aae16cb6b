"""What can't be exported, told before any work."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from ..explain.cam import CAM
from ..explain.cfcam import CFCAM
from ..hooks.guard import survey_of
from ..targets import ClassNames, Segment
from .description import Runtime
from .onnx_file import MOST_BYTES
from .players import NEEDS

Target = Literal["predicted", "input"] | Segment

#: Of a fixed batch: an example of it is made, and explained.
MOST_IMAGES = 1024
#: Of an input of classes: how many of each image. Each has a backward of its own in the graph.
MOST_CLASSES = 16
_SUFFIXES: Mapping[str, tuple[Runtime, ...]] = {".onnx": ("onnxruntime", "tensorrt"), ".pt2": ("aoti",)}
_PACKAGES = {".onnx": ("onnx", "onnxscript"), ".pt2": ()}


def explainer_of(given: object, target_layer: Any, config: Any) -> CFCAM:
    """The CF-CAM explainer that is meant.

    Raises
    ------
    TypeError, ValueError
        If it is neither a model nor an explainer of one look by CF-CAM.
    """
    if isinstance(given, (CFCAM, CAM)):
        for name, value in (("target_layer", target_layer), ("config", config)):
            if value is not None:
                raise ValueError(f"{name}: expected None where an explainer is given, which has its own")
        if given._views.several:
            raise ValueError(
                "explainer: a file holds one look at the images; make the explainer without augment and smooth"
            )
        parts = given._parts if isinstance(given, CAM) else [given]
        if len(parts) > 1:
            raise ValueError(f"explainer: a file holds one map, of one layer or of two levels; got {len(parts)} fused")
        if not isinstance(parts[0], CFCAM):
            raise ValueError(
                f"explainer: only CF-CAM can be exported; got {getattr(given, 'method', None)}. Make it with method "
                "'cfcam', 'cfcam-paper' or one that cfcam-gpu methods lists as CF-CAM's"
            )
        return parts[0]
    if not isinstance(given, nn.Module):
        raise TypeError(f"explainer: expected a CFCAM, or a torch.nn.Module to make one of; got {type(given).__name__}")
    return CFCAM(given, target_layer, config=config)


def runtime_of(path: Path, runtime: str | None) -> Runtime:
    """What the file is for: as asked, or by its suffix.

    Raises
    ------
    ImportError
        If what writes such a file is not installed.
    ValueError
        If the suffix is another, or does not go with the runtime.
    """
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(f"path: expected a file .onnx, or .pt2 for AOTInductor; got {path.name!r}")
    if runtime is not None and runtime not in get_args(Runtime):
        raise ValueError(f"runtime: expected {', '.join(get_args(Runtime))}; got {runtime!r}")
    chosen = _SUFFIXES[suffix][0] if runtime is None else runtime
    if chosen not in _SUFFIXES[suffix]:
        wanted = next(key for key, runtimes in _SUFFIXES.items() if chosen in runtimes)
        raise ValueError(f"path: expected a file {wanted} for the runtime {chosen}; got {path.name!r}")
    missing = [name for name in _PACKAGES[suffix] if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"path: a file .onnx needs {' and '.join(missing)}; {NEEDS}", name=missing[0])
    return chosen


def check_place(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that can't be written to, or that is there already.

    Raises
    ------
    FileNotFoundError, FileExistsError, IsADirectoryError
    """
    if path.is_dir():
        raise IsADirectoryError(f"path: expected a file; {path} is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: the folder {path.parent} is not there")
    if path.exists() and not overwrite:
        raise FileExistsError(f"path: {path} is there already; give another name, or overwrite")


def check_options(batch: object, target: object, classes: object) -> None:
    """Refuse a batch, a target and a number of classes that are none or don't go together.

    Raises
    ------
    TypeError, ValueError
    """
    number = isinstance(batch, int) and not isinstance(batch, bool) and 1 <= batch <= MOST_IMAGES
    if batch != "any" and not number:
        raise ValueError(f"batch: expected 'any' or a number of images from 1 to {MOST_IMAGES:,}; got {batch!r}")
    if isinstance(target, Segment):
        if target.mask is not None:
            raise ValueError(
                "target: a mask is of one image and can't be in a file; Segment(class) explains where it is predicted"
            )
    elif callable(target):
        raise TypeError(
            f"target: expected 'predicted', 'input' or targets.Segment(class); got a callable, {target!r}, whose "
            "operators no graph can know: have the model return what it computes as logits"
        )
    elif target not in ("predicted", "input"):
        raise ValueError(
            f"target: expected 'predicted', 'input' or targets.Segment(class); got {target!r}. A class that is always "
            "the same is an input, too"
        )
    if classes is None:
        return
    if target != "input":
        raise ValueError(f"classes: expected None where the classes are no input; got {classes!r}")
    if not isinstance(classes, int) or isinstance(classes, bool) or not 1 <= classes <= MOST_CLASSES:
        raise ValueError(
            f"classes: expected 1 to {MOST_CLASSES}, each of which has a backward in the graph; got {classes!r}"
        )


def check_model(model: nn.Module, images: torch.Tensor, runtime: Runtime) -> None:
    """Refuse a model that a file can't be of: in training mode, too large, of a dtype that the runtime lacks.

    Raises
    ------
    ValueError
    """
    survey = survey_of(model)
    names = {module: name for name, module in model.named_modules()}
    if modules := [*survey.training, *survey.random]:
        raise ValueError(
            f"model: {names[modules[0]]} ({type(modules[0]).__name__}) is in training mode, so that a file of it would "
            "explain another model than is deployed; call model.eval() first"
        )
    for module in model.modules():
        if module._backward_hooks or module._backward_pre_hooks:
            raise ValueError(
                f"model: {names[module] or 'the model'} has a backward hook, which may change gradients and can't be "
                "in a file; remove it before the export"
            )
    tensors = {id(each): each for each in [*model.parameters(), *model.buffers()]}.values()
    if any(tensor.layout != torch.strided or tensor.is_quantized for tensor in tensors):
        raise ValueError("model: expected dense weights; some are sparse or quantised, which no graph here can hold")
    if runtime != "aoti" and images.dtype in (torch.float64, torch.bfloat16):
        raise ValueError(
            f"images: expected float32 or float16, as ONNX Runtime's CPU provider has no {images.dtype} convolutions; "
            "export model.float() with images.float()"
        )
    if torch.is_autocast_enabled(images.device.type):
        raise ValueError("export: expected no autocast, whose casts a file would hold; export outside of it")
    weights = sum(tensor.nbytes for tensor in tensors)
    if runtime != "aoti" and weights > MOST_BYTES:
        raise ValueError(
            f"model: its weights take {weights / 2**30:.1f} GiB, and an ONNX file holds 2; export a .pt2, or the model "
            "in float16"
        )


def noted(preparation: Mapping[str, Any] | None, name: str | None) -> dict[str, Any] | None:
    """What is written beside the graph, as it is read again.

    Raises
    ------
    TypeError
        If `preparation` is no mapping that JSON can hold, or `name` no string.
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name: expected a string; got {type(name).__name__}")
    if preparation is None:
        return None
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(preparation)))
    except (TypeError, ValueError) as error:
        raise TypeError(f"preparation: expected a mapping of numbers, strings and lists ({error})") from error
    return found


def class_names(given: Sequence[str] | None, explain: CFCAM, classes: int) -> tuple[str, ...] | None:
    """The names that are given, or the explainer's; of the model's own none where they are of other classes.

    Raises
    ------
    TypeError, ValueError
        If those given are no names, or of another number of classes.
    """
    names = explain._class_names if given is None else ClassNames(given, None)
    if names.names is None or len(names.names) == classes:
        return names.names
    if names.given:
        raise ValueError(f"class_names: expected one for each of the {classes} logits; got {len(names.names)}")
    return None
