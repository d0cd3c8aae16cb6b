"""Means over images with bootstrap intervals, and paired differences.

The intervals are those of ``scipy.stats.bootstrap``, method percentile, but for the draws, as a test holds. It is not
called: it refuses a single image, its seed's argument has another name since SciPy 1.15, and the draws here are those
that all committed figures are of.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .numbers import is_number

#: Resampled values that are held at a time, 8 bytes each.
CHUNK = 1 << 24


class Interval(NamedTuple):
    """A mean and its interval, in the units of the values."""

    mean: float
    low: float
    high: float


def mean_interval(values: torch.Tensor, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean over images with its percentile bootstrap interval.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13: images are drawn with replacement, and
    the interval holds the middle share `level` of the resampled means.

    Parameters
    ----------
    values : (N,) tensor
        One number for each image.
    level : float
        In (0, 1).
    resamples : int
    seed : int
        Same seed and same N, same drawn images, on whatever device the values are.

    Returns
    -------
    Interval

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or a value is NaN or infinite: an image that failed must not make the denominator
        smaller.
    """
    values = checked("values", values)
    if not (is_number(level) and 0 < level < 1):
        raise ValueError(f"level: expected a number between 0 and 1; got {level!r}")
    if isinstance(resamples, bool) or not isinstance(resamples, int) or resamples < 1:
        raise ValueError(f"resamples: expected a whole number, at least 1; got {resamples!r}")
    generator = torch.Generator().manual_seed(seed)
    at_a_time = max(1, CHUNK // len(values))
    means = []
    for start in range(0, resamples, at_a_time):
        shape = (min(at_a_time, resamples - start), len(values))
        means.append(values[torch.randint(len(values), shape, generator=generator)].mean(dim=1))
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(means).quantile(tails).tolist()
    return Interval(values.mean().item(), low, high)


def paired_difference(
    values: torch.Tensor, reference: torch.Tensor, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean over images of value minus reference, with its bootstrap interval over the pairs.

    Parameters
    ----------
    values, reference : (N,) tensors
        Of the same images in the same order.
    level, resamples, seed
        As in :func:`mean_interval`.

    Returns
    -------
    Interval

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or a value is NaN or infinite.
    """
    values, reference = checked("values", values), checked("reference", reference)
    if len(values) != len(reference):
        raise ValueError(f"reference: expected {len(values)} values, one for each of `values`; got {len(reference)}")
    return mean_interval(values - reference, level=level, resamples=resamples, seed=seed)


def checked(name: str, values: object) -> torch.Tensor:
    """`values` on the host in float64, if they are finite numbers (N,).

    Raises
    ------
    TypeError, ValueError
        The message has `name`.
    """
    if not isinstance(values, torch.Tensor):
        raise TypeError(f"{name}: expected a torch tensor (N,); got {type(values).__name__}")
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"{name}: expected shape (N,) with at least one value; got {tuple(values.shape)}")
    values = values.detach().double().cpu()
    not_finite = ~torch.isfinite(values)
    if bool(not_finite.any()):
        numbers = ", ".join(str(i) for i in not_finite.nonzero().flatten().tolist()[:10])
        raise ValueError(f"{name}: expected finite numbers; those at {numbers} are not")
    return values
