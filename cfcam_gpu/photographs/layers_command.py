"""``cfcam-gpu layers``: torch takes seconds to import, so nothing here imports it before the command runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from . import terminal
from .options import WeightsOption

if TYPE_CHECKING:
    from ..hooks.layers import Candidate


def layers(
    model: Annotated[
        str,
        typer.Argument(
            show_default=False,
            help="lite0, lite1 or lite2, torchvision:NAME, timm:NAME, or package.module:factory, a function that "
            "returns a torch module.",
        ),
    ],
    weights: WeightsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the layers of a model that can be explained, and which are chosen where none is named."""
    import torch

    from ..hooks.layers import candidates
    from . import models

    with terminal.refusing():
        loaded = models.load(model, weights)
        size = loaded.preparation.size
        image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        found = [_record(candidate) for candidate in candidates(loaded.module, image)]
    if as_json:
        print(json.dumps({"model": model, "image": [3, size, size], "layers": found}, indent=2))
        return
    table = Table("", "layer", Column("shape", justify="right"), "layout", box=None, pad_edge=False)
    for record in found:
        shape = " x ".join(map(str, record["shape"]))
        table.add_row("*" if record["chosen"] else "", record["name"], shape, record["layout"])
    out = Console(markup=False, highlight=False, soft_wrap=True)
    out.print(table)
    for record in found:
        if record["chosen"]:
            out.print(f"* {record['name']}: {record['reason']}")


def _record(candidate: Candidate) -> dict[str, Any]:
    layer = candidate.layer
    assert layer.layout is not None
    return {
        "name": layer.name,
        "shape": list(candidate.shape),
        "layout": str(layer.layout),
        "channels": candidate.channels,
        "grid": list(layer.layout.grid),
        "extra_tokens": layer.layout.extras,
        "chosen": candidate.chosen,
        "reason": layer.reason if candidate.chosen else None,
    }
