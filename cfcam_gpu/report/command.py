"""``cfcam-gpu report``: torch takes seconds to import, so nothing here imports it before the command runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS",
            show_default=False,
            help="Summaries that cfcam-gpu bench wrote (SUITE-MODEL.json), latency records (*-latency.json), and "
            "folders of them. The models that they name are loaded for the gallery.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page, whole in one file.")] = Path("report.html"),
    gallery: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PHOTO_OR_FOLDER",
            help="Photographs for the gallery; may be given more than once. They will be in the page.",
            show_default="those of cfcam-gpu demo",
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="At the head of the page.")] = "Class activation maps, measured",
    trust_models: Annotated[
        bool,
        typer.Option(
            "--trust-models", help="Load models that RESULTS name as package.module:factory, which runs their code."
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
) -> None:
    """Show results on one HTML page: photographs beside the maps of all methods, tables, and plots."""
    from . import page

    job = page.Job(
        results=results, out=out, photographs=gallery or (), title=title, trust_models=trust_models, overwrite=overwrite
    )
    try:
        found = page.check(job)
    except (OSError, ImportError, TypeError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    err = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    columns = (TextColumn("explaining"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=err, redirect_stdout=False, disable=not err.is_terminal) as progress:
            task = progress.add_task("", total=found.steps)
            failed = found.write(lambda count: progress.advance(task, count))
    except (OSError, RuntimeError) as error:
        err.print(f"error: {error}", style="red")
        raise typer.Exit(1) from None
    print(f"look at {out}")
    for line in failed:
        err.print(f"failed: {line}", style="red")
    if failed:
        raise typer.Exit(1)
