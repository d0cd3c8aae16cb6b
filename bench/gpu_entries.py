"""What the GPU latency benchmark runs: cells, candidates with their gates, and bars, as data."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from cfcam_gpu import Config, engines, targets
from cfcam_gpu.core.maps import upsample
from cfcam_gpu.engines import EngineResult, execution
from cfcam_gpu.explain.cuda_graph import graph_of
from cfcam_gpu.explain.plan import Plan
from cfcam_gpu.hooks import layers
from cfcam_gpu.hooks.capture import Captured

from . import entries, models
from .entries import Call, Check, Network, Truth
from .parity import EPS_ROUNDING, MAP_TOLERANCE, compare

#: Images whose labels and maps a gate compares with the CPU engine's: it takes a tenth of a second for each.
COMPARED = 2
#: Largest difference of two calls on the same images, as a share of the largest value. Convolutions may choose other
#: algorithms from call to call.
TOLERANCES = {"float32": 1e-4, "tf32": 3e-3, "bfloat16": 3e-2}
PRESETS = {"cfcam": Config(), "two-level": Config.two_level()}


class Cell(NamedTuple):
    """One setting; all its candidates are timed in turn. `full` has the peers and the rapids engine, too."""

    network: str
    batch: int
    precision: str = "tf32"
    full: bool = False

    @property
    def name(self) -> str:
        """Its key in the record."""
        return f"{self.network}, batch {self.batch}, {self.precision}"


#: What the bars need comes first: a run that is cut off has it.
CELLS = [
    Cell("resnet50", 64, full=True),
    Cell("resnet50", 1, full=True),
    Cell("efficientnet-lite0", 64, full=True),
    Cell("resnet50", 8),
    Cell("resnet50", 256),
    Cell("efficientnet-lite0", 1),
    Cell("efficientnet-lite0", 8),
    Cell("efficientnet-lite0", 256),
    Cell("resnet50", 64, "bfloat16"),
    Cell("resnet50", 64, "float32"),
    Cell("resnet50", 1, "bfloat16"),
    Cell("resnet50", 1, "float32"),
    Cell("convnext-tiny", 64),
    Cell("convnext-tiny", 1),
    Cell("vit-b16", 64),
    Cell("vit-b16", 1),
]


class Bar(NamedTuple):
    """What is promised: `figure` of a candidate, over that of another where there is one, is at most `limit`.

    Figures: ``latency_ms``, ``memory_mib``, and ``us_per_image``.
    """

    cell: str
    figure: str
    of: str
    over: str | None
    limit: float


_64, _1 = Cell("resnet50", 64).name, Cell("resnet50", 1).name
BARS = [
    Bar(_64, "latency_ms", "cfcam", "forward", 1.10),
    Bar(_64, "latency_ms", "two-level", "forward", 1.40),
    Bar(_1, "latency_ms", "cfcam-captured", "forward-captured", 1.25),
    Bar(_1, "latency_ms", "two-level-captured", "forward-captured", 1.6),
    Bar(_1, "latency_ms", "cfcam-captured", "forward", 1.0),
    Bar(_1, "latency_ms", "two-level-captured", "forward", 1.0),
    Bar(_64, "us_per_image", "cfcam-part", None, 25.0),
    Bar(_64, "latency_ms", "cfcam-part", "cfcam-part-rapids", 1 / 50),
    Bar(_64, "latency_ms", "cfcam", "pytorch-grad-cam", 1 / 5),
    Bar(_64, "latency_ms", "cfcam", "torch-cam", 1 / 2),
    Bar(_64, "latency_ms", "cfcam", "authors", 1 / 50),
    Bar(_64, "memory_mib", "cfcam", "forward", 1.15),
    Bar(_64, "memory_mib", "two-level", "forward", 1.15),
]
YARDSTICKS = ["forward", "forward-captured", "cfcam-part-rapids", "pytorch-grad-cam", "torch-cam", "authors"]


def convnext() -> nn.Module:
    """torchvision's, random weights; its last activation, 768 x 7 x 7, is what ``features`` returns."""
    from .torchvision_shim import import_torchvision

    import_torchvision()
    from torchvision.models import convnext_tiny

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return convnext_tiny(weights=None).eval()


def vit() -> nn.Module:
    """torchvision's ViT-B/16, random weights, a classifier of zeros filled; its patches' grid is 14 x 14."""
    from .torchvision_shim import import_torchvision

    import_torchvision()
    from torchvision.models import vit_b_16

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = vit_b_16(weights=None).eval()
        nn.init.normal_(model.heads.head.weight, std=0.02)
    return model


_CONVNEXT = Network("convnext-tiny", convnext, "features", "features", models.IMAGENET_NORM, "random weights")
#: What enters the last attention: behind it the patches have no gradient.
_VIT_LAYER = "encoder.layers.encoder_layer_11.ln_1"
_VIT = Network("vit-b16", vit, _VIT_LAYER, _VIT_LAYER, models.IMAGENET_NORM, "random weights")
NETWORKS = entries.NETWORKS | {network.name: network for network in (_CONVNEXT, _VIT)}


class Scene(NamedTuple):
    """A cell with all that its candidates and gates need; `engine` is the one that is measured."""

    network: Network
    model: nn.Module
    images: torch.Tensor
    tolerance: float
    engine: str
    authors: Path | None

    def truth(self) -> Truth:
        """Plain autograd's and our own capture's view of the batch. Of a copy: it leaves nothing on the model."""
        return entries.truth(self.network, self.images, copy.deepcopy(self.model))


class Candidate(NamedTuple):
    """What is measured. `setup` makes the call that is timed; `check` is its gate.

    `package` and `module` as in :class:`bench.entries.Candidate`. `sample`: it works image by image and takes long, so
    it is timed on the first so many images, and its time is that for the whole batch.
    """

    name: str
    setup: Callable[[Scene], Call]
    check: Callable[[Call, Scene], list[Check]] | None = None
    full: bool = False
    package: str | None = None
    module: str | None = None
    sample: int | None = None


def forward(scene: Scene) -> Call:
    """The prediction alone."""
    return entries.setup_forward(scene.network, scene.model)


def forward_as_graph(scene: Scene) -> Call:
    """The prediction alone, as a CUDA graph; it copies the images in as our graph does."""
    static, work = scene.images.clone(), forward(scene)
    replay, logits = graph_of(static.device, lambda: work(static), lambda: work(static))

    def call(images: torch.Tensor) -> torch.Tensor:
        static.copy_(images)
        replay.replay()
        return logits

    return call


def check_forward(call: Call, scene: Scene) -> list[Check]:
    """The logits are those of the model's call."""
    difference = entries.apart(call(scene.images), forward(scene)(scene.images))
    return [Check("logits, against the eager forward", difference, scene.tolerance)]


def eager(config: Config, engine: str | None = None) -> Callable[[Scene], Call]:
    """Images to maps in [0, 1] at the images' size."""
    return lambda scene: entries.setup_cfcam(config, engine or scene.engine)(scene.network, scene.model)


def as_graph(config: Config) -> Callable[[Scene], Call]:
    """The same as a CUDA graph, its results left where the graph writes them."""

    def setup(scene: Scene) -> Call:
        replay = entries.explainer(scene.network, scene.model, config, scene.engine).cuda_graph(scene.images)
        return lambda images: replay(images, out=replay.static)

    return setup


def taken_by(config: Config, scene: Scene) -> Captured:
    """What an engine needs of the scene's images."""
    if config.levels == 2:
        chosen = layers.choose_two(scene.model, scene.images)
    else:
        chosen = (layers.find(scene.model, scene.network.layer),)
    request = targets.read(None, len(scene.images))
    return Plan.of(chosen, config).capture(scene.model, scene.images, request)


def first(taken: Captured) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
    """Activations, gradients and the coarse layer's, of as many images as are compared."""
    coarse = taken.coarse and (taken.coarse[0][:COMPARED], taken.coarse[1][:COMPARED])
    return taken.activations[:COMPARED], taken.gradients[:COMPARED], coarse


def check_explanation(config: Config) -> Callable[[Call, Scene], list[Check]]:
    """Logits and maps are those of the CPU engine for a capture of the same images."""

    def check(call: Call, scene: Scene) -> list[Check]:
        found, taken = call(scene.images), taken_by(config, scene)
        activations, gradients, coarse = first(taken)
        raw_maps = execution.compute(activations, gradients, config, "cpu", coarse=coarse).raw_maps[:, 0]
        maps = upsample(raw_maps, found.size, saturation=config.saturation)
        return [
            Check("logits, against the forward", entries.apart(found.logits, taken.logits), scene.tolerance),
            Check("maps, against the cpu engine", entries.apart(found.maps[:COMPARED], maps), 10 * scene.tolerance),
        ]

    return check


def part(config: Config, engine: str | None = None) -> Callable[[Scene], Call]:
    """CF-CAM alone, from given activations and gradients to the raw maps; the images are not looked at."""

    def setup(scene: Scene) -> Call:
        taken = taken_by(config, scene)
        running = engines.choose(engine or scene.engine, scene.images.device)
        return lambda images: execution.launch(running, taken.activations, taken.gradients, config, coarse=taken.coarse)

    return setup


def check_part(config: Config) -> Callable[[Call, Scene], list[Check]]:
    """Labels, eps and maps are the CPU engine's, to the bounds of :func:`bench.parity.compare`."""

    def check(call: Call, scene: Scene) -> list[Check]:
        activations, gradients, coarse = first(taken_by(config, scene))
        found = EngineResult(*(value[:COMPARED] for value in call(scene.images)))
        report = compare(activations, gradients[:, 0], config, found, coarse=coarse)
        return [
            Check("images whose labels are not the cpu engine's", report["labels_wrong"], 0),
            Check("maps, against the cpu engine", report["map_error"], MAP_TOLERANCE),
            Check("eps, against the cpu engine", report["eps_error"], 2 * EPS_ROUNDING),
        ]

    return check


def on_a_copy(setup: Callable[[Network, nn.Module], Call]) -> Callable[[Scene], Call]:
    """A peer on a model of its own: its hooks would slow all others."""
    return lambda scene: setup(scene.network, copy.deepcopy(scene.model))


def setup_captum(network: Network, model: nn.Module) -> Call:
    """captum's Grad-CAM, resized: its maps come at the layer's resolution."""
    from captum.attr import LayerGradCam

    cam = LayerGradCam(model, model.get_submodule(network.module))

    def call(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            classes = model(images).argmax(dim=1)
        maps = cam.attribute(images, target=classes, relu_attributions=True)
        return nn.functional.interpolate(maps, images.shape[-2:], mode="bilinear")[:, 0].detach()

    return call


def setup_authors(scene: Scene) -> Call:
    """The published code, from a checkout of it: one image at a time, as it wants them."""
    assert scene.authors is not None
    spec = importlib.util.spec_from_file_location("authors_cfcam", scene.authors / "cfcam.py")
    assert spec is not None
    assert spec.loader is not None
    from .torchvision_shim import import_torchvision

    import_torchvision()
    published = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(published)
    model = copy.deepcopy(scene.model)
    explain = published.CFCAM(model, model.get_submodule(scene.network.module))
    return lambda images: [explain(image[None])[0] for image in images]


def check_peer(call: Call, scene: Scene) -> list[Check]:
    """The maps are Grad-CAM of our capture."""
    return entries.check_grad_cam(call, scene.truth(), 10 * scene.tolerance)


CANDIDATES = [
    Candidate("forward", forward),
    Candidate("forward-captured", forward_as_graph, check_forward),
    Candidate("capture", lambda scene: entries.setup_capture(scene.network, scene.model)),
    *(Candidate(name, eager(config), check_explanation(config)) for name, config in PRESETS.items()),
    *(Candidate(f"{name}-captured", as_graph(config), check_explanation(config)) for name, config in PRESETS.items()),
    *(Candidate(f"{name}-part", part(config), check_part(config)) for name, config in PRESETS.items()),
    Candidate("cfcam-part-rapids", part(Config(), "rapids"), check_part(Config()), full=True),
    Candidate("cfcam-rapids", eager(Config(), "rapids"), check_explanation(Config()), full=True),
    Candidate(
        "pytorch-grad-cam",
        on_a_copy(entries.setup_pytorch_grad_cam),
        check_peer,
        full=True,
        package="grad-cam",
        module="pytorch_grad_cam",
    ),
    Candidate(
        "torch-cam",
        on_a_copy(entries.setup_torch_cam),
        check_peer,
        full=True,
        package="torchcam",
        module="torchcam",
    ),
    Candidate("captum", on_a_copy(setup_captum), check_peer, full=True, package="captum", module="captum"),
    Candidate("authors", setup_authors, full=True, sample=1),
]


@contextmanager
def precision(name: str) -> Iterator[None]:
    """float32 as such or with TF32, or bfloat16 by autocast; the flags are as before behind it."""
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name != "float32"
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=name == "bfloat16"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags
