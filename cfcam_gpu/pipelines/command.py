"""``cfcam-gpu run``: torch takes seconds to import, so nothing here imports it before the command runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..named_models.options import (
    AugmentOption,
    ChannelsOption,
    ClassesOption,
    Device,
    DeviceOption,
    EngineOption,
    LayerAsExplained,
    LibragradOption,
    MeanOption,
    MethodOption,
    ModelAsExplained,
    Preset,
    PresetOption,
    RayAddressOption,
    RayOption,
    Settings,
    SizeOption,
    SmoothOption,
    SpatialDimsOption,
    StdOption,
    WeightsAsExplained,
    WindowOption,
)
from ..photographs import terminal
from ..photographs.dicom_options import MarkOption

if TYPE_CHECKING:
    from .bulk import Summary

#: Seconds between lines of progress where there is no terminal.
EVERY = 10.0
#: Failures that are named; all of them are in the manifest.
NAMED = 20


class Dtype(StrEnum):
    """Of the maps."""

    float16 = "float16"
    float32 = "float32"


class Picture(StrEnum):
    """Kinds of overlays."""

    jpg = "jpg"
    png = "png"


def run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            show_default=False,
            help="A folder, searched as cfcam-gpu explain does; a .txt with a file a line; a .csv, .tsv or .jsonl with "
            "the columns file and, if any, target; a .tar, packed or not, of images or a WebDataset; a .parquet or "
            ".arrow with images, or a folder that datasets saved; a pattern of them, 'shard-{000..123}.tar' or "
            "'photos/**/*.jpg'; an address, s3:// or https://, by fsspec. Files of a list are relative to its folder. "
            "With --spatial-dims 3: a folder, one file or a table of NIfTI and DICOM.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="For maps.zarr (an array of N x H x W, of volumes N x D x H x W, NaN where an image failed), "
            "manifest.parquet (a row for each image, in the order of SOURCE) and overlays/. A run that was stopped "
            "there is continued.",
        ),
    ],
    model: ModelAsExplained = "lite0",
    weights: WeightsAsExplained = None,
    layer: LayerAsExplained = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="ID_OR_NAME",
            help="Class to explain of every image, by index or name; predicted for each image's predicted class.",
            show_default="SOURCE's own where it has one (column target, .cls), else predicted",
        ),
    ] = None,
    image_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of a table: the column of the files, or of the images' bytes.",
            show_default="file, file_name or image",
        ),
    ] = None,
    target_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of a table: the column of the classes to explain.", show_default="target"),
    ] = None,
    engine: EngineOption = "auto",
    method: MethodOption = "cfcam",
    preset: PresetOption = Preset.default,
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
    dicom: Annotated[
        bool,
        typer.Option(
            "--dicom", help="Of DICOM, write the maps as Parametric Maps, too, when all are done: DIR/dicom/."
        ),
    ] = False,
    mark: MarkOption = True,
    components: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help="Name the K strongest groups of channels of each image, and their shares, in the manifest.",
            show_default="none",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Images in one forward.")] = 32,
    shard_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Images that are written at once, a multiple of the batch size; what a kill may cost.",
            show_default="256, or the next multiple",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Processes that read images.",
            show_default="half of the cores, up to 16; none on two cores",
        ),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of the maps.")] = Dtype.float16,
    overlays: Annotated[
        Picture | None, typer.Option(help="Write the maps over their images, too.", show_default="none")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Drop what a job left in DIR, and begin anew.")] = False,
    append: Annotated[
        bool,
        typer.Option("--append", help="Explain what is new in SOURCE, too, behind what a finished run left in DIR."),
    ] = False,
    device: DeviceOption = Device.auto,
    on_ray: RayOption = False,
    ray_address: RayAddressOption = None,
) -> None:
    """Explain a whole data set: maps as one Zarr array, a Parquet manifest. A killed run continues where it was."""
    from . import job

    err = terminal.errors()
    with terminal.refusing():
        asked = job.Job(
            source=source,
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
                window=window,
                spatial_dims=spatial_dims,
                size=size,
                channels=channels,
                mean=mean,
                std=std,
                classes=classes,
            ),
            target=target,
            batch_size=batch_size,
            shard_size=shard_size,
            workers=default_workers() if workers is None else workers,
            dtype=dtype.value,
            overlays=None if overlays is None else overlays.value,
            components=components,
            restart=restart,
            append=append,
            ray=(ray_address or "") if on_ray or ray_address else None,
            image_column=image_column,
            target_column=target_column,
            dicom=dicom,
            mark=mark,
        )
        ready = job.check(asked)
    err.print(ready.description)
    if not ready.trained:
        terminal.warn_of_random_weights(err, exported=asked.settings.file is not None)
    began = False
    with terminal.stoppable():
        try:
            with _progress(err) as show:

                def progress(done: int, total: int | None) -> None:
                    nonlocal began
                    began = True
                    show(done, total)

                summary = ready.execute(progress)
            written = ready.write_dicom() if dicom else None
        except (OSError, TypeError, ValueError, RuntimeError, KeyboardInterrupt) as error:
            # The folder is looked at before any image is.
            if not began and isinstance(error, Exception):
                terminal.refuse(error)
            terminal.leave(error, err)
    _report(summary, err)
    if written is not None:
        from .store import DICOM

        print(f"{written.maps:,} Parametric Maps in {terminal.plain(summary.folder / DICOM)}")
        for name, why in written.failed[:NAMED]:
            err.print(f"not written as DICOM: {terminal.plain(name)}: {terminal.plain(why)}", style="red")
    if summary.failed or (written is not None and written.failed):
        raise typer.Exit(1)


def default_workers() -> int:
    """Processes that read images where nobody says how many."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # On two cores one that reads beside a model's threads costs more than reading between the batches.
    return min(16, cores // 2) if cores > 2 else 0


@contextmanager
def _progress(err: Console) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal, a line now and then elsewhere."""
    if not err.is_terminal:
        yield _Lines(err)
        return
    columns = (TextColumn("explaining"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=err, redirect_stdout=False, speed_estimate_period=300) as bar:
        tasks: list[TaskID] = []

        def show(done: int, total: int | None) -> None:
            if not tasks:
                tasks.append(bar.add_task("", total=total, completed=done))
            bar.update(tasks[0], completed=done)

        yield show


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Images a second."""
        return Text("" if task.speed is None else f"{task.speed:,.1f} images/s")


class _Lines:
    """How far a job is, how fast this run of it, and how long it takes still; at most every so many seconds."""

    def __init__(self, err: Console) -> None:
        self._err = err
        self._first: int | None = None
        self._began = self._said = 0.0

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self._began = done, now
        elif now - self._said < EVERY and done != total:
            return
        self._said = now
        text = f"{done:,} images" if total is None else f"{done:,} of {total:,} images"
        if done > self._first:
            rate = (done - self._first) / (now - self._began)
            text += f", {rate:,.1f} images/s"
            if total is not None and done < total:
                text += f", {timedelta(seconds=round((total - done) / rate))} left"
        self._err.print(text)


def _report(summary: Summary, err: Console) -> None:
    from .manifest import MANIFEST, failures, paged
    from .store import MAPS

    folder = summary.folder
    print(f"{summary.images:,} images in {terminal.plain(folder / MAPS)} and {terminal.plain(folder / MANIFEST)}")
    if several := paged(folder):
        err.print(f"{several:,} images are the first page or frame of several in their file: see the column pages")
    if summary.failed:
        for source, reason in failures(folder, NAMED):
            err.print(f"failed: {terminal.plain(source)}: {terminal.plain(reason)}", style="red")
        more = f"; all of them are in {terminal.plain(folder / MANIFEST)}" if summary.failed > NAMED else ""
        err.print(f"{summary.failed:,} of {summary.images:,} images failed{more}", style="red")
