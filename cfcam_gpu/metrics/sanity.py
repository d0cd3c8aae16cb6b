"""Whether the map depends on what the model has learned, measured by making the model forget.

All of it happens on a copy: the model that is given is never changed, and torch's random state is the caller's again
afterwards.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import nn

from ..core.chunks import Progress
from ..core.similarity import spearman
from ..hooks.guard import check_model
from .robustness import IMAGES_ONLY, ssim
from .scoring import Explainer, check_images, check_maps

#: An explainer of the model it is given. Layers are best given to it by name: the model is a copy.
MakeExplainer: TypeAlias = Callable[[nn.Module], Explainer]

#: What initialises a module anew, in torch's own ones.
RESETS = ("reset_parameters", "_reset_parameters")


class Randomisation(NamedTuple):
    """How alike maps are before and after.

    ``correlation`` (S, B) float64: Spearman's rank correlation after each of S steps, lower is better. ``layers``: the
    S names of what was randomised, each in addition to those before it. ``trained``: names of parameters that kept
    their values to the end, because they are in no such layer or their module has no ``reset_parameters``.
    """

    correlation: torch.Tensor
    layers: tuple[str, ...]
    trained: tuple[str, ...]


def cascading_randomisation(
    model: nn.Module,
    make_explainer: MakeExplainer,
    images: torch.Tensor,
    classes: torch.Tensor,
    *,
    layers: Sequence[str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Randomisation:
    """Model parameter randomisation test (MPRT), from the classifier down to the input.

    Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018 (arXiv:1810.03292). Step by step one more layer is
    initialised anew by its ``reset_parameters``, and the maps are compared to those of the trained model. A map that is
    the same everywhere correlates with nothing: 0.

    Parameters
    ----------
    model : torch.nn.Module
    make_explainer : callable
        ``model -> ((images (B, C, H, W), classes (B,)) -> maps (B, H, W))``, maps in [0, 1].
    images : (B, C, H, W) floating tensor
        Or volumes (B, C, D, H, W), or signals (B, C, L).
    classes : (B,) int64 tensor
        Explained throughout, whatever the randomised model predicts.
    layers : sequence of str, optional
        The steps, from the top down: dotted names of modules, each randomised with all that is in it. By default every
        module with ``reset_parameters``, the last one first.
    seed : int
        The first step is seeded with it, each further one with the next number: no two layers get the same numbers,
        and every method meets the same models.
    progress : callable, optional
        Called with (done, total) steps.

    Returns
    -------
    Randomisation

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, a layer is not there or has nothing to initialise, or a map is refused.
    """
    images = check_images(images, model)
    randomised = copy.deepcopy(check_model(model))
    names = _resettable(randomised)[::-1] if layers is None else list(layers)
    if not names:
        raise ValueError("layers: expected at least one; a module with reset_parameters is one by default")
    untouched = {id(parameter): name for name, parameter in randomised.named_parameters()}
    maps = check_maps(make_explainer(randomised)(images, classes), spatial_dims=images.ndim - 2)
    correlations = []
    for step, name in enumerate(names):
        for module in _reset(randomised, name, seed + step):
            for parameter in module.parameters(recurse=False):
                untouched.pop(id(parameter), None)
        randomised_maps = check_maps(make_explainer(randomised)(images, classes), tuple(maps.shape))
        correlations.append(spearman(maps, randomised_maps))
        if progress is not None:
            progress(step + 1, len(names))
    return Randomisation(torch.stack(correlations), tuple(names), tuple(untouched.values()))


def classifier_randomisation_ssim(
    model: nn.Module,
    make_explainer: MakeExplainer,
    images: torch.Tensor,
    classes: torch.Tensor,
    *,
    classifier: str | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """SSIM between the map and the map after the classifier alone was initialised anew; lower is better.

    Parameters
    ----------
    model, make_explainer, images, classes, seed
        As in :func:`cascading_randomisation`, whose first step this is; images only.
    classifier : str, optional
        Its dotted name; by default the last module with ``reset_parameters``.

    Returns
    -------
    (B,) float64 tensor in [-1, 1]

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, there is no classifier, or a map is refused.
    RuntimeError
        If torchmetrics is not installed.
    """
    images = check_images(images, model, images_only=IMAGES_ONLY)
    randomised = copy.deepcopy(check_model(model))
    if classifier is None:
        names = _resettable(randomised)
        if not names:
            raise ValueError("classifier: no module of the model has reset_parameters")
        classifier = names[-1]
    maps = make_explainer(randomised)(images, classes)
    _reset(randomised, classifier, seed)
    return ssim(maps, make_explainer(randomised)(images, classes))


def _resettable(model: nn.Module) -> list[str]:
    """Names of the modules that can be initialised anew, in the order of the model."""
    return [name for name, module in model.named_modules() if any(hasattr(module, reset) for reset in RESETS)]


def _reset(model: nn.Module, name: str, seed: int) -> list[nn.Module]:
    """Initialise the module called `name` and all in it anew; returns those that were."""
    modules = dict(model.named_modules())
    if name not in modules:
        near = ", ".join(difflib.get_close_matches(name, modules, n=3)) or "none is near"
        raise ValueError(f"layers: the model has no layer {name!r} (nearest: {near})")
    reset = []
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for module in modules[name].modules():
            initialise = next((method for name in RESETS if (method := getattr(module, name, None))), None)
            if initialise is not None:
                initialise()
                reset.append(module)
    if not reset:
        raise ValueError(f"layers: nothing in {name!r} has reset_parameters")
    return reset
