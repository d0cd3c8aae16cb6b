"""The oracle of the other engines: the method in float64 by NumPy, SciPy's filter and scikit-learn's DBSCAN."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.spatial import distance

from ..core.cluster_filter import Clusters, Primitives, Weighted, cluster_filter
from ..core.config import Config
from . import EngineResult, workers

_SCIPY_BOUNDARY = {"reflect": "reflect", "zero": "constant"}


def why_missing() -> None:
    """Always there."""


def run(activations: torch.Tensor, gradients: torch.Tensor, config: Config) -> EngineResult:
    """CF-CAM on the host; images and targets side by side on the cores. See :class:`cfcam_gpu.engines.Engine`."""
    device = activations.device
    # NumPy knows no tensor that is the negative of its memory, such as the imaginary part of a conjugate.
    activations, gradients = (tensor.detach().cpu().resolve_neg() for tensor in (activations, gradients))

    def job(b: int, chosen: range) -> list[tuple[Clusters, Weighted]]:
        # float64 a worker's image at a time: a whole batch of it would be a second copy of twice the size.
        of_image = activations[b].double().numpy()
        of_targets = (gradients[b, t].double().numpy() for t in chosen)
        return list(cluster_filter(of_image, of_targets, config, PRIMITIVES))

    batch, targets = gradients.shape[:2]
    # Where each target has clusters of its own, targets go side by side, too; else they share an image's clusters.
    size = 1 if config.importance == "contribution" else targets
    jobs = [(b, range(t, t + size)) for b in range(batch) for t in range(0, targets, size)]
    in_order = [result for results in workers.run(job, jobs) for result in results]
    by_image = [in_order[b * targets : (b + 1) * targets] for b in range(batch)]

    def stack(pick: Any, dtype: torch.dtype) -> torch.Tensor:
        array = np.array([[pick(*result) for result in results] for results in by_image])
        return torch.as_tensor(array).to(device, dtype)

    return EngineResult(
        raw_maps=stack(lambda clusters, weighted: weighted.map, torch.float32),
        labels=stack(lambda clusters, weighted: clusters.labels, torch.int64),
        weights=stack(lambda clusters, weighted: weighted.weights, torch.float32),
        eps=stack(lambda clusters, weighted: clusters.eps, torch.float64),
    )


def order_statistics(values: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """The k-th and (k + 1)-th smallest of `values` (M,), counted from 0; the last one twice at its end.

    A sample of the values brackets the two, so that only the few in between need sorting: three times faster than
    ``numpy.partition`` on a million distances, and the same numbers.
    """
    size = values.size
    last = min(k + 1, size - 1)
    if size >= 10_000:
        sample = np.sort(values[:: size // 5_000])
        middle = k * sample.size // size
        margin = 4 * int(np.sqrt(sample.size))
        low = sample[max(middle - margin, 0)] if middle >= margin else -np.inf
        high = sample[middle + margin] if middle + margin < sample.size else np.inf
        below = int(np.count_nonzero(values < low))
        between = values[(values >= low) & (values <= high)]
        if below <= k and last < below + between.size:
            between.sort()
            return between[[k - below, last - below]]
    return np.partition(values, (k, last))[[k, last]]


def squareform(pairs: Any, n: int) -> Any:
    """SciPy's, for any dtype; `n` is implied by the number of pairs."""
    return distance.squareform(pairs, checks=False)


def dbscan(near: NDArray[np.bool_], n: int, min_samples: int) -> Any:
    """scikit-learn's DBSCAN on the graph of near pairs, so that what is near is decided once, by the caller."""
    from sklearn.cluster import DBSCAN  # slow to import, and other engines take all but this from here

    graph = distance.squareform(near, checks=False)
    np.fill_diagonal(graph, True)
    columns = np.flatnonzero(graph) % n
    starts = np.concatenate([[0], np.cumsum(np.count_nonzero(graph, axis=1))])
    edges = sparse.csr_matrix((np.ones(columns.size), columns, starts), shape=(n, n))
    return DBSCAN(eps=1.0, min_samples=min_samples, metric="precomputed").fit(edges).labels_


def gaussian(maps: NDArray[np.float64], sigma: float, boundary: str) -> Any:
    """SciPy's Gaussian filter over all axes but the first, taps out to 4 sigma."""
    axes = tuple(range(1, maps.ndim))
    return ndimage.gaussian_filter(maps, sigma, mode=_SCIPY_BOUNDARY[boundary], truncate=4.0, axes=axes)


PRIMITIVES = Primitives(
    xp=np,
    pdist=distance.pdist,
    order_statistics=order_statistics,
    squareform=squareform,
    dbscan=dbscan,
    gaussian=gaussian,
)
