"""The command line, ``cfcam-gpu``: each command explains, lists, measures or serves something.

torch takes seconds to import, so nothing here imports it before a command runs.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from ._version import __version__
from .evaluation.command import SUITE, Benches, bench
from .latency.command import latency
from .photographs import dicom_options, terminal
from .photographs.dicom_options import DicomOption, MarkOption, ReportOption, SecondaryCaptureOption, SegmentOption
from .photographs.export_command import export
from .photographs.layers_command import layers
from .photographs.options import (
    AugmentOption,
    ChannelsOption,
    Device,
    DeviceOption,
    EngineOption,
    LibragradOption,
    MethodOption,
    OverwriteOption,
    Preset,
    PresetOption,
    Settings,
    SizeOption,
    SmoothOption,
    SpatialDimsOption,
    WeightsOption,
    WindowOption,
)
from .pipelines.command import run as run_pipeline
from .report.command import report
from .service.command import serve
from .slides.command import slide

if TYPE_CHECKING:
    from .photographs.job import Run

#: Lines of the table of results; all of them are in explanations.jsonl.
TABLE = 12

app = typer.Typer(
    name="cfcam-gpu",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="CF-CAM: which places of a photograph a model reads as evidence for a class.",
)


class Fuse(StrEnum):
    """How the maps of several layers become one."""

    mean = "mean"
    max = "max"


@app.command(
    epilog="Exit status: 0 all explained; 1 some photographs failed, each named with the reason; 2 bad usage, found "
    "before any work."
)
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
            "(random weights unless --weights; nothing is downloaded), package.module:factory, a function that returns "
            "a torch module, or FILE.onnx or FILE.pt2 that cfcam-gpu export wrote, which settles all but --target and "
            "--device of what follows on the model. Photographs are resized and their middle is cut out, as the model "
            "was trained; for a factory's, which can't tell, 224 pixels out of 256, with ImageNet's mean and standard "
            "deviation."
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
    dicom: DicomOption = True,
    secondary_capture: SecondaryCaptureOption = False,
    segment_above: SegmentOption = None,
    dicom_report: ReportOption = False,
    mark: MarkOption = True,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Photographs in one forward.")] = 8,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="For each photograph NAME.png (overlay) and NAME.npy (map, float32 in [0, 1]); explanations.jsonl; "
            "contact_sheet.png (of the first 60). Photographs of one name get numbers; NAME of DICOM is its UID. Of a "
            "volume NAME.map.nii.gz is the map in its own space, and NAME.png shows three planes.",
        ),
    ] = Path("explanations"),
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
        dicom=in_dicom,
        batch_size=batch_size,
        out=out,
        overwrite=overwrite,
    )


@app.command()
def methods() -> None:
    """List the methods: what each is called, where it is defined, and what it costs beyond one forward."""
    from .methods import METHODS

    columns = (Column("name", no_wrap=True), "method", Column("paper", overflow="fold"), "beyond one forward")
    table = Table(*columns, box=None, pad_edge=False)
    for name, method in METHODS.items():
        table.add_row(name, method.title, method.paper, method.cost)
    Console(markup=False, highlight=False, soft_wrap=True).print(table)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path("out/demo"),
    overwrite: OverwriteOption = False,
) -> None:
    """Explain five photographs of scikit-image and scikit-learn with EfficientNet-Lite0, with their components."""
    from .photographs import photos

    try:
        samples = photos.samples()
    except FileNotFoundError as error:
        terminal.refuse(error)
    _run(paths=samples, out=out, overwrite=overwrite, components=4)


@app.command(epilog="Exit status: 0 told; 1 FILE's graph is not the one that was exported; 2 FILE is no exported file.")
def info(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", show_default=False, help="FILE.onnx or FILE.pt2 of cfcam-gpu export: what it holds."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Tell devices, versions and engines of this machine, or what an exported FILE says of itself."""
    if file is not None:
        from .photographs import file_info

        file_info.tell(file, as_json=as_json)
        return
    from .environment import describe

    found = describe()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table.grid(padding=(0, 2))
    for device in found["devices"] or [None]:
        what = f"{device['name']}, {device['memory_gib']} GiB, compute {device['capability']}" if device else "CPU only"
        table.add_row("device", what)
    for package, version in found["versions"].items():
        table.add_row(package, version or "not installed")
    table.add_row("CUDA of torch", found["cuda"] or "none")
    if found["providers"]:
        table.add_row("onnxruntime on", ", ".join(found["providers"]))
    for name, reason in found["engines"].items():
        table.add_row(f"engine {name}", "available" if reason is None else f"missing: {reason}")
    Console(markup=False, highlight=False).print(table)


app.command(epilog="Exit status: 0 listed; 2 bad usage, or a model without a layer that can be chosen.")(layers)
app.command(
    epilog="Exit status: 0 written; 2 bad usage, a model that can't be exported, or a file whose maps are not the "
    "library's: nothing is written."
)(export)
app.command(
    "run",
    epilog="Exit status: 0 all explained; 1 some images failed, each with its reason in the manifest, or the run was "
    "stopped, by a full disk, say; 2 bad usage, found before any work, such as a DIR of another job; 130 Ctrl-C; "
    "143 SIGTERM.",
)(run_pipeline)
app.command(
    epilog="Exit status: 0 all explained; 1 some slides failed, each named with the reason, or tiles without a map;"
    " 2 bad usage, found before any work; 130 Ctrl-C; 143 SIGTERM."
)(slide)
_MEASURED = "Exit status: 0 all measured; 1 some measurements failed; 2 bad usage, found before any work."
_benches = typer.Typer(cls=Benches, help="Measure methods on a folder of images, or what an explanation costs.")
_benches.command(SUITE, epilog=_MEASURED)(bench)
_benches.command(
    epilog="Exit status: 0 measured; 1 a check failed, so that figures are withheld, or nothing could be measured; 2 "
    "bad usage, found before any work."
)(latency)
app.add_typer(_benches, name="bench")
app.command(epilog="Exit status: 0 all drawn; 1 some maps failed, each named; 2 bad usage, found before any work.")(
    report
)
app.command(
    epilog="Exit status: 0 stopped by SIGINT or SIGTERM; 1 its server ended by itself; 2 bad usage, or it can't be "
    "started."
)(serve)


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"cfcam-gpu {__version__}")
        raise typer.Exit


@app.callback()
def _before_every_command(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Options of ``cfcam-gpu`` itself."""


def main() -> None:
    """Entry point of ``cfcam-gpu``."""
    from .photographs.reading import quiet

    quiet()
    # A file's name that the terminal can't show must not end a run.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    app()


def _run(**job: object) -> None:
    """Check the job, do it, and say how it went."""
    from .photographs.job import Job, Run, check
    from .photographs.photos import told
    from .photographs.volume_job import VolumeRun

    with terminal.refusing():
        asked = Job(**job)  # type: ignore[arg-type]
        run = check(asked, kind=VolumeRun if asked.settings.spatial_dims == 3 else Run)
    err = terminal.errors()
    err.print(f"{run.title} of {run.job.settings.model} on {run.device}: {run.how}")
    for layer in run.layers:
        err.print(f"  {layer.name}: {layer.reason}")
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
    out = Console(markup=False, highlight=False, soft_wrap=True)
    table = Table(run.noun, "class", Column("probability", justify="right"), box=None, pad_edge=False)
    for record in run.records[:TABLE]:
        share = record["probability"]
        table.add_row(
            terminal.plain(Path(record["file"]).name), record["class"], "" if share is None else f"{share:.1%}"
        )
    if run.records:
        out.print(table)
        more = len(run.records) - TABLE
        out.print(f"{f'and {more} more; ' if more > 0 else ''}look at {terminal.plain(run.sheet)}")
    for name, pages in run.paged[:TABLE]:
        err.print(f"{terminal.plain(name)}: page 1 of {pages} was explained")
    if len(run.paged) > TABLE:
        more = len(run.paged) - TABLE
        err.print(f"of {more} more file{'s' * (more > 1)} of several pages the first was explained")
    for name, reason in run.failed:
        err.print(f"failed: {terminal.plain(name)}: {terminal.plain(reason)}", style="red")
    if run.failed:
        err.print(f"{len(run.failed)} of {len(run.pictures)} {run.noun}s failed", style="red")
