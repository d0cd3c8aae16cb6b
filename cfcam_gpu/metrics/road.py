"""ROAD: pixels are removed and imputed, instead of covered by a colour that the model never saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from ..core.chunks import DEFAULT_MEMORY, Progress
from ..targets.request import Target
from .imputation import impute
from .numbers import is_number
from .scoring import check_fit, class_indices, class_scores, ranked

PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)

#: Arrays of the image's size, float32, that imputation holds at a time.
IMPUTATION_COPIES = 12


class Road(NamedTuple):
    """ROAD and its two curves, float64.

    ``score`` (B,): (LeRF - MoRF) / 2, means over the percentages, in [-0.5, 0.5]; higher is better. ``lerf`` and
    ``morf`` (B, P): the class probability with that share of the least and of the most relevant pixels removed.
    """

    score: torch.Tensor
    lerf: torch.Tensor
    morf: torch.Tensor


def road(
    model: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    target: Target = None,
    *,
    percentiles: Sequence[float] = PERCENTILES,
    noise: float = 0.01,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> Road:
    """Remove and debias, least relevant first against most relevant first.

    Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022 (arXiv:2202.00449);
    the combination (LeRF - MoRF) / 2 as in pytorch-grad-cam. Exactly the given share of the pixels is removed, also
    where many of them have the same value: those go in reading order.

    Parameters
    ----------
    model : torch.nn.Module
        Its outputs are logits (B, K).
    images : (B, C, H, W) floating tensor
    maps : (B, H, W) floating tensor in [0, 1]
    target : None, int, str, sequence or (B,) tensor
        The classes that the maps explain; None: the predicted ones.
    percentiles : sequence of P floats
        Percent of the pixels to remove, between 0 and 100, both excluded.
    noise : float
        Standard deviation of what is added to imputed pixels, in units of the model's input.
    seed : int
        Same seed and same batch, same noise, whatever the memory.
    memory : int
        Bytes that the activations of one forward may take.
    progress : callable, optional
        Called with (done, total) forwards of an image.

    Returns
    -------
    Road

    Raises
    ------
    TypeError, ValueError
        If an argument is refused; the message names it.
    """
    images, maps = check_fit(
        model, images, maps, images_only="ROAD fills a pixel in from the eight around it, which only images have"
    )
    if not percentiles or not all(is_number(percent) and 0 < percent < 100 for percent in percentiles):
        raise ValueError(f"percentiles: expected numbers between 0 and 100; got {list(percentiles)}")
    classes = class_indices(model, images, target, memory)
    ranks = ranked(maps)
    pixels = maps[0].numel()
    # Never none and never all of them, however small the image.
    counts = torch.tensor([min(max(round(percent / 100 * pixels), 1), pixels - 1) for percent in percentiles])
    counts = counts.to(images.device)
    per_image = 2 * len(counts)

    def batch(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        jobs = torch.arange(start, stop, device=images.device)
        image, step = jobs // per_image, jobs % per_image
        count = counts[step % len(counts), None, None]
        least_first = (step < len(counts))[:, None, None]
        removed = torch.where(least_first, ranks[image] >= pixels - count, ranks[image] < count)
        filled = impute(images[image].float(), removed)
        added = torch.stack([_noise(images, seed, job) for job in range(start, stop)])
        return (filled + noise * added * removed[:, None]).to(images.dtype), classes[image]

    scores = class_scores(
        model,
        batch,
        len(images) * per_image,
        memory=memory,
        progress=progress,
        bytes_beside=IMPUTATION_COPIES * images[0].numel() * 4,
    )
    lerf, morf = scores.reshape(len(images), 2, len(counts)).unbind(dim=1)
    return Road((lerf.mean(dim=1) - morf.mean(dim=1)) / 2, lerf, morf)


def _noise(images: torch.Tensor, seed: int, job: int) -> torch.Tensor:
    """Standard normal noise of one image's shape, its own for each job."""
    generator = torch.Generator(images.device).manual_seed(seed + job)
    return torch.randn(images.shape[1:], generator=generator, device=images.device)
