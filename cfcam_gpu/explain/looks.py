"""One look at images as they are, by a method other than CF-CAM: at one layer, at many, or at attention."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import NamedTuple, TypeAlias

import torch
from torch import nn

from .. import methods, targets
from ..core.chunks import Progress
from ..engines.execution import are_finite, check_finite
from ..hooks import layers
from ..hooks.attention import AttentionCaptured, attention_blocks, capture_attention
from ..hooks.capture import Captured, capture
from ..hooks.guard import Survey
from ..hooks.layouts import Layout
from ..hooks.target_layer import Layer, TargetLayer
from ..methods.attention import legrad
from ..methods.forwards import Work
from ..methods.several import AtLayer
from ..results.explanation import Explanation
from ..results.record import Origin
from ..targets.request import Request
from .plan import Layouts

_log = logging.getLogger(__name__)

#: Reads the activations and gradients of images for a request, once more.
Capture: TypeAlias = Callable[[torch.Tensor, Request], Captured]


class Options(NamedTuple):
    """See :class:`cfcam_gpu.methods.forwards.Work`."""

    memory: int
    noise: float
    seed: int
    libragrad: bool


class _Look:
    """A method at layers that are given, or chosen at the first call; their layouts are found for images of each size.

    Several threads may look at images of different sizes, so that a look takes the layers as they are for its own.
    """

    def __init__(self, model: nn.Module, method: str, given: tuple[TargetLayer, ...] | None) -> None:
        self.model, self.method = model, method
        self.layers = given
        self._layouts = Layouts()

    def prepare(self, images: torch.Tensor, request: Request) -> None:
        """Choose the layers, and find their layouts."""
        self._known(images, request)

    def _known(self, images: torch.Tensor, request: Request) -> tuple[TargetLayer, ...]:
        """The layers with their layouts for these images."""
        if self.layers is None:
            self.layers = self._choose(images, request)
        self.layers = known = self._layouts.of(self.model, images, self.layers)
        return known

    def _choose(self, images: torch.Tensor, request: Request) -> tuple[TargetLayer, ...]:
        choose = methods.METHODS[self.method].choose
        assert choose is not None
        chosen = choose(self.model, images, request)
        _log.info("target layers: %s", ", ".join(layer.name for layer in chosen))
        return chosen

    def _keep(self, images: torch.Tensor, known: tuple[TargetLayer, ...], found: tuple[TargetLayer, ...]) -> None:
        """Keep what a capture found of the layers, which a later call needn't check."""
        if found != known:
            self.layers = found
            self._layouts.keep(images, found)

    def _explanation(
        self,
        raw_maps: torch.Tensor,
        images: torch.Tensor,
        request: Request,
        captured: Captured | AttentionCaptured,
        layers: tuple[TargetLayer, ...],
        *,
        whole: bool = False,
        capture: Capture | None = None,
    ) -> Explanation:
        """The result, without a T axis where the request has none, if the maps are finite.

        They cover what the first layer does of the image, or its `whole`.
        """
        check_finite({**captured.sound, f"map of {self.method}": are_finite(raw_maps)})
        layout = _layout(layers[0])
        return Explanation(
            raw_maps=raw_maps if request.several else raw_maps[:, 0],
            target=captured.indices,
            logits=captured.logits,
            labels=None,
            weights=None,
            eps=None,
            layers=layers,
            config=None,
            size=layout.size_of(images.shape),
            inside=None if whole else layout.inside,
            method=self.method,
            origin=Origin(self.model, request.scores, images.dtype, capture),
        )


class OneLayer(_Look):
    """A method at one layer; None chooses it at the first call."""

    def __init__(self, model: nn.Module, layer: Layer | None, method: str, options: Options) -> None:
        super().__init__(model, method, None if layer is None else (layers.find(model, layer),))
        self.options = options

    def _choose(self, images: torch.Tensor, request: Request) -> tuple[TargetLayer, ...]:
        chosen = layers.choose(self.model, images, request)
        _log.info("target layer: %s (%s)", chosen.name, chosen.reason)
        return (chosen,)

    def look(
        self,
        images: torch.Tensor,
        request: Request,
        progress: Progress | None = None,
        *,
        survey: Survey | None = None,
    ) -> Explanation:
        """Explain the images."""
        known = self._known(images, request)
        method = methods.METHODS[self.method]
        request = replace(request, objective=method.objective)
        captured = self._capture(known[0], images, request, survey)
        self._keep(images, known, captured.layers)
        (layer,) = captured.layers
        if method.from_gradients is not None:
            raw_maps = method.from_gradients(captured.activations, captured.gradients)
        else:
            assert method.from_model is not None
            settled = targets.pinned(request, captured.indices)
            work = Work(self.model, layer, images, captured, settled, **self.options._asdict(), progress=progress)
            raw_maps = method.from_model(work)
        return self._explanation(raw_maps, images, request, captured, (layer,), capture=partial(self._capture, layer))

    def _capture(
        self, layer: TargetLayer, images: torch.Tensor, request: Request, survey: Survey | None = None
    ) -> Captured:
        method = methods.METHODS[self.method]
        return capture(
            self.model,
            layer,
            images,
            request,
            gradients=method.gradients,
            curvature=method.curvature,
            libragrad=self.options.libragrad,
            survey=survey,
        )


class ManyLayers(_Look):
    """A method that makes one map of many layers; None chooses them at the first call.

    Raises
    ------
    TypeError, ValueError
        If the model has no such layer, or fewer than two or one twice are given.
    """

    def __init__(self, model: nn.Module, given: Sequence[Layer] | None, method: str, libragrad: bool) -> None:
        super().__init__(model, method, None if given is None else tuple(layers.find(model, layer) for layer in given))
        self.libragrad = libragrad
        names = [layer.name for layer in self.layers or ()]
        if len(names) == 1:
            raise ValueError(
                f"target_layer: {method} makes one map of several layers: expected two or more, or None; got {names[0]}"
            )
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"target_layer: expected different layers; got {twice} twice")

    def look(
        self,
        images: torch.Tensor,
        request: Request,
        progress: Progress | None = None,
        *,
        survey: Survey | None = None,
    ) -> Explanation:
        """Explain the images."""
        known = self._known(images, request)
        captured = capture(
            self.model, known[0], images, request, others=known[1:], libragrad=self.libragrad, survey=survey
        )
        self._keep(images, known, captured.layers)
        layouts = [_layout(layer) for layer in captured.layers]
        of_layers = [(captured.activations, captured.gradients), *captured.others]
        # Where their maps don't cover the same part of the image they meet at its own size.
        apart = any(layout.inside != layouts[0].inside for layout in layouts)
        if apart:
            together = [AtLayer(*pair, layout.inside) for pair, layout in zip(of_layers, layouts)]
            grid = layouts[0].size_of(images.shape)
        else:
            together = [AtLayer(*pair) for pair in of_layers]
            grid = max((tuple(activations.shape[2:]) for activations, _ in of_layers), key=prod)
        combine = methods.METHODS[self.method].from_layers
        assert combine is not None
        raw_maps = combine(together, grid)
        return self._explanation(raw_maps, images, request, captured, captured.layers, whole=apart)


class Attention(_Look):
    """LeGrad of the blocks that are named, or have a named layer in them; None is all."""

    def __init__(self, model: nn.Module, given: Sequence[Layer] | None, method: str) -> None:
        super().__init__(model, method, None)
        self._given = None if given is None else [layers.find(model, layer) for layer in given]
        self._blocks: tuple[TargetLayer, ...] = ()

    def _known(self, images: torch.Tensor, request: Request) -> tuple[TargetLayer, ...]:
        """The blocks that are explained, with the layout of their tokens for these images.

        Raises
        ------
        ValueError
            If the model has no blocks whose tokens attend to each other, or none of them is meant.
        """
        if self.layers is None:
            blocks = attention_blocks(self.model, images)
            chosen = self._meant(blocks)
            _log.info("blocks: %s", ", ".join(layer.name for layer in chosen))
            self._blocks, self.layers = blocks, chosen
        # All have the same tokens; of what the first returns it is plainest which place each is of.
        told = next((layer for layer in self._given or () if layer.knows_layout(tuple(images.shape[1:]))), None)
        first = told or self._layouts.of(self.model, images, self._blocks[:1])[0]
        layout = _layout(first)
        if layout.kind != "tokens" or layout.folded:
            raise ValueError(f"method: legrad expects blocks that return tokens; {first.name} returns {layout}")
        self.layers = known = tuple(replace(layer, layout=layout) for layer in self.layers)
        return known

    def _meant(self, blocks: tuple[TargetLayer, ...]) -> tuple[TargetLayer, ...]:
        if self._given is None:
            return blocks
        names = {block.name for block in blocks}
        parts = [layer.name.split(".") for layer in self._given]
        inside = [{".".join(part[: i + 1]) for i in range(len(part))} & names for part in parts]
        for layer, of_layer in zip(self._given, inside):
            if not of_layer:
                raise ValueError(
                    f"target_layer: legrad takes blocks with attention, or layers in them; {layer.name} is none of "
                    f"{', '.join(block.name for block in blocks)}. Leave target_layer out to take them all"
                )
        return tuple(block for block in blocks if any(block.name in of_layer for of_layer in inside))

    def look(
        self,
        images: torch.Tensor,
        request: Request,
        progress: Progress | None = None,
        *,
        survey: Survey | None = None,
    ) -> Explanation:
        """Explain the images."""
        known = self._known(images, request)
        names = [layer.name for layer in known]
        through = [block for block in self._blocks if block.name in names or block is self._blocks[-1]]
        captured = capture_attention(self.model, through, images, request, survey=survey)
        raw_maps = legrad([captured.relevance[name] for name in names], _layout(known[0]))
        return self._explanation(raw_maps, images, request, captured, known)


def _layout(layer: TargetLayer) -> Layout:
    assert layer.layout is not None
    return layer.layout
