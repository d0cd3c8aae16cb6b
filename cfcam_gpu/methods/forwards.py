"""CAMs that need more than one forward and one backward: they look at the model itself.

Each takes the :class:`Work` at hand, and returns raw maps (B, T, ...) float32 on the images' device: >= 0, not
normalised. Of channels, the host reads which are alive, once a call, and of copies of an image, whether the model says
of them what it said of the image; it reads no activation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import nn

from ..core.chunks import Progress, chunk_size
from ..core.maps import interpolate
from ..hooks.capture import Captured, capture
from ..hooks.forward_memory import forward_bytes
from ..hooks.guard import guarded
from ..hooks.layouts import Layout
from ..hooks.target_layer import TargetLayer
from ..targets.outputs import logits_of
from ..targets.request import Request, resolve
from .gradient import plusplus_weights, weighted
from .head import Head
from .noise import noisy_copies

#: Noisy copies of each image that Smooth Grad-CAM++ looks at.
SAMPLES = 8


@dataclass(frozen=True)
class Work:
    """A model, images and what was captured of them, and what to explain.

    Parameters
    ----------
    model : torch.nn.Module
    layer : TargetLayer
    images : (B, ...) tensor
    captured : Captured
    request : Request
        With the predicted classes settled, so that later forwards are asked for the same.
    memory : int
        Bytes that the activations of one chunk of forwards may take.
    noise : float
        Standard deviation of noise on the pixels, as a share of the image's own range of values.
    seed : int
    libragrad : bool
        Whether gradients are LibraGrad's: :mod:`cfcam_gpu.hooks.libragrad`.
    progress : callable, optional
        Called with (done, total) channels or samples.
    """

    model: nn.Module
    layer: TargetLayer
    images: torch.Tensor
    captured: Captured
    request: Request
    memory: int
    noise: float
    seed: int
    libragrad: bool = False
    progress: Progress | None = None


def scorecam(work: Work) -> torch.Tensor:
    """Score-CAM: ReLU(sum_k w_k A_k), where w is the softmax over channels of the score on the image masked by A_k.

    Wang et al., "Score-CAM", CVPR Workshops 2020 (arXiv:1910.01279). The mask is A_k at the image's size (bilinear,
    ``align_corners=False``, as in the authors' code), stretched to [0, 1]. The score of the paper's baseline image is
    one number for all channels, so that the softmax doesn't see it. A channel that is the same everywhere has nothing
    to stretch: its mask is zero. Such channels share one forward of a black image.

    Raises
    ------
    TypeError, ValueError
        If the model has no logits, or not those of classes though a class is asked for.
    """
    model, images, activations = work.model, work.images, work.captured.activations
    work.captured.need_logits()
    with guarded(model):
        black = logits_of(model(torch.zeros_like(images[:1])))
        all_images = torch.arange(len(images), device=images.device)
        of_black = _scores(work, all_images, black.expand(len(images), *black.shape[1:]))
        scores = of_black[..., None].repeat(1, 1, activations.shape[1])
        by_channel = activations.flatten(2)
        live = (by_channel.amax(dim=-1) > by_channel.amin(dim=-1)).nonzero()
        size = chunk_size(work.memory, forward_bytes(model, lambda: model(images[:1]), 1))
        layout = work.layer.layout
        assert layout is not None
        for start in range(0, len(live), size):
            image, channel = live[start : start + size].unbind(dim=1)
            logits = logits_of(model(images[image] * _masks(activations[image, channel], images, layout)))
            scores[image, :, channel] = _scores(work, image, logits)
            if work.progress is not None:
                work.progress(start + len(image), len(live))
    return weighted(activations, scores.softmax(dim=-1))


def _masks(activations: torch.Tensor, images: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Masks (N, 1, *size) in [0, 1] from activations (N, ...), in the images' dtype and with their axes."""
    masks = interpolate(activations.float()[:, None], layout.size_of(images.shape), layout.inside)
    flat = masks.flatten(1)
    low, high = (bound.reshape(-1, *(1 for _ in masks.shape[1:])) for bound in (flat.amin(dim=1), flat.amax(dim=1)))
    # Interpolation may even out what was different at the layer.
    masks = ((masks - low) / (high - low)).masked_fill(high == low, 0.0).to(images.dtype)
    if layout.axes is None:
        return masks
    (channels,) = set(range(1, images.ndim)) - set(layout.axes)
    return masks.movedim(1, channels)


def ablationcam(work: Work) -> torch.Tensor:
    """Ablation-CAM: ReLU(sum_k w_k A_k), where w_k = (y - y_k) / |y| with y_k the score when A_k is set to zero.

    Desai and Ramaswamy, "Ablation-CAM", WACV 2020. They divide by y; its size scales a whole map, but its sign would
    turn the map of a negative score inside out, so the absolute value is taken. Ablating a channel that is zero
    everywhere changes nothing, so it is not run. Only the layers after the target layer work on as many activations as
    there are channels in a chunk; those before work on the image once for each chunk, where the model lets them.

    Raises
    ------
    TypeError, ValueError
        If the model has no logits, from the target layer on the head reads the class token alone, or the model says of
        copies of an image something else than of the image.
    """
    images, activations = work.images, work.captured.activations
    with guarded(work.model):
        score = _scores(work, torch.arange(len(images), device=images.device), work.captured.need_logits())
        ablated = score[..., None].repeat(1, 1, activations.shape[1])
        head = _head(work)
        size = chunk_size(work.memory, head.bytes_each)
        live = (activations != 0).flatten(2).any(dim=-1).nonzero()
        done, counts = 0, live[:, 0].bincount(minlength=len(images)).tolist()
        for b, end in enumerate(accumulate(counts)):
            while done < end:
                image, channels = live[done : min(done + size, end)].unbind(dim=1)
                copies = activations[b].repeat(len(channels), *(1 for _ in activations.shape[1:]))
                copies[torch.arange(len(channels), device=channels.device), channels] = 0
                ablated[b, :, channels] = _scores(work, image, logits_of(head(b, copies))).T
                done += len(channels)
                if work.progress is not None:
                    work.progress(done, len(live))
    size_of_score = score.abs().masked_fill(score == 0, 1.0)
    return weighted(activations, (score[..., None] - ablated) / size_of_score[..., None])


def _head(work: Work) -> Head:
    """What comes after the layer. Of tokens more than the class token is to be read there: else no score would change.

    That is asked of the logits: a probability of one may be the same with the patches and without.

    Raises
    ------
    ValueError
    """
    head = Head(work.model, work.images, work.captured, "Take a method that runs no copies of an image")
    layout = work.layer.layout
    if layout is None or not layout.extra:
        return head
    with_patches, without_patches = logits_of(head.tried)
    if torch.allclose(with_patches, without_patches, rtol=torch.finfo(with_patches.dtype).eps ** 0.5, atol=0.0):
        raise ValueError(
            f"target_layer: at {work.layer.name} the scores don't depend on the patches: from there on the head reads "
            "the class token alone; take a layer before the last attention, such as what its block's first norm "
            "returns, or leave target_layer out"
        )
    return head


def reciprocam(work: Work) -> torch.Tensor:
    """Recipro-CAM: the probability of the class when of all positions of the layer's activation one alone is left.

    Byun and Lee, "ReciproCAM: Lightweight Gradient-free Class Activation Map for Post-hoc Explanations", CVPR Workshops
    2024 (arXiv:2209.14074), with the mask that the authors' code has by default: 1 at the position and 0 at all others.
    Its least value is taken off, as their stretching to [0, 1] does. A callable's score is its own. For transformers
    the authors have another paper, ViT-ReciproCAM (arXiv:2310.02588); here tokens have the mask of one position,
    too, and class and register tokens stay. As for Ablation-CAM, the layers after the target layer alone work on all
    masked activations.

    Raises
    ------
    TypeError, ValueError
        If the model has no logits or a single class, from the target layer on the head reads the class token alone, or
        the model says of copies of an image something else than of the image.
    """
    images, activations = work.images, work.captured.activations
    with guarded(work.model):
        count, positions = work.captured.gradients.shape[1], activations[0, 0].numel()
        found = activations.new_empty((len(images), count, positions), dtype=torch.float32)
        head = _head(work)
        size = chunk_size(work.memory, head.bytes_each)
        every, done = torch.arange(positions, device=activations.device), 0
        for b, activation in enumerate(activations.flatten(2)):
            for here in torch.split(every, size):
                masked = activation.new_zeros((len(here), *activation.shape))
                masked[torch.arange(len(here), device=here.device), :, here] = activation[:, here].T
                logits = logits_of(head(b, torch.unflatten(masked, 2, activations.shape[2:])))
                found[b, :, here] = _scores(work, torch.full_like(here, b), logits).T
                done += len(here)
                if work.progress is not None:
                    work.progress(done, len(images) * positions)
    return torch.unflatten(found - found.amin(dim=-1, keepdim=True), 2, activations.shape[2:])


def smoothgradcam_plusplus(work: Work) -> torch.Tensor:
    """Smooth Grad-CAM++: Grad-CAM++ with derivatives that are means over noisy copies of the image.

    Omeiza et al., "Smooth Grad-CAM++", 2019 (arXiv:1908.01224). With D_p the mean of G^p over the samples,
    w_k = sum_ij alpha_kij ReLU(D_1) and alpha = D_2 / (2 D_2 + S D_3). The paper prints D_1 above the line; with D_2
    this is Grad-CAM++ where there is no noise. Activations are those of the clean image.
    """
    captured = work.captured
    shape, device = captured.gradients.shape, work.images.device
    powers = [torch.zeros(shape, dtype=torch.float32, device=device) for _ in range(3)]
    for sample, noisy in enumerate(noisy_copies(work.images, SAMPLES, work.noise, work.seed), start=1):
        gradients = _gradients(work, noisy)
        for p, power in enumerate(powers, start=1):
            power += gradients**p / SAMPLES
        if work.progress is not None:
            work.progress(sample, SAMPLES)
    first, second, third = powers
    ratio = (third / second).masked_fill(second == 0, 0.0)
    return weighted(captured.activations, plusplus_weights(captured.activations, first, ratio))


def _gradients(work: Work, images: torch.Tensor) -> torch.Tensor:
    """Those of other images, (B, T, C, ...) float32."""
    return capture(work.model, work.layer, images, work.request, libragrad=work.libragrad).gradients.float()


def shapleycam(work: Work) -> torch.Tensor:
    """ShapleyCAM: ReLU(sum_k w_k A_k), where w_k is the spatial mean of (G - H A / 2)_k.

    Cai, "CAMs as Shapley Value-based Explainers", 2025 (arXiv:2501.06261): G and H are the first and second derivatives
    of the utility with respect to all activations of the layer, A those activations as one vector. The utility of a
    class is the paper's ReST (:func:`cfcam_gpu.methods.class_scores.residual_softmax`), which has second derivatives
    where a logit behind linear layers has none; a callable is its own utility.
    """
    captured = work.captured
    assert captured.curvatures is not None
    return weighted(
        captured.activations, (captured.gradients.float() - captured.curvatures.float() / 2).flatten(3).mean(dim=-1)
    )


def randomcam(work: Work) -> torch.Tensor:
    """Random-CAM: ReLU(sum_k w_k A_k), where each w_k is drawn from [-1, 1): what a map owes to the activations alone.

    A floor for sanity checks, as in pytorch-grad-cam. One draw serves all images and targets, so that an image's map is
    the same in any batch.
    """
    activations, gradients = work.captured.activations, work.captured.gradients
    generator = torch.Generator(activations.device).manual_seed(work.seed)
    weights = 2 * torch.rand(activations.shape[1], generator=generator, device=activations.device) - 1
    return weighted(activations, weights.expand(*gradients.shape[:2], -1))


def _scores(work: Work, images: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Scores (N, T) float32 of logits (N, ...), the n-th as asked for the image of index ``images[n]``."""
    request = work.request
    if request.scores is not None:
        request = replace(request, scores=tuple(request.scores[b] for b in images.tolist()))
    elif request.indices is not None:
        request = replace(request, indices=request.indices[images])
    # A callable's score must depend on the logits, which autograd alone can tell.
    with torch.enable_grad():
        _, scores = resolve(request, logits.detach().requires_grad_(), spatial_dims=work.images.ndim - 2)
    return torch.stack([score.detach().float() for score in scores], dim=1)
