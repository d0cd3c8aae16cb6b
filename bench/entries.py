"""What the latency benchmark runs: networks, candidates and their gates, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from cfcam_gpu import CFCAM, Config, Explanation
from cfcam_gpu.explain.plan import Plan
from cfcam_gpu.hooks.capture import capture
from cfcam_gpu.hooks.layers import choose_two, find
from cfcam_gpu.latency import candidates, gate, peers
from cfcam_gpu.latency.gate import Check, apart
from cfcam_gpu.latency.timing import Call
from cfcam_gpu.targets.request import Request, read

from . import models, plain


@dataclass(frozen=True)
class Network:
    """A network to run: ours is asked for `layer`, the peers for the module whose output is that same activation.

    ``more_batches`` are sizes at which ours and the forward are timed, too.
    """

    name: str
    build: Callable[[], nn.Module]
    layer: str
    module: str
    norm: tuple[tuple[float, ...], tuple[float, ...]]
    note: str
    more_batches: tuple[int, ...] = (1,)


def lite0_with_module() -> nn.Module:
    """EfficientNet-Lite0 with an ``nn.Identity`` before its pooling, for the peers to hook.

    The ReLU6 that makes the last activation runs twice, so no module of the network as it is returns that activation
    alone; with ``_bn1`` or ``_conv_head`` the peers would explain another tensor and no gate could compare the maps.
    """
    model = models.lite0()
    model._avg_pooling = nn.Sequential(nn.Identity(), model._avg_pooling)
    return model.eval()


_NETWORKS = [
    Network(
        "efficientnet-lite0",
        lite0_with_module,
        models.LITE0_LAYER,
        "_avg_pooling.0",
        models.LITE0_NORM,
        "trained; what enters the pooling, named for the peers by an nn.Identity before it",
        (1, 32),
    ),
    Network("resnet50", models.resnet50, models.RESNET50_LAYER, "layer4", models.IMAGENET_NORM, "random weights"),
    Network("tiny", models.tiny, "features", "features", models.IMAGENET_NORM, "for tests of this benchmark"),
]
NETWORKS = {network.name: network for network in _NETWORKS}
DEFAULT_NETWORKS = ["efficientnet-lite0", "resnet50"]


class Truth(NamedTuple):
    """One batch through the whole graph by plain autograd, and our capture of it: what the gates compare with."""

    images: torch.Tensor
    logits: torch.Tensor
    activations: torch.Tensor
    gradients: torch.Tensor
    captured_activations: torch.Tensor
    captured_gradients: torch.Tensor


def truth(network: Network, images: torch.Tensor, model: nn.Module | None = None) -> Truth:
    """Scores of the predicted classes, differentiated once by torch alone and once by our capture; on the host."""
    model = model or network.build()
    kept: list[torch.Tensor] = []
    handle = model.get_submodule(network.module).register_forward_hook(lambda m, args, output: kept.append(output))
    logits = model(images)
    (gradients,) = torch.autograd.grad(logits.amax(dim=1).sum(), kept)
    handle.remove()
    ours = capture(model, find(model, network.layer), images, read(None, len(images)))
    found = (logits.detach(), kept[0].detach(), gradients, ours.activations, ours.gradients[:, 0])
    return Truth(images, *(tensor.cpu() for tensor in found))


def check_cfcam(config: Config) -> Callable[[Call, Truth], list[Check]]:
    """Logits and capture are plain autograd's; labels, eps and maps those of the plain derivation."""

    def check(call: Call, true: Truth) -> list[Check]:
        found = call(true.images)
        pairs = zip(true.captured_activations.double().numpy(), true.captured_gradients.double().numpy())
        wanted = [plain.cf_cam(activations, gradients, config) for activations, gradients in pairs]
        maps = plain.scale(np.stack([one.map for one in wanted]), from_minimum=False)
        maps = plain.scale(plain.resize(maps, true.images.shape[-2:]), from_minimum=False)
        differing = sum(int((row.numpy() != one.labels).sum()) for row, one in zip(found.labels, wanted))
        return [
            Check("logits, against the bare forward", apart(found.logits, true.logits), 1e-5),
            Check("activations, against plain autograd", apart(true.captured_activations, true.activations), 1e-5),
            Check("gradients, against plain autograd", apart(true.captured_gradients, true.gradients), 1e-5),
            Check("labels that differ from the plain derivation's", differing, 0),
            Check("eps, against the plain derivation", apart(found.eps, np.array([one.eps for one in wanted])), 1e-9),
            Check("maps, against the plain derivation", apart(found.maps, maps), 1e-5),
            *gate.check(found.origin.model, found.layers, config, "cpu", true.images),
        ]

    return check


def by_autograd(model: nn.Module, found: Explanation, images: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """Activations and gradients at an explanation's layers, from one whole forward and backward by torch alone."""
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str, tensor: torch.Tensor) -> None:
        tensor.retain_grad()
        kept[name] = tensor

    handles = [
        layer.module.register_forward_pre_hook(lambda module, args, name=layer.name: keep(name, args[0]))
        if layer.takes_input
        else layer.module.register_forward_hook(lambda module, args, output, name=layer.name: keep(name, output))
        for layer in found.layers
    ]
    logits = model(images)
    for handle in handles:
        handle.remove()
    own = logits.gather(1, found.target[:, None])
    rivals = logits.scatter(1, found.target[:, None], -torch.inf).logsumexp(dim=1)
    (own[:, 0] - found.config.contrast * rivals).sum().backward()
    model.zero_grad()
    return [
        (kept[layer.name].detach().double().numpy(), kept[layer.name].grad.double().numpy()) for layer in found.layers
    ]


def check_two_level(call: Call, true: Truth) -> list[Check]:
    """As `check_cfcam` at the finer layer; at the coarser one the gate is derived again, too."""
    found = call(true.images)
    config, model = found.config, found.origin.model
    whole = by_autograd(model, found, true.images)
    own = Plan(found.layers, config).capture(model, true.images, Request(found.target))
    captured = [
        (activations.double().numpy(), gradients[:, 0].double().numpy())
        for activations, gradients in ((own.activations, own.gradients), own.coarse)
    ]
    fine = [plain.cf_cam(activations, gradients, config) for activations, gradients in zip(*captured[0])]
    maps = plain.gate(np.stack([one.map for one in fine]), plain.grad_cam(*captured[1]), config.gate)
    maps = plain.scale(plain.resize(plain.scale(maps, from_minimum=False), true.images.shape[-2:]), from_minimum=False)
    maps = maps * (1 + config.saturation) / (maps + config.saturation)
    differing = sum(int((row.numpy() != one.labels).sum()) for row, one in zip(found.labels, fine))
    checks = [Check("logits, against the bare forward", apart(found.logits, true.logits), 1e-5)]
    for layer, ours, theirs in zip(found.layers, captured, whole):
        for what, mine, plain_one in zip(("activations", "gradients"), ours, theirs):
            checks.append(Check(f"{what} of {layer.name}, against plain autograd", apart(mine, plain_one), 1e-5))
    return [
        *checks,
        Check("labels that differ from the plain derivation's", differing, 0),
        Check("eps, against the plain derivation", apart(found.eps, np.array([one.eps for one in fine])), 1e-9),
        Check("maps, against the plain derivation", apart(found.maps, maps), 1e-5),
        *gate.check(model, found.layers, config, "cpu", true.images),
    ]


def check_grad_cam(call: Call, true: Truth, tolerance: float = 1e-4) -> list[Check]:
    """The peer's maps are Grad-CAM of what we captured, resized and normalised as it does."""
    maps = plain.grad_cam(true.captured_activations.double().numpy(), true.captured_gradients.double().numpy())
    maps = plain.resize(plain.scale(maps, from_minimum=True), true.images.shape[-2:])
    found = torch.as_tensor(call(true.images)).double().cpu().numpy()
    # pytorch-grad-cam normalises again at the images' size; both are brought there.
    wanted = plain.scale(maps, from_minimum=True)
    difference = apart(plain.scale(found, from_minimum=True), wanted)
    return [Check("maps, against Grad-CAM of our capture", difference, tolerance)]


def setup_forward(network: Network, model: nn.Module) -> Call:
    """The prediction alone, under no_grad."""
    return candidates.forward(model)


def setup_capture(network: Network, model: nn.Module) -> Call:
    """Our forward and head-only backward without CF-CAM: what is left of the cost of CF-CAM is the engine's."""
    layer = find(model, network.layer)

    def call(images: torch.Tensor) -> object:
        nonlocal layer
        captured = capture(model, layer, images, read(None, len(images)))
        (layer,) = captured.layers  # with its layout, which is found once
        return captured

    return call


def setup_by_hand(network: Network, model: nn.Module) -> Call:
    """Forward, and by torch alone the gradients at the finer of two layers: what no explanation by them is without."""
    fine = choose_two(model, models.photographs(1, network.norm))[0]

    def call(images: torch.Tensor) -> object:
        reached: list[torch.Tensor] = []

        def cut(activation: torch.Tensor) -> torch.Tensor:
            torch.set_grad_enabled(True)  # until the forward's `no_grad` ends
            reached.append(activation.detach().requires_grad_())
            return reached[0]

        if fine.takes_input:
            handle = fine.module.register_forward_pre_hook(lambda module, args: (cut(args[0]), *args[1:]))
        else:
            handle = fine.module.register_forward_hook(lambda module, args, output: cut(output))
        with torch.no_grad():
            logits = model(images)
        handle.remove()
        with torch.enable_grad():
            return torch.autograd.grad(logits.amax(dim=1).sum(), reached)

    return call


def explainer(network: Network, model: nn.Module, config: Config, engine: str) -> CFCAM:
    """Of the network's layer, or of two that are chosen where `config` takes two."""
    return CFCAM(model, network.layer if config.levels == 1 else None, config=config, engine=engine)


def setup_cfcam(config: Config, engine: str = "cpu") -> Callable[[Network, nn.Module], Call]:
    """The whole of CF-CAM: images to maps in [0, 1] at the images' size."""

    def setup(network: Network, model: nn.Module) -> Call:
        explain = explainer(network, model, config, engine)

        def call(images: torch.Tensor) -> Any:
            found = explain(images)
            found.maps  # noqa: B018  # made at first use: without this the upsampling would go untimed
            return found

        return call

    return setup


def setup_pytorch_grad_cam(network: Network, model: nn.Module) -> Call:
    """Images to normalised maps at the images' size, of the predicted classes."""
    from .torchvision_shim import import_torchvision

    import_torchvision()
    return peers.pytorch_grad_cam(model, network.module)


def setup_torch_cam(network: Network, model: nn.Module) -> Call:
    """Its maps resized, since they come at the layer's resolution."""
    return peers.torch_cam(model, network.module)


#: The forward and backward of two levels, without anything of ours.
BY_HAND = "two-level by hand"


@dataclass(frozen=True)
class Candidate:
    """What is measured. `setup` makes, on a model of its own, the call that is timed; `check` is its gate.

    A peer names its `package` as pip does and its `module` as Python does.
    """

    name: str
    setup: Callable[[Network, nn.Module], Call]
    check: Callable[[Call, Truth], list[Check]] | None = None
    package: str | None = None
    module: str | None = None


_CANDIDATES = [
    Candidate("forward", setup_forward),
    Candidate("cfcam", setup_cfcam(Config()), check_cfcam(Config())),
    Candidate("two-level", setup_cfcam(Config.two_level()), check_two_level),
    Candidate("cfcam-paper", setup_cfcam(Config.paper()), check_cfcam(Config.paper())),
    Candidate("capture-only", setup_capture),
    Candidate(BY_HAND, setup_by_hand),
    Candidate("pytorch-grad-cam", setup_pytorch_grad_cam, check_grad_cam, "grad-cam", "pytorch_grad_cam"),
    Candidate("torch-cam", setup_torch_cam, check_grad_cam, "torchcam", "torchcam"),
]
CANDIDATES = {candidate.name: candidate for candidate in _CANDIDATES}
#: What the others are divided by.
YARDSTICKS = ["forward", "pytorch-grad-cam", "torch-cam"]
#: Candidates that are timed at a network's other batch sizes.
AT_EACH_SIZE = ["forward", "cfcam", "two-level", BY_HAND]


class Bar(NamedTuple):
    """What is promised of a network: a figure of one candidate over that of another, at most so much.

    Figures: ``latency_ms`` at a batch size; ``memory_mib`` at its own; ``first_call_ms`` over a later one;
    ``engine_processor_ms``, that of an engine beside that of the reference, by preset.
    """

    network: str
    figure: str
    of: str
    over: str
    limit: float
    batch: int = 8


_LITE0, _RESNET50 = DEFAULT_NETWORKS
BARS = [
    Bar(_LITE0, "latency_ms", "cfcam", "forward", 1.12),
    Bar(_LITE0, "latency_ms", "two-level", "forward", 1.30),
    Bar(_RESNET50, "latency_ms", "cfcam", "forward", 1.12),
    Bar(_RESNET50, "latency_ms", "two-level", "forward", 1.20),
    Bar(_LITE0, "latency_ms", "cfcam", "forward", 1.20, 1),
    Bar(_LITE0, "latency_ms", "two-level", "forward", 1.40, 1),
    Bar(_LITE0, "latency_ms", "cfcam", "forward", 1.08, 32),
    Bar(_LITE0, "latency_ms", "two-level", "forward", 1.20, 32),
    *(
        bar
        for network in DEFAULT_NETWORKS
        for bar in (
            Bar(network, "latency_ms", "cfcam", "torch-cam", 1.10),
            Bar(network, "engine_processor_ms", "cfcam", "cfcam, reference", 1 / 5),
            Bar(network, "engine_processor_ms", "two-level", "two-level, reference", 1 / 4),
            Bar(network, "memory_mib", "cfcam", "forward", 1.05),
            Bar(network, "memory_mib", "two-level", "forward", 1.05),
            Bar(network, "first_call_ms", "first", "later", 1.5),
        )
    ),
]
