"""The command line, ``cfcam-gpu``: each command explains, lists, measures or serves something.

torch takes seconds to import, so nothing here imports it before a command runs.
"""

from __future__ import annotations

import json
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from ._version import __version__
from .detection.command import detect
from .evaluation.command import SUITE, Benches, bench
from .latency.command import latency
from .photographs.explain_command import demo, explain
from .photographs.export_command import export
from .photographs.layers_command import layers
from .photographs.usage import Commands
from .pipelines.command import run as run_pipeline
from .report.command import report
from .service.command import serve
from .slides.command import slide

app = typer.Typer(
    name="cfcam-gpu",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="CF-CAM: which places of a photograph a model reads as evidence for a class.",
)

app.command(
    epilog="Exit status: 0 all explained; 1 some photographs failed, each named with the reason; 2 bad usage, found "
    "before any work."
)(explain)


@app.command()
def methods() -> None:
    """List the methods: what each is called, where it is defined, and what it costs beyond one forward."""
    from .methods import METHODS

    columns = (Column("name", no_wrap=True), "method", Column("paper", overflow="fold"), "beyond one forward")
    table = Table(*columns, box=None, pad_edge=False)
    for name, method in METHODS.items():
        table.add_row(name, method.title, method.paper, method.cost)
    Console(markup=False, highlight=False, soft_wrap=True).print(table)


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


app.command()(demo)
app.command(
    epilog="Exit status: 0 all explained; 1 some photographs failed, each named with the reason; 2 bad usage, found "
    "before any work."
)(detect)
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
    from .image_files.reading import quiet

    quiet()
    # A file's name that the terminal can't show must not end a run.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    app()
