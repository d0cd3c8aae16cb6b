"""What a file is to hold, and what the library says of the images that it is checked by."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from ..core.config import Config
from ..explain.cfcam import CFCAM
from ..hooks.capture import capture
from ..hooks.layers import find
from ..hooks.target_layer import TargetLayer
from ..results.explanation import Explanation
from ..targets import Segment, Target
from ..targets.request import Request
from . import method_graph, players, refusals
from .checking import Played, check_alone, compare, in_batches
from .description import Check, DescribedLayer, Runtime
from .explanation_graph import ExplanationGraph
from .tracing import Head, trace

#: How often, and by what share, images are moved to see whether rounding decides their clusters.
NUDGES = 4
ROUNDING = 1e-6


@dataclass(frozen=True)
class Plan:
    """What goes into a file.

    Parameters
    ----------
    model : torch.nn.Module
        On the host.
    layers : tuple of TargetLayer
        The finest first, with their layouts.
    shapes : tuple of tuple of int
        Of the layers' activations, (C, h, w).
    config : Config
    libragrad : bool
        Whether gradients are LibraGrad's.
    images : (N, C, H, W) tensor
        Those of the check, on the host.
    classes : tensor or None
        The classes that the check gives for them, where these are an input.
    expected : Explanation
        The library's of them.
    batch : int or None
        None is any.
    head : Head
    targets : int or None
        T, with a T axis.
    runtime : {"onnxruntime", "tensorrt", "aoti"}
    """

    model: nn.Module
    layers: tuple[TargetLayer, ...]
    shapes: tuple[tuple[int, ...], ...]
    config: Config
    libragrad: bool
    images: torch.Tensor
    classes: torch.Tensor | None
    expected: Explanation
    batch: int | None
    head: Head
    targets: int | None
    runtime: Runtime

    @classmethod
    def of(
        cls,
        explain: CFCAM,
        images: torch.Tensor,
        batch: int | None,
        target: refusals.Target,
        classes: int | None,
        runtime: Runtime,
    ) -> Plan:
        """Choose the layers where that is open, and explain the images.

        Raises
        ------
        TypeError, ValueError
            If the library refuses model, layers or images, or the configuration can't be exported.
        """
        model, images = _on_host(explain.model), images.detach().cpu()
        segment = target if isinstance(target, Segment) else None
        on_host = _on_host_explainer(explain, model)
        first = on_host(images, segment)
        assert first.config is not None
        libragrad = bool(on_host.libragrad)
        (captured,) = [
            capture(
                model,
                first.layers[0],
                images[:1],
                Request() if segment is None else Request(scores=(segment,)),
                coarse=first.layers[1] if len(first.layers) == 2 else None,
            )
        ]
        activations = [captured.activations, *captured.coarse[:1]] if captured.coarse else [captured.activations]
        shapes = tuple(tuple(each.shape[1:]) for each in activations)
        method_graph.refuse(first.config, shapes[0][0], shapes[0][1:], unrolled=runtime == "tensorrt")
        given, expected = None, first
        if target == "input":
            given = _classes(first, classes)
            again = CFCAM(model, list(first.layers), config=first.config, engine="cpu", libragrad=libragrad)
            expected = again(images, given)
        head = Head(first.config.contrast, classes or 1, target == "input", None if segment is None else segment.index)
        return cls(
            model=model,
            layers=first.layers,
            shapes=shapes,
            config=first.config,
            libragrad=libragrad,
            images=images,
            classes=given,
            expected=expected,
            batch=batch,
            head=head,
            targets=classes,
            runtime=runtime,
        )

    @property
    def logits(self) -> tuple[int, ...]:
        """(K,) or (K, h, w): the shape of an image's logits."""
        assert self.expected.logits is not None
        return tuple(self.expected.logits.shape[1:])

    def described_layers(self) -> tuple[DescribedLayer, ...]:
        """The layers, as a file tells of them."""
        return tuple(
            DescribedLayer(layer.name, layer.reason, layer.layout, shape)
            for layer, shape in zip(self.layers, self.shapes)
            if layer.layout is not None
        )

    def graph(self) -> nn.Module:
        """The explanation as a module of tensor operators.

        Raises
        ------
        ValueError
            If the model has an operator that can't be exported.
        """
        example, *_ = self.example()
        traced = trace(
            self.model,
            self.layers,
            example.to(self.images.dtype),
            self.head,
            libragrad=self.libragrad,
            any_batch=self.batch is None,
            tensorrt=self.runtime == "tensorrt",
        )
        return ExplanationGraph(
            traced,
            self.head,
            self.config,
            size=self.expected.size,
            inside=self.expected.inside,
            targets=self.targets,
            unrolled=self.runtime == "tensorrt",
            fused=self.runtime == "aoti",
        )

    def example(self) -> list[torch.Tensor]:
        """Inputs of the file: float32 images, and classes where they are an input."""
        count = self.batch or 2
        numbers = [i % len(self.images) for i in range(count)]
        found = [self.images[numbers].float()]
        return found if self.classes is None else [*found, self.classes[numbers]]

    def check(self, path: Path) -> Check:
        """Play the images from a file, and compare.

        Raises
        ------
        RuntimeError
            If the file's maps are not the library's, or its runtime fails.
        """
        if self.runtime != "aoti" and find_spec("onnxruntime") is None:
            return Check(checked=False)
        player = players.open_file(path, "cpu", None)

        def play(numbers: list[int]) -> list[torch.Tensor]:
            return player.play(self.images[numbers].float(), None if self.classes is None else self.classes[numbers])

        outputs = [play(numbers) for numbers in in_batches(range(len(self.images)), self.batch)]
        together = Played(*(torch.cat(each)[: len(self.images)] for each in zip(*outputs)))
        half = self.images.dtype.itemsize < 4
        found = compare(together, self.expected, half=half, against=f"engine cpu, {player.engine}", nudged=self._nudged)
        if self.batch is None:
            # Among others where it was alone.
            check_alone([each[:1] for each in play([0] if len(self.images) > 1 else [0] * 3)], together, half=half)
        return found

    def _nudged(self, numbers: list[int]) -> Iterator[torch.Tensor]:
        """The library's maps of some images, several times, each time moved by a few times float32's rounding."""
        explain = CFCAM(self.model, list(self.layers), config=self.config, engine="cpu", libragrad=self.libragrad)
        target: Target = None if self.classes is None else self.classes[numbers]
        if self.head.segment is not None:
            target = Segment(self.head.segment)
        images = self.images[numbers]
        for seed in range(NUDGES):
            noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
            yield explain((images.float() * (1 + ROUNDING * noise)).to(images.dtype), target).maps


def _on_host(model: nn.Module) -> nn.Module:
    """The model, or where it is on another device a copy of it on the host.

    Raises
    ------
    TypeError
        If it can't be copied.
    """
    if all(tensor.device.type == "cpu" for tensor in [*model.parameters(), *model.buffers()]):
        return model
    try:
        return copy.deepcopy(model).cpu()
    except Exception as error:  # modules may hold what can't be copied, and raise anything
        raise TypeError(f"model: expected one that copy.deepcopy copies, or one on the CPU ({error})") from error


def _on_host_explainer(explain: CFCAM, model: nn.Module) -> CFCAM:
    """The same explainer by engine ``cpu``, of the model on the host."""
    layers = None
    if explain.layers is not None:
        layers = [replace(layer, module=find(model, layer.name).module) for layer in explain.layers]
    return CFCAM(model, layers, config=explain.config, engine="cpu", libragrad=explain.libragrad)


def _classes(explained: Explanation, targets: int | None) -> torch.Tensor:
    """Classes to check by, (B,) or (B, T): the predicted one of every other image or target, and those behind it."""
    assert explained.target is not None
    assert explained.logits is not None
    of_model = explained.logits.shape[1]
    if targets is None:
        following = (explained.target + 1) % of_model
        return torch.where(torch.arange(len(following)) % 2 == 0, explained.target, following)
    return (explained.target[:, None] + torch.arange(targets)) % of_model
