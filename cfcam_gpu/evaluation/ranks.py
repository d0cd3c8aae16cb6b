"""Which method is ahead in which metric, and how far the metrics agree on it.

Ranks and Kendall's tau are SciPy's. Its ``friedmanchisquare``, of which W is a multiple, refuses two methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .measures import Better
from .table import Summary


class Ranks(NamedTuple):
    """Ranks of methods, 1 the best.

    ``by_metric`` has each metric's ranks by method; methods of equal means share the mean of their ranks. ``mean`` has
    each method's mean over the metrics, the best first. ``concordance`` is Kendall's W: 1 where all metrics rank alike,
    near 1 / metrics where they have nothing to do with each other. ``tau`` is the mean of Kendall's tau-b over the
    pairs of metrics: 1 where all rank alike, 0 where they have nothing to do with each other, below 0 where they
    contradict. Both are NaN of a single metric, and where each metric has all methods equal. ``left_out`` are metrics
    in which a method has no mean.
    """

    by_metric: Mapping[str, Mapping[str, float]]
    mean: Mapping[str, float]
    concordance: float
    tau: float
    left_out: tuple[str, ...]


def rank(table: Iterable[Summary]) -> Ranks:
    """Rank methods in each metric by their means, and all in all.

    Kendall and Babington Smith, "The Problem of m Rankings", Annals of Mathematical Statistics 10, 1939: with m metrics
    and n methods W = 12 S / (m^2 (n^3 - n) - m sum T), where S is the squared deviation of the methods' sums of ranks
    from their mean, and T of a metric the sum of t^3 - t over its groups of t methods that are equal.

    Parameters
    ----------
    table : iterable of Summary
        A line for each metric and method. Where a method has no mean in a metric, since it failed or the metric does
        not apply to it, the metric is left out: ranks among fewer methods are other ranks.

    Returns
    -------
    Ranks

    Raises
    ------
    ValueError
        If there are fewer than two methods, a metric has not one line for each method, or no metric is left.
    """
    lines = list(table)
    methods = list(dict.fromkeys(line.method for line in lines))
    if len(methods) < 2:
        raise ValueError(f"table: expected two methods or more, to be ranked; got {', '.join(methods) or 'none'}")
    of_metric: dict[str, dict[str, Summary]] = {}
    for line in lines:
        of_metric.setdefault(line.metric, {})[line.method] = line
    missing = [metric for metric, found in of_metric.items() if len(found) < len(methods)]
    if missing or len(lines) != len(of_metric) * len(methods):
        raise ValueError(
            f"table: expected one line for each metric and method; got {len(lines)} for {len(of_metric)} metrics and "
            f"{len(methods)} methods"
        )
    whole = {metric: found for metric, found in of_metric.items() if all(line.mean for line in found.values())}
    if not whole:
        raise ValueError("table: expected a metric in which each method has a mean; there is none")
    ranks = np.array([_ranks([found[method] for method in methods]) for found in whole.values()])
    means = ranks.mean(axis=0)
    order = np.argsort(means, kind="stable")
    return Ranks(
        by_metric={metric: dict(zip(methods, row.tolist())) for metric, row in zip(whole, ranks)},
        mean={methods[i]: float(means[i]) for i in order},
        concordance=_concordance(ranks),
        tau=_tau(ranks),
        left_out=tuple(metric for metric in of_metric if metric not in whole),
    )


def _ranks(lines: list[Summary]) -> NDArray[np.float64]:
    sign: Mapping[Better, int] = {"high": -1, "low": 1}
    values = [sign[line.better] * line.mean.mean for line in lines if line.mean is not None]
    return np.asarray(stats.rankdata(values), dtype=np.float64)


def _concordance(ranks: NDArray[np.float64]) -> float:
    """Kendall's W of ranks (metrics, methods)."""
    m, n = ranks.shape
    sums = ranks.sum(axis=0)
    ties = sum(float((count**3 - count).sum()) for _, count in (np.unique(row, return_counts=True) for row in ranks))
    spread = m**2 * (n**3 - n) - m * ties
    return 12 * float(((sums - sums.mean()) ** 2).sum()) / spread if m > 1 and spread else float("nan")


def _tau(ranks: NDArray[np.float64]) -> float:
    """The mean of Kendall's tau-b over pairs of rows that are not all equal."""
    rows = [row for row in ranks if np.ptp(row) > 0]
    found = [float(stats.kendalltau(first, second).statistic) for first, second in combinations(rows, 2)]
    return float(np.mean(found)) if found else float("nan")
