"""What is measured side by side: CF-CAM in its forms, and the CAMs of the field."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .. import methods, targets
from ..core.config import Config
from ..core.maps import over_maximum, upsample
from ..engines.execution import compute
from ..explain.cam import CAM
from ..explain.plan import Layouts, Plan
from ..hooks import layers
from ..hooks.attention import attention_blocks
from ..hooks.capture import capture
from ..hooks.target_layer import TargetLayer
from ..methods import gradient
from ..metrics import Explainer

#: Maps (B, T, H, W) in [0, 1] at a size from activations (B, C, h, w) and gradients (B, T, C, h, w), one of each for
#: every layer, the finest first. Of volumes and signals they have as many axes behind the first as these.
Render: TypeAlias = Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor], tuple[int, ...]], torch.Tensor]

#: What the name of a method has behind it where its gradients are LibraGrad's; and of the default where they are not,
#: if they are by default.
LIBRAGRAD, PLAIN = "+libragrad", "+plain"

#: The candidates that a model with one level has none of.
_FINE, _PRODUCT = "layercam-fine", "gradcam*layercam-fine"

#: Of each model, by the layers' names: what takes forwards of its own to find serves all candidates and photographs.
_layouts: WeakKeyDictionary[nn.Module, dict[tuple[str, ...], Layouts]] = WeakKeyDictionary()


def _laid_out(model: nn.Module, names: tuple[str, ...], images: torch.Tensor) -> tuple[TargetLayer, ...]:
    """The layers of these names with their layouts for such images."""
    known = _layouts.setdefault(model, {}).setdefault(names, Layouts())
    return known.of(model, images, tuple(layers.find(model, name) for name in names))


@dataclass(frozen=True)
class Candidate:
    """A method, and the layers of a model that it works on.

    Parameters
    ----------
    name : str
        Where `render` is None, a key of :data:`cfcam_gpu.methods.METHODS` that runs the model many times or takes many
        layers, with :data:`LIBRAGRAD` behind it where it takes such gradients.
    layers : tuple of str
        Names of target layers, the finest first: names, so that they fit a copy of the model too.
    render : callable or None
        Makes maps from what was captured; with it a candidate can be given gradients that are not the model's own.
    contrast : float
        How far its gradients are those of the class against its rivals. See :class:`cfcam_gpu.Config`.
    objective : callable or None
        What its gradients are of, where not of a class's logit.
    libragrad : bool
        Whether its gradients are LibraGrad's.
    """

    name: str
    layers: tuple[str, ...]
    render: Render | None = None
    contrast: float = 0.0
    objective: targets.Objective | None = None
    libragrad: bool = False

    def captured(
        self, model: nn.Module, images: torch.Tensor, classes: targets.Target
    ) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Activations and gradients at its layers, of images (B, 3, H, W) and classes (B, T), or rows of callables."""
        fine, *coarse = _laid_out(model, self.layers, images)
        found = capture(
            model,
            fine,
            images,
            replace(targets.read(classes, len(images)), objective=self.objective),
            coarse=coarse[0] if coarse else None,
            contrast=self.contrast,
            libragrad=self.libragrad,
        )
        if found.coarse is None:
            return (found.activations,), (found.gradients,)
        return (found.activations, found.coarse[0]), (found.gradients, found.coarse[1])

    def maps(
        self, model: nn.Module, images: torch.Tensor, classes: targets.Target, size: tuple[int, ...]
    ) -> torch.Tensor:
        """Maps (B, T, H, W) in [0, 1] at `size`, of images (B, 3, h, w) and classes (B, T), or rows of callables."""
        if self.render is not None:
            return self.render(*self.captured(model, images, classes), size)
        name = self.name.removesuffix(LIBRAGRAD)
        known = _told(methods.METHODS[name], model, self.layers, images)
        explain = CAM(model, known, method=name, libragrad=self.libragrad)
        return upsample(explain(images, classes).raw_maps, size)

    def explainer(self, model: nn.Module) -> Explainer:
        """Maps (B, H, W) at the images' size, of images and classes (B,)."""
        return lambda images, classes: self.maps(model, images, classes[:, None], tuple(images.shape[2:]))[:, 0]


def find(model: nn.Module, images: torch.Tensor, target: targets.Target = None) -> dict[str, Candidate]:
    """All candidates by name, at the layers that CF-CAM chooses for a model.

    The methods of :data:`cfcam_gpu.methods.METHODS` work on the last layer, those that make one map of many layers on
    the ones that they choose; where a model has none for such a method, it is not there. Of a model that has two
    levels, ``"cfcam"`` takes both; ``"layercam-fine"`` is LayerCAM at the finer one, and ``"gradcam*layercam-fine"``
    the square root of it times Grad-CAM at the last layer. Where there is one level, ``"cfcam"`` takes that, and the
    other two are not there.

    Where the layers are of tokens, each method that looks at gradients is there twice: as ``"gradcam+libragrad"`` it
    has LibraGrad's, as ``"gradcam"`` plain ones. ``"cfcam"`` is what :class:`cfcam_gpu.CFCAM` does by default, in its
    configuration and gradients; with the other gradients it is ``"cfcam+libragrad"`` or ``"cfcam+plain"``.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, 3, H, W) floating tensor
        The first is used, to see the layers.
    target : None, int, sequence, tensor or callable
        What is explained of it, of a model whose output is not a logit for each class.

    Raises
    ------
    ValueError
        If no layer can be chosen.
    """
    request = targets.read(target, 1)
    levels = tuple(layer.name for layer in layers.choose_two(model, images, request))
    known = _laid_out(model, levels, images)
    last, fine = levels[-1:], levels[:1]
    found = []
    for name, method in methods.METHODS.items():
        if method.layers == "all":
            try:
                found.append(Candidate(name, _of_many(method, model, images, request)))
            except ValueError:
                continue  # missing() says why
        elif not method.cluster_filter:
            render = None if method.from_gradients is None else _single(method.from_gradients)
            found.append(Candidate(name, last, render, objective=method.objective))
    if len(levels) == 2:
        found.append(Candidate(_FINE, fine, _single(gradient.layercam)))
        found.append(Candidate(_PRODUCT, levels, _fused))
    found.append(_cfcam("cfcam-paper", last, Config.paper()))
    found.append(_cfcam("cfcam-one", last, Config()))
    default = Plan.automatic(known)
    of_default = tuple(layer.name for layer in default.layers)
    cfcam = replace(_cfcam("cfcam", of_default, default.config), libragrad=default.libragrad)
    if any(layer.layout is not None and layer.layout.kind == "tokens" for layer in known):
        found += [replace(one, name=one.name + LIBRAGRAD, libragrad=True) for one in found if _takes_libragrad(one)]
        other = PLAIN if cfcam.libragrad else LIBRAGRAD
        found.append(replace(cfcam, name=cfcam.name + other, libragrad=not cfcam.libragrad))
    return {candidate.name: candidate for candidate in [*found, cfcam]}


def missing(
    name: str, there: Collection[str], model: nn.Module, images: torch.Tensor, target: targets.Target = None
) -> str | None:
    """Why a candidate is not there, of a name that is one's of other models; None where it is none's.

    Parameters
    ----------
    name : str
        Not in `there`.
    there : collection of str
        The names that :func:`find` returned for the other arguments.
    model, images, target
    """
    base = name.removesuffix(PLAIN if name.endswith(PLAIN) else LIBRAGRAD)
    if base in (_FINE, _PRODUCT) and base not in there:
        return "it is of two levels, and the layers of this model have one resolution"
    if base in methods.METHODS and base not in there:
        try:
            _of_many(methods.METHODS[base], model, images, targets.read(target, 1))
        except ValueError as error:
            return f"this model has no layers for {base} ({error})"
    if base == name or base not in there:
        return None
    suffix = name.removeprefix(base)
    if suffix == PLAIN and base != "cfcam":
        return f"{PLAIN} is of cfcam alone; {base} has such gradients, or none, without it"
    if not any(one.endswith((LIBRAGRAD, PLAIN)) for one in there):
        return f"{suffix} is for models with tokens, and the layers of this one are of channels over a grid"
    if base == "cfcam":
        return "it is cfcam itself, which has such gradients by default on this model"
    return f"{base} is not measured with LibraGrad's gradients"


def _of_many(
    method: methods.Method, model: nn.Module, images: torch.Tensor, request: targets.Request
) -> tuple[str, ...]:
    """The layers that a method of many chooses.

    Raises
    ------
    ValueError
        If the model has none for it, or the map of one is not told.
    """
    chosen = attention_blocks(model, images) if method.choose is None else method.choose(model, images, request)
    names = tuple(layer.name for layer in chosen)
    _told(method, model, names, images)
    return names


def _told(
    method: methods.Method, model: nn.Module, names: tuple[str, ...], images: torch.Tensor
) -> tuple[TargetLayer | str, ...]:
    """The layers of a method with their layouts; of attention's blocks, which all have the same, the first alone."""
    count = 1 if method.attention else len(names)
    return (*_laid_out(model, names[:count], images), *names[count:])


def _takes_libragrad(candidate: Candidate) -> bool:
    """Whether its gradients can be LibraGrad's; of what runs the model many times it is not asked."""
    method = methods.METHODS.get(candidate.name)
    if method is None:
        return True
    return method.libragrad and (candidate.render is not None or method.layers == "all")


def _single(method: methods.FromGradients) -> Render:
    return lambda activations, gradients, size: _shown(method(activations[0], gradients[0]), size)


def _fused(
    activations: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], size: tuple[int, ...]
) -> torch.Tensor:
    fine = _shown(gradient.layercam(activations[0], gradients[0]), size)
    coarse = _shown(gradient.gradcam(activations[1], gradients[1]), size)
    return over_maximum((fine * coarse).sqrt())


def _cfcam(name: str, levels: tuple[str, ...], config: Config) -> Candidate:
    def render(
        activations: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], size: tuple[int, ...]
    ) -> torch.Tensor:
        coarse = (activations[1], gradients[1]) if len(levels) == 2 else None
        found = compute(activations[0], gradients[0], config, "auto", coarse=coarse)
        return _shown(found.raw_maps, size, config.saturation)

    return Candidate(name, levels, render, contrast=config.contrast)


def _shown(raw_maps: torch.Tensor, size: tuple[int, ...], saturation: float | None = None) -> torch.Tensor:
    # Not a number is nothing's maximum: such a map would come out as one of zeros, and be measured as one.
    if not bool(torch.isfinite(raw_maps).all()):
        raise ValueError("the map is not finite: NaN or infinity in the image or in activations")
    return upsample(raw_maps, size, saturation=saturation)
