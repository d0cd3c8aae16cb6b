"""Noisy copies of images, on which SmoothGrad and its kin average."""

from __future__ import annotations

from collections.abc import Iterator

import torch


def noisy_copies(
    images: torch.Tensor, samples: int, noise: float, seed: int, *, shared: bool = False
) -> Iterator[torch.Tensor]:
    """Copies of images (B, ...) with Gaussian noise on them: for a seed and a device always the same.

    Its standard deviation is a share `noise` of each image's own range of values (Smilkov et al., "SmoothGrad", 2017).
    Each image has noise of its own, which depends on its place in the batch; of `shared` noise, all have the same.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    flat = images.flatten(1)
    spread = noise * (flat.amax(dim=1) - flat.amin(dim=1)).reshape(-1, *(1 for _ in images.shape[1:]))
    shape = (1, *images.shape[1:]) if shared else images.shape
    for _ in range(samples):
        drawn = torch.randn(shape, generator=generator, dtype=images.dtype, device=images.device)
        yield images + spread * drawn
