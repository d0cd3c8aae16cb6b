"""Which layers are chosen of which architectures: ``python -m bench.architectures`` writes docs/architectures.md.

Random weights, seeded, and small images and variants: what is chosen depends on an architecture's modules, not on its
size or training. At the coarse layer, maps are compared with Grad-CAM from plain hooks, and it is looked whether the
places of a map are those of the image.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from cfcam_gpu import CAM, CFCAM
from cfcam_gpu.hooks import Layout, TargetLayer
from cfcam_gpu.results import durable

from .architectures_build import SEED, Architecture
from .architectures_monai import MONAI
from .architectures_timm import TIMM
from .architectures_torchvision import TORCHVISION
from .architectures_transformers import REFUSED_TRANSFORMERS, TRANSFORMERS
from .tables import markdown

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"
COLUMNS = ["library", "architecture", "image", "layer", "its shape", "layout", "why"]
COLUMNS_REFUSED = ["library", "architecture", "image", "message"]
HEAD = """# Architectures

This page lists the target layers that CF-CAM chooses if you name none: in each row the fine layer stands above the
coarse one. `cfcam-gpu layers MODEL` prints the same for any model, together with all other candidates.
`python -m bench.architectures` writes this page. It builds a small variant of each architecture with random weights and
explains a random image of each size that the row lists; one size alone means that the architecture, or its variant
here, takes no other. The layers and their shapes are those of the first. `tests/hooks/test_architectures.py` checks
that

- each map is finite and of the image's size, and not the maps of all classes are empty;
- at the coarse layer, `CAM(..., method="gradcam")` is what Grad-CAM from a plain hook and `torch.autograd.grad` is;
- the places of the layer's maps are those of the image: if one strip of the image is replaced by noise after the other,
  along each axis in turn, what changes at the layer moves with the strip along this axis and no other.

Weights that begin as zeros are filled, and very small ones scaled, because they would hide what differs between places;
batch norms of some deep networks get the statistics of random images for the same reason. With random weights all this
shows that maps are computed rightly at the chosen layers, not how good they are.

The layout says how a layer's output is arranged: *channels first* is (B, C, h, w), *channels last* is (B, h, w, C), and
*tokens* is (B, N, C), given with the grid of the patches and the number of class, distillation and register tokens
beside them. If the head reads only the class token, patches after the last attention have no gradient. The layer chosen
is then the norm whose output enters that attention. The input of that norm would not do: there a patch's activation and
its gradient are orthogonal, so that their product, summed over channels, is zero.
"""
HEAD_REFUSED = """## Refused

These are refused, if you name no layer, with the message that the table lists.
"""
ARCHITECTURES = [*TORCHVISION, *TIMM, *TRANSFORMERS, *MONAI]
REFUSED = REFUSED_TRANSFORMERS

#: How far a map may be from the reference: relative to each value, and to the peak.
RELATIVE, OF_PEAK = 1e-3, 1e-4
#: Images, and into how many strips they are cut along each axis, at most.
SAMPLES, STRIPS = 2, 4
#: How well a layer's places follow an axis at least, where 1 is that each sees its own strip alone, and how much better
#: than any other axis. Random weights mix places: convolutions and attention over a small image leave little of 1.
FOLLOWS, FOLLOWS_MORE = 0.02, 1.5
#: The shape inside a reason; it has a column of its own.
_SIZE = re.compile(r", \d+( x \d+)+( \([^)]*\))?")


class Found(NamedTuple):
    """What came of an architecture, over all its images.

    `difference` is the largest from the reference, as a share of what is allowed; `astray` has the axes of which the
    places are not the image's.
    """

    row: list[str]
    finite: bool
    empty: bool
    sized: bool
    difference: float
    astray: list[str]


def explain(architecture: Architecture) -> Found:
    """All targets of one random image of each shape, with the layers that are chosen."""
    found: list[Found] = []
    for image in architecture.images:
        if not found or architecture.is_sized:
            model = architecture.build(image)
        found.append(_explain(architecture, model, image))
    first = found[0]
    return Found(
        first.row,
        all(one.finite for one in found),
        any(one.empty for one in found),
        all(one.sized for one in found),
        max(one.difference for one in found),
        [axis for one in found for axis in one.astray],
    )


def _explain(architecture: Architecture, model: nn.Module, image: tuple[int, ...]) -> Found:
    images = torch.randn(1, *image, generator=torch.Generator().manual_seed(SEED))
    targets = [list(architecture.targets)]
    result = CFCAM(model)(images, targets)
    plain = CAM(model, result.layers[-1].name, method="gradcam")(images, targets)
    layer = plain.layers[0]
    reference = grad_cam(model, layer, images, targets[0])
    allowed = RELATIVE * reference + OF_PEAK * reference.max()
    axes = architecture.axes(image)
    cells = [
        (
            f"`{chosen.name}`",
            " x ".join(map(str, _shape(model, chosen, images))),
            str(chosen.layout),
            _SIZE.sub("", chosen.reason),
        )
        for chosen in result.layers
    ]
    # Random weights may speak against a class everywhere; not against all of them.
    return Found(
        [
            architecture.library,
            architecture.name,
            sizes(architecture),
            *("<br>".join(column) for column in zip(*cells)),
        ],
        bool(result.maps.isfinite().all()),
        bool(result.empty.all()) or not bool(reference.any()),
        result.maps.shape[2:] == tuple(image[axis] for axis in axes),
        float(((plain.raw_maps[0] - reference).abs() / allowed).nan_to_num(nan=0.0, posinf=torch.inf).max()),
        astray(model, layer, image, axes),
    )


def sizes(architecture: Architecture) -> str:
    """Of each of an architecture's images, how long it is along the map's axes."""
    return ", ".join(" x ".join(str(image[axis]) for axis in architecture.axes(image)) for image in architecture.images)


def refusal(architecture: Architecture) -> str:
    """The message with which an architecture is refused; empty where it is not."""
    image = architecture.images[0]
    images = torch.randn(1, *image, generator=torch.Generator().manual_seed(SEED))
    try:
        CFCAM(architecture.build(image))(images, [list(architecture.targets)])
    except ValueError as error:
        return str(error)
    return ""


def grad_cam(
    model: nn.Module, layer: TargetLayer, images: torch.Tensor, targets: Sequence[int | Callable[[Any], torch.Tensor]]
) -> torch.Tensor:
    """Grad-CAM of one image from a plain hook, (T, h, w)."""
    with torch.enable_grad(), hooked(layer) as kept:
        output = model(images)
        scores = [_score(output, target) for target in targets]
    gradients = [torch.autograd.grad(score, kept[0], retain_graph=True)[0] for score in scores]
    assert layer.layout is not None
    maps = arranged(kept[0].detach(), layer.layout)
    weights = torch.cat([arranged(gradient, layer.layout).flatten(2).mean(dim=2) for gradient in gradients])
    return torch.einsum("tc,c...->t...", weights, maps[0]).relu()


@contextmanager
def hooked(layer: TargetLayer) -> Iterator[list[torch.Tensor]]:
    """A list, to which a forward adds the layer's tensor; the rest of the network goes on with a copy of it."""
    kept: list[torch.Tensor] = []

    def keep(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            kept.append(value)
            return value.clone()  # a ReLU may write to it
        place = next(i for i, item in enumerate(value) if isinstance(item, torch.Tensor))
        items = [keep(item) if i == place else item for i, item in enumerate(value)]
        return type(value)(items)

    assert layer.module is not None
    if layer.takes_input:
        handle = layer.module.register_forward_pre_hook(lambda module, args: keep(args))
    else:
        handle = layer.module.register_forward_hook(lambda module, args, output: keep(output))
    with handle:
        yield kept


def _shape(model: nn.Module, layer: TargetLayer, images: torch.Tensor) -> tuple[int, ...]:
    """Of the layer's own tensor for one image."""
    with torch.no_grad(), hooked(layer) as kept:
        model(images)
    return tuple(kept[0].shape[1:])


def _score(output: Any, target: int | Callable[[Any], torch.Tensor]) -> torch.Tensor:
    """A class's logit, or what a callable makes of the one image's logits."""
    if not isinstance(output, (torch.Tensor, tuple, list)):
        output = output["out"] if "out" in output else output["logits"]
    logits = (output if isinstance(output, torch.Tensor) else output[0])[0]
    return target(logits) if callable(target) else logits[target]


def arranged(tensor: torch.Tensor, layout: Layout) -> torch.Tensor:
    """(B, C, h, w) from the layer's own tensor, or a gradient of it, as the layout describes it."""
    grid = layout.grid
    own = grid[1:] if layout.folded else grid
    if layout.kind == "tokens":
        extra = layout.extra if isinstance(layout.extra, tuple) else range(layout.extra)
        patches = [place for place in range(tensor.shape[1]) if place not in extra]
        tensor = tensor[:, patches].reshape(len(tensor), *own, -1)
    if layout.kind != "channels first":
        tensor = tensor.permute(0, tensor.ndim - 1, *range(1, tensor.ndim - 1))
    if layout.folded:
        tensor = tensor.reshape(-1, grid[0], *tensor.shape[1:]).transpose(1, 2)
    if layout.order is not None:
        tensor = tensor.permute(0, 1, *(axis + 2 for axis in layout.order))
    return tensor


def astray(model: nn.Module, layer: TargetLayer, image: tuple[int, ...], axes: Sequence[int]) -> list[str]:
    """The `axes` of an image, which are the map's, along which the layer's places are not the image's.

    An axis along which the layer has but one place is passed over.
    """
    images, noise = torch.randn(2, SAMPLES, *image, generator=torch.Generator().manual_seed(SEED + 1))
    before = maps_of(model, layer, images)
    found = []
    for along, axis in enumerate(axes):
        strips = min(STRIPS, before.shape[2 + along])
        if strips == 1:
            continue
        length = image[axis] // strips
        changes = []
        for start in range(0, strips * length, length):
            changed = images.clone()
            changed.narrow(1 + axis, start, length).copy_(noise.narrow(1 + axis, start, length))
            changes.append((maps_of(model, layer, changed) - before).square().sum(dim=(0, 1)))
        follows = following(torch.stack(changes))
        others = [abs(value) for place, value in enumerate(follows) if place != along]
        if follows[along] < max([FOLLOWS, *(FOLLOWS_MORE * value for value in others)]):
            found.append(f"{image}, axis {axis}: {', '.join(f'{value:.3f}' for value in follows)}")
    return found


def following(changes: torch.Tensor) -> list[float]:
    """How well each axis of a map follows the strips, from what changes (S, h, w): 1 if each place sees its own strip.

    It is the covariance of the strip and the place, both standardised, where each pair counts for what changes there.
    """
    found = []
    for axis in range(1, changes.ndim):
        joint = changes.movedim(axis, 1).reshape(len(changes), changes.shape[axis], -1).sum(dim=2)
        joint = joint / joint.sum()
        joint = joint - joint.sum(dim=1, keepdim=True) * joint.sum(dim=0)
        found.append(float(_standard(len(joint)) @ joint @ _standard(joint.shape[1])))
    return found


def maps_of(model: nn.Module, layer: TargetLayer, images: torch.Tensor) -> torch.Tensor:
    """The layer's activation, (B, C, h, w)."""
    assert layer.layout is not None
    with torch.no_grad(), hooked(layer) as kept:
        model(images)
    return arranged(kept[0], layer.layout)


def _standard(count: int) -> torch.Tensor:
    places = torch.arange(count) - (count - 1) / 2
    return places / places.square().mean().sqrt() if count > 1 else places


def main(arguments: Sequence[str] | None = None) -> int:
    del arguments
    rows = [explain(architecture).row for architecture in ARCHITECTURES]
    refused = [[one.library, one.name, sizes(one), refusal(one)] for one in REFUSED]
    text = "\n".join([HEAD, *markdown(COLUMNS, rows), "", HEAD_REFUSED, *markdown(COLUMNS_REFUSED, refused), ""])
    with durable.replacing(DOCUMENT) as file:
        file.write(text.encode())
    print(f"written: {DOCUMENT.name}, {len(rows)} architectures, {len(refused)} refused")
    return 0


if __name__ == "__main__":
    sys.exit(main())
