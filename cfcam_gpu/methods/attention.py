"""LeGrad, the method of a vision transformer's attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..hooks.layouts import Layout


def legrad(relevance: Sequence[torch.Tensor], layout: Layout) -> torch.Tensor:
    """LeGrad: the mean over blocks l, heads h and queries i of ReLU(ds_l / dA_l[h, i, j]), for each patch j.

    Bousselham et al., "LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity",
    ICCV 2025 (arXiv:2404.03214). A_l is a block's attention after its softmax, and s_l the block's own score, not the
    last one's: what the model's final norm and classifier make of the mean over all of the block's tokens, the class
    token among them, whichever token the model itself reads. Class and register tokens are keys without a place in the
    image, and left out. Where the head pools by attention the paper takes that attention in the place of the blocks';
    here it is part of the head, which pools tokens that are all the mean.

    Parameters
    ----------
    relevance : sequence of (B, T, N) float32 tensors
        Of each block the mean over heads and queries, by key: :func:`cfcam_gpu.hooks.attention.capture_attention`.
    layout : Layout
        Of the N tokens.

    Returns
    -------
    (B, T, h, w) float32 tensor
    """
    tokens = torch.stack(list(relevance)).mean(dim=0)
    maps = layout.to_maps(tokens.flatten(0, 1)[..., None])[:, 0]
    return torch.unflatten(maps, 0, tokens.shape[:2])
