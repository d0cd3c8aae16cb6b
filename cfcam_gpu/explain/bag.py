"""A bag of images with one answer, as a model that an explainer takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Bag(nn.Module):
    """A model of bags: it takes N images (N, 3, H, W), views or tiles of one thing, and has one answer for all.

    An explainer takes a batch of which each has an answer of its own: here a batch of one bag, (1, N, 3, H, W). Maps
    are (1, N, H, W).

    Parameters
    ----------
    model : torch.nn.Module
        From (N, 3, H, W) to logits (1, K) or (K,). Its layers are called ``"model.layer4"``, say.

    Examples
    --------
    >>> result = CFCAM(Bag(model), "model.layer4")(images[None], target=1)  # doctest: +SKIP
    >>> result.maps[0].shape  # doctest: +SKIP
    torch.Size([12, 224, 224])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, bags: torch.Tensor) -> Any:
        """What the model says of the one bag (1, N, 3, H, W).

        Raises
        ------
        ValueError
            If there is not one bag.
        """
        if len(bags) != 1:
            raise ValueError(f"images: expected one bag, (1, N, 3, H, W); got {tuple(bags.shape)}")
        output = self.model(bags[0])
        return output[None] if isinstance(output, torch.Tensor) and output.ndim == 1 else output
