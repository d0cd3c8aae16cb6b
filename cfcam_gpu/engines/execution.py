"""CF-CAM on activations and gradients that one already has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch

from .. import engines
from ..core.axes import ACTIVATIONS
from ..core.config import Config
from ..core.finite import NotFiniteError
from ..core.gate import gated
from . import dlpack

_MOST = torch.finfo(torch.float32).max


def cluster_filter_cam(
    activations: Any, gradients: Any, *, config: Config | None = None, engine: str = "auto", spatial_dims: int = 2
) -> Any:
    """CF-CAM maps from activations and gradients.

    Parameters
    ----------
    activations : array, (C, *spatial) or (B, C, *spatial), floating
        The target layer's activations: torch, CuPy or NumPy, or anything with ``__dlpack__``.
    gradients : array, same shape and device
        Gradients of the target's score with respect to them.
    config : Config, optional
        Defaults to ``Config()``; ``Config.paper()`` is the authors' form.
    engine : {"auto", "cpu", "rapids", "fused", "reference"}
        ``"auto"`` is ``cpu`` for arrays on the host; for arrays on a CUDA device ``fused`` where that covers the work
        and passes a check of its kernels, else ``rapids`` where it is there, else ``cpu``.
    spatial_dims : {1, 2, 3}
        How many of the last axes are spatial, which shapes alone don't tell: 1 for signals, (C, l) or (B, C, l); 2 for
        images, (C, h, w) or (B, C, h, w); 3 for volumes, (C, d, h, w) or (B, C, d, h, w).

    Returns
    -------
    array, (*spatial) or (B, *spatial) float32
        Raw maps, ReLU(sum_k w_k A_k) (arXiv:2504.00060), not normalised, of the same library and on the same device
        as `activations`. All zeros where nothing speaks for the target. Values beyond float32 are its largest number.

    Raises
    ------
    TypeError
        If an argument is no array or not floating, or `config` is no Config.
    ValueError
        If shapes or devices don't match, the batch is empty, or values are NaN or infinite.
    RuntimeError
        If this machine lacks the engine that is named.
    """
    engines.check_name(engine)
    config = check_config(config)
    if config.levels != 1:
        raise ValueError("config: cluster_filter_cam takes the arrays of one layer; got a two-level configuration")
    if spatial_dims not in ACTIVATIONS:
        raise ValueError(f"spatial_dims: expected 1, 2 or 3; got {spatial_dims!r}")
    original = activations
    activations = dlpack.as_torch(activations, "activations")
    gradients = dlpack.as_torch(gradients, "gradients")
    if activations.ndim not in (spatial_dims + 1, spatial_dims + 2):
        batched = ACTIVATIONS[spatial_dims]
        raise ValueError(
            f"activations: expected shape {batched.replace('B, ', '')} or {batched} for "
            f"spatial_dims={spatial_dims}; got {tuple(activations.shape)}"
        )
    if gradients.shape != activations.shape:
        raise ValueError(
            f"gradients: expected the shape of activations, {tuple(activations.shape)}; got {tuple(gradients.shape)}"
        )
    if gradients.device != activations.device:
        raise ValueError(
            f"gradients: expected device '{activations.device}', as for activations; got '{gradients.device}'"
        )
    single = activations.ndim == spatial_dims + 1
    if single:
        activations, gradients = activations[None], gradients[None]
    result = compute(activations, gradients[:, None], config, engine)
    maps = result.raw_maps[:, 0]
    return dlpack.like(maps[0] if single else maps, original)


def compute(
    activations: torch.Tensor,
    gradients: torch.Tensor,
    config: Config,
    engine: str,
    *,
    coarse: tuple[torch.Tensor, torch.Tensor] | None = None,
    sound: Mapping[str, torch.Tensor] | None = None,
) -> engines.EngineResult:
    """Check what goes into an engine, and run it.

    Parameters
    ----------
    activations : (B, C, *spatial) floating tensor
    gradients : (B, T, C, *spatial) floating tensor
    config : Config
    engine : str
    coarse : tuple of two tensors, optional
        Activations (B, C', ...) and gradients (B, T, C', ...) of the coarse layer of a two-level configuration.
    sound : mapping of str to (B,) bool tensor, optional
        Of what else is checked, by name, which images are finite: the logits.

    Raises
    ------
    ValueError
        If a dimension is empty, or an image's activations or gradients are NaN or infinite in float32, or what is named
        in `sound` is.
    """
    if activations.numel() == 0:
        raise ValueError(
            f"activations: expected at least one image, channel and position; got {tuple(activations.shape)}"
        )
    chosen_engine = engines.choose(engine, activations.device, config=config, shape=gradients.shape)
    if hasattr(chosen_engine, "run_checked"):
        # The host waits for the flags while the device works on.
        result, finite = launch_checked(
            cast(engines.CheckedEngine, chosen_engine), activations, gradients, config, coarse=coarse, sound=sound
        )
        check_finite(finite)
        return result
    check_finite(_flags(are_finite(activations), are_finite(gradients), coarse, sound))
    return launch(chosen_engine, activations, gradients, config, coarse=coarse)


def launch(
    engine: engines.Engine,
    activations: torch.Tensor,
    gradients: torch.Tensor,
    config: Config,
    *,
    coarse: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> engines.EngineResult:
    """Run an engine, and the gate of a configuration that has one.

    As :func:`compute`, but nothing is checked, and the host waits for the device only where `engine` makes it.
    """
    return _gated(engine.run(activations, gradients, config), activations, gradients, config, coarse)


def launch_checked(
    engine: engines.CheckedEngine,
    activations: torch.Tensor,
    gradients: torch.Tensor,
    config: Config,
    *,
    coarse: tuple[torch.Tensor, torch.Tensor] | None = None,
    sound: Mapping[str, torch.Tensor] | None = None,
) -> tuple[engines.EngineResult, dict[str, torch.Tensor]]:
    """As :func:`launch`, and of each argument's name (B,) bool: which images are finite in float32."""
    result, finite = engine.run_checked(activations, gradients, config)
    flags = _flags(finite[:, 0], finite[:, 1], coarse, sound)
    return _gated(result, activations, gradients, config, coarse), flags


def _flags(
    activations: torch.Tensor,
    gradients: torch.Tensor,
    coarse: tuple[torch.Tensor, torch.Tensor] | None,
    sound: Mapping[str, torch.Tensor] | None,
) -> dict[str, torch.Tensor]:
    """What is checked, by name, in the model's order: the first that is not finite is where it began."""
    coarse_activations, coarse_gradients = (None, None) if coarse is None else map(are_finite, coarse)
    flags = {
        "activations": activations,
        "coarse activations": coarse_activations,
        **(sound or {}),
        "coarse gradients": coarse_gradients,
        "gradients": gradients,
    }
    return {name: flag for name, flag in flags.items() if flag is not None}


def _gated(
    result: engines.EngineResult,
    activations: torch.Tensor,
    gradients: torch.Tensor,
    config: Config,
    coarse: tuple[torch.Tensor, torch.Tensor] | None,
) -> engines.EngineResult:
    return result._replace(raw_maps=gated(result.raw_maps, activations, gradients, config, coarse))


def are_finite(tensor: torch.Tensor) -> torch.Tensor:
    """(B,) bool: of each image, whether all of (B, ...) is finite in float32.

    By the largest magnitude, which is NaN where there is a NaN. Axis by axis: of one number for an image, a GPU would
    put a single block to work. On the host the largest and the least number take a tenth of the time that norms do.
    """
    if tensor.device.type == "cpu":
        axes = tuple(range(1, tensor.ndim))
        return (tensor.amax(axes).float() <= _MOST) & (tensor.amin(axes).float() >= -_MOST)
    largest = tensor
    while largest.ndim > 1:
        axes = tuple(range(2, largest.ndim)) or (1,)
        largest = torch.linalg.vector_norm(largest, ord=torch.inf, dim=axes)
    return largest.float() <= _MOST


def check_finite(finite: Mapping[str, torch.Tensor]) -> None:
    """Refuse what is not: of each name (B,) bool, which images are finite. The host waits once.

    Raises
    ------
    NotFiniteError
        That has the name and the images.
    """
    flags = torch.stack(list(finite.values()))
    if bool(flags.all()):
        return
    for name, flag in zip(finite, flags.cpu()):
        if not bool(flag.all()):
            images = ", ".join(str(int(b)) for b in (~flag).nonzero()[:10])
            raise NotFiniteError(f"{name}: expected finite numbers within float32; image {images} has NaN or infinity")


def check_config(config: Config | None) -> Config:
    """`config`, or the default for None.

    Raises
    ------
    TypeError
        If it is no Config.
    """
    if config is None:
        return Config()
    if not isinstance(config, Config):
        raise TypeError(f"config: expected a cfcam_gpu.Config; got {type(config).__name__}")
    return config
