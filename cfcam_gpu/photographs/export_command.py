"""``cfcam-gpu export``: torch takes seconds to import, so nothing here imports it before the command runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from ..named_models import options
from ..named_models.options import (
    ChannelsOption,
    LibragradOption,
    MeanOption,
    Preset,
    PresetOption,
    Settings,
    SizeOption,
    StdOption,
    WeightsOption,
)
from . import terminal


class TargetFrom(StrEnum):
    """Where the class comes from."""

    predicted = "predicted"
    input = "input"


class Runtime(StrEnum):
    """What the file is for."""

    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"
    aoti = "aoti"


def export(
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT", show_default=False, help="FILE.onnx, or FILE.pt2 for AOTInductor; none with --triton."
        ),
    ] = None,
    photographs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PHOTO_OR_FOLDER",
            help="What the file is checked by, the first 32: its maps must be the library's.",
            show_default="five photographs of scikit-image and scikit-learn",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="lite0, lite1 or lite2, torchvision:NAME, timm:NAME, transformers:FOLDER, or package.module:factory, "
            "a function that returns a torch module."
        ),
    ] = "lite0",
    weights: WeightsOption = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Target layer, as for cfcam-gpu explain. Given twice, the finer one first: a two-level explanation.",
            show_default="chosen, and told",
        ),
    ] = None,
    preset: PresetOption = Preset.default,
    libragrad: LibragradOption = None,
    size: SizeOption = None,
    channels: ChannelsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    class_names: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The names of the model's classes, as --classes of cfcam-gpu explain.",
            show_default="the model's own",
        ),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="any|N", help="Images in a call of the file.")] = "any",
    target: Annotated[
        TargetFrom,
        typer.Option(help="The class is each image's predicted one, or an input of the file beside the images."),
    ] = TargetFrom.predicted,
    classes: Annotated[
        int | None,
        typer.Option(min=1, metavar="T", help="With --target input: so many classes of each image.", show_default="1"),
    ] = None,
    runtime: Annotated[
        Runtime | None, typer.Option(help="What the file is for.", show_default="onnxruntime; aoti of a .pt2")
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(
            metavar="REPOSITORY",
            help="Write a model for Triton Inference Server into its model repository, instead of OUT or beside it.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is there.")] = False,
) -> None:
    """Write a model and its explanation as one file, for runtimes without this library."""
    from . import export_job

    err = terminal.errors()
    if triton is not None and out is not None and out.suffix.lower() not in (".onnx", ".pt2"):
        photographs = [out, *(photographs or [])]  # without OUT, the photographs come first
        out = None
    with terminal.refusing():
        job = export_job.Job(
            out=out,
            triton=triton,
            settings=Settings(
                model=model,
                weights=weights,
                layers=tuple(layer or ()),
                preset=preset.value,
                libragrad=libragrad,
                classes=class_names,
                **options.input_of(size=size, channels=channels, mean=mean, std=std),
            ),
            photographs=tuple(photographs or ()),
            batch=_batch(batch),
            target=target.value,
            classes=classes,
            runtime=None if runtime is None else runtime.value,
            overwrite=overwrite,
        )
        written = export_job.write(job, lambda: terminal.warn_of_random_weights(err))
    for each in written.description.layers:
        err.print(f"  {each.name}: {each.reason}")
    for line in written.notes:
        err.print(terminal.plain(line))
    err.print(f"check: {written.description.check}")
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for path in written.paths:
        console.print(terminal.plain(path))


def _batch(text: str) -> int | Literal["any"]:
    """``any``, or a number.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if text == "any":
        return "any"
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"batch: expected any, or a number of images of at least 1; got {text!r}")
    return int(text)
