"""``cfcam-gpu bench``: torch takes seconds to import, so nothing here imports it before the command runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from ..named_models import options
from ..named_models.options import ChannelsOption, ClassesOption, MeanOption, SizeOption, StdOption, WeightsAsExplained
from ..photographs import terminal
from . import measures

if TYPE_CHECKING:
    from .table import Row

#: Failures that are told on the terminal; all of them are in the Parquet file.
SHOWN = 8
#: Columns that the tables take.
WIDTH = 110


#: The command that is meant where ``cfcam-gpu bench`` is given none: its first argument is a suite.
SUITE = "SUITE"


class Benches(TyperGroup):
    """The commands of ``cfcam-gpu bench``, of which :data:`SUITE` needs no name.

    A context is Any: typer took click's until it brought its own.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the command in front where none is."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [SUITE, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """The command, with no name of its own in its usage where it needs none."""
        name, command, rest = super().resolve_command(ctx, args)
        return None if name == SUITE else name, command, rest


class Suite(StrEnum):
    """What is asked of a map."""

    faithfulness = "faithfulness"
    localisation = "localisation"
    robustness = "robustness"
    sanity = "sanity"


def bench(
    suite: Annotated[
        Suite,
        typer.Argument(
            show_default=False,
            help="faithfulness: does the map show what the model looks at? localisation: does it lie on the object? "
            "robustness: does it stay when gradients or pixels change a little? sanity: does it change when the model "
            "forgets what it learned, and with the class that is asked about?",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="A folder with manifest.csv (columns file, mask, class_index) and maybe mosaics.csv (columns grid, "
            "files_row_major); or one with a sub-folder of images for each class, called by its index or its name. "
            "docs/metrics.md says which masks are taken.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="lite0, lite1 or lite2, or package.module:factory. torchvision:NAME and timm:NAME have random weights "
            "unless --weights."
        ),
    ] = "lite0",
    weights: WeightsAsExplained = None,
    size: SizeOption = None,
    channels: ChannelsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    classes: ClassesOption = None,
    methods: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="What cfcam-gpu methods lists, layercam-fine and gradcam*layercam-fine; of models with tokens also "
            "METHOD+libragrad, and cfcam+plain where cfcam has LibraGrad's gradients by default.",
            show_default="all that take one forward and backward",
        ),
    ] = "",
    reference: Annotated[
        str, typer.Option(metavar="METHOD", help="What the others are compared to, image by image.")
    ] = "gradcam",
    metrics: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help=f"Names, and in brackets those of the results: {measures.told()}. Those of localisation are of images "
            "with masks, grid2 and grid3 of mosaics.",
            show_default=f"those that DIR has images for, without {', '.join(sorted(measures.ON_REQUEST))}",
        ),
    ] = "",
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="For SUITE-MODEL.parquet, every measurement, and SUITE-MODEL.json, the table and how it was made.",
        ),
    ] = Path("evaluation"),
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="At most N images, and N mosaics of each side, spread over DIR.",
            show_default="all",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all noise, and of the bootstrap.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Images explained in one forward.")] = 8,
    step: Annotated[
        int, typer.Option(min=1, metavar="N", help="Pixels changed between two forwards of insertion and deletion.")
    ] = 224,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results of the same names.")] = False,
) -> None:
    """Measure CF-CAM beside the CAMs of the field: means, and paired differences, with 95% intervals."""
    from ..image_files import photos
    from . import evaluate, table

    with terminal.refusing():
        asked = options.input_of(size=size, channels=channels, mean=mean, std=std)
    job = evaluate.Job(
        suite=suite.value,
        data=data,
        out=out,
        model=model,
        weights=weights,
        classes=classes,
        **asked,
        methods=_names(methods),
        reference=reference,
        metrics=_names(metrics),
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        step=step,
        overwrite=overwrite,
    )
    with terminal.refusing():
        run = evaluate.check(job)
    err = terminal.errors()
    err.print(f"{suite.value} of {model} on {run.device}: {', '.join(c.name for c in run.candidates)}")
    for candidate in run.candidates:
        err.print(f"  {candidate.name}: {' and '.join(candidate.layers)}")
    for line in run.model.notes:
        err.print(terminal.plain(line))
    if run.passed_over:
        err.print(terminal.plain(photos.told(run.passed_over)))
    if not run.model.trained:
        err.print(
            "WARNING: the weights are random, so these numbers mean nothing; give --weights FILE", style="bold red"
        )
    fault: RuntimeError | None = None
    try:
        with terminal.progress(err) as progress:
            task = progress.add_task("measuring", total=run.steps)
            run.execute(lambda count: progress.advance(task, count))
    except RuntimeError as error:  # the device is out of order: what was measured before is written all the same
        fault = error
    try:
        summaries = evaluate.write(run, run.rows) if run.rows else []
    except OSError as error:  # a full disk
        terminal.stop(error, err)
    if fault is not None:
        terminal.stop(fault, err)
    told = Console(markup=False, highlight=False)
    # What a file or a narrow terminal wraps can be read; what is cut off can't.
    told.width = max(told.width, WIDTH)
    told.print(*table.draw(summaries, reference), sep="\n\n")
    _tell_failures(run.rows, err)


def _tell_failures(rows: list[Row], err: Console) -> None:
    failed = [row for row in rows if row.error is not None]
    for row in failed[:SHOWN]:
        err.print(f"failed: {row.method}, {row.metric}, {row.image}: {row.error}", style="red")
    if failed:
        err.print(f"{len(failed)} of {len(rows)} measurements failed", style="red")
        raise typer.Exit(1)


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",") if name.strip()]
