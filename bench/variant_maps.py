"""What was tried for the two-level default: options of its Config, and forms that no option has."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cfcam_gpu import Config, targets
from cfcam_gpu.core.cluster_filter import channel_evidence, cluster_channels, filter_gradients, noise_floor
from cfcam_gpu.core.maps import over_maximum, upsample
from cfcam_gpu.engines.execution import compute
from cfcam_gpu.engines.reference import PRIMITIVES
from cfcam_gpu.evaluation.candidates import Candidate
from cfcam_gpu.hooks import layers
from cfcam_gpu.hooks.capture import capture

LAST = "_avg_pooling.input"
FINE = "_blocks.11._depthwise_conv.input"
FINER = "_blocks.5._depthwise_conv.input"  # 240 x 28 x 28
BESIDE = "_blocks.10._depthwise_conv.input"  # 672 x 14 x 14, one block before FINE
COARSE_BLOCKS = (
    "_blocks.15._depthwise_conv.input",
    "_blocks.13._project_conv.input",
    "_blocks.12._depthwise_conv.input",
)

DEFAULT = Config.two_level()

Tensors = Sequence[torch.Tensor]
Array = Any


@dataclass(frozen=True)
class Variant(Candidate):
    """A candidate with a sentence on what it is; captures are shared with the other variants.

    ``rival`` contrasts a class with its strongest rival instead of all; ``coarse_contrast`` is the coarse layer's own.
    """

    what: str = ""
    rival: bool = False
    coarse_contrast: float | None = None

    def captured(self, model: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> tuple[Any, Any]:
        """As a candidate's; of three layers the last two come from a capture of their own."""
        if self.rival:
            return _against_strongest(model, self.layers, images, classes)
        if len(self.layers) == 3:
            first = _capture(model, self.layers[:1], images, classes, self.contrast)
            rest = _capture(model, self.layers[1:], images, classes, self.contrast)
            return tuple(a + b for a, b in zip(first, rest))
        found = _capture(model, self.layers, images, classes, self.contrast)
        if self.coarse_contrast is not None:
            other = _capture(model, self.layers, images, classes, self.coarse_contrast)
            found = found[0], (found[1][0], other[1][1])
        return found


_shared: OrderedDict[Any, Any] = OrderedDict()
#: Captures that are kept: a batch of images and each of its images alone, at a few sets of layers.
KEPT = 64


def _capture(
    model: nn.Module, names: tuple[str, ...], images: torch.Tensor, classes: torch.Tensor, contrast: float
) -> tuple[Any, Any]:
    # A randomised model is the same object with other numbers in it.
    state = id(model), sum(parameter._version for parameter in model.parameters())
    key = hashlib.blake2b(images.numpy().tobytes() + classes.numpy().tobytes()).digest(), state, names, contrast
    if key in _shared and _shared[key][0] is model:
        return _shared[key][1]
    found = Candidate("", names, contrast=contrast).captured(model, images, classes)
    _shared[key] = model, found
    while len(_shared) > KEPT:
        _shared.popitem(last=False)
    return found


def _against_strongest(
    model: nn.Module, names: tuple[str, ...], images: torch.Tensor, classes: torch.Tensor
) -> tuple[Any, Any]:
    fine, coarse = (layers.find(model, name) for name in names)

    def margin(index: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda row: row[index] - torch.cat([row[:index], row[index + 1 :]]).amax()

    found = []
    for column in classes.T:
        request = targets.read([margin(int(index)) for index in column], len(images))
        found.append(capture(model, fine, images, request, coarse=coarse))
    stacked = [torch.cat([gradients(one) for one in found], dim=1) for gradients in (_fine_of, _coarse_of)]
    assert found[0].coarse is not None
    return (found[0].activations, found[0].coarse[0]), tuple(stacked)


def _fine_of(captured: Any) -> torch.Tensor:
    return captured.gradients


def _coarse_of(captured: Any) -> torch.Tensor:
    return captured.coarse[1]


def each_target(
    make: Callable[[Array, Array, Array, Config], Array],
) -> Callable[[torch.Tensor, torch.Tensor, Config], torch.Tensor]:
    """Fine maps (B, T, h, w) from a function of one target's activations, gradients, labels and configuration."""

    def fine(activations: torch.Tensor, gradients: torch.Tensor, config: Config) -> torch.Tensor:
        maps = []
        for of_image, of_targets in zip(activations.double().numpy(), gradients.double().numpy()):
            labels = [cluster_channels(of_image, own.mean((1, 2)), config, PRIMITIVES).labels for own in of_targets]
            maps.append([make(of_image, *of_target, config).clip(0) for of_target in zip(of_targets, labels)])
        return torch.from_numpy(np.array(maps)).float()

    return fine


def _shrunk(activations: Array, gradients: Array, labels: Array, config: Config) -> Array:
    """A gain of f^2 / (f^2 + 4 s^2) instead of a floor: what the noise may be is made small, not cut off."""
    filtered = filter_gradients(gradients, labels, config, PRIMITIVES)
    noise = 2 * noise_floor(gradients, filtered, labels, config, PRIMITIVES)[:, None, None]
    power = filtered**2 + noise**2
    gain = np.divide(filtered**2, power, out=np.zeros_like(power), where=power > 0)
    return (np.maximum(filtered, 0) * gain * activations).sum(axis=0)


def _sign_aware(activations: Array, gradients: Array, labels: Array, config: Config) -> Array:
    """A cluster's channels that speak for the target, and those against it, have noise floors of their own."""
    against = gradients.mean(axis=(1, 2)) < 0
    split = np.where(labels >= 0, 2 * labels + against, labels)
    return channel_evidence(activations, gradients, split, config, PRIMITIVES).sum(axis=0)


def _joint(activations: Array, gradients: Array, labels: Array, config: Config) -> Array:
    """A cluster's evidence times the share of its channels' pooled evidence that speaks for the target."""
    evidence = channel_evidence(activations, gradients, labels, config, PRIMITIVES)
    pooled = gradients.mean(axis=(1, 2)) * activations.sum(axis=(1, 2))
    for cluster in range(labels.max() + 1):
        members = labels == cluster
        whole = np.abs(pooled[members]).sum()
        evidence[members] *= np.maximum(pooled[members], 0).sum() / whole if whole > 0 else 0.0
    return evidence.sum(axis=0)


def _for_the_target(activations: Array, gradients: Array, labels: Array, config: Config) -> Array:
    """Without the channels whose gradient times activation, summed over the map, speaks against the target."""
    evidence = channel_evidence(activations, gradients, labels, config, PRIMITIVES)
    return evidence[(gradients * activations).sum(axis=(1, 2)) >= 0].sum(axis=0)


def _engine(activations: torch.Tensor, gradients: torch.Tensor, config: Config) -> torch.Tensor:
    return compute(activations, gradients, replace(config, gate=None), "cpu").raw_maps


@dataclass(frozen=True)
class Form:
    """How maps come about: the fine map, what lets it through, and how it is shown; by default as in the library."""

    config: Config = DEFAULT
    fine: Callable[[torch.Tensor, torch.Tensor, Config], torch.Tensor] = _engine
    gate: Callable[[torch.Tensor], torch.Tensor] | None = None
    shown: Callable[[torch.Tensor], torch.Tensor] | None = None
    #: Merges the maps of the layers before the last one, all at the largest size and over their maxima.
    merge: Callable[[list[torch.Tensor]], torch.Tensor] = field(default=lambda maps: maps[0])

    def __call__(self, activations: Tensors, gradients: Tensors, size: tuple[int, int]) -> torch.Tensor:
        maps = [over_maximum(self.fine(a, g, self.config)) for a, g in zip(activations[:-1], gradients[:-1])]
        grid = max((tuple(one.shape[-2:]) for one in maps), key=lambda shape: shape[0])
        raw = self.merge([over_maximum(_resized(one, grid)) for one in maps])
        weights = gradients[-1].mean(dim=(-2, -1))
        coarse = over_maximum(torch.einsum("btc,bchw->bthw", weights, activations[-1]).relu())
        seen = over_maximum(_resized(coarse, grid))
        constant = self.config.gate or 1.0
        passed = seen.square() / (seen.square() + constant) if self.gate is None else self.gate(seen)
        if self.shown is None:
            return upsample(raw * passed, size, saturation=self.config.saturation)
        return self.shown(upsample(raw * passed, size))


def _resized(maps: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    return functional.interpolate(maps, size=grid, mode="bilinear", align_corners=False)


def _one(config: Config) -> Callable[[Tensors, Tensors, tuple[int, int]], torch.Tensor]:
    def render(activations: Tensors, gradients: Tensors, size: tuple[int, int]) -> torch.Tensor:
        raw = compute(activations[0], gradients[0], config, "cpu").raw_maps
        return upsample(raw, size, saturation=config.saturation)

    return render


def variants() -> list[Variant]:
    """All of them, in the order of the record."""
    tried: list[Variant] = []

    def option(name: str, what: str, **changed: Any) -> None:
        config = replace(DEFAULT, **changed)
        tried.append(Variant(name, (FINE, LAST), Form(config), config.contrast, what))

    def form(name: str, what: str, own: Form, names: tuple[str, ...] = (FINE, LAST), **more: Any) -> None:
        tried.append(Variant(name, names, own, own.config.contrast, what, **more))

    for value in (0.0, 0.5, 1.0):
        option(f"contrast {value:g}", "share of the rivals taken off the class's logit", contrast=value)
    for value in (0.03, 0.1, 0.15, 0.3):
        option(f"gate {value:g}", "c^2 at which half of the fine map passes", gate=value)
    for value in (0.1, 0.15, 0.2, 0.3, 0.5):
        option(f"saturation {value:g}", "x (1 + s) / (x + s)", saturation=value)
    option("no saturation", "shown as it is", saturation=None)
    for value in (0.5, 1.0, 2.0, 3.0):
        option(f"sigma {value:g}", "of the Gaussian, in cells", sigma=value)
    for value in (0.0, 0.5, 1.5, 2.0):
        option(f"floor {value:g}", "standard deviations of noise taken off", noise_floor=value)
    option("no filter, no floor", "each channel's own gradient", sigma=0.0, noise_floor=0.0)
    option("reflecting border", "of the Gaussian", boundary="reflect")
    option("cluster means", "as in the paper; noise channels dropped", gradient="cluster_mean", noise_floor=0.0)
    option("signed evidence", "ReLU after the sum over channels", combine="elementwise", noise_floor=0.0)
    option("dominant by activation", "as in the paper", importance="activation")
    option("all dominant", "no clusters: each channel has its own floor", dominant_percentile=0.0)
    option("few dominant", "the 95th percentile", dominant_percentile=95.0)
    option("paper's distances", "not scaled to unit norm", distance="euclidean")
    option("paper's eps", "25th percentile of distances, 5% of channels", eps_rule="pair_percentile", min_samples=0.05)

    product = replace(DEFAULT, contrast=0.0, sigma=1.0, saturation=None)
    form("starting point", "square root of fine times coarse", Form(product, gate=lambda c: c, shown=torch.sqrt))
    form("product", "fine times coarse", Form(product, gate=lambda c: c))
    form("linear gate", "c / (c + 0.3)", Form(gate=lambda c: c / (c + 0.3)))
    form("cubic gate", "c^3 / (c^3 + 0.02)", Form(gate=lambda c: c**3 / (c**3 + 0.02)))
    form("shrinkage", "f^2 / (f^2 + 4 s^2) instead of a floor", Form(fine=each_target(_shrunk)))
    form("sign-aware clusters", "a floor for each sign of a cluster", Form(fine=each_target(_sign_aware)))
    form("joint evidence", "clusters weighted by their members' pooled evidence", Form(fine=each_target(_joint)))
    form(
        "for the target",
        "without channels whose summed gradient times activation is negative",
        Form(fine=each_target(_for_the_target)),
    )
    form(
        "steeper saturation",
        "x^1.5 (1 + s) / (x^1.5 + s), s = 0.05",
        Form(shown=lambda x: x**1.5 * 1.05 / (x**1.5 + 0.05)),
    )
    form("cut background", "what is below 5% shown as none", Form(shown=_cut))
    form("coarse contrast 0.5", "and whole contrast in the fine layer", _whole(), coarse_contrast=0.5)
    form("strongest rival", "contrast with one class instead of all", Form(replace(DEFAULT, contrast=0.0)), rival=True)
    form("third level, as a gate", f"{FINER} in x / (x + 0.03)", Form(merge=_third_gate), (FINER, FINE, LAST))
    form("third level, mean", f"of the maps at {FINER} and the fine layer", Form(merge=_mean), (FINER, FINE, LAST))
    form("two fine layers", f"mean of the maps at {BESIDE} and the fine layer", Form(merge=_mean), (BESIDE, FINE, LAST))

    for config, name, what in (
        (Config(), "one scale: one level", "the last layer alone"),
        (Config(contrast=0.75), "one scale: one level, contrast", "the last layer alone"),
        (
            Config(contrast=0.75, saturation=0.25),
            "one scale: one level, contrast and saturation",
            "the last layer alone",
        ),
    ):
        tried.append(Variant(name, (LAST,), _one(config), config.contrast, what))
    for name in COARSE_BLOCKS:
        form(f"one scale: two levels, {name.split('.')[1]}", f"{name} as the fine layer", Form(), (name, LAST))
    return tried


def _whole() -> Form:
    return Form(replace(DEFAULT, contrast=1.0))


def _cut(maps: torch.Tensor) -> torch.Tensor:
    left = (maps - 0.05).clamp(min=0) / 0.95
    return left * 1.25 / (left + 0.25)


def _mean(maps: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(maps).mean(dim=0)


def _third_gate(maps: list[torch.Tensor]) -> torch.Tensor:
    finer, fine = maps
    return fine * finer / (finer + 0.03)
