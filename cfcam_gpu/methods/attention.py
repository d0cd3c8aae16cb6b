"""LeGrad, the method of a vision transformer's attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..hooks.layouts import Layout


def legrad(relevance: Sequence[torch.Tensor], layout: Layout) -> torch.Tensor:
    """LeGrad: the mean over blocks l, heads h and queries i of ReLU(ds_l / dA_l[h, i, j]), for each patch j.

    Bousselham et al., "LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity",
    ICCV 2025 (arXiv:2404.03214). A_l is a block's attention after its softmax, and s_l the score of the block's own
    tokens, as in the paper, not of the last block's alone: what the model's own head, with its norm and its pooling,
    makes of them. The authors' code for CLIP and torch-cam take the mean over all tokens in the place of that pooling.
    A head that pools by attention is part of the head; of such models the paper takes that attention instead.
    Class and register tokens are keys without a place in the image, and left out.

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
