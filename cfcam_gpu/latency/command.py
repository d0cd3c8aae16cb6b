"""``cfcam-gpu bench latency``: torch takes seconds to import, so nothing here imports it before the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..named_models.options import (
    ChannelsOption,
    ClassesOption,
    Device,
    DeviceOption,
    EngineOption,
    MeanOption,
    Preset,
    Settings,
    SizeOption,
    StdOption,
    WeightsAsExplained,
)
from ..photographs import terminal

#: Columns that the tables take.
WIDTH = 120


def latency(
    model: Annotated[
        str,
        typer.Option(
            help="lite0, lite1 or lite2, or package.module:factory. torchvision:NAME and timm:NAME have random weights "
            "unless --weights; times and memory are the same."
        ),
    ] = "lite0",
    weights: WeightsAsExplained = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Target layer of CF-CAM, as for cfcam-gpu explain; given twice, the finer one first. The other "
            "methods and libraries get the last.",
            show_default="chosen, and told",
        ),
    ] = None,
    size: SizeOption = None,
    channels: ChannelsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    classes: ClassesOption = None,
    batch_size: Annotated[str, typer.Option(metavar="N,M,...", help="Images in one forward.")] = "1,8",
    methods: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="Of what cfcam-gpu methods lists, measured beside CF-CAM of two levels and of one.",
            show_default="none",
        ),
    ] = "",
    device: DeviceOption = Device.auto,
    engine: EngineOption = "auto",
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Each round runs every candidate once.")] = 30,
    seconds: Annotated[
        float,
        typer.Option(
            min=1,
            metavar="S",
            help="For all rounds of a batch size. What would take more than its share is in fewer rounds, in three at "
            "least.",
        ),
    ] = 60.0,
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="For latency-MODEL.json, every figure, and latency-MODEL.png, the plot."),
    ] = Path("latency"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results of the same names.")] = False,
) -> None:
    """Measure what an explanation costs: time and memory beside the bare forward, other methods and libraries."""
    with terminal.refusing():
        sizes = _numbers(batch_size)
        from . import machine, measure, record, timing

        job = measure.Job(
            settings=Settings.given(
                model,
                weights,
                layer,
                engine,
                Preset.default,
                device,
                size=size,
                channels=channels,
                mean=mean,
                std=std,
                classes=classes,
            ),
            out=out,
            batch_sizes=sizes,
            methods=tuple(name.strip() for name in methods.split(",") if name.strip()),
            rounds=rounds,
            seconds=seconds,
            overwrite=overwrite,
        )
        run = measure.check_job(job)
    err = terminal.errors()
    where = machine.machine()
    err.print(
        f"{model} on {run.loaded.device}, engine {run.loaded.engine}: {where['cpu']}, {where['cores']} cores, "
        f"{where['torch_threads']} threads of torch"
    )
    for one in run.loaded.layers:
        err.print(f"  {one.name}: {one.reason}")
    if not run.loaded.model.trained:
        err.print("the weights are random, which changes neither times nor memory")
    timing.keep_freed_memory()
    try:
        found = record.record(run, run.execute(lambda line: err.print(terminal.plain(line))))
        if found["batches"]:
            record.write(run, found)
    except (OSError, RuntimeError) as error:  # a full disk, a device that is out of order
        terminal.stop(error, err)
    if not found["batches"]:
        terminal.stop(RuntimeError("nothing was measured; try a smaller --batch-size"), err)
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, WIDTH)
    console.print(f"of {found['images']}")
    console.print(*record.tables(found), sep="\n")
    first = found["first_call"]
    console.print(
        f"the first call of a new explainer takes {first['ratio']['median']:.2f} times a later one "
        f"({first['first_ms']['median']:.1f} ms at batch 1)"
    )
    for path in measure.outputs(job):
        console.print(f"written: {terminal.plain(path)}")
    failed = record.failed(found)
    for line in failed:
        err.print(line, style="red")
    if failed:
        raise typer.Exit(1)


def _numbers(given: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in given.split(",") if part.strip())
    except ValueError:
        raise ValueError(
            f"batch_size: expected whole numbers with commas between, such as 1,8; got {given!r}"
        ) from None
