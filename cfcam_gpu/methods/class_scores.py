"""What some CAMs differentiate in the place of a class's logit.

Each takes logits (B, K) and class indices (B,), and returns scores (B,) float32.
"""

from __future__ import annotations

import torch

#: Similar classes that Finer-CAM compares with, as its authors do.
REFERENCES = 3


def finer(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The logit y_c of a class less that of the classes most like it: sum_d p_d (y_c - y_d) / sum_d p_d.

    Zhang et al., "Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation", CVPR 2025
    (arXiv:2501.11309), with several references as in the authors' code: d are the three classes whose logits are
    nearest to y_c, p their probabilities, which are differentiated, too, and the comparison has full strength. A class
    that is masked out by a logit of -infinity counts for nothing.

    Raises
    ------
    ValueError
        If there is no other class.
    """
    if logits.shape[1] < 2:
        raise ValueError("target: Finer-CAM compares a class with the ones most like it; this model has a single class")
    logits, column = logits.float(), classes[:, None]
    own = logits.gather(1, column)
    most = torch.finfo(torch.float32).max  # of a class that is masked out: farther than all others, but not than itself
    apart = (logits - own).detach().abs().clamp(max=most).scatter(1, column, torch.inf)
    nearest = apart.argsort(dim=1, stable=True)[:, : min(REFERENCES, logits.shape[1] - 1)]
    references = logits.gather(1, nearest)
    # Of probabilities nothing but their ratios is left, which the softmax over the references alone has, too.
    # Of a probability that is 0, 0 times -infinity would be no number.
    return own[:, 0] - (references.softmax(dim=1) * references.masked_fill(references == -torch.inf, 0.0)).sum(dim=1)


def residual_softmax(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """ReST, a class's logit and the logarithm of its probability: y_c + ln p_c.

    Cai, "CAMs as Shapley Value-based Explainers", 2025 (arXiv:2501.06261).
    """
    logits, column = logits.float(), classes[:, None]
    return (logits + logits.log_softmax(dim=1)).gather(1, column)[:, 0]


def probability(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The probability p_c of a class: the softmax of the logits.

    Raises
    ------
    ValueError
        If there is no other class: it would be 1, whatever the logit.
    """
    if logits.shape[1] < 2:
        raise ValueError(
            "target: this method compares probabilities, and of this model's single class that is 1 for any logit; "
            "give a callable, such as lambda logits: logits[0].sigmoid()"
        )
    return logits.float().softmax(dim=1).gather(1, classes[:, None])[:, 0]
