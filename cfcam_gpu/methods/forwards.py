"""CAMs that run the model, or what comes after the target layer, many times.

Each takes the model, a target layer, images (B, ...) and what to explain of them, and returns raw maps (B, T, h, w)
float32 on their device: >= 0, not normalised. ``memory`` bounds the bytes that the activations of one chunk of forwards
may take; ``progress`` is called with (done, total) channels or samples.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional

from ..capture import Captured, capture
from ..chunking import DEFAULT_MEMORY, Progress, chunk_size, forward_bytes
from ..guard import guarded, logits_of
from ..layers import TargetLayer
from ..targets import Request, resolve
from .gradient import plusplus_weights, weighted
from .substitute import first_copy_only, substituted


def scorecam(
    model: nn.Module,
    layer: TargetLayer,
    images: torch.Tensor,
    request: Request,
    *,
    memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Score-CAM: ReLU(sum_k w_k A_k), where w is the softmax over channels of the score on the image masked by A_k.

    Wang et al., "Score-CAM", CVPR Workshops 2020 (arXiv:1910.01279). The mask is A_k at the image's size (bilinear,
    ``align_corners=False``, as in the authors' code), stretched to [0, 1]. The score of the paper's baseline image is
    one number for all channels, so that the softmax doesn't see it. A channel that is the same everywhere has nothing
    to stretch: its mask is zero. Such channels share one forward of a black image.
    """
    captured = capture(model, layer, images, request)
    chosen = _pinned(request, captured)
    activations = captured.activations
    with guarded(model):
        black = logits_of(model(torch.zeros_like(images[:1])))
        everywhere = _scores(chosen, range(len(images)), black.expand(len(images), *black.shape[1:]))
        scores = everywhere[..., None].repeat(1, 1, activations.shape[1])
        live = (activations.amax(dim=(-2, -1)) > activations.amin(dim=(-2, -1))).nonzero()
        size = chunk_size(memory, forward_bytes(model, lambda: model(images[:1]), 1))
        for start in range(0, len(live), size):
            image, channel = live[start : start + size].unbind(dim=1)
            logits = logits_of(model(images[image] * _masks(activations[image, channel], images)))
            scores[image, :, channel] = _scores(chosen, image.tolist(), logits)
            if progress is not None:
                progress(start + len(image), len(live))
    return weighted(activations, scores.softmax(dim=-1))


def _masks(activations: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Masks (N, 1, H, W) in [0, 1] from activations (N, h, w), in the dtype of the images."""
    masks = functional.interpolate(
        activations.float()[:, None], size=images.shape[-2:], mode="bilinear", align_corners=False
    )
    low, high = masks.amin(dim=(-2, -1), keepdim=True), masks.amax(dim=(-2, -1), keepdim=True)
    # Interpolation may even out what was different at the layer.
    return torch.where(high > low, (masks - low) / (high - low), 0.0).to(images.dtype)


def ablationcam(
    model: nn.Module,
    layer: TargetLayer,
    images: torch.Tensor,
    request: Request,
    *,
    memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Ablation-CAM: ReLU(sum_k w_k A_k), where w_k = (y - y_k) / |y| with y_k the score when A_k is set to zero.

    Desai and Ramaswamy, "Ablation-CAM", WACV 2020. They divide by y; its size scales a whole map, but its sign would
    turn the map of a negative score inside out, so the absolute value is taken. Ablating a channel that is zero
    everywhere changes nothing, so it is not run. Only the layers after `layer` work on as many activations as there are
    channels in a chunk; those before work on the image once for each chunk, where the model lets them.
    """
    captured = capture(model, layer, images, request)
    chosen = _pinned(request, captured)
    activations = captured.activations
    with guarded(model):
        score = _scores(chosen, range(len(images)), captured.logits)
        ablated = score[..., None].repeat(1, 1, activations.shape[1])
        head = _Head(model, captured, images)
        size = chunk_size(memory, head.bytes_each)
        live = (activations != 0).flatten(2).any(dim=-1)
        done, total = 0, int(live.sum())
        for b in range(len(images)):
            channels_of_b = live[b].nonzero().squeeze(1)
            for start in range(0, len(channels_of_b), size):
                channels = channels_of_b[start : start + size]
                copies = activations[b].repeat(len(channels), 1, 1, 1)
                copies[torch.arange(len(channels), device=channels.device), channels] = 0
                ablated[b, :, channels] = _scores(chosen, [b] * len(channels), head(images[b : b + 1], copies)).T
                done += len(channels)
                if progress is not None:
                    progress(done, total)
    size_of_score = torch.where(score != 0, score.abs(), 1.0)
    return weighted(activations, (score[..., None] - ablated) / size_of_score[..., None])


class _Head:
    """What comes after a layer, on many activations of one image."""

    def __init__(self, model: nn.Module, captured: Captured, images: torch.Tensor) -> None:
        self.model = model
        self.layer = captured.layers[0]
        self.trunk_once = True
        self.bytes_each = forward_bytes(model, lambda: self._try_trunk_once(captured, images), 2)
        if not self.trunk_once:
            self.bytes_each = forward_bytes(model, lambda: model(images[:1]), 1)

    def _try_trunk_once(self, captured: Captured, images: torch.Tensor) -> None:
        """No, where the batches of both sides of the layer meet in a way that doesn't broadcast, as in a DenseNet."""
        activations = captured.activations[:1].repeat(2, 1, 1, 1)
        try:
            self.trunk_once = self(images[:1], activations).shape == (2, *captured.logits.shape[1:])
        except Exception:  # whatever it is, it comes again below if the batches are not to blame
            self.trunk_once = False

    def __call__(self, image: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
        copies = image.expand(len(activations), *image.shape[1:])
        once = first_copy_only(self.model, copies) if self.trunk_once else nullcontext()
        with substituted(self.layer, activations), once:
            return logits_of(self.model(copies))


def smoothgradcam_plusplus(
    model: nn.Module,
    layer: TargetLayer,
    images: torch.Tensor,
    request: Request,
    *,
    samples: int = 8,
    noise: float = 0.15,
    seed: int = 0,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Smooth Grad-CAM++: Grad-CAM++ with derivatives that are means over noisy copies of the image.

    Omeiza et al., "Smooth Grad-CAM++", 2019 (arXiv:1908.01224). With D_p the mean of G^p over the samples,
    w_k = sum_ij alpha_kij ReLU(D_1) and alpha = D_2 / (2 D_2 + S D_3). The paper prints D_1 above the line; with D_2
    this is Grad-CAM++ where there is no noise. Activations are those of the clean image.

    Parameters
    ----------
    samples : int
        Noisy copies of each image.
    noise : float
        Standard deviation, as a share of the image's own range of values (Smilkov et al., "SmoothGrad", 2017).
    seed : int
    """
    captured = capture(model, layer, images, request)
    chosen = _pinned(request, captured)
    generator = torch.Generator(images.device).manual_seed(seed)
    spread = noise * (images.amax(dim=(1, 2, 3), keepdim=True) - images.amin(dim=(1, 2, 3), keepdim=True))
    shape = captured.gradients.shape
    powers = [torch.zeros(shape, dtype=torch.float32, device=images.device) for _ in range(3)]
    for sample in range(samples):
        drawn = torch.randn(images.shape, generator=generator, dtype=images.dtype, device=images.device)
        gradients = capture(model, layer, images + spread * drawn, chosen).gradients.float()
        for p, power in enumerate(powers, start=1):
            power += gradients**p / samples
        if progress is not None:
            progress(sample + 1, samples)
    first, second, third = powers
    ratio = torch.where(second > 0, third / second, 0.0)
    return weighted(captured.activations, plusplus_weights(captured.activations, first, ratio))


def _pinned(request: Request, captured: Captured) -> Request:
    """The same request with the predicted classes settled, so that later forwards are asked for the same."""
    return request if captured.indices is None else Request(indices=captured.indices)


def _scores(request: Request, rows: list[int] | range, logits: torch.Tensor) -> torch.Tensor:
    """Scores (N, T) float32 of logits (N, ...), the n-th as `request` asks for image ``rows[n]``."""
    if request.scores is not None:
        request = Request(scores=tuple(request.scores[b] for b in rows))
    elif request.indices is not None:
        request = Request(indices=request.indices[list(rows)])
    # A callable's score must depend on the logits, which autograd alone can tell.
    with torch.enable_grad():
        _, scores = resolve(request, logits.detach().requires_grad_())
    return torch.stack([score.detach().float() for score in scores], dim=1)
