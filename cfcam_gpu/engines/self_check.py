"""Whether the fused engine's kernels do on this GPU what the method says, asked before ``"auto"`` relies on them.

They are compiled on the machine that runs them, for a GPU and by a compiler that nobody may have tried them with.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch

from ..core.config import Config

#: An engine's `run`.
Run: TypeAlias = Callable[[torch.Tensor, torch.Tensor, Config], Any]

#: Configurations that between them launch all kernels, each with an example's (B, T, C, *spatial). The first has enough
#: problems of enough channels for the larger tiles of distances; the last, of volumes, enough maps of enough channels
#: for blocks of several. A noise floor would leave nothing of its clusters, and show nothing of their filter.
EXAMPLES = (
    (Config(boundary="zero"), (18, 1, 690, 2, 2)),
    (Config.two_level(), (3, 2, 150, 5, 7)),
    (replace(Config.two_level(), gradient="cluster_mean", noise_floor=0.0, boundary="reflect"), (2, 2, 540, 5, 3, 4)),
)
#: Channels beyond so many are dead, in the first image and in the others: it saves most of the time.
_ALIVE = (240, 40)
#: Largest difference of maps and weights, as a share of the largest value.
_TOLERANCE = 1e-5


def disagreement(run: Run, reference: Run, device: torch.device) -> str | None:
    """What `run` does on `device` that `reference` does not on the host, or None.

    Labels must be equal, radii within float64's rounding, maps and weights within 1e-5 of the largest. It takes about
    a second, and the time in which the kernels are compiled.

    Raises
    ------
    Exception
        If `run` lacks memory, which says nothing of the kernels.
    """
    # In a thread of its own, to which the caller's modes don't reach: a default device, tensors that are fake.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_compare, run, reference, device).result()


def _compare(run: Run, reference: Run, device: torch.device) -> str | None:
    for config, shape in EXAMPLES:
        activations, gradients = _draw(shape)
        expected = reference(activations, gradients, config)
        try:
            found = run(activations.to(device), gradients.to(device), config)
            wrong = _wrong(found._make(value.cpu() for value in found), expected)
        except Exception as error:  # no compiler, an architecture that it does not know: CuPy may raise anything
            if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
                raise
            return f"fails on an example: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if wrong is not None:
            return f"gives other {wrong} than engine 'reference' on an example"
    return None


def _wrong(found: Any, expected: Any) -> str | None:
    """The first part of the result that is not as it should be, or None."""
    if not torch.equal(found.labels, expected.labels):
        return "labels"
    if not torch.allclose(found.eps, expected.eps, rtol=1e-12, atol=0.0):
        return "radii"
    for name in ("weights", "raw_maps"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        if not bool(((ours - theirs).abs() <= _TOLERANCE * theirs.abs().max()).all()):
            return name
    return None


def _draw(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations, some channels alike and some dead, and gradients.

    By NumPy, as torch's default dtype and generator are the caller's.
    """
    batch, _, channels, *size = shape
    generator = np.random.default_rng(0)
    patterns = generator.normal(size=(batch, channels // 3 + 1, *size))
    activations = patterns.repeat(3, axis=1)[:, :channels] + 0.3 * generator.normal(size=(batch, channels, *size))
    activations[:, ::7] = 0
    activations[0, _ALIVE[0] :] = 0
    activations[1:, _ALIVE[1] :] = 0
    given = np.maximum(activations, 0), generator.normal(size=shape)
    return torch.from_numpy(given[0].astype(np.float32)), torch.from_numpy(given[1].astype(np.float32))
