"""``cfcam-gpu report``: torch takes seconds to import, so nothing here imports it before the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..photographs import terminal


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
    err = terminal.errors()
    with terminal.refusing(), terminal.progress(err) as progress:
        task = progress.add_task("loading models", total=None, visible=False)
        sound = page.check(job, lambda done, total: progress.update(task, completed=done, total=total, visible=True))
    try:
        with terminal.progress(err) as progress:
            task = progress.add_task("drawing maps", total=sound.steps)
            failed = sound.write(lambda count: progress.advance(task, count))
    except (OSError, RuntimeError) as error:
        terminal.stop(error, err)
    print(f"look at {out}")
    for line in failed:
        err.print(f"failed: {line}", style="red")
    if failed:
        raise typer.Exit(1)
