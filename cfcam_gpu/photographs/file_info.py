"""What ``cfcam-gpu info FILE`` tells of an exported file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from ..deploy import loading
from ..deploy.description import Description
from ..named_models import exported
from . import terminal

#: Class names that are shown; ``--json`` has all of them.
NAMES = 5


def tell(file: Path, *, as_json: bool) -> None:
    """Print what a file says of itself, and whether its graph is the one that was exported.

    Raises
    ------
    typer.Exit
        If it is no exported file, or its graph is another.
    """
    with terminal.refusing():
        said = loading.describe(file)
        same = _is_the_exported(file, said)
    if as_json:
        print(json.dumps({**asdict(said), "unchanged": same}, indent=2))
    else:
        table = Table.grid(padding=(0, 2))
        for name, value in _rows(said):
            table.add_row(name, terminal.plain(value))
        states = {True: "the exported one", False: "ANOTHER than was exported", None: "not compared: onnx is missing"}
        if said.opset is not None:
            table.add_row("graph", states[same])
        Console(markup=False, highlight=False, soft_wrap=True).print(table)
    if same is False:
        terminal.errors().print(
            f"{terminal.plain(file)}: its graph is not the one that was exported and checked: something has changed it",
            style="red",
        )
        raise typer.Exit(1)


def _is_the_exported(file: Path, said: Description) -> bool | None:
    """Whether a graph is the one that was exported; None where that can't be told."""
    if said.opset is None or find_spec("onnx") is None:
        return None
    import onnx

    from ..deploy import onnx_file

    return onnx_file.graph_sha256(onnx.load(file, load_external_data=False)) == said.graph_sha256


def _rows(said: Description) -> Iterator[tuple[str, str]]:
    """What is told of a file, line by line."""
    yield "model", f"{said.model or 'without a name'}{'' if said.trained else ', of random weights'}"
    preset = exported.preset(said.config)
    form = "a configuration of its own" if preset is None else f"{preset} preset"
    yield "method", f"{said.method}, {form}{', by gradients of LibraGrad' if said.libragrad else ''}"
    for layer in said.layers:
        shape = " x ".join(map(str, layer.shape))
        yield "layer", f"{layer.name}, {shape} ({layer.layout}): {layer.reason}"
    batch = "B" if said.batch is None else str(said.batch)
    yield "images", f"({', '.join([batch, *map(str, said.images)])}) float32"
    yield "target", _target(said, batch)
    several = "" if said.classes is None else f"{said.classes}, "
    yield "maps", f"({batch}, {several}{', '.join(map(str, said.size))}) float32"
    names = said.class_names
    if names is None:
        yield "classes", f"{said.logits[0]}, without names"
    else:
        yield "classes", f"{len(names)}: {', '.join(names[:NAMES])}{', ...' if len(names) > NAMES else ''}"
    if said.preparation is None:
        yield "photographs", "it does not say how they become images"
    else:
        yield "photographs", ", ".join(f"{key} {_plain(value)}" for key, value in said.preparation.items())
    opset = "" if said.opset is None else f", opset {said.opset}"
    yield "runtime", f"{said.runtime}{opset}"
    yield "exported by", f"cfcam-gpu {said.library}, torch {said.torch}"
    yield "check", str(said.check)
    yield "weights", f"SHA-256 {said.weights_sha256}"


def _target(said: Description, batch: str) -> str:
    """What is explained."""
    if said.segment is not None:
        return f"class {said.segment} of the segmentation, where it is predicted"
    if said.target == "predicted":
        return "the predicted class"
    shape = batch if said.classes is None else f"{batch}, {said.classes}"
    return f"an input ({shape}) int64; negative is the predicted class"


def _plain(value: object) -> str:
    return " ".join(f"{each:g}" for each in value) if isinstance(value, (tuple, list)) else str(value)
