"""One look at images as they are, by a method other than CF-CAM: at one layer, at many, or at attention."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import NamedTuple

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
from .plan import Layouts, libragrad_of

_log = logging.getLogger(__name__)


class Options(NamedTuple):
    """See :class:`cfcam_gpu.methods.forwards.Work`; `libragrad` is what was asked for."""

    memory: int
    noise: float
    seed: int
    libragrad: bool | None


class OneLayer:
    """A method at one layer; None chooses it at the first call."""

    def __init__(self, model: nn.Module, layer: Layer | None, method: str, options: Options) -> None:
        self.model, self.method, self.options = model, method, options
        self.layer = None if layer is None else layers.find(model, layer)
        self._layouts = Layouts()

    @property
    def layers(self) -> tuple[TargetLayer, ...] | None:
        """The layer; None before it is chosen."""
        return None if self.layer is None else (self.layer,)

    def prepare(self, images: torch.Tensor, request: Request) -> None:
        """Choose the layer, and find its layout."""
        if self.layer is None:
            self.layer = layers.choose(self.model, images, request)
            _log.info("target layer: %s (%s)", self.layer.name, self.layer.reason)
        (self.layer,) = self._layouts.of(self.model, images, (self.layer,))

    def look(
        self,
        images: torch.Tensor,
        request: Request,
        progress: Progress | None = None,
        *,
        survey: Survey | None = None,
    ) -> Explanation:
        """Explain the images."""
        assert self.layer is not None
        (self.layer,) = known = self._layouts.of(self.model, images, (self.layer,))
        method = methods.METHODS[self.method]
        request = replace(request, objective=method.objective)
        captured = self._capture(known[0], images, request, survey)
        (layer,) = captured.layers
        if captured.layers != known:
            self.layer = layer  # which a later call needn't check
            self._layouts.keep(images, captured.layers)
        if method.from_gradients is not None:
            raw_maps = method.from_gradients(captured.activations, captured.gradients)
        else:
            assert method.from_model is not None
            settled = targets.pinned(request, captured.indices)
            options = self.options._replace(libragrad=libragrad_of(self.options.libragrad, known))._asdict()
            raw_maps = method.from_model(
                Work(self.model, layer, images, captured, settled, **options, progress=progress)
            )
        check_finite({**captured.sound, f"map of {self.method}": are_finite(raw_maps)})
        layout = _layout(layer)
        found = _explanation(self.method, raw_maps, request, captured, (layer,), layout.size_of(images.shape), layout)
        return replace(found, origin=Origin(self.model, request.scores, partial(self._capture, layer)))

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
            libragrad=libragrad_of(self.options.libragrad, (layer,)),
            survey=survey,
        )


class ManyLayers:
    """A method that makes one map of many layers; None chooses them at the first call.

    Raises
    ------
    TypeError, ValueError
        If the model has no such layer, or fewer than two or one twice are given.
    """

    def __init__(self, model: nn.Module, given: Sequence[Layer] | None, method: str, libragrad: bool | None) -> None:
        self.model, self.method, self.libragrad = model, method, libragrad
        self.layers = None if given is None else tuple(layers.find(model, layer) for layer in given)
        names = [layer.name for layer in self.layers or ()]
        if len(names) == 1:
            raise ValueError(
                f"target_layer: {method} makes one map of several layers: expected two or more, or None; got {names[0]}"
            )
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"target_layer: expected different layers; got {twice} twice")
        self._layouts = Layouts()

    def prepare(self, images: torch.Tensor, request: Request) -> None:
        """Choose the layers, and find their layouts."""
        if self.layers is None:
            choose = methods.METHODS[self.method].choose
            assert choose is not None
            self.layers = choose(self.model, images, request)
            _log.info("target layers: %s", ", ".join(layer.name for layer in self.layers))
        self.layers = self._layouts.of(self.model, images, self.layers)

    def look(
        self,
        images: torch.Tensor,
        request: Request,
        progress: Progress | None = None,
        *,
        survey: Survey | None = None,
    ) -> Explanation:
        """Explain the images."""
        assert self.layers is not None
        self.layers = known = self._layouts.of(self.model, images, self.layers)
        libragrad = libragrad_of(self.libragrad, known)
        captured = capture(self.model, known[0], images, request, others=known[1:], libragrad=libragrad, survey=survey)
        if captured.layers != known:
            self.layers = captured.layers  # which a later call needn't check
            self._layouts.keep(images, captured.layers)
        layouts = [_layout(layer) for layer in captured.layers]
        of_layers = [(captured.activations, captured.gradients), *captured.others]
        size = layouts[0].size_of(images.shape)
        if any(layout.inside != layouts[0].inside for layout in layouts):
            # Their maps don't cover the same part of the image: they meet at its own size.
            together = [AtLayer(*pair, layout.inside) for pair, layout in zip(of_layers, layouts)]
            grid, layout = size, None
        else:
            together = [AtLayer(*pair) for pair in of_layers]
            grid = max((tuple(activations.shape[2:]) for activations, _ in of_layers), key=prod)
            layout = layouts[0]
        combine = methods.METHODS[self.method].from_layers
        assert combine is not None
        raw_maps = combine(together, grid)
        check_finite({**captured.sound, f"map of {self.method}": are_finite(raw_maps)})
        return _explanation(self.method, raw_maps, request, captured, captured.layers, size, layout)


class Attention:
    """LeGrad of the blocks that are named, or have a named layer in them; None is all."""

    def __init__(self, model: nn.Module, given: Sequence[Layer] | None, method: str) -> None:
        self.model, self.method = model, method
        self._given = None if given is None else [layers.find(model, layer).name for layer in given]
        self._blocks: tuple[TargetLayer, ...] = ()
        self.layers: tuple[TargetLayer, ...] | None = None
        self._layouts = Layouts()

    def prepare(self, images: torch.Tensor, request: Request) -> None:
        """Find the blocks, and the layout of their tokens.

        Raises
        ------
        ValueError
            If the model has no blocks whose tokens attend to each other, or none of them is meant.
        """
        if self.layers is None:
            self._blocks = attention_blocks(self.model, images)
            self.layers = self._chosen()
            _log.info("blocks: %s", ", ".join(layer.name for layer in self.layers))
        (last,) = self._layouts.of(self.model, images, self._blocks[-1:])
        layout = _layout(last)
        if layout.kind != "tokens" or layout.folded:
            raise ValueError(f"method: legrad expects blocks that return tokens; {last.name} returns {layout}")
        self.layers = tuple(replace(layer, layout=layout) for layer in self.layers)

    def _chosen(self) -> tuple[TargetLayer, ...]:
        if self._given is None:
            return self._blocks
        names = {block.name for block in self._blocks}
        parts = [name.split(".") for name in self._given]
        inside = [{".".join(part[: i + 1]) for i in range(len(part))} & names for part in parts]
        for name, of_name in zip(self._given, inside):
            if not of_name:
                raise ValueError(
                    f"target_layer: legrad takes blocks with attention, or layers in them; {name} is none of "
                    f"{', '.join(block.name for block in self._blocks)}. Leave target_layer out to take them all"
                )
        return tuple(block for block in self._blocks if any(block.name in of_name for of_name in inside))

    def look(
        self,
        images: torch.Tensor,
        request: Request,
        progress: Progress | None = None,
        *,
        survey: Survey | None = None,
    ) -> Explanation:
        """Explain the images."""
        self.prepare(images, request)
        assert self.layers is not None
        names = [layer.name for layer in self.layers]
        through = [block for block in self._blocks if block.name in names or block is self._blocks[-1]]
        captured = capture_attention(self.model, through, images, request, survey=survey)
        layout = _layout(self.layers[0])
        raw_maps = legrad([captured.relevance[name] for name in names], layout)
        check_finite({**captured.sound, f"map of {self.method}": are_finite(raw_maps)})
        return _explanation(self.method, raw_maps, request, captured, self.layers, layout.size_of(images.shape), layout)


def _explanation(
    method: str,
    raw_maps: torch.Tensor,
    request: Request,
    captured: Captured | AttentionCaptured,
    layers: tuple[TargetLayer, ...],
    size: tuple[int, ...],
    layout: Layout | None,
) -> Explanation:
    """The result, without a T axis where the request has none; without a layout its maps are of the whole image."""
    return Explanation(
        raw_maps=raw_maps if request.several else raw_maps[:, 0],
        target=captured.indices,
        logits=captured.logits,
        labels=None,
        weights=None,
        eps=None,
        layers=layers,
        config=None,
        size=size,
        inside=None if layout is None else layout.inside,
        method=method,
    )


def _layout(layer: TargetLayer) -> Layout:
    assert layer.layout is not None
    return layer.layout
