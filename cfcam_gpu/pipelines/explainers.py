"""What a job asks of its explainer, a model's or an exported file: where it is, and what its results depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, TypeAlias

import torch
from torch import nn

from .. import engines
from .._version import __version__
from ..deploy.loading import Deployed
from ..explain.cam import CAM
from ..explain.cfcam import CFCAM
from ..explain.plan import engine_of
from ..results.explanation import Explanation

Explainer: TypeAlias = CFCAM | CAM | Deployed

#: Methods that draw noise of their own.
_NOISY = ("smoothgradcam++", "randomcam")


def device_of(explainer: Explainer) -> torch.device:
    """Where images are explained."""
    if isinstance(explainer, Deployed):
        return explainer.device
    return next((parameter.device for parameter in explainer.model.parameters()), torch.device("cpu"))


def is_labelled(explainer: Explainer) -> bool:
    """Whether its results count channels: those of one look by CF-CAM do."""
    if isinstance(explainer, Deployed):
        return False
    if isinstance(explainer, CFCAM):
        return not explainer._views.several
    parts = explainer._parts
    return len(parts) == 1 and isinstance(parts[0], CFCAM) and not explainer._views.several


def check(explainer: Explainer, device: torch.device, targets: Iterable[int | str | None] = ()) -> None:
    """Refuse one that can't explain one class of each image here.

    Parameters
    ----------
    explainer : CFCAM, CAM or Deployed
    device : torch.device
    targets : iterable of int, str or None
        What is explained, as far as it is known; None and ``"predicted"`` are the predicted class.

    Raises
    ------
    RuntimeError
        If this machine lacks its engine.
    ValueError
        If it is a file of several classes of each image, of a segmentation, or of the predicted class where another is
        asked for.
    """
    if not isinstance(explainer, Deployed):
        if explainer.engine is not None:
            engines.choose(explainer.engine, device)
        return
    name, said = explainer.path.name, explainer.description
    if said.classes is not None or said.segment is not None:
        got = "a segmentation" if said.segment is not None else f"{said.classes} classes of each image"
        raise ValueError(f"explainer: expected a file of one class of each image; {name} explains {got}")
    named = next((target for target in targets if target not in (None, "predicted")), None)
    if said.target == "predicted" and named is not None:
        raise ValueError(
            f"target: expected 'predicted' (--target predicted), as {name} was exported to explain that class "
            f"alone; got class {named}. Export it with --target input to name classes"
        )


def facts(explainer: Explainer, result: Explanation, device: torch.device) -> dict[str, Any]:
    """What the results depend on, of model and method."""
    known = {
        "method": result.method,
        "layers": [layer.name for layer in result.layers],
        "config": None if result.config is None else asdict(result.config),
        "libragrad": explainer.libragrad,
        "device": device.type,
        "cfcam_gpu": __version__,
        "torch": torch.__version__,
    }
    if isinstance(explainer, Deployed):
        # The file's bytes say all that is in it; another release of what plays it may round otherwise.
        looks: dict[str, Any] = {"fuse": None, "augment": [], "smooth": 0, "noise": None}
        return {"model": explainer.digest, "engine": explainer.runtime, **looks, **known}
    views, engine = explainer._views, explainer.engine
    fused = len(result.layers) > 1 and result.config is None
    return {
        "model": digest_of(explainer.model),
        "engine": None if engine is None else engine_of(engine, result, device),
        "fuse": explainer._fuse if isinstance(explainer, CAM) and fused else None,
        "augment": list(views.names),
        "smooth": views.samples,
        "noise": [views.noise, views.seed] if views.samples or result.method in _NOISY else None,
        **known,
    }


def digest_of(model: nn.Module) -> str:
    """A digest of a model's parameters and buffers: names, shapes, dtypes and values."""
    found = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        if isinstance(value, torch.Tensor):
            found.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
