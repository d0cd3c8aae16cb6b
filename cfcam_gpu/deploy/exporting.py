"""Write a model and its explanation as one file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, Literal

import torch
from torch import nn

from .._version import __version__
from ..core.config import Config
from ..explain.cam import CAM
from ..explain.cfcam import CFCAM, check_images
from ..hooks.state import weights_sha256
from ..hooks.target_layer import Layer
from ..results import durable
from ..targets import Segment
from . import aoti_file, onnx_file, refusals
from .description import Check, Description, Runtime
from .plan import Plan

#: Tracing and torch's exporters set what the whole process shares: the attention that is chosen, filters of warnings.
_ONE_AT_A_TIME = Lock()


def export(
    explainer: CFCAM | CAM | nn.Module,
    path: str | os.PathLike[str],
    images: torch.Tensor,
    *,
    target_layer: Layer | Sequence[Layer] | None = None,
    config: Config | None = None,
    batch: int | Literal["any"] = "any",
    target: refusals.Target = "predicted",
    classes: int | None = None,
    runtime: Runtime | None = None,
    class_names: Sequence[str] | None = None,
    preparation: Mapping[str, Any] | None = None,
    name: str | None = None,
    trained: bool = True,
    overwrite: bool = False,
) -> Description:
    """Export a model with its explanation: forward, the head's backward, CF-CAM and maps as one graph.

    The file plays `images` beside the library before it is written, and is refused where its maps are others; see
    :class:`cfcam_gpu.deploy.Check`.

    Parameters
    ----------
    explainer : CFCAM, CAM or torch.nn.Module
        One look by CF-CAM, or the model itself, in eval mode. Nothing of it is changed.
    path : path
        FILE.onnx, or FILE.pt2 for AOTInductor.
    images : (N, C, H, W) floating tensor
        Some that the model knows, prepared as it wants them; (N, C, D, H, W) volumes, (N, C, L) signals. The file takes
        such of this size, float32.
    target_layer, config
        As for :class:`cfcam_gpu.CFCAM`, where a model is given.
    batch : "any" or int
        How many images a call of the file takes.
    target : {"predicted", "input"} or Segment
        The class is the predicted one, an input `target` of the file (a negative class is the predicted one), or one
        that is chosen now, where it is predicted, of a model with logits (B, K, H, W).
    classes : int, optional
        T: an input `target` of (B, T), with maps (B, T, H, W).
    runtime : {"onnxruntime", "tensorrt", "aoti"}, optional
        What the file is for; None is ``"onnxruntime"`` for .onnx. For ``"tensorrt"`` there are only operators that
        TensorRT has.
    class_names : sequence of str, optional
        One for each logit, for those who show the maps or name a target. None takes the explainer's, which may be the
        model's own.
    preparation : mapping, optional
        How a photograph becomes an image, for the same: ``size``, ``resize``, ``interpolation``, ``mean``, ``std``.
    name : str, optional
        What the model is called.
    trained : bool
        False says in the file that its weights are random.
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    Description
        What the file says of itself.

    Raises
    ------
    TypeError, ValueError
        If an argument can't be what is meant, or the model has an operator that can't be exported; the message names
        it, and its module.
    ImportError
        If what writes such a file is not installed.
    OSError
        If the file is there, or can't be written.
    RuntimeError
        If torch can't export the model, or the file's maps are not the library's. Nothing is written.
    """
    path = Path(path)
    refusals.check_options(batch, target, classes)
    runtime = refusals.runtime_of(path, runtime)
    refusals.check_place(path, overwrite=overwrite)
    noted = refusals.noted(preparation, name)
    explain = refusals.explainer_of(explainer, target_layer, config)
    check_images(explain.model, images)
    refusals.check_model(explain.model, images, runtime)
    plan = Plan.of(explain, images, None if batch == "any" else int(batch), target, classes, runtime)
    class_names = refusals.class_names(class_names, explain, plan.logits[0])
    written: aoti_file.Package | onnx_file.OnnxFile
    writer = aoti_file.Package if runtime == "aoti" else onnx_file.OnnxFile
    with _ONE_AT_A_TIME:
        written = writer.of(plan.graph(), plan.example(), any_batch=plan.batch is None)
    description = Description(
        library=__version__,
        torch=torch.__version__,
        runtime=runtime,
        opset=written.opset,
        model=name,
        trained=trained,
        method="cfcam",
        config=plan.config,
        libragrad=plan.libragrad,
        layers=plan.described_layers(),
        images=tuple(images.shape[1:]),
        size=plan.expected.size,
        inside=plan.expected.inside,
        batch=plan.batch,
        target="input" if target == "input" else "predicted",
        classes=classes,
        logits=plan.logits,
        segment=target.index if isinstance(target, Segment) else None,
        class_names=class_names,
        preparation=noted,
        weights_sha256=weights_sha256(plan.model),
        graph_sha256=written.sha256,
        check=Check(checked=False),
    )
    with TemporaryDirectory() as folder:
        trial = Path(folder) / path.name
        trial.write_bytes(written.with_metadata(description.metadata()))
        description = replace(description, check=plan.check(trial))
    durable.write(path, written.with_metadata(description.metadata()), alone=False)
    return description
