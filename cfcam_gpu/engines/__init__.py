"""The engines, which compute CF-CAM from activations and gradients: ``cpu``, ``rapids`` and ``fused``.

An engine takes torch tensors and returns torch tensors on the same device.
"""

from __future__ import annotations

import importlib
from typing import NamedTuple, Protocol, cast

import torch

from ..core.config import Config

__all__ = ["ENGINES", "Engine", "EngineResult", "choose", "resolve"]

#: The names of all engines.
ENGINES = ("cpu", "rapids", "fused")


#: Engines that this machine was found to have. What is missing is looked for again: it may have been installed.
_available: dict[str, Engine] = {}


class EngineResult(NamedTuple):
    """What an engine computes for B images and T targets each, on the device of its input.

    ``raw_maps`` (B, T, *spatial) float32; ``labels`` (B, T, C) int64; ``weights`` (B, T, C) float32; ``eps`` (B, T)
    float64.
    """

    raw_maps: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    eps: torch.Tensor


class Engine(Protocol):
    """An engine is a module with these two functions."""

    def run(self, activations: torch.Tensor, gradients: torch.Tensor, config: Config) -> EngineResult:
        """CF-CAM of ``activations`` (B, C, *spatial), ``gradients`` (B, T, C, *spatial), any floating dtype, finite."""
        ...

    def why_missing(self) -> str | None:
        """None where this machine has the engine, else the reason and the remedy in one sentence."""
        ...


class CheckedEngine(Engine, Protocol):
    """One whose work the host only starts, and which finds on its way what is not finite."""

    def run_checked(
        self, activations: torch.Tensor, gradients: torch.Tensor, config: Config
    ) -> tuple[EngineResult, torch.Tensor]:
        """As ``run``, of any values, and (B, 2) bool: whether an image's activations, and its gradients, are finite.

        In float32. Of an image that is not, the result means nothing.
        """
        ...


def load(name: str) -> Engine:
    """The engine module called `name`, imported at first use."""
    return cast(Engine, importlib.import_module(f".{name}", __name__))


def choose(name: str, device: torch.device, spatial_dims: int = 2) -> Engine:
    """The engine to use for tensors on `device`.

    Parameters
    ----------
    name : {"auto", "cpu", "rapids", "fused"}
        ``"auto"`` is ``cpu`` for tensors on the host and ``rapids`` for tensors on a CUDA device.
    device : torch.device
        Where the activations are.
    spatial_dims : int
        How many axes a map has: of a volume 3, of a signal 1.

    Returns
    -------
    Engine

    Raises
    ------
    ValueError
        If there is no such engine, or it can't take tensors on `device`, or maps of so many axes.
    RuntimeError
        If this machine lacks the engine; the message says what to do.
    """
    name = resolve(name, device)
    if name == "fused" and spatial_dims != 2:
        raise ValueError(f"engine: 'fused' takes maps of 2 axes; got {spatial_dims}; use engine='rapids' or 'cpu'")
    if name != "cpu" and device.type != "cuda":
        raise ValueError(
            f"engine: '{name}' works on CUDA tensors; got tensors on '{device}'. Move model and images to the GPU, "
            "or use engine='cpu'"
        )
    engine = load(name)
    if _available.get(name) is not engine:
        reason = engine.why_missing()
        if reason is not None:
            raise RuntimeError(f"engine: '{name}' is not available here: {reason}")
        _available[name] = engine
    return engine


def resolve(name: str, device: torch.device) -> str:
    """The name of the engine that `name` means for tensors on `device`: what ``"auto"`` stands for, or `name` itself.

    Raises
    ------
    ValueError
        If there is no such engine.
    """
    check_name(name)
    if name != "auto":
        return name
    return "rapids" if device.type == "cuda" else "cpu"


def check_name(name: str) -> None:
    """Refuse a name that is no engine.

    Raises
    ------
    ValueError
        The message names the engines.
    """
    if name not in ("auto", *ENGINES):
        raise ValueError(f"engine: expected one of auto, {', '.join(ENGINES)}; got {name!r}")
