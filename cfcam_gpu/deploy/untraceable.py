"""What a model does that no graph can hold, told with its module and the line."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv

#: Of the library and of torch, whose own code may look at a batch's size without a decision of the model's.
_OURS = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))
_FIXED = "export it with a fixed batch (batch=N, --batch N)"


def refusal(error: Exception, model: nn.Module, *, any_batch: bool) -> ValueError:
    """What to raise where tracing a model raised `error`."""
    where = _innermost(error, {module: name for name, module in model.named_modules()})
    if isinstance(error, GuardOnDataDependentSymNode):
        reason = "it decides by the values of a tensor, and a graph has one way for all images"
    else:
        reason = f"{type(error).__name__}: {_first_line(error)}"
    out = f"; if it uses the batch's size as a number, {_FIXED}" if any_batch and re.search(r"\bs\d+\b", reason) else ""
    return ValueError(f"model: {where} does what no graph can hold: {reason}{out}")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def _innermost(error: Exception, names: dict[nn.Module, str]) -> str:
    """The module that was running, and its line."""
    found = "the model"
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and module in names and frame.f_code.co_name == "forward":
            name = names[module] or "the model"
            found = f"{name} ({type(module).__name__}, {Path(frame.f_code.co_filename).name}, line {line})"
    return found


def check_batch(environment: ShapeEnv) -> None:
    """Refuse a model that decides by the batch's size, which a graph would do once for all.

    Parameters
    ----------
    environment : ShapeEnv
        That of the tracing, which notes each comparison of the size, the line that makes it among them.

    Raises
    ------
    ValueError
        The message has the comparison and the line.
    """
    for guard in environment.guards:
        place = guard.sloc.framework_loc
        if isinstance(place, traceback.FrameSummary) and not place.filename.startswith(_OURS):
            told = re.sub(r"\bs\d+\b", "B", str(guard.expr))
            raise ValueError(
                f"model: {place.name} ({Path(place.filename).name}, line {place.lineno}) decides by the batch's size, "
                f"{told}, and a graph has one way for all sizes; {_FIXED}"
            )
