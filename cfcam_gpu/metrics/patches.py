"""Whether the map's order of patches is that of what the model loses without each of them."""

from __future__ import annotations

import torch
from torch import nn

from ..core.chunks import DEFAULT_MEMORY, Progress
from ..core.similarity import spearman
from ..targets.request import Target
from .scoring import check_fit, check_own, class_indices, class_scores


def single_deletion(
    model: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    target: Target = None,
    *,
    patches: int = 4,
    memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Rank correlation of a map's sums over patches with the logit lost when each patch alone is deleted.

    The single-deletion score of Hesse et al., "Benchmarking the Attribution Quality of Vision Models", NeurIPS 2024
    (arXiv:2407.11910), higher is better: a grid of 4 x 4 patches, a deleted one is 0 in the model's input space, and
    Spearman's correlation over the patches. The paper's own benchmark, IDSDS, first fine-tunes the model on images with
    deleted patches, so that they are no strange sight to it; without that, as here, they call it Single Deletion Score.
    They explain the true label; here it is `target`. Where all drops, or all sums, are the same there is no order to be
    right about: 0.

    Parameters
    ----------
    model : torch.nn.Module
        Its outputs are logits (B, K).
    images : (B, C, H, W) floating tensor
        Or volumes (B, C, D, H, W), or signals (B, C, L).
    maps : (B, H, W) floating tensor in [0, 1]
    target : None, int, str, sequence or (B,) tensor
        The classes that the maps explain; None: the predicted ones.
    patches : int
        Along each axis, at least 2. Where a side is no multiple, the first ones are a pixel longer.
    memory : int
        Bytes that the activations of one forward may take.
    progress : callable, optional
        Called with (done, total) forwards of an image.

    Returns
    -------
    (B,) float64 tensor in [-1, 1]
        NaN where the logits without one of the patches are NaN or infinite.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or the model's logits of an image are NaN or infinite; the message names it.
    """
    images, maps = check_fit(model, images, maps)
    shortest = min(maps.shape[1:])
    if isinstance(patches, bool) or not isinstance(patches, int) or not 2 <= patches <= shortest:
        raise ValueError(
            f"patches: expected a number along each axis from 2 to {shortest}, the shortest side; got {patches!r}"
        )
    classes = class_indices(model, images, target, memory)
    number, sums = torch.zeros(maps.shape[1:], dtype=torch.int64, device=maps.device), maps.double()
    for axis, length in enumerate(maps.shape[1:]):
        parts = torch.arange(length, device=maps.device).tensor_split(patches)
        along = torch.cat([torch.full_like(part, i) for i, part in enumerate(parts)])
        number = number * patches + along.reshape(-1, *(1 for _ in maps.shape[axis + 2 :]))
        sums = torch.stack([part.sum(dim=axis + 1) for part in sums.tensor_split(patches, dim=axis + 1)], dim=axis + 1)
    sums = sums.flatten(1)
    per_image = 1 + sums.shape[1]  # the image as it is, and without each patch

    def batch(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        jobs = torch.arange(start, stop, device=images.device)
        image, patch = jobs // per_image, jobs % per_image - 1
        deleted = number == patch.reshape(-1, *(1 for _ in number.shape))
        return images[image].masked_fill(deleted[:, None], 0.0), classes[image]

    jobs = len(images) * per_image
    scores = class_scores(model, batch, jobs, memory=memory, progress=progress, softmax=False)
    scores = scores.reshape(len(images), per_image)
    check_own(scores[:, 0])
    return spearman(scores[:, :1] - scores[:, 1:], sums)
