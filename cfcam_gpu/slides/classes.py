"""Tiles explained for several classes at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..deploy.loading import Deployed
from ..pipelines.batches import BatchExplainer
from ..pipelines.found import Found


def of_classes(explain: BatchExplainer, images: torch.Tensor, classes: Sequence[int | None]) -> list[Found]:
    """What is found of tiles of each class, on the host: by one forward for all of them, where that can be.

    Parameters
    ----------
    explain : BatchExplainer
    images : (B, 3, S, S) uint8 tensor
        On the model's device.
    classes : sequence of int or None
        None is the predicted class of each, which has no other beside it.
    """
    if len(classes) == 1 or isinstance(explain.explainer, Deployed):  # the files that are taken explain one at a time
        return [explain(images, [index] * len(images)).to_host() for index in classes]
    found = explain(images, [[index for index in classes if index is not None]] * len(images)).to_host()
    return [found.of_class(number) for number in range(len(classes))]
