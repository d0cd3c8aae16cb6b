"""Files of weights: read without running code, and loaded where they fit a model exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn


def read(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file, alone or under one of the usual names.

    Raises
    ------
    ValueError
        If there is none.
    """
    safe = path.suffix == ".safetensors"
    try:
        found: Any = (
            safetensors.torch.load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a file that is something else makes the readers raise anything
        reader = "safetensors" if safe else "torch.load(weights_only=True)"
        writer = "safetensors.torch.save_file" if safe else "torch.save(model.state_dict(), FILE)"
        raise ValueError(
            f"weights: {path} can't be read by {reader} ({type(error).__name__}): expected a file of tensors and "
            f"nothing else, such as {writer} writes"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        seen = f" with {_some([repr(key) for key in found])}" if isinstance(found, dict) else ""
        raise ValueError(
            f"weights: expected a state dict, names to tensors, in {path}, alone or under 'state_dict', "
            f"'model_state_dict' or 'model'; got {type(found).__name__}{seen}"
        )
    return found


def fill(module: nn.Module, state: dict[str, torch.Tensor], path: Path, spec: str) -> None:
    """Give a module its weights; `path` and `spec`, what the model was asked for by, are for the error.

    Raises
    ------
    ValueError
        If they don't fit exactly.
    """
    wanted = module.state_dict()
    # DataParallel saves its module's parameters under "module.".
    state = {key if key in wanted else key.removeprefix("module."): value for key, value in state.items()}
    differences = {
        "missing": [key for key in wanted if key not in state],
        "unknown": [key for key in state if key not in wanted],
        "of another shape": [
            f"{key} {tuple(value.shape)} instead of {tuple(wanted[key].shape)}"
            for key, value in state.items()
            if key in wanted and value.shape != wanted[key].shape
        ],
    }
    if any(differences.values()):
        said = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in differences.items() if keys]
        raise ValueError(f"weights: {path} does not fit {spec}: {', '.join(said)}")
    module.load_state_dict(state)


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")
