"""``cfcam-gpu detect``: torch takes seconds to import, so nothing here does before the command runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from ..named_models.options import (
    ClassesOption,
    Device,
    DeviceOption,
    EngineOption,
    MeanOption,
    OverwriteOption,
    SizeOption,
    StdOption,
    WeightsOption,
    numbers_of,
    size_of,
)
from ..photographs import terminal

#: Lines of the table of results; all of them are in detections.jsonl.
_TABLE = 20
#: The folder of results, where none is given.
OUT = Path("detections")


class Clip(StrEnum):
    """Where maps are shown."""

    box = "box"
    mask = "mask"


def detect(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PHOTO_OR_FOLDER", show_default=False, help="As for cfcam-gpu explain: photographs, and folders."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            show_default=False,
            help="torchvision:NAME (random weights unless --weights), transformers:FOLDER, what save_pretrained of a "
            "detector and of its image processor wrote, or package.module:factory, a function that returns a torch "
            "module. Nothing is downloaded. Photographs keep their size and have values in [0, 1], unless --size, "
            "--mean and --std say otherwise; those of transformers are prepared by its processor.",
        ),
    ],
    weights: WeightsOption = None,
    classes: ClassesOption = None,
    size: SizeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, metavar="SCORE", help="The least score of an object that is explained.")
    ] = 0.5,
    top: Annotated[
        int, typer.Option(min=1, metavar="N", help="At most so many objects of a photograph, by score.")
    ] = 10,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID_OR_NAME",
            help="Objects of this class alone. May be given several times.",
            show_default="all classes",
        ),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Target layer: a module's dotted name. The maps of several are added.",
            show_default="chosen",
        ),
    ] = None,
    clip: Annotated[
        Clip | None, typer.Option(help="Show a map in its box, or in its instance's mask, alone.", show_default="none")
    ] = None,
    engine: EngineOption = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="For each photograph NAME.png (numbered boxes over all maps), for each object NAME-1.png (overlay) "
            "and NAME-1.npy (map, float32 in [0, 1]), and so on; detections.jsonl has a line for each object.",
            show_default="detections, or where that is there detections-2, ...",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    device: DeviceOption = Device.auto,
) -> None:
    """Find objects in photographs, and show for each of them where its score comes from."""
    from ..named_models import class_file
    from ..results import fonts
    from .job import Job, check
    from .loading import Detector, load

    def loaded() -> Detector:
        names = None if classes is None else class_file.read(classes)
        sides = None if size is None else size_of(size)
        height, width = (None, None) if sides is None else (sides[0], sides[-1])
        return load(
            model,
            weights,
            names,
            size=None if height is None or width is None else (height, width),
            mean=None if mean is None else numbers_of("mean", mean),
            std=None if std is None else numbers_of("std", std),
        )

    job = Job(
        paths=paths,
        out=out or OUT,
        threshold=threshold,
        top=top,
        labels=[int(one) if one.isdigit() else one for one in target or ()],
        clip=None if clip is None else clip.value,
        layers=layer or (),
        engine=engine,
        device=device.value,
        overwrite=overwrite,
        fresh=out is None and not overwrite,
    )
    with terminal.refusing():
        run = check(job, loaded)
    err = terminal.errors()
    err.print(f"objects of {model} on {run.device}, of a score of at least {threshold:g}")
    if not run.detector.trained:
        terminal.warn_of_random_weights(err)
    try:
        with terminal.progress(err) as progress:
            task = progress.add_task("explaining", total=len(run.files))
            run.execute(lambda count: progress.advance(task, count))
    except (OSError, RuntimeError) as error:  # a full disk, a device that is out of order
        terminal.stop(error, err)
    table = Table("photograph", "object", Column("score", justify="right"), box=None, pad_edge=False)
    for record in run.records[:_TABLE]:
        name = terminal.plain(Path(record["file"]).name)
        table.add_row(f"{name} {record['number']}", terminal.plain(record["class"]), f"{record['score']:.1%}")
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if run.records:
        console.print(table)
    more = len(run.records) - _TABLE
    console.print(
        f"{f'and {more} more; ' if more > 0 else ''}{len(run.records)} objects; look at {terminal.plain(run.job.out)}"
    )
    if lacking := fonts.lacking(record["class"] for record in run.records):
        err.print(terminal.plain(fonts.told(lacking)))
    for name, why in run.failed:
        err.print(f"failed: {terminal.plain(name)}: {terminal.plain(why)}", style="red")
    if run.failed:
        raise typer.Exit(1)
