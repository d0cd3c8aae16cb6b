"""``cfcam-gpu slide``: torch takes seconds to import, so nothing here imports it before the command runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskID

from ..named_models.options import (
    AugmentOption,
    Device,
    DeviceOption,
    EngineOption,
    LayerAsExplained,
    LibragradOption,
    MethodOption,
    ModelAsExplained,
    Preset,
    PresetOption,
    RayAddressOption,
    RayOption,
    Settings,
    SmoothOption,
    WeightsAsExplained,
)
from ..photographs import terminal
from ..pipelines.command import default_workers
from .scale import UNIT

#: What a magnification of 20 has, on which most networks of slides are trained.
_MPP = 0.5


class Pyramid(StrEnum):
    """Kinds of files of the maps."""

    ome_tiff = "ome-tiff"
    ome_zarr = "ome-zarr"


def slide(
    slides: Annotated[
        list[Path],
        typer.Argument(
            metavar="SLIDE...",
            show_default=False,
            help="Whole slides: tiled TIFF, OME-TIFF, Aperio .svs and what else OpenSlide reads. One that can't be "
            "read costs no other anything.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="For each slide a folder DIR/NAME: map-CLASS.ome.tif, a pyramid; tiles.parquet, a row for each tile; "
            "strongest/, the ten strongest tiles; page.html, all of it to be looked at; summary.json. A run that was "
            "stopped there is continued.",
        ),
    ],
    model: ModelAsExplained = "lite0",
    weights: WeightsAsExplained = None,
    layer: LayerAsExplained = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="ID_OR_NAME",
            help="Class to explain, by index or name; given several times, each has a map of its own.",
            show_default="the one that the model predicts most often on the slide's tissue",
        ),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(metavar="MICROMETRES", help="Of a pixel of the tiles.", show_default="0.5, a magnification of 20"),
    ] = None,
    magnification: Annotated[
        float | None,
        typer.Option(metavar="X", help="The same as a magnification: 20 is --mpp 0.5.", show_default="--mpp"),
    ] = None,
    slide_mpp: Annotated[
        float | None,
        typer.Option(
            metavar="MICROMETRES",
            help="Of a pixel of the slide at its finest, where its file does not say, or is wrong.",
            show_default="the file's own",
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=16,
            metavar="N",
            help="Pixels along the side of a tile; another size than the model's input is brought to it.",
            show_default="the model's input, 224 of most",
        ),
    ] = None,
    overlap: Annotated[
        float, typer.Option(min=0.0, max=0.95, help="Share of a tile's side that the next one sees, too.")
    ] = 0.5,
    pyramid: Annotated[Pyramid, typer.Option("--format", help="Of the maps.")] = Pyramid.ome_tiff,
    engine: EngineOption = "auto",
    method: MethodOption = "cfcam",
    preset: PresetOption = Preset.default,
    augment: AugmentOption = None,
    smooth: SmoothOption = 0,
    libragrad: LibragradOption = None,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Tiles in one forward.")] = 32,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Processes that read tiles.", show_default="half of the cores, up to 16"),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Drop what a job left in the slides' folders, and begin anew.")
    ] = False,
    device: DeviceOption = Device.auto,
    on_ray: RayOption = False,
    ray_address: RayAddressOption = None,
) -> None:
    """Explain whole slides: evidence as one pyramid for each class, a table of tiles, and a page to look at it all."""
    from . import job

    err = terminal.errors()
    with terminal.refusing():
        ready = job.check(
            job.Job(
                slides=slides,
                out=out,
                settings=Settings.given(
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
                ),
                classes=classes or (),
                mpp=_mpp(mpp, magnification),
                slide_mpp=slide_mpp,
                tile=tile,
                overlap=overlap,
                batch_size=batch_size,
                workers=max(1, default_workers()) if workers is None else workers,
                kind=pyramid.value,
                restart=restart,
                ray=(ray_address or "") if on_ray or ray_address else None,
            )
        )
    err.print(ready.description)
    if not ready.trained:
        terminal.warn_of_random_weights(err, exported=ready.job.settings.file is not None)
    bad = 0
    with terminal.stoppable():
        try:
            with terminal.progress(err) as bars:
                tasks: dict[int, TaskID] = {}

                def progress(number: int, done: int, total: int) -> None:
                    if number not in tasks:
                        tasks[number] = bars.add_task(terminal.plain(slides[number].name), total=total)
                    bars.update(tasks[number], completed=done)

                for outcome in ready.execute(progress):
                    bad += outcome.error is not None or outcome.failed > 0
                    name = terminal.plain(outcome.slide)
                    if outcome.error is not None:
                        err.print(f"failed: {name}: {terminal.plain(outcome.error)}", style="red")
                        continue
                    if outcome.before:
                        err.print(f"{name}: {outcome.before:,} tiles were done before")
                    if outcome.failed:
                        err.print(f"{name}: {outcome.failed:,} tiles have no map: see tiles.parquet", style="red")
                    names = ", ".join(terminal.plain(label) for label in outcome.names)
                    print(f"{name}: {outcome.tiles:,} tiles, {names}: {terminal.plain(outcome.folder)}")
        except KeyboardInterrupt as stop:
            terminal.leave(stop, err)
        except terminal.REFUSALS as error:
            terminal.stop(error, err)
    if bad:
        err.print(f"{bad:,} of {len(slides):,} slides failed, or have tiles that did", style="red")
        raise typer.Exit(1)


def _mpp(mpp: float | None, magnification: float | None) -> float:
    """Micrometres of a pixel of the tiles, by whichever says it."""
    if magnification is None:
        return _MPP if mpp is None else mpp
    if mpp is not None:
        raise ValueError("magnification: expected it without --mpp, as it says the same")
    if not magnification > 0:
        raise ValueError(f"magnification: expected a number above 0; got {magnification}")
    return UNIT / magnification
