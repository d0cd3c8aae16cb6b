"""Whether the map stays when what it was made from changes a little.

Similarity is SSIM of maps in [0, 1] at one size for all methods; it is one of images, so of volumes and signals there
is :func:`max_sensitivity`. Noise is drawn on the device of what it is added to,
so the same seed, batch and device give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ..core.chunks import Progress
from ..core.maps import upsample
from ..methods.noise import noisy_copies
from .numbers import is_number
from .scoring import Explainer, check_images, check_maps

Tensors = TypeVar("Tensors", torch.Tensor, Sequence[torch.Tensor])

#: Why SSIM refuses volumes and signals.
IMAGES_ONLY = "SSIM's window and constants are an image's"


def ssim(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each pair of maps.

    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 2004, as
    torchmetrics computes it: Gaussian windows of sigma 1.5, a data range of 1.

    Parameters
    ----------
    first, second : (B, H, W) floating tensors in [0, 1]
        At least 11 pixels a side.

    Returns
    -------
    (B,) float64 tensor in [-1, 1]

    Raises
    ------
    TypeError, ValueError
        If an argument is refused; the message names it.
    RuntimeError
        If torchmetrics is not installed.
    """
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure as structural_similarity
    except ImportError:
        raise RuntimeError("ssim: torchmetrics is not installed; pip install 'cfcam-gpu[metrics]'") from None
    first = check_maps(first)
    second = check_maps(second, tuple(first.shape))
    if min(first.shape[1:]) < 11:
        raise ValueError(f"maps: SSIM needs at least 11 pixels a side; got {tuple(first.shape[1:])}")
    # float64: the variance of a nearly flat window is a difference of two nearly equal numbers.
    values = structural_similarity(first.double()[:, None], second.double()[:, None], data_range=1.0, reduction="none")
    return torch.as_tensor(values).reshape(len(first))


def gradient_noise_ssim(
    method: Callable[[Tensors, Tensors], torch.Tensor],
    activations: Tensors,
    gradients: Tensors,
    size: tuple[int, int],
    *,
    std: float,
    seed: int = 0,
) -> torch.Tensor:
    """SSIM between the map and the map made from noisy gradients; higher is better.

    Gaussian noise is added to the captured gradients before the method sees them: before weights, filters or clusters
    are computed. Its standard deviation is `std` times that of the gradients of the same image and target.

    Parameters
    ----------
    method : callable
        ``(activations, gradients) -> raw maps (B, T, h, w)``, such as ``METHODS["gradcam"].from_gradients``.
    activations : (B, C, h, w) tensor, or a sequence of them for a method of several layers
    gradients : (B, T, C, h, w) tensor, or a sequence of them
    size : (int, int)
        H and W at which maps are compared, the same for all methods.
    std : float
        In units of the gradients' own standard deviation.
    seed : int

    Returns
    -------
    (B, T) float64 tensor in [-1, 1]

    Raises
    ------
    TypeError, ValueError
        If an argument, or what the method returns, is refused; the message names it.
    RuntimeError
        If torchmetrics is not installed.
    """
    if len(size) != 2:
        raise ValueError(f"size: expected (H, W), images only: {IMAGES_ONLY}; got {tuple(size)}")
    noisy = add_gradient_noise(gradients, std=std, seed=seed)
    clean_maps, noisy_maps = (upsample(method(activations, each), size) for each in (gradients, noisy))
    return ssim(clean_maps.flatten(0, 1), noisy_maps.flatten(0, 1)).reshape(clean_maps.shape[:2])


def add_gradient_noise(gradients: Tensors, *, std: float, seed: int) -> Tensors:
    """The gradients plus the noise of :func:`gradient_noise_ssim`, in their dtype.

    Raises
    ------
    ValueError
        If `std` is negative, infinite or NaN.
    """
    _check_amount("std", std)
    if isinstance(gradients, torch.Tensor):
        return _noisy(gradients, std, torch.Generator(gradients.device).manual_seed(seed))
    generator = torch.Generator(gradients[0].device).manual_seed(seed)
    return [_noisy(of_layer, std, generator) for of_layer in gradients]


def _noisy(gradients: torch.Tensor, std: float, generator: torch.Generator) -> torch.Tensor:
    values = gradients.float()
    spread = std * values.std(dim=(-3, -2, -1), correction=0, keepdim=True)
    noise = torch.randn(values.shape, generator=generator, device=values.device)
    return (values + spread * noise).to(gradients.dtype)


def pixel_noise_ssim(
    explainer: Explainer,
    images: torch.Tensor,
    classes: torch.Tensor,
    *,
    std: float,
    seed: int = 0,
) -> torch.Tensor:
    """SSIM between the map and the map of the image with Gaussian noise; higher is better.

    Parameters
    ----------
    explainer : callable
        ``(images (B, C, H, W), classes (B,)) -> maps (B, H, W)`` in [0, 1].
    images : (B, C, H, W) floating tensor
    classes : (B,) int64 tensor
        Explained in both.
    std : float
        As a share of each image's own range of values.
    seed : int

    Returns
    -------
    (B,) float64 tensor in [-1, 1]

    Raises
    ------
    TypeError, ValueError
        If an argument, or what the explainer returns, is refused; the message names it.
    RuntimeError
        If torchmetrics is not installed.
    """
    images = check_images(images, images_only=IMAGES_ONLY)
    _check_amount("std", std)
    (noisy,) = noisy_copies(images, 1, std, seed)
    return ssim(explainer(images, classes), explainer(noisy, classes))


def max_sensitivity(
    explainer: Explainer,
    images: torch.Tensor,
    classes: torch.Tensor,
    *,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Largest relative change of the map under small changes of the image; lower is better.

    max_d norm(L(x + d) - L(x)) / norm(L(x)) over `samples` d that are uniform in the cube of half-width `radius`: Yeh
    et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019 (arXiv:1901.09392), estimated by
    sampling as there, and made relative. Where L(x) is all zeros: 0 if it stays so, else infinity.

    Parameters
    ----------
    explainer : callable
        ``(images (B, C, H, W), classes (B,)) -> maps (B, H, W)`` in [0, 1].
    images : (B, C, H, W) floating tensor
        Or volumes (B, C, D, H, W), or signals (B, C, L).
    classes : (B,) int64 tensor
    radius : float
        As a share of each image's own range of values.
    samples : int
    seed : int
    progress : callable, optional
        Called with (done, total) samples.

    Returns
    -------
    (B,) float64 tensor

    Raises
    ------
    TypeError, ValueError
        If an argument, or what the explainer returns, is refused; the message names it.
    """
    images = check_images(images)
    _check_amount("radius", radius)
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples: expected a whole number, at least 1; got {samples!r}")
    generator = torch.Generator(images.device).manual_seed(seed)
    reach = radius * _range(images)
    shape = (len(images), *images.shape[2:])
    maps = check_maps(explainer(images, classes), shape).double().flatten(1)
    worst = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    for sample in range(samples):
        drawn = torch.rand(images.shape, generator=generator, dtype=images.dtype, device=images.device)
        moved = check_maps(explainer(images + reach * (2 * drawn - 1), classes), shape).double().flatten(1)
        worst = torch.maximum(worst, torch.linalg.vector_norm(moved - maps, dim=1))
        if progress is not None:
            progress(sample + 1, samples)
    return torch.where(worst > 0, worst / torch.linalg.vector_norm(maps, dim=1), 0.0)


def _range(images: torch.Tensor) -> torch.Tensor:
    own = tuple(range(1, images.ndim))
    return images.amax(dim=own, keepdim=True) - images.amin(dim=own, keepdim=True)


def _check_amount(name: str, value: float) -> None:
    if not (is_number(value) and 0 <= value < float("inf")):
        raise ValueError(f"{name}: expected a number that is not negative; got {value!r}")
