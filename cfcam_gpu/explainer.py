"""CFCAM: explain a model's predictions."""

from __future__ import annotations

import logging

import torch
from torch import nn

from . import engines, layers, targets
from .capture import capture
from .config import Config
from .explanation import Explanation
from .functional import check_config, compute
from .guard import check_model
from .layers import TargetLayer

_log = logging.getLogger(__name__)


class CFCAM:
    """Cluster Filter Class Activation Mapping of a model.

    Parameters
    ----------
    model : torch.nn.Module
        Used as it is, in the mode it is in; nothing of it is changed. Inside ``DataParallel`` or ``torch.compile`` the
        wrapped module is what runs.
    target_layer : torch.nn.Module, str or None
        The layer whose activation is explained: a module, its dotted name, or ``"name.input"`` for what enters it.
        None chooses the last activation with a spatial extent, at the first call; `layer` then tells which and why.
    config : Config, optional
        Defaults to ``Config()``; ``Config.paper()`` is the method as published.
    engine : {"auto", "cpu", "rapids"}
        ``"auto"`` is ``cpu`` on the host and ``rapids`` on a CUDA device.

    Raises
    ------
    TypeError, ValueError
        If the model, the layer, the configuration or the engine can't be what is meant; the message says why.

    Notes
    -----
    One explainer, or several on one model, may be called from several threads.

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
        target_layer: nn.Module | str | None = None,
        *,
        config: Config | None = None,
        engine: str = "auto",
    ) -> None:
        self.model = check_model(model)
        self.config = check_config(config)
        engines.check_name(engine)
        self.engine = engine
        self._layer = None if target_layer is None else layers.find(self.model, target_layer)

    @property
    def layer(self) -> TargetLayer | None:
        """The target layer: ``name``, ``module`` and the ``reason`` for it; None before an automatic choice."""
        return self._layer

    def __call__(self, images: torch.Tensor, target: targets.Target = None) -> Explanation:
        """Explain a batch.

        Parameters
        ----------
        images : (B, 3, H, W) floating tensor
            Prepared as the model wants them, on the model's device.
        target : None, int, sequence, tensor or callable
            What to explain. None: the predicted class. An int: that class for every image. A list or tensor (B,): one
            class for each image. (B, T): T classes for each image, from one forward. A callable: gets one image's
            logits (K, ...) and returns a scalar tensor; or a list of B callables.

        Returns
        -------
        Explanation

        Raises
        ------
        TypeError, ValueError
            If images or target are refused, or the layer is; the message names the argument, what was expected and
            what came.
        RuntimeError
            If this machine lacks the engine.
        """
        self._check_images(images)
        request = targets.read(target, len(images))
        engines.choose(self.engine, images.device)
        layer = self._layer
        if layer is None:
            layer = self._layer = layers.choose(self.model, images)
            _log.info("target layer: %s (%s)", layer.name, layer.reason)
        captured = capture(self.model, layer, images, request)
        found = compute(captured.activations, captured.gradients, self.config, self.engine)
        if not request.several:
            found = engines.EngineResult(*(value[:, 0] for value in found))
        return Explanation(
            raw_maps=found.raw_maps,
            target=captured.indices,
            logits=captured.logits,
            labels=found.labels,
            weights=found.weights,
            eps=found.eps,
            layer=layer,
            size=(images.shape[-2], images.shape[-1]),
        )

    def _check_images(self, images: object) -> None:
        if not isinstance(images, torch.Tensor):
            raise TypeError(f"images: expected a torch tensor (B, 3, H, W); got {type(images).__name__}")
        if images.ndim != 4 or images.numel() == 0:
            raise ValueError(f"images: expected shape (B, 3, H, W), nothing of it empty; got {tuple(images.shape)}")
        if not images.is_floating_point():
            raise TypeError(f"images: expected a floating dtype; got {images.dtype} (scale and normalise them first)")
        device = next((parameter.device for parameter in self.model.parameters()), images.device)
        if device.type != images.device.type:
            raise ValueError(f"images: expected device '{device}', as the model; got '{images.device}'")
