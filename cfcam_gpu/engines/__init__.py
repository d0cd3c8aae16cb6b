"""The engines, which compute CF-CAM from activations and gradients: ``cpu``, ``rapids``, ``fused``, ``reference``.

An engine takes torch tensors and returns torch tensors on the same device.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple, Protocol, cast

import torch

from ..core.config import Config
from . import self_check

__all__ = ["ENGINES", "Engine", "EngineResult", "choose", "resolve"]

_log = logging.getLogger(__name__)

#: The names of all engines.
ENGINES = ("cpu", "rapids", "fused", "reference")

_ON_CUDA = ("rapids", "fused")

#: Engines that this machine was found to have.
_available: dict[str, Engine] = {}
#: Why it lacks the others. Who names one has it looked for again: it may have been installed. "auto" does not look
#: twice: a library that fails to be imported takes its time.
_missing: dict[str, str] = {}
#: What the check of the fused engine found, by the number of a GPU.
_checked: dict[int, str | None] = {}
_checking = Lock()
#: What was logged.
_told: set[tuple[str, str, str]] = set()


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

    def why_not(self, config: Config, shape: Sequence[int]) -> str | None:
        """What of a configuration, or of the gradients' shape, it does not cover, or None."""
        ...

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


def choose(
    name: str,
    device: torch.device,
    *,
    config: Config | None = None,
    shape: Sequence[int] | None = None,
) -> Engine:
    """The engine to use for tensors on `device`.

    Parameters
    ----------
    name : {"auto", "cpu", "rapids", "fused", "reference"}
        What ``"auto"`` stands for, :func:`resolve` tells.
    device : torch.device
        Where the activations are.
    config : Config, optional
        What is to be computed, where that is known.
    shape : sequence of int, optional
        (B, T, C, *spatial), of the gradients, where they are known.

    Returns
    -------
    Engine

    Raises
    ------
    ValueError
        If there is no such engine, or it can't take tensors on `device`.
    RuntimeError
        If this machine lacks the engine; the message says what to do.
    """
    name = resolve(name, device, config=config, shape=shape)
    if name in _ON_CUDA and device.type != "cuda":
        raise ValueError(
            f"engine: '{name}' works on CUDA tensors; got tensors on '{device}'. Move model and images to the GPU, "
            "or use engine='cpu'"
        )
    reason = _why_missing(name)
    if reason is not None:
        raise RuntimeError(f"engine: '{name}' is not available here: {reason}")
    return _available[name]


def resolve(
    name: str,
    device: torch.device,
    *,
    config: Config | None = None,
    shape: Sequence[int] | None = None,
) -> str:
    """The name of the engine that `name` means for tensors on `device`: what ``"auto"`` stands for, or `name` itself.

    ``"auto"`` is ``cpu`` for tensors on the host. For those on a CUDA device it is ``fused``, where this machine has
    that, it covers what is to be computed, and it agrees with ``reference`` on examples that both explain once in a
    process; else ``rapids``, where this machine has that; else ``cpu``, which takes the tensors to the host and its
    results back. Which one it is in the place of ``fused``, and why, is logged once in a process.

    Parameters
    ----------
    name, device, config, shape
        As for :func:`choose`.

    Raises
    ------
    ValueError
        If there is no such engine.
    """
    check_name(name)
    if name != "auto":
        return name
    if device.type != "cuda":
        return "cpu"
    no_fused = _why_not_fused(device, config, shape)
    if no_fused is None:
        return "fused"
    no_rapids = _missing.get("rapids") or _why_missing("rapids")
    if no_rapids is None:
        _warn("rapids", "which takes many times as long", no_fused)
        return "rapids"
    costs = "so that tensors on a CUDA device go to the host and back"
    _warn("cpu", costs, no_fused, f"; 'rapids' is not available: {no_rapids}")
    return "cpu"


def _why_not_fused(device: torch.device, config: Config | None, shape: Sequence[int] | None) -> str | None:
    """Why the fused engine does not serve, or None."""
    reason = _missing.get("fused") or _why_missing("fused")
    if reason is not None:
        return f"is not available: {reason}"
    if config is not None and shape is not None:
        reason = cast(CheckedEngine, load("fused")).why_not(config, shape)
    return reason or disagreement(device)


def disagreement(device: torch.device) -> str | None:
    """What the fused engine, which this machine has, does wrong on a CUDA device, or None.

    A device is asked once in a process: threads that come first together wait for one of them.

    Raises
    ------
    Exception
        If the memory does not suffice; the next call asks again.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    with _checking:
        if index not in _checked:
            if torch.cuda.is_current_stream_capturing():
                return None  # nothing can be read back now, and that says nothing of the kernels
            device = torch.device(device.type, index)
            _checked[index] = self_check.disagreement(load("fused").run, load("reference").run, device)
        return _checked[index]


def _why_missing(name: str) -> str | None:
    """None where this machine has the engine, else the reason and the remedy."""
    engine = load(name)
    if _available.get(name) is not engine:
        reason = engine.why_missing()
        if reason is not None:
            _missing[name] = reason
            return reason
        _available[name] = engine
        _missing.pop(name, None)
    return None


def _warn(name: str, costs: str, no_fused: str, more: str = "") -> None:
    """Log what "auto" is instead of the fused engine, once for a reason: images of other sizes are no other one."""
    reason = name, no_fused.partition("; got ")[0], more
    if reason not in _told:
        _told.add(reason)
        _log.warning("engine: 'auto' is '%s' here, %s: 'fused' %s%s", name, costs, no_fused, more)


def check_name(name: str) -> None:
    """Refuse a name that is no engine.

    Raises
    ------
    ValueError
        The message names the engines.
    """
    if name not in ("auto", *ENGINES):
        raise ValueError(f"engine: expected one of auto, {', '.join(ENGINES)}; got {name!r}")
