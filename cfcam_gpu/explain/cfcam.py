"""CFCAM: explain a model's predictions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import nn

from .. import engines, targets
from ..core import axes
from ..core.chunks import Progress
from ..core.config import Config, Extent
from ..engines.execution import check_config, compute
from ..hooks import layers
from ..hooks.capture import Captured
from ..hooks.guard import Survey, check_model, warn_of_training
from ..hooks.laying_out import laid_out
from ..hooks.target_layer import Layer, TargetLayer
from ..results.explanation import Explanation
from ..results.seen import Seen
from ..targets.names import ClassNames
from .cuda_graph import GraphedCFCAM, fused_engine
from .plan import Layouts, Plan, check_extent, check_levels, check_libragrad, described, explained_by
from .views import Augment, Views

_log = logging.getLogger(__name__)


class CFCAM:
    """Cluster Filter Class Activation Mapping of a model of images, volumes or signals.

    Parameters
    ----------
    model : torch.nn.Module
        Used as it is, in the mode it is in; nothing of it is changed. Inside ``DataParallel`` or ``torch.compile`` the
        wrapped module is what runs.
    target_layer : torch.nn.Module, str, TargetLayer, sequence of two, or None
        The layer whose activation is explained: a module, its dotted name, ``"name.input"`` for what enters it, or what
        :func:`cfcam_gpu.hooks.find` made of one. Two of them, the finer one first, for a two-level explanation.
        None chooses, at the first call: the last activation with a spatial extent and, before it, one of twice its
        resolution, where the model has several; `layers` then tells which and why. Tokens and channels-last
        activations are taken as maps, too.
    config : Config, optional
        Defaults to ``Config()`` for one layer, and to ``Config.two_level()`` for two or None. For one layer of tokens,
        and where None finds one layer or tokens of one grid, as of most vision transformers, it is ``Config.gated()``.
        ``Config.paper()`` is the form of the authors' code.
    engine : {"auto", "cpu", "rapids", "fused", "reference"}
        ``"auto"`` is ``cpu`` on the host; on a CUDA device ``fused`` where that covers the work and passes a check of
        its kernels, else ``rapids`` where it is there, else ``cpu``.
    augment : str, pair of callables, or sequence of these, optional
        Look at the images transformed, too, and average: a name of :data:`cfcam_gpu.explain.TRANSFORMS`,
        ``"flip"`` say, or (apply to images, undo on maps of their size).
    smooth : int
        Average over so many noisy copies of each image, in the place of the image. The predicted class stays that of
        the image itself.
    noise : float
        Standard deviation of that noise, as a share of the image's own range of values.
    seed : int
        Of the noise: the same seed gives the same bytes on one machine.
    libragrad : bool, optional
        Gradients that are complete on transformers, by LibraGrad (Mehri et al., CVPR 2025, arXiv:2411.16760):
        denominators of normalisations, gates of activations and attention's weights count as constants. The forward is
        the same. None takes them where the layers are tokens of one grid, and `config` is left out or is one that is
        gated by the layer's own evidence, as ``Config.gated()`` is.
    extent : {"broad", "balanced", "tight"}, optional
        How much of the image the map shows strongly, where `config` is left out; None is ``"balanced"``. See
        :meth:`cfcam_gpu.Config.two_level`. Not with one named layer, for which ``Config.gated`` takes it.
    class_names : sequence of K str, optional
        Names of the model's classes, by which a target may be given, and which results have. None takes the model's
        own, as :func:`cfcam_gpu.targets.names_of` finds them; where these are not as many as it has classes, none.

    Raises
    ------
    TypeError, ValueError
        If the model, the layer, the configuration or the engine can't be what is meant; the message says why.

    Notes
    -----
    One explainer, or several on one model, may be called from several threads. Of a model with compiled parts, or after
    ``model.compile()``, a call holds torch's stance ``"force_eager"``, which is that of all threads.

    Examples
    --------
    >>> explain = cfcam_gpu.CFCAM(model, "layer4")  # doctest: +SKIP
    >>> result = explain(images, target=[281, 207])  # doctest: +SKIP
    >>> result.maps.shape  # doctest: +SKIP
    torch.Size([2, 224, 224])
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: Layer | Sequence[Layer] | None = None,
        *,
        config: Config | None = None,
        engine: str = "auto",
        augment: Augment = None,
        smooth: int = 0,
        noise: float = 0.15,
        seed: int = 0,
        libragrad: bool | None = None,
        extent: Extent | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self._libragrad = check_libragrad(libragrad)
        self._given_config = None if config is None else check_config(config)
        self._extent = check_extent(extent, self._given_config)
        self._views = Views.read(augment, smooth, noise, seed)
        self.model = check_model(model)
        self._class_names = ClassNames(class_names, model)
        engines.check_name(engine)
        self.engine = engine
        self._plan: Plan | None = None
        self._named: tuple[TargetLayer, ...] | None = None
        self._layouts = Layouts()
        if target_layer is not None:
            asked = list(target_layer) if isinstance(target_layer, (list, tuple)) else [cast(Layer, target_layer)]
            if len(asked) not in (1, 2):
                raise ValueError(f"target_layer: expected one layer, or two, the finer one first; got {len(asked)}")
            self._named = tuple(layers.find(self.model, layer) for layer in asked)
            check_levels(self._named, self._given_config, self._extent)

    def __repr__(self) -> str:
        return f"<CFCAM of {described(self.model, self.layers)}, engine {self.engine}>"

    @property
    def layers(self) -> tuple[TargetLayer, ...] | None:
        """The target layers, the finest first: ``name``, ``module``, ``reason``; None before an automatic choice."""
        return self._named if self._plan is None else self._plan.layers

    @property
    def config(self) -> Config | None:
        """What is computed; None before the first call where none was given, as the default goes by what is found."""
        return self._given_config if self._plan is None else self._plan.config

    @property
    def libragrad(self) -> bool | None:
        """Whether gradients are LibraGrad's; before the first call what was asked for."""
        return self._libragrad if self._plan is None else self._plan.libragrad

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the model's classes, by index: those given, or its own; None where there are none."""
        return self._class_names.names

    def __call__(self, images: torch.Tensor, target: targets.Target = None) -> Explanation:
        """Explain a batch.

        Parameters
        ----------
        images : (B, C, H, W) floating tensor
            Prepared as the model wants them, on the model's device. Volumes are (B, C, D, H, W), signals (B, C, L); the
            target layer's activation has as many spatial axes.
        target : None, int, str, sequence, tensor or callable
            What to explain. None: the predicted class. An int, or a class's name: that class for every image. A list or
            tensor (B,): one class for each image; None in a list is that image's predicted class. (B, T): T classes for
            each image, from one forward. A callable: gets one image's logits (K, ...), or its part of an output without
            logits, and returns a scalar tensor; or a list of B callables, or of B lists of T.
            :mod:`cfcam_gpu.targets` has ready ones.

        Returns
        -------
        Explanation

        Raises
        ------
        TypeError, ValueError
            If images or target are refused, or the layer is; the message names the argument, what was expected and
            what came.
        RuntimeError
            If this machine lacks the engine that is named.
        """
        check_images(self.model, images)
        return self._explain(images, targets.read(target, len(images), self._class_names))

    def _explain(self, images: torch.Tensor, request: targets.Request) -> Explanation:
        seen = Seen.of(images)  # before a model may write to them
        self._prepare(images, request)
        look = partial(self._look, survey=warn_of_training(self.model))
        explanation = self._views.explain(self.model, [look], images, request)
        return explained_by(explanation, self._explain, seen, self._class_names)

    def _prepare(self, images: torch.Tensor, request: targets.Request) -> None:
        """Find what may be missing before anything runs: the engine, the layers."""
        engines.choose(self.engine, images.device)
        self._planned(images, request)

    def _look(
        self,
        images: torch.Tensor,
        request: targets.Request,
        progress: Progress | None = None,
        *,
        survey: Survey | None = None,
    ) -> Explanation:
        plan = self._planned(images, request)
        captured = plan.capture(self.model, images, request, survey)
        plan = self._known(plan, captured, images)
        result = compute(
            captured.activations,
            captured.gradients,
            plan.config,
            self.engine,
            coarse=captured.coarse,
            sound=captured.sound,
        )
        return plan.explanation(self.model, captured, result, images, request)

    def cuda_graph(self, images: torch.Tensor, target: targets.Target = None, *, overlay: bool = False) -> GraphedCFCAM:
        """A CUDA graph of the whole call, for batches like this one.

        Forward, head backward, CF-CAM and maps, replayed as one, without the host in between: what a call costs
        beyond the kernels' own time is gone. The first batch is run a few times on the way.

        Parameters
        ----------
        images : floating tensor on a CUDA device
            An example of images, volumes or signals, as a call takes them: shape, dtype, device and memory layout are
            those of the graph, and the values don't matter.
        target : None, int, str, sequence, tensor or callable
            As in a call. With class indices, (B,) or (B, T), each replay may name others. A callable runs here alone;
            the graph keeps what it did on the device.
        overlay : bool
            Draw the overlays, too.

        Returns
        -------
        GraphedCFCAM
            Call it with images.

        Raises
        ------
        TypeError, ValueError
            As in a call; if `images` are not on a CUDA device, the explainer's engine is neither ``"auto"`` nor
            ``"fused"``, the fused engine does not cover the configuration or the layer, a module is in training mode,
            the explainer augments or smooths, or overlays of signals are asked for.
        RuntimeError
            If this machine lacks the fused engine, or its kernels fail the check that ``"auto"`` makes of them, or the
            model or the callable does what no CUDA graph can hold: reads a value on the host, say. A capture that fails
            may leave torch's random numbers and memory on that device unusable in this process, depending on torch's
            release.

        Notes
        -----
        The graph holds the model's parameters and buffers by their addresses: values changed in place are seen
        (``load_state_dict``), replaced tensors are not (``load_state_dict(assign=True)``, ``.to()``): make another
        then. Autocast and the TF32 flags stay as they are now. A graph takes memory of its own until it is dropped.
        While a graph is captured, other threads must not draw random numbers from the device's default generator.
        """
        check_images(self.model, images)
        if self._views.several:
            raise ValueError(
                "cuda_graph: a graph holds one look at the images; make the explainer without augment, smooth"
            )
        if overlay and images.ndim == 3:
            raise ValueError(
                "overlay: a signal's is drawn on the host, which no CUDA graph can hold; leave it out here, and ask "
                "the result's overlay(images)"
            )
        request = targets.read(target, len(images), self._class_names)
        if request.predicted is not None:
            raise ValueError(
                "target: a graph explains a class that is named, or the predicted one, of all images alike"
            )
        engine = fused_engine(self.model, images.device, self.engine)
        return GraphedCFCAM(
            self.model, self._laid_out(images, request), engine, images, request, self._class_names, overlay=overlay
        )

    def _planned(self, images: torch.Tensor, request: targets.Request) -> Plan:
        plan = self._plan or self._settled(images, request)
        self._plan = plan = plan.with_layers(self._layouts.of(self.model, images, plan.layers))
        return plan

    def _laid_out(self, images: torch.Tensor, request: targets.Request) -> Plan:
        """The plan with the layers' layouts, which a graph must know: it can't hold the check of what is found."""
        plan = self._planned(images, request)
        if not all(layer.checked for layer in plan.layers):
            plan = self._known(plan, plan.capture(self.model, images, request), images)
        return plan

    def _known(self, plan: Plan, captured: Captured, images: torch.Tensor) -> Plan:
        """The plan with what a capture found of its layers, which later calls needn't look for."""
        if captured.layers != plan.layers:
            plan = self._plan = plan.with_layers(captured.layers)
            self._layouts.keep(images, plan.layers)
        return plan

    def _settled(self, images: torch.Tensor, request: targets.Request) -> Plan:
        config = self._given_config
        if self._named is not None:
            return Plan.of(laid_out(self.model, images, self._named), config, self._libragrad, self._extent)
        if config is None or config.levels == 2:
            chosen = layers.choose_two(self.model, images, request)
        else:
            chosen = (layers.choose(self.model, images, request),)
        plan = Plan.automatic(laid_out(self.model, images, chosen), config, self._libragrad, self._extent)
        for layer in plan.layers:
            _log.info("target layer: %s (%s)", layer.name, layer.reason)
        return plan


def check_images(model: nn.Module, images: object) -> None:
    """Refuse what is no batch of images, volumes or signals for a model.

    Raises
    ------
    TypeError, ValueError
    """
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"images: expected a torch tensor (B, 3, H, W); got {type(images).__name__}")
    spatial_dims, of_model = images.ndim - 2, axes.of_model(model)
    # A model of images that gets (3, H, W) would take it for an image, and we for three signals.
    if spatial_dims not in axes.INPUTS or spatial_dims < (of_model or 1) or images.numel() == 0:
        wanted = axes.INPUTS[of_model] if of_model else " or ".join(axes.INPUTS.values())
        hint = ""
        if spatial_dims == 1 and of_model == 2:
            hint = (
                "; the model's first convolution works on two axes. Of one image give images[None]; of signals that "
                "the model makes spectrograms of, explain what comes behind that, of spectrograms (B, 1, frequencies, "
                "times)"
            )
        raise ValueError(f"images: expected shape {wanted}, nothing of it empty; got {tuple(images.shape)}{hint}")
    if not images.is_floating_point():
        raise TypeError(f"images: expected a floating dtype; got {images.dtype} (scale and normalise them first)")
    device = next((parameter.device for parameter in model.parameters()), images.device)
    if device.type == "meta" != images.device.type:
        raise ValueError("model: its parameters are on the meta device: they are offloaded or were not loaded")
    if device.type != images.device.type:
        raise ValueError(f"images: expected device '{device}', as the model; got '{images.device}'")
