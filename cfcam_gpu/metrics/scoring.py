"""What the metrics share: checked inputs, and class probabilities of many images within a memory budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import nn

from .. import targets
from ..core import axes
from ..core.chunks import Progress, chunk_size
from ..engines.execution import check_finite
from ..hooks.forward_memory import forward_bytes
from ..hooks.guard import check_model, guarded, warn_of_training
from ..targets.outputs import logits_of
from ..targets.request import are_sound
from ..targets.request import class_indices as classes_of

#: Maps (B, H, W) in [0, 1] of images (B, ...) and class indices (B,), all B at once: B is the caller's to choose. Of
#: volumes and signals maps are (B, D, H, W) and (B, L).
Explainer: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

#: The n images of jobs [start, stop), and the class (n,) whose probability is asked for.
Batch: TypeAlias = Callable[[int, int], tuple[torch.Tensor, torch.Tensor]]

#: What `batch` may hold of each image: both sides of a choice between pixels, the choice, and what comes out.
IMAGE_COPIES = 4

#: Images and maps by their number of spatial axes, as errors write them.
IMAGES = {1: "(B, C, L)", 2: "(B, C, H, W)", 3: "(B, C, D, H, W)"}
MAPS = {1: "(B, L)", 2: "(B, H, W)", 3: "(B, D, H, W)"}


def check_images(images: object, model: object = None, *, images_only: str | None = None) -> torch.Tensor:
    """`images`, if they are a floating tensor (B, C, H, W), (B, C, D, H, W) or (B, C, L) that is not empty.

    Parameters
    ----------
    images : object
    model : torch.nn.Module, optional
        The axes of its first convolution tell an image without a batch axis from a batch of signals.
    images_only : str, optional
        Why a metric can't be computed of volumes and signals, which are refused then.

    Raises
    ------
    TypeError, ValueError
    """
    if not isinstance(images, torch.Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, torch.Tensor) else type(images).__name__
        raise TypeError(f"images: expected a floating torch tensor (B, C, H, W); got {got}")
    spatial_dims = images.ndim - 2
    if images_only is not None and spatial_dims in (1, 3):
        raise ValueError(f"images: expected images only, (B, C, H, W): {images_only}; got {tuple(images.shape)}")
    of_model = axes.of_model(model) if isinstance(model, nn.Module) else None
    if spatial_dims not in IMAGES or spatial_dims < (of_model or 1) or images.numel() == 0:
        wanted = IMAGES[of_model] if of_model else " or ".join(IMAGES[dims] for dims in (2, 3, 1))
        raise ValueError(f"images: expected shape {wanted}, nothing of it empty; got {tuple(images.shape)}")
    return images


def check_maps(maps: object, shape: tuple[int, ...] | None = None, *, spatial_dims: int = 2) -> torch.Tensor:
    """`maps` in float32, if they are a floating tensor of values in [0, 1].

    Parameters
    ----------
    maps : (B, H, W) floating tensor
    shape : tuple of int, optional
        What the shape has to be; by default any of `spatial_dims` axes behind the first that is not empty.
    spatial_dims : int

    Raises
    ------
    TypeError, ValueError
        The message names the first image at fault.
    """
    if not isinstance(maps, torch.Tensor) or not maps.is_floating_point():
        got = maps.dtype if isinstance(maps, torch.Tensor) else type(maps).__name__
        raise TypeError(f"maps: expected a floating torch tensor (B, H, W); got {got}")
    if shape is None and (maps.ndim != spatial_dims + 1 or maps.numel() == 0):
        raise ValueError(f"maps: expected shape {MAPS[spatial_dims]}, nothing of it empty; got {tuple(maps.shape)}")
    if shape is not None and maps.shape != shape:
        several = maps.ndim == len(shape) + 1 and (maps.shape[0], *maps.shape[2:]) == shape
        hint = ". Of several targets an image, give one at a time: maps[:, t]" * several
        raise ValueError(f"maps: expected shape {tuple(shape)}; got {tuple(maps.shape)}{hint}")
    # Written so that NaN is out of range too.
    bad = (~((maps >= 0) & (maps <= 1))).flatten(1).any(dim=1)
    if bool(bad.any()):
        raise ValueError(f"maps: expected values in [0, 1]; image {int(bad.nonzero()[0])} has others")
    return maps.float()


def check_fit(
    model: object, images: object, maps: object, *, images_only: str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and their maps, one of the same size for each, on one device.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, C, H, W) floating tensor, or of volumes (B, C, D, H, W), of signals (B, C, L)
    maps : (B, H, W) floating tensor, or (B, D, H, W), (B, L)
    images_only : str, optional
        See :func:`check_images`.

    Raises
    ------
    TypeError, ValueError
    """
    images = check_images(images, model, images_only=images_only)
    maps = check_maps(maps, (len(images), *images.shape[2:]))
    if maps.device != images.device:
        raise ValueError(f"maps: expected device '{images.device}', as the images; got '{maps.device}'")
    return images, maps


def ranked(maps: torch.Tensor) -> torch.Tensor:
    """Of each pixel of maps (B, ...), how many come before it: higher values, or equal ones in reading order."""
    return maps.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1).reshape(maps.shape)


def class_indices(model: nn.Module, images: torch.Tensor, target: targets.Target, memory: int) -> torch.Tensor:
    """The class (B,) that each image's map explains, on the images' device; for None the predicted one.

    Raises
    ------
    TypeError, ValueError
        If `target` is neither None nor one class for each image: the metrics are defined for class probabilities. Where
        the predicted class is asked for, as :func:`logits_of_images`.
    """
    request = targets.read(target, len(images), targets.ClassNames(None, model))
    if request.scores is not None or request.several:
        raise ValueError("target: expected None or one class index for each image; the metric is about one probability")
    if request.indices is not None and request.predicted is None:
        if request.named is not None:  # by names of the model's, which may be of other classes than it has
            classes_of(replace(request, indices=request.indices[:1]), logits_of_images(model, images[:1], memory))
        return request.indices.to(images.device)
    classes = classes_of(request, logits_of_images(model, images, memory))
    assert classes is not None
    return classes.to(images.device)


def logits_of_images(model: nn.Module, images: torch.Tensor, memory: int) -> torch.Tensor:
    """The logits (B, K) of images (B, ...), chunk by chunk.

    Raises
    ------
    ValueError
        If the logits aren't (n, K), or an image's are NaN or infinite; -infinity, of a class that is masked out, may
        be.
    """
    model = check_model(model)
    chunks = []
    with guarded(model):
        size = chunk_size(memory, forward_bytes(model, lambda: model(images[:1]), 1))
        for start in range(0, len(images), size):
            chunks.append(_logits(model, images[start : start + size]))
    logits = torch.cat(chunks)
    check_finite(are_sound(logits, None, []))
    return logits


def class_scores(
    model: nn.Module,
    batch: Batch,
    jobs: int,
    *,
    memory: int,
    progress: Progress | None = None,
    bytes_beside: int = 0,
    softmax: bool = True,
) -> torch.Tensor:
    """Softmax probabilities of `jobs` images that are made chunk by chunk, or their logits.

    Parameters
    ----------
    model : torch.nn.Module
    batch : callable
        ``(start, stop) -> images (n, ...), classes (n,)``.
    jobs : int
    memory : int
        Bytes that the activations of one chunk may take.
    progress : callable, optional
        Called with (done, total) images after each forward.
    bytes_beside : int
        Bytes that making one image takes, besides some copies of it.
    softmax : bool
        False for the logits of the classes.

    Returns
    -------
    (jobs,) float64 tensor
        Taken in float64: what a probability near 1 lacks of it is a metric's denominator. NaN where an image's logits
        are NaN or infinite, but for -infinity of another class.

    Raises
    ------
    ValueError
        If the logits aren't (n, K), or a class is out of range.
    """
    model = check_model(model)
    warn_of_training(model)
    chunks = []
    with guarded(model):
        first_image, _ = batch(0, 1)
        bytes_each = (
            forward_bytes(model, lambda: model(first_image), 1) + IMAGE_COPIES * first_image.nbytes + bytes_beside
        )
        size = chunk_size(memory, bytes_each)
        for start in range(0, jobs, size):
            stop = min(start + size, jobs)
            images, classes = batch(start, stop)
            logits = _logits(model, images)
            out_of_range = classes[(classes < 0) | (classes >= logits.shape[1])]
            if out_of_range.numel():
                raise ValueError(f"target: class {int(out_of_range[0])} is out of range for {logits.shape[1]} classes")
            scores = logits.double().softmax(dim=1) if softmax else logits.double()
            of_classes = scores.gather(1, classes[:, None]).squeeze(1)
            sound = are_sound(logits, None, [])["logits"] & of_classes.isfinite()
            chunks.append(of_classes.masked_fill(~sound, torch.nan))
            if progress is not None:
                progress(stop, jobs)
    return torch.cat(chunks)


def check_own(scores: torch.Tensor) -> None:
    """Refuse images of which the model itself says nothing: NaN among what :func:`class_scores` gives of them, (B,).

    Of an image that a metric has changed, NaN is passed on.

    Raises
    ------
    NotFiniteError
    """
    check_finite({"logits": ~scores.isnan()})


def _logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    logits = logits_of(model(images))
    if logits.ndim != 2 or len(logits) != len(images):
        raise ValueError(f"model: expected logits (B, K) with B = {len(images)}; got shape {tuple(logits.shape)}")
    return logits
