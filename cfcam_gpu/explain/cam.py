"""CAM: explain a model's predictions by any method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias, cast

import torch
from torch import nn

from .. import engines, methods, targets
from ..core.chunks import DEFAULT_MEMORY, Progress, chunk_size
from ..core.config import Config, Extent
from ..hooks.guard import check_model, warn_of_training
from ..hooks.target_layer import Layer, TargetLayer
from ..results.explanation import Explanation
from ..results.seen import Seen
from ..targets.names import ClassNames
from .cfcam import CFCAM, check_images
from .looks import Attention, ManyLayers, OneLayer, Options
from .plan import check_libragrad, described, explained_by
from .views import Augment, Fuse, Views, check_fuse

_Part: TypeAlias = "CFCAM | OneLayer | ManyLayers | Attention"


class CAM:
    """Class activation mapping of a model by one of :data:`cfcam_gpu.methods.METHODS`.

    Parameters
    ----------
    model : torch.nn.Module
        Used as it is; nothing of it is changed.
    target_layer : torch.nn.Module, str, TargetLayer, sequence of these, or None
        As for :class:`~cfcam_gpu.CFCAM`. The maps of several layers are fused; two layers of ``"cfcam"`` are its two
        levels, the finer one first. None chooses the last activation with a spatial extent, and for ``"cfcam"`` as
        :class:`~cfcam_gpu.CFCAM` does. A method that makes one map of many layers takes those that are given, or for
        None its own: ``"refinecam"`` the end of each resolution, ``"winsorcam"`` all convolutions, ``"legrad"`` all
        blocks with attention; of the latter a layer inside of one means its block.
    method : str
        ``cfcam-gpu methods`` lists them with their papers and costs.
    fuse : {"mean", "max"}, optional
        How maps of several layers, each over its maximum and at the images' size, become one. None is the mean; given,
        it makes the layers of ``"cfcam"`` explained one by one, too. Not for methods of many layers.
    augment, smooth, noise, seed
        As for :class:`~cfcam_gpu.CFCAM`. `noise` and `seed` are also those of Smooth Grad-CAM++, and `seed` that of
        Random-CAM.
    engine : {"auto", "cpu", "rapids", "fused", "reference"}
        Of CF-CAM. The other methods are torch's own operators.
    memory : int
        Bytes that the activations of one chunk of forwards may take, in methods that run many.
    libragrad : bool, optional
        As for :class:`~cfcam_gpu.CFCAM`; of methods that take first derivatives. None takes them for ``"cfcam"`` alone,
        as :class:`~cfcam_gpu.CFCAM` does.
    config, extent
        As for :class:`~cfcam_gpu.CFCAM`; of ``"cfcam"`` alone.
    class_names : sequence of K str, optional
        As for :class:`~cfcam_gpu.CFCAM`.

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
        libragrad: bool | None = None,
        config: Config | None = None,
        extent: Extent | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        chosen = methods.find(method)
        for name, value in (("config", config), ("extent", extent)):
            if value is not None and method != "cfcam":
                raise ValueError(f"{name}: expected none with {method}, as only cfcam takes one; got {value!r}")
        self._libragrad = libragrad = check_libragrad(libragrad, method)
        self.method = method
        self.model = check_model(model)
        self._class_names = ClassNames(class_names, model)
        check_fuse(fuse)
        engines.check_name(engine)
        chunk_size(memory, 1)
        self._fuse: Fuse = fuse or "mean"
        self._views = Views.read(augment, smooth, noise, seed)
        given = list(target_layer) if isinstance(target_layer, (list, tuple)) else [target_layer]
        if not given:
            raise ValueError("target_layer: expected a layer, several of them, or None; got none")
        self._parts: list[_Part] = []
        if chosen.layers == "all":
            if fuse is not None:
                raise ValueError(
                    f"fuse: {method} makes one map of all its layers by itself; leave fuse out; got {fuse!r}"
                )
            together = None if target_layer is None else cast("list[Layer]", given)
            if chosen.attention:
                self._parts = [Attention(self.model, together, method)]
            else:
                self._parts = [ManyLayers(self.model, together, method, bool(libragrad))]
        elif chosen.cluster_filter:
            levels = method == "cfcam" and (fuse is None or len(given) == 1)
            groups = [target_layer] if levels else given
            self._parts = [
                CFCAM(
                    self.model,
                    group,
                    config=config or chosen.config,
                    engine=engine,
                    libragrad=libragrad,
                    extent=extent,
                    class_names=class_names,
                )
                for group in groups
            ]
        else:
            options = Options(memory, float(noise), seed, bool(libragrad))
            self._parts = [OneLayer(self.model, cast("Layer | None", layer), method, options) for layer in given]

    def __repr__(self) -> str:
        return f"<CAM by {self.method} of {described(self.model, self.layers)}>"

    @property
    def layers(self) -> tuple[TargetLayer, ...] | None:
        """The target layers: ``name``, ``module``, ``reason``; None before an automatic choice."""
        by_part = [part.layers for part in self._parts]
        return None if None in by_part else tuple(layer for of_part in by_part if of_part for layer in of_part)

    @property
    def config(self) -> Config | None:
        """What CF-CAM computes; None of other methods, and before the first call where it depends on the layers."""
        first = self._parts[0]
        return first.config if isinstance(first, CFCAM) else None

    @property
    def libragrad(self) -> bool | None:
        """Whether gradients are LibraGrad's; of ``"cfcam"`` before the first call what was asked for."""
        first = self._parts[0]
        return first.libragrad if isinstance(first, CFCAM) else bool(self._libragrad)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the model's classes, by index: those given, or its own; None where there are none."""
        return self._class_names.names

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
        target : None, int, str, sequence, tensor or callable
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
        request = targets.read(target, len(images), self._class_names)
        if methods.METHODS[self.method].classes_only and request.scores is not None:
            raise ValueError(f"target: {self.method} compares classes: expected class indices or None; got a callable")
        return self._explain(images, request, progress)

    def _explain(self, images: torch.Tensor, request: targets.Request, progress: Progress | None = None) -> Explanation:
        seen = Seen.of(images)
        for part in self._parts:
            if isinstance(part, CFCAM):
                part._prepare(images, request)
            else:
                part.prepare(images, request)
        survey = warn_of_training(self.model)
        looks = [partial(part._look if isinstance(part, CFCAM) else part.look, survey=survey) for part in self._parts]
        explanation = self._views.explain(self.model, looks, images, request, fuse=self._fuse, progress=progress)
        named = explanation if explanation.method == self.method else replace(explanation, method=self.method)
        return explained_by(named, self._explain, seen, self._class_names)
