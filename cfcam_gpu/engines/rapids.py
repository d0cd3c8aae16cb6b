"""The RAPIDS engine: CuPy, cuML's DBSCAN and cuCIM's Gaussian filter, on the device and the stream of its input.

Neither CuPy nor a RAPIDS library is imported before it is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from ..core.cluster_filter import Array, Primitives, cluster_filter
from ..core.config import Config
from . import EngineResult, dlpack

_MODE = {"reflect": "reflect", "zero": "constant"}

#: The body of an elementwise kernel over the pairs a < b of n points, numbered row by row; pair i, `x` (D, n) float64.
#: Counted from the last pair, q, the row of length k + 1 begins at k (k + 1) / 2, so that one root tells the row. It is
#: exact for n up to 2^25: a double holds 8 q + 1, and the root of the row's last one is 2^-24 or more below the next's.
PAIR_DISTANCE = """
    const long long q = n * (n - 1) / 2 - 1 - i;
    const long long k = (long long)((sqrt(8.0 * q + 1.0) - 1.0) / 2.0);
    const long long a = n - 2 - k;
    const long long b = n - 1 - (q - k * (k + 1) / 2);
    double sum = 0;
    for (long long d = 0; d < dimensions; ++d) {
        const double difference = x[d * n + a] - x[d * n + b];
        sum += difference * difference;
    }
    distance = sqrt(sum);
"""


def why_missing(needed: tuple[str, ...] = ("cupy", "cuml")) -> str | None:
    """None where this machine has the engine, else the reason and the remedy in one sentence.

    The engine `fused` asks the same for what it needs.
    """
    if torch.version.cuda is None:
        return "this torch is built without CUDA; install one that is built for CUDA 12 or 13"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device; see that nvidia-smi lists one and CUDA_VISIBLE_DEVICES does not hide it"
    steps: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
        ("CuPy", "cupy", importlib.import_module),
        ("cuML", "cuml", dlpack.import_keeping_allocator),
    )
    for library, module, load in steps:
        if module not in needed:
            continue
        try:
            load(module)
        except Exception as error:  # compiled libraries raise all kinds where a driver or a library does not fit
            if isinstance(error, ModuleNotFoundError) and error.name == module:
                return f"{library} is not installed; {_remedy()}"
            cause = error.__cause__ or error  # CuPy's own message is a page long
            return f"{library} can't be imported ({type(cause).__name__}: {' '.join(str(cause).split())}); {_remedy()}"
    return None


def _remedy() -> str:
    release = str(torch.version.cuda)
    major = release.partition(".")[0]
    if major in ("12", "13"):
        return f"pip install 'cfcam-gpu[cuda{major}]'"
    return f"install a torch that is built for CUDA 12 or 13 (this one is for {release}) and that extra of cfcam-gpu"


def run(activations: torch.Tensor, gradients: torch.Tensor, config: Config) -> EngineResult:
    """CF-CAM on the GPU, one image after the other. See :class:`cfcam_gpu.engines.Engine`."""
    batch, targets, channels, *size = gradients.shape
    device = activations.device

    def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty((batch, targets, *shape), dtype=dtype, device=device)

    # Torch's own tensors, which CuPy writes into: record_stream and the like work on what the caller gets.
    result = EngineResult(
        raw_maps=empty(*size, dtype=torch.float32),
        labels=empty(channels, dtype=torch.int64),
        weights=empty(channels, dtype=torch.float32),
        eps=empty(dtype=torch.float64),
    )
    ops = _on_gpu()
    with dlpack.cupy_on_torch(device):
        places = [dlpack.to_cupy(tensor) for tensor in result]
        for b in range(batch):
            of_image = dlpack.to_cupy(activations[b].double())
            of_targets = (dlpack.to_cupy(gradients[b, t].double()) for t in range(targets))
            for t, (clusters, weighted) in enumerate(cluster_filter(of_image, of_targets, config, ops)):
                arrays = EngineResult(weighted.map, clusters.labels, weighted.weights, clusters.eps)
                for place, value in zip(places, arrays):
                    place[b, t] = value
    return result


@cache
def _on_gpu() -> Primitives:
    """CuPy's primitives, with cuML's DBSCAN, and cuCIM's Gaussian filter where it is installed."""
    cupy = importlib.import_module("cupy")
    try:
        gaussian = of_skimage(importlib.import_module("cucim.skimage.filters").gaussian)
    except ImportError:
        gaussian = of_ndimage(importlib.import_module("cupyx.scipy.ndimage").gaussian_filter)
    return primitives(
        cupy,
        pdist=_pdist(cupy),
        dbscan_class=dlpack.import_keeping_allocator("cuml").DBSCAN,
        gaussian=gaussian,
        synchronize=lambda: cupy.cuda.get_current_stream().synchronize(),
    )


def _pdist(cupy: Any) -> Callable[[Array], Array]:
    """Distances of all pairs; CuPy's own function needs cuVS, and broadcasting a (N, N, D) temporary."""
    kernel = cupy.ElementwiseKernel(
        "raw float64 x, int64 n, int64 dimensions",
        "float64 distance",
        PAIR_DISTANCE,
        "cfcam_pair_distance",
        options=("--fmad=false",),  # SciPy's distances to the last bit, so that the engines agree on ties too
    )

    def pdist(points: Array) -> Array:
        n, dimensions = points.shape
        # A row for each dimension, so that threads of neighbouring pairs read neighbouring addresses.
        return kernel(points.T.ravel(), n, dimensions, size=n * (n - 1) // 2)

    return pdist


def primitives(
    xp: Any,
    *,
    pdist: Callable[[Array], Array],
    dbscan_class: Any,
    gaussian: Callable[[Array, float, str], Array],
    synchronize: Callable[[], None],
) -> Primitives:
    """What the algorithm needs, over an array namespace; tests hand in NumPy and scikit-learn.

    Parameters
    ----------
    xp : module
        ``cupy``.
    pdist, gaussian : callable
        As :class:`~cfcam_gpu.core.cluster_filter.Primitives` wants them.
    dbscan_class : type
        cuML's ``DBSCAN``.
    synchronize : callable
        Waits until all work on CuPy's current stream is done.
    """

    def order_statistics(values: Array, k: int) -> Array:
        ordered = xp.sort(values)  # as CuPy's partition does too for any k beyond a thousand
        return xp.stack((ordered[k], ordered[min(k + 1, values.size - 1)]))

    def squareform(pairs: Array, n: int) -> Array:
        # Gathered: what CuPy's triu_indices does to scatter makes the host wait.
        indices = xp.arange(n)
        low, high = xp.minimum(indices[:, None], indices), xp.maximum(indices[:, None], indices)
        square = pairs[low * (2 * n - low - 1) // 2 + high - low - 1]
        xp.fill_diagonal(square, 0)
        return square

    def dbscan(near: Array, n: int, min_samples: int) -> Array:
        # Distances 0 and 1, so that cuML, which rounds eps to float32, has nothing left to decide.
        distances = squareform(xp.logical_not(near), n).astype(xp.float32)
        model = dbscan_class(
            eps=0.5,
            min_samples=min(min_samples, n + 1),  # cuML takes an int of 32 bits
            metric="precomputed",
            calc_core_sample_indices=False,
            output_type="cupy",
        )
        # cuML works on the thread's own stream, which no side stream of torch's is ordered with. When it returns, its
        # work is done.
        synchronize()
        # The user may have told cuML to return another type everywhere.
        return xp.asarray(model.fit_predict(distances))

    return Primitives(
        xp=xp,
        pdist=pdist,
        order_statistics=order_statistics,
        squareform=squareform,
        dbscan=dbscan,
        gaussian=gaussian,
    )


def of_skimage(gaussian: Callable[..., Array]) -> Callable[[Array, float, str], Array]:
    """The primitive from scikit-image's ``filters.gaussian`` or cuCIM's."""

    def smooth(maps: Array, sigma: float, boundary: str) -> Array:
        return gaussian(maps, sigma, mode=_MODE[boundary], preserve_range=True, truncate=4.0, channel_axis=0)

    return smooth


def of_ndimage(gaussian_filter: Callable[..., Array]) -> Callable[[Array, float, str], Array]:
    """The primitive from SciPy's ``ndimage.gaussian_filter`` or CuPy's, which knows no ``axes`` before release 14."""

    def smooth(maps: Array, sigma: float, boundary: str) -> Array:
        sigmas = (0, *[sigma] * (maps.ndim - 1))
        return gaussian_filter(maps, sigmas, mode=_MODE[boundary], truncate=4.0)

    return smooth
