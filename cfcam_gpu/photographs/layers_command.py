"""``cfcam-gpu layers``: torch takes seconds to import, so nothing here imports it before the command runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from ..named_models import options
from ..named_models.options import (
    ChannelsOption,
    ClassesOption,
    MeanOption,
    Settings,
    SizeOption,
    StdOption,
    WeightsOption,
)
from . import terminal

if TYPE_CHECKING:
    from ..hooks.layers import Candidate


def layers(
    model: Annotated[
        str,
        typer.Argument(
            show_default=False,
            help="lite0, lite1 or lite2, torchvision:NAME, timm:NAME, transformers:FOLDER, or package.module:factory, "
            "a function that returns a torch module.",
        ),
    ],
    weights: WeightsOption = None,
    size: SizeOption = None,
    channels: ChannelsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    classes: ClassesOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the layers of a model that can be explained, and which are chosen where none is named."""
    import torch

    from ..hooks.layers import candidates
    from ..named_models import class_file, loading
    from ..targets.outputs import logits_of

    with terminal.refusing():
        asked = options.input_of(size=size, channels=channels, mean=mean, std=std)
        settings = Settings(model=model, weights=weights, classes=classes, **asked)
        named = loading.names_given(settings)
        loaded = loading.model_of(settings, named)
        wants = loaded.preparation
        shape = [wants.channels, wants.height, wants.width]
        image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
        found = [_record(candidate) for candidate in candidates(loaded.module, image)]
        if named is not None:
            with torch.no_grad():
                class_file.check(named, logits_of(loaded.module(image)).shape[1], classes)
    if as_json:
        print(json.dumps({"model": model, "image": shape, "layers": found}, indent=2))
        return
    table = Table("", "layer", Column("shape", justify="right"), "layout", box=None, pad_edge=False)
    for record in found:
        at = " x ".join(map(str, record["shape"]))
        table.add_row("*" if record["chosen"] else "", record["name"], at, record["layout"])
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
