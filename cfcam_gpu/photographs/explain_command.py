"""``cfcam-gpu explain`` and ``demo``: torch takes seconds to import, so nothing here does before a command runs."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from ..named_models.options import (
    AugmentOption,
    ChannelsOption,
    ClassesOption,
    Device,
    DeviceOption,
    EngineOption,
    LibragradOption,
    MeanOption,
    MethodOption,
    OverwriteOption,
    Preset,
    PresetOption,
    Settings,
    SizeOption,
    SmoothOption,
    SpatialDimsOption,
    StdOption,
    WeightsOption,
    WindowOption,
)
from . import dicom_options, terminal
from .dicom_options import DicomOption, MarkOption, ReportOption, SecondaryCaptureOption, SegmentOption

if TYPE_CHECKING:
    from .job import Run

#: The folders for results where none is named, with a number behind the name where they are there.
OUT, DEMO_OUT = Path("explanations"), Path("out/demo")
#: Lines of the table of results; all of them are in explanations.jsonl.
TABLE = 12


class Fuse(StrEnum):
    """How the maps of several layers become one."""

    mean = "mean"
    max = "max"


def explain(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PHOTO_OR_FOLDER",
            show_default=False,
            help="Photographs, and folders of them. A folder is searched with its subfolders, in alphabetical order, "
            "for JPEG, PNG, WebP, TIFF, BMP, GIF, PPM, JPEG 2000, AVIF, JPEG XL, HEIC and DICOM by suffix, and for "
            "files without a suffix that are one of these; what else is there is counted. Hidden files and the output "
            "folder are passed over. With --spatial-dims 3: NIfTI, and series and multi-frame files of DICOM.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="lite0, lite1 or lite2 (EfficientNet-Lite with its ImageNet weights), torchvision:NAME or timm:NAME "
            "(random weights unless --weights; nothing is downloaded), transformers:FOLDER, which save_pretrained "
            "wrote, package.module:factory, a function that returns a torch module, or one and what describes its "
            "images, or FILE.onnx or FILE.pt2 that cfcam-gpu export wrote, which settles all but --target and "
            "--device of what follows on the model. Photographs are resized and their middle is cut out, as the model "
            "was trained; for a factory's that doesn't tell, 224 pixels out of 256, with ImageNet's mean and "
            "standard deviation."
        ),
    ] = "lite0",
    weights: WeightsOption = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Target layer: a module's dotted name, or 'name.input' for what enters it. Given twice, the finer one "
            "first: a two-level explanation by CF-CAM. Several of another method are fused.",
            show_default="chosen, and told",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID_OR_NAME",
            help="Class to explain, by index or name. Given several times, each class is explained of each photograph, "
            "and CLASS is its index in the names NAME-CLASS.",
            show_default="each photograph's predicted class",
        ),
    ] = None,
    engine: EngineOption = "auto",
    method: MethodOption = "cfcam",
    preset: PresetOption = Preset.default,
    fuse: Annotated[
        Fuse | None,
        typer.Option(
            help="How the maps of several layers, each over its maximum, become one.",
            show_default="mean; two levels of cfcam",
        ),
    ] = None,
    augment: AugmentOption = None,
    smooth: SmoothOption = 0,
    libragrad: LibragradOption = None,
    window: WindowOption = None,
    spatial_dims: SpatialDimsOption = 2,
    size: SizeOption = None,
    channels: ChannelsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    classes: ClassesOption = None,
    components: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help="Show the K strongest groups of channels, too: where each sees its evidence, its share of it, and the "
            "probability without its channels, in NAME.components.png, components.png (of the first 12) and "
            "explanations.jsonl.",
            show_default="none",
        ),
    ] = None,
    expected: Annotated[
        str | None,
        typer.Option(
            metavar="ID_OR_NAME",
            help="The class that you expected, by index or name: of each photograph that the model takes for another, "
            "NAME.expected.png shows the map of the predicted class, that of the expected one, and what speaks for "
            "each against the other; the maps are NAME.*.npy.",
            show_default="none",
        ),
    ] = None,
    evidence: Annotated[
        bool,
        typer.Option(
            "--evidence",
            help="A folder evidence/NAME for each photograph: the photograph as the model saw it, its map, a figure, "
            "and explanation.json with the model, the SHA-256 of its weights, method, versions, figures of trust and "
            "limits.",
        ),
    ] = False,
    dicom: DicomOption = True,
    secondary_capture: SecondaryCaptureOption = False,
    segment_above: SegmentOption = None,
    dicom_report: ReportOption = False,
    mark: MarkOption = True,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Photographs in one forward.")] = 8,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="For each photograph NAME.png (overlay) and NAME.npy (map, float32 in [0, 1]); explanations.jsonl; "
            "contact_sheet.png (of the first 60). Photographs of one name get numbers; NAME of DICOM is its UID. Of a "
            "volume NAME.map.nii.gz is the map in its own space, and NAME.png shows three planes.",
            show_default="explanations, or where that is there explanations-2, ...",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    device: DeviceOption = Device.auto,
) -> None:
    """Explain photographs: overlays, maps, a line of JSON for each, and a contact sheet."""
    with terminal.refusing():
        settings = Settings.given(
            model,
            weights,
            layer,
            engine,
            preset,
            device,
            method=method,
            augment=augment,
            smooth=smooth,
            libragrad=libragrad,
            window=window,
            spatial_dims=spatial_dims,
            size=size,
            channels=channels,
            mean=mean,
            std=std,
            classes=classes,
        )
        in_dicom = dicom_options.given(
            dicom=dicom,
            secondary_capture=secondary_capture,
            segment_above=segment_above,
            report=dicom_report,
            mark=mark,
        )
    _run(
        paths=paths,
        settings=settings,
        targets=tuple(target or ()),
        fuse=None if fuse is None else fuse.value,
        components=components,
        expected=expected,
        evidence=evidence,
        dicom=in_dicom,
        batch_size=batch_size,
        out=out or OUT,
        overwrite=overwrite,
        fresh=out is None and not overwrite,
    )


def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the results.",
            show_default="out/demo, or where that is there out/demo-2, ...",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Explain five photographs of scikit-image and scikit-learn with EfficientNet-Lite0, with their components."""
    from ..image_files import photos

    try:
        samples = photos.samples()
    except FileNotFoundError as error:
        terminal.refuse(error)
    _run(
        paths=samples,
        out=out or DEMO_OUT,
        overwrite=overwrite,
        fresh=out is None and not overwrite,
        components=4,
    )


def _run(**job: object) -> None:
    """Check the job, do it, and say how it went."""
    from ..image_files.photos import told
    from .asked import Job
    from .job import Run, check
    from .volume_job import VolumeRun

    with terminal.refusing():
        asked = Job(**job)  # type: ignore[arg-type]
        run = check(asked, kind=VolumeRun if asked.settings.spatial_dims == 3 else Run)
    err = terminal.errors()
    err.print(f"{run.title} of {run.job.settings.model} on {run.device}: {run.how}")
    for layer in run.layers:
        err.print(f"  {layer.name}: {layer.reason}")
    for line in run.nobody_said:
        err.print(terminal.plain(line))
    if run.passed_over:
        err.print(terminal.plain(told(run.passed_over)))
    if not run.model.trained:
        terminal.warn_of_random_weights(err, exported=run.job.settings.file is not None)
    try:
        with terminal.progress(err) as progress:
            task = progress.add_task("explaining", total=len(run.pictures))
            inner = progress.add_task("within the batch", visible=False)

            def within(done: int, total: int) -> None:
                progress.update(inner, completed=done, total=total, visible=done < total)

            run.execute(lambda count: progress.advance(task, count), within)
    except (OSError, RuntimeError) as error:  # a full disk, a device that is out of order
        terminal.stop(error, err)
    _report(run, err)
    if run.failed:
        raise typer.Exit(1)


def _report(run: Run, err: Console) -> None:
    from ..results.fonts import told as told_of_letters

    out = Console(markup=False, highlight=False, soft_wrap=True)
    right = partial(Column, justify="right")
    awaited: list[str | Column] = [] if run.expected is None else ["expected", right("probability")]
    table = Table(run.noun, "class", right("probability"), *awaited, box=None, pad_edge=False)
    for record in run.records[:TABLE]:
        said = [record, *([record["expected"]] if awaited else [])]
        shares = ("" if one["probability"] is None else f"{one['probability']:.1%}" for one in said)
        cells = [cell for one, share in zip(said, shares) for cell in (one["class"], share)]
        table.add_row(terminal.plain(Path(record["file"]).name), *cells)
    if run.records:
        out.print(table)
        more = len(run.records) - TABLE
        out.print(f"{f'and {more} more; ' if more > 0 else ''}look at {terminal.plain(run.sheet)}")
        _compare(run, out)
    if lacking := run.lacking:
        err.print(terminal.plain(told_of_letters(lacking)))
    for name, pages in run.paged[:TABLE]:
        err.print(f"{terminal.plain(name)}: page 1 of {pages} was explained")
    if len(run.paged) > TABLE:
        more = len(run.paged) - TABLE
        err.print(f"of {more} more file{'s' * (more > 1)} of several pages the first was explained")
    for name, reason in run.failed:
        err.print(f"failed: {terminal.plain(name)}: {terminal.plain(reason)}", style="red")
    if run.failed:
        err.print(f"{len(run.failed)} of {len(run.pictures)} {run.noun}s failed", style="red")


def _compare(run: Run, out: Console) -> None:
    """Say where predicted and expected are shown side by side, and where there is nothing to compare."""
    if run.expected is None:
        return
    name = run.class_names[run.expected]
    met = sum(record["expected"]["is_predicted"] for record in run.records)
    if others := len(run.records) - met:
        out.print(f"{others} predicted as another class than {name}, as *.expected.png shows")
    if met:
        out.print(f"{met} predicted as expected, without a contrast")
