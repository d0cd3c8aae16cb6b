"""CAM: explain a model's predictions by any method."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import nn

from .. import engines, methods, targets
from ..core.chunks import DEFAULT_MEMORY, Progress, chunk_size
from ..engines.execution import are_finite, check_finite
from ..hooks import layers
from ..hooks.capture import capture
from ..hooks.guard import Survey, check_model, warn_of_training
from ..hooks.target_layer import Layer, TargetLayer
from ..methods.forwards import Work
from ..results.explanation import Explanation
from ..targets.request import Request
from .cfcam import CFCAM, check_images
from .plan import Layouts
from .views import Augment, Fuse, Views, check_fuse

_log = logging.getLogger(__name__)


class CAM:
    """Class activation mapping of a model by one of :data:`cfcam_gpu.methods.METHODS`.

    Parameters
    ----------
    model : torch.nn.Module
        Used as it is; nothing of it is changed.
    target_layer : torch.nn.Module, str, TargetLayer, sequence of these, or None
        As for :class:`~cfcam_gpu.CFCAM`. The maps of several layers are fused; two layers of ``"cfcam"`` are its two
        levels, the finer one first. None chooses the last activation with a spatial extent, and for ``"cfcam"`` as
        :class:`~cfcam_gpu.CFCAM` does.
    method : str
        ``cfcam-gpu methods`` lists them with their papers and costs.
    fuse : {"mean", "max"}, optional
        How maps of several layers, each over its maximum and at the images' size, become one. None is the mean; given,
        it makes the layers of ``"cfcam"`` explained one by one, too.
    augment, smooth, noise, seed
        As for :class:`~cfcam_gpu.CFCAM`. `noise` and `seed` are also those of Smooth Grad-CAM++, and `seed` that of
        Random-CAM.
    engine : {"auto", "cpu", "rapids", "fused", "reference"}
        Of CF-CAM. The other methods are torch's own operators.
    memory : int
        Bytes that the activations of one chunk of forwards may take, in methods that run many.

    Raises
    ------
    TypeError, ValueError
        If an argument can't be what is meant; the message says why.

    Notes
    -----
    One explainer, or several on one model, may be called from several threads.

    Examples
    --------
    >>> for method in cfcam_gpu.methods.METHODS:  # doctest: +SKIP
    ...     cfcam_gpu.CAM(model, "layer4", method=method)(images).save(f"out/{method}")
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: Layer | Sequence[Layer] | None = None,
        *,
        method: str = "gradcam",
        fuse: Fuse | None = None,
        augment: Augment = None,
        smooth: int = 0,
        noise: float = 0.15,
        seed: int = 0,
        engine: str = "auto",
        memory: int = DEFAULT_MEMORY,
    ) -> None:
        chosen = methods.find(method)
        self.method = method
        self.model = check_model(model)
        check_fuse(fuse)
        engines.check_name(engine)
        chunk_size(memory, 1)
        self._fuse: Fuse = fuse or "mean"
        self._views = Views.read(augment, smooth, noise, seed)
        target_layers: list[Layer | None] = [cast("Layer | None", target_layer)]
        if isinstance(target_layer, (list, tuple)):
            target_layers = list(target_layer)
        if not target_layers:
            raise ValueError("target_layer: expected a layer, several of them, or None; got none")
        self._parts: list[CFCAM | _MethodAtLayer]
        if chosen.cluster_filter:
            levels = method == "cfcam" and (fuse is None or len(target_layers) == 1)
            groups = [target_layer] if levels else target_layers
            self._parts = [CFCAM(self.model, group, config=chosen.config, engine=engine) for group in groups]
        else:
            options = _Options(memory, float(noise), seed)
            self._parts = [_MethodAtLayer(self.model, layer, method, options) for layer in target_layers]

    @property
    def layers(self) -> tuple[TargetLayer, ...] | None:
        """The target layers: ``name``, ``module``, ``reason``; None before an automatic choice."""
        by_part = [part.layers for part in self._parts]
        return None if None in by_part else tuple(layer for of_part in by_part if of_part for layer in of_part)

    @property
    def engine(self) -> str | None:
        """The engine of CF-CAM as it was asked for; None for the other methods, which have none."""
        return next((part.engine for part in self._parts if isinstance(part, CFCAM)), None)

    def __call__(
        self, images: torch.Tensor, target: targets.Target = None, *, progress: Progress | None = None
    ) -> Explanation:
        """Explain a batch.

        Parameters
        ----------
        images : (B, 3, H, W) floating tensor
            Prepared as the model wants them, on the model's device.
        target : None, int, sequence, tensor or callable
            As for :class:`~cfcam_gpu.CFCAM`. Finer-CAM compares classes, and takes no callable.
        progress : callable, optional
            Called with (done, total) where there are many forwards to wait for.

        Returns
        -------
        Explanation
            `labels`, `weights`, `eps` and `config` are None where the method is not CF-CAM.

        Raises
        ------
        TypeError, ValueError
            If images, target or layer are refused, or a map is NaN or infinite; the message names the argument, what
            was expected and what came.
        RuntimeError
            If this machine lacks the engine, or ShapleyCAM meets an operator without second derivatives.
        """
        check_images(self.model, images)
        request = targets.read(target, len(images))
        if methods.METHODS[self.method].classes_only and request.scores is not None:
            raise ValueError(f"target: {self.method} compares classes: expected class indices or None; got a callable")
        for part in self._parts:
            part._prepare(images, request)
        survey = warn_of_training(self.model)
        looks = [partial(part._look, survey=survey) for part in self._parts]
        explanation = self._views.explain(self.model, looks, images, request, fuse=self._fuse, progress=progress)
        return explanation if explanation.method == self.method else replace(explanation, method=self.method)


class _Options(NamedTuple):
    """See :class:`cfcam_gpu.methods.forwards.Work`."""

    memory: int
    noise: float
    seed: int


class _MethodAtLayer:
    """A method other than CF-CAM at one layer; None chooses it at the first call."""

    def __init__(self, model: nn.Module, layer: Layer | None, method: str, options: _Options) -> None:
        self.model, self.method, self.options = model, method, options
        self.layer = None if layer is None else layers.find(model, layer)
        self._layouts = Layouts()

    @property
    def layers(self) -> tuple[TargetLayer, ...] | None:
        return None if self.layer is None else (self.layer,)

    def _prepare(self, images: torch.Tensor, request: Request) -> None:
        if self.layer is None:
            self.layer = layers.choose(self.model, images, request)
            _log.info("target layer: %s (%s)", self.layer.name, self.layer.reason)
        (self.layer,) = self._layouts.of(self.model, images, (self.layer,))

    def _look(
        self,
        images: torch.Tensor,
        request: Request,
        progress: Progress | None = None,
        *,
        survey: Survey | None = None,
    ) -> Explanation:
        assert self.layer is not None
        (self.layer,) = known = self._layouts.of(self.model, images, (self.layer,))
        method = methods.METHODS[self.method]
        request = replace(request, objective=method.objective)
        captured = capture(
            self.model,
            known[0],
            images,
            request,
            gradients=method.gradients,
            curvature=method.curvature,
            survey=survey,
        )
        (layer,) = captured.layers
        if captured.layers != known:
            self.layer = layer  # which a later call needn't check
            self._layouts.keep(images, captured.layers)
        if method.from_gradients is not None:
            raw_maps = method.from_gradients(captured.activations, captured.gradients)
        else:
            assert method.from_model is not None
            settled = targets.pinned(request, captured.indices)
            raw_maps = method.from_model(
                Work(self.model, layer, images, captured, settled, *self.options, progress=progress)
            )
        check_finite({**captured.sound, f"map of {self.method}": are_finite(raw_maps)})
        assert layer.layout is not None
        return Explanation(
            raw_maps=raw_maps if request.several else raw_maps[:, 0],
            target=captured.indices,
            logits=captured.logits,
            labels=None,
            weights=None,
            eps=None,
            layers=(layer,),
            config=None,
            size=layer.layout.size_of(images.shape),
            inside=layer.layout.inside,
            method=self.method,
        )
