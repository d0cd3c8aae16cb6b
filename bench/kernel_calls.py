"""Calls of the fused engine for compute-sanitizer and Nsight Compute, which watch a process from outside.

``python -m bench.kernel_calls odd`` takes small odd shapes, ``... few`` those of few channels, ``... layer4`` and ``...
layer3`` those of ResNet-50 at batch 64. The profiler is on for the second call of each alone: the first one compiles.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch

from cfcam_gpu import Config, engines
from cfcam_gpu.engines import fused
from cfcam_gpu.engines.kernels import Memory


class Calls(NamedTuple):
    """Shapes (B, T, C, *spatial), each with all of the configurations."""

    shapes: Sequence[tuple[int, ...]]
    configs: Sequence[Config]


# No multiple of a warp or a tile; one channel; one position; a volume, a signal; the largest maps.
FEW = [(2, 1, 97, 7, 5), (1, 3, 33, 9, 9), (2, 1, 1, 3, 3), (1, 1, 64, 1, 1), (2, 1, 33, 3, 5, 4), (1, 2, 33, 45)]
FEW += [(1, 1, 5, 64, 64), (1, 1, 5, 16, 256), (1, 1, 5, 16, 16, 16)]
ALL = [Config(), Config.paper(), Config.two_level(), Config(combine="elementwise", dominant_percentile=100)]
CALLS = {
    "few": Calls(FEW, ALL),
    "odd": Calls([*FEW, (1, 1, 4096, 2, 2)], ALL),  # the most channels
    "layer4": Calls([(64, 1, 2048, 7, 7)], [Config()]),
    "layer3": Calls([(64, 1, 1024, 14, 14)], [Config.two_level()]),
}


def draw(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations (B, C, *spatial), two fifths of the channels dead, and gradients (B, T, C, *spatial), on the host."""
    batch, _, channels, *size = shape
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(batch, channels, *size, generator=generator).relu()
    activations *= torch.rand(batch, channels, *[1] * len(size), generator=generator) > 0.4
    return activations, torch.randn(shape, generator=generator)


def allocate_apart(sizes: dict[str, int], zeros: int, device: torch.device) -> dict[str, Memory]:
    """As :func:`cfcam_gpu.engines.fused.allocate`, in a block each: where one ends within another, no tool sees it."""
    found, passed = {}, 0
    for name, size in sizes.items():
        block = torch.empty(size, dtype=torch.uint8, device=device)
        if passed < zeros:
            block.zero_()
        found[name] = Memory(block.data_ptr(), block)
        passed += size
    return found


def main(which: str) -> None:
    """Run them."""
    if which in ("few", "odd"):
        fused.allocate = allocate_apart
    engine = engines.choose("fused", torch.device("cuda"))
    shapes, configs = CALLS[which]
    for shape in shapes:
        activations, gradients = (tensor.cuda() for tensor in draw(shape))
        for config in configs:
            engine.run(activations, gradients, config)
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
            engine.run(activations, gradients, config)
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()


if __name__ == "__main__":
    main(sys.argv[1])
