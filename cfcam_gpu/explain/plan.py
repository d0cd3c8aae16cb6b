"""Which layers, and what is computed of them: the steps that a call and a CUDA graph share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from .. import engines, methods
from ..core.config import Config, Extent
from ..hooks.capture import Captured, capture
from ..hooks.guard import Survey
from ..hooks.laying_out import laid_out
from ..hooks.target_layer import TargetLayer, are_tokens_of_one_grid, in_words
from ..results.explanation import Explanation
from ..results.record import Origin, Record
from ..results.seen import Seen
from ..targets.names import ClassNames, text_of
from ..targets.request import Request

#: Sizes of images for which the layouts of layers are kept.
_SIZES = 64


class Layouts:
    """Layers with their layouts for images of each size: to find one takes forwards of its own."""

    def __init__(self) -> None:
        self._by_size: dict[tuple[int, ...], tuple[TargetLayer, ...]] = {}

    def of(self, model: nn.Module, images: torch.Tensor, layers: tuple[TargetLayer, ...]) -> tuple[TargetLayer, ...]:
        """The layers with their layouts for such images, from :func:`cfcam_gpu.hooks.laying_out.laid_out`."""
        found = self._by_size.get(tuple(images.shape[1:]))
        if found is None:
            found = laid_out(model, images, layers)
            self.keep(images, found)
        return found

    def keep(self, images: torch.Tensor, layers: tuple[TargetLayer, ...]) -> None:
        """Keep what is known of the layers now."""
        if len(self._by_size) >= _SIZES:
            self._by_size.clear()
        self._by_size[tuple(images.shape[1:])] = layers


def engine_of(asked: str, result: Record, device: torch.device) -> str:
    """The engine that gave a result where `asked` was asked for: what ``"auto"`` was for its layer.

    Where a result has no layer of its own, being of several looks or layers, what ``"auto"`` is for most layers.

    Parameters
    ----------
    asked : {"auto", "cpu", "rapids", "fused", "reference"}
    result : Explanation
    device : torch.device
        Where the model is.
    """
    shape = None
    if result.labels is not None:
        shape = (1, 1, result.labels.shape[-1], *result.raw_maps.shape[-len(result.size) :])
    return engines.resolve(asked, device, config=result.config, shape=shape)


def check_libragrad(asked: bool | None, method: str = "cfcam") -> bool | None:
    """What an explainer's `libragrad` is for a method: False for one that can't take such gradients.

    Raises
    ------
    TypeError, ValueError
        If it is no such value, or True for such a method.
    """
    if asked is not None and not isinstance(asked, bool):
        raise TypeError(f"libragrad: expected True, False or None; got {asked!r}")
    chosen = methods.find(method)
    if chosen.libragrad:
        return asked
    if asked:
        takes = "second derivatives, which LibraGrad has none of" if chosen.curvature else "no gradients"
        if chosen.attention:
            takes = "gradients of attention's weights, which are constants for LibraGrad"
        raise ValueError(f"libragrad: expected None or False, as {method} takes {takes}; got True")
    return False


def check_extent(asked: Extent | None, config: Config | None) -> Extent | None:
    """The extent of an explainer.

    Raises
    ------
    ValueError
        If it is none, or beside a configuration.
    """
    if asked is not None:
        Config.two_level(asked)
        if config is not None:
            way_out = "gated" if config.levels == 1 else "two_level"
            raise ValueError(
                f"extent: expected none beside config, which has a saturation of its own; got {asked!r}. Give "
                f"config=Config.{way_out}({asked!r})"
            )
    return asked


def check_levels(layers: tuple[TargetLayer, ...], config: Config | None, extent: Extent | None) -> None:
    """Refuse a configuration for another number of layers, or an extent where one layer is named.

    Raises
    ------
    ValueError
    """
    if extent is not None and len(layers) == 1:
        raise ValueError(
            f"extent: expected none with one named target layer, {layers[0].name}, as not every layer's default "
            f"configuration has such a choice; got {extent!r}. Give config=Config.gated({extent!r}), of tokens the "
            "default with this extent; or two layers as two levels; or leave target_layer out"
        )
    if config is not None and config.levels != len(layers):
        names = ", ".join(layer.name for layer in layers)
        raise ValueError(
            f"config: a configuration of {config.levels} level{'s' * (config.levels > 1)} needs as many target "
            f"layers; got {names}"
        )


@dataclass(frozen=True)
class Plan:
    """Target layers, the finest first, a configuration for as many, and whether gradients are LibraGrad's."""

    layers: tuple[TargetLayer, ...]
    config: Config
    libragrad: bool = False

    @classmethod
    def of(
        cls,
        layers: tuple[TargetLayer, ...],
        given_config: Config | None,
        libragrad: bool | None = None,
        extent: Extent | None = None,
    ) -> Plan:
        """The layers, with their layouts, and what was asked for, or the default for such layers.

        The default for tokens of one grid has LibraGrad's gradients: docs/method.md has what that gains. So has a
        configuration for it that is given, one that is gated by the layer's own evidence.

        Raises
        ------
        ValueError
            As :func:`check_levels`.
        """
        check_levels(layers, given_config, extent)
        tokens = are_tokens_of_one_grid(layers)
        if given_config is not None:
            config = given_config
        elif len(layers) == 2:
            config = Config.two_level(extent or "balanced")
        else:
            config = Config.gated() if tokens else Config()
        by_default = tokens and (given_config is None or given_config.gate_by == "own")
        return cls(layers, config, by_default if libragrad is None else libragrad)

    @classmethod
    def automatic(
        cls,
        layers: tuple[TargetLayer, ...],
        given_config: Config | None = None,
        libragrad: bool | None = None,
        extent: Extent | None = None,
    ) -> Plan:
        """The same for layers that were chosen: of one, or of tokens of one grid the last, the gated form."""
        tokens = are_tokens_of_one_grid(layers)
        if given_config is None and (tokens or len(layers) == 1):
            return cls(layers[-1:], Config.gated(extent or "balanced"), tokens if libragrad is None else libragrad)
        return cls.of(layers, given_config, libragrad, extent)

    def with_layers(self, layers: tuple[TargetLayer, ...]) -> Plan:
        """The same plan with what is known of its layers now."""
        return self if layers == self.layers else replace(self, layers=layers)

    def capture(
        self, model: nn.Module, images: torch.Tensor, request: Request, survey: Survey | None = None
    ) -> Captured:
        """What an engine needs. See :func:`cfcam_gpu.hooks.capture.capture`."""
        coarse = self.layers[1] if len(self.layers) == 2 else None
        return capture(
            model,
            self.layers[0],
            images,
            request,
            coarse=coarse,
            contrast=self.config.contrast,
            libragrad=self.libragrad,
            survey=survey,
        )

    def explanation(
        self,
        model: nn.Module,
        captured: Captured,
        result: engines.EngineResult,
        images: torch.Tensor,
        request: Request,
    ) -> Explanation:
        """The result, without a T axis where the request has none."""
        if not request.several:
            result = engines.EngineResult(*(value.squeeze(1) for value in result))
        layout = self.layers[0].layout
        assert layout is not None
        return Explanation(
            raw_maps=result.raw_maps,
            target=captured.indices,
            logits=captured.logits,
            labels=result.labels,
            weights=result.weights,
            eps=result.eps,
            layers=self.layers,
            config=self.config,
            size=layout.size_of(images.shape),
            inside=layout.inside,
            origin=Origin(model, request.scores, images.dtype, partial(self.capture, model)),
        )


def explained_by(
    explanation: Explanation,
    explain: Callable[[torch.Tensor, Request], Explanation],
    seen: Seen | None,
    names: ClassNames,
) -> Explanation:
    """The same explanation, which knows how to have other images explained as it was, and what its own were."""
    assert explanation.origin is not None
    origin = explanation.origin._replace(explain=explain)
    return named(explanation, names, origin=origin, seen=seen)


def named(explanation: Explanation, names: ClassNames, **also: Any) -> Explanation:
    """The same explanation with the names of its classes, what its callables are called, and other fields, if given."""
    assert explanation.origin is not None
    scores, logits = explanation.origin.scores, explanation.logits
    known, called = names.fitting(logits), None
    if scores is not None:
        rows = [row if isinstance(row, tuple) else (row,) for row in scores]
        each = {id(score): score for row in rows for score in row}  # one may serve all images
        # Of other logits than (B, K) the second axis is the classes', too, as far as a target names any.
        of_logits = known if known and logits is not None and logits.shape[1:2] == (len(known),) else None
        texts = {key: text_of(score, of_logits) for key, score in each.items()}
        called = tuple(tuple(texts[id(score)] for score in row) for row in rows)
    return replace(explanation, class_names=known, called=called, **also)


def described(model: nn.Module, layers: tuple[TargetLayer, ...] | None) -> str:
    """An explainer's model and where it looks, for its `repr`; a model's own text has a line for each module."""
    at = "layers chosen at the first call" if layers is None else in_words(layers)
    return f"{type(model).__name__} at {at}"
