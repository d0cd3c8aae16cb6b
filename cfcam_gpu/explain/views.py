"""One explanation from several looks at the same images: turned, noisy, and at several layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import nn

from ..core.axes import last_axes
from ..core.chunks import Progress
from ..core.maps import Inside, interpolate, over_maximum
from ..engines.execution import check_finite
from ..hooks.guard import guarded
from ..methods.noise import noisy_copies
from ..results.explanation import Explanation
from ..targets.per_image import ListsOf
from ..targets.request import Request, are_sound, class_indices, logits_for, pinned

Fuse = Literal["mean", "max"]

#: One look: the explanation of images as they are.
Look: TypeAlias = Callable[[torch.Tensor, Request, Progress | None], Explanation]

_Change: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


class Transform(NamedTuple):
    """A change of images (B, C, ...), and what undoes it on maps (B, ...) or (B, T, ...) of the changed images' size.

    The spatial axes are the last ones in both.
    """

    apply: _Change
    undo: _Change


def _flip(axis: int) -> Transform:
    return Transform(lambda images: images.flip(axis), lambda maps: maps.flip(axis))


def _rotate(quarters: int) -> Transform:
    return Transform(lambda images: images.rot90(quarters, (-2, -1)), lambda maps: maps.rot90(-quarters, (-2, -1)))


#: Transforms by name.
TRANSFORMS: Mapping[str, Transform] = MappingProxyType(
    {
        "flip": _flip(-1),
        "flip-vertical": _flip(-2),
        "rotate90": _rotate(1),
        "rotate180": _rotate(2),
        "rotate270": _rotate(3),
    }
)

Augment: TypeAlias = "str | tuple[_Change, _Change] | Sequence[str | tuple[_Change, _Change]] | None"


@dataclass(frozen=True)
class Views:
    """How often images are looked at, and how: each noisy copy, or the images, as they are and in each transform.

    Parameters
    ----------
    transforms : tuple of Transform
    samples : int
        Noisy copies of each image; 0 looks at the images themselves.
    noise : float
        See :func:`noisy_copies`.
    seed : int
    names : tuple of str
        Of the transforms.
    """

    transforms: tuple[Transform, ...] = ()
    samples: int = 0
    noise: float = 0.15
    seed: int = 0
    names: tuple[str, ...] = ()

    @classmethod
    def read(cls, augment: Augment, smooth: int, noise: float, seed: int) -> Views:
        """Check what an explainer was given.

        Raises
        ------
        TypeError, ValueError
            That names the argument, what was expected and what came.
        """
        items: Sequence[Any] = []
        if augment is not None:
            items = list(augment) if isinstance(augment, (list, tuple)) and not _is_pair(augment) else [augment]
        for name, value in (("smooth", smooth), ("seed", seed)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"{name}: expected an int of at least 0; got {value!r}")
        if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 <= noise < math.inf:
            raise ValueError(f"noise: expected a number of at least 0; got {noise!r}")
        names = tuple(item if isinstance(item, str) else f"transform {i}" for i, item in enumerate(items))
        return cls(tuple(_transform(item) for item in items), smooth, noise, seed, names)

    @property
    def several(self) -> bool:
        """Whether images are looked at otherwise than once, as they are."""
        return bool(self.transforms) or self.samples > 0

    def explain(
        self,
        model: nn.Module,
        looks: Sequence[Look],
        images: torch.Tensor,
        request: Request,
        *,
        fuse: Fuse = "mean",
        progress: Progress | None = None,
    ) -> Explanation:
        """Look, and make one explanation of what was seen.

        For each of `looks`, which differ in their layers, raw maps are interpolated to the images' size, turned back
        and averaged. Of several looks each such map is divided by its maximum, and `fuse` makes one of them: their mean
        or, position by position, the largest. What is explained, and `logits`, are those of the images as they are.

        Parameters
        ----------
        model : torch.nn.Module
        looks : sequence of callables
        images : (B, ...) tensor
        request : Request
        fuse : {"mean", "max"}
        progress : callable, optional
            Called with (done, total).

        Returns
        -------
        Explanation
            Where there is but one look at the images as they are, that one. Else with `raw_maps` at the images' size,
            and without labels, weights and eps, which are those of one look at one layer.

        Raises
        ------
        TypeError, ValueError
            If a transform does not give images, or does not bring maps back to the images' size.
        """
        if len(looks) == 1 and not self.several:
            return looks[0](images, request, progress)
        for name in self.names:
            if images.ndim < 4 and name in TRANSFORMS and name != "flip":
                raise ValueError(f"augment: {name!r} needs two spatial axes; got images {tuple(images.shape)}")
        fixed = next((score for score in request.callables() if getattr(score, "in_place", False)), None)
        if self.names and fixed is not None:
            raise ValueError(
                f"augment: {type(fixed).__name__} names places in the image, which {self.names[0]!r} may move"
            )
        settled = None
        if self.samples:
            settled = _settled(model, images, request)
            request = settled.request
        views = (self.samples or 1) * (1 + len(self.transforms))
        steps = _Steps(progress, len(looks) * views)
        by_look: list[tuple[Explanation, torch.Tensor]] = []
        for look in looks:
            total: torch.Tensor | None = None
            for view, name, undo in self._views(images):
                explanation = look(view, request, steps.within)
                steps.advance()
                if total is None:  # the first view has the images' own size
                    size = explanation.size
                if settled is None:  # the first view is of the images as they are
                    settled = _Settled(explanation.logits, pinned(request, explanation.target))
                    request = settled.request
                maps = resized(explanation.raw_maps, explanation.size, explanation.inside)
                if undo is not None:
                    _check_axes(explanation)
                    maps = _back(undo(maps), name, maps, size)
                view_maps = maps / views
                total = view_maps if total is None else total + view_maps
            assert total is not None
            by_look.append((explanation, total))
        assert settled is not None
        origin = by_look[0][0].origin
        assert origin is not None
        return replace(
            by_look[0][0],
            raw_maps=_fused([maps for _, maps in by_look], images.ndim - 2, fuse),
            logits=settled.logits,
            target=settled.request.indices,
            labels=None,
            weights=None,
            eps=None,
            layers=tuple(layer for explanation, _ in by_look for layer in explanation.layers),
            size=size,
            origin=origin._replace(capture=None, noisy=self.samples > 0),
            inside=None,
        )

    def _views(self, images: torch.Tensor) -> Iterator[tuple[torch.Tensor, str, _Change | None]]:
        """Each view of images, its name, and what brings its maps back to their places; None where they are there."""
        copies = noisy_copies(images, self.samples, self.noise, self.seed) if self.samples else [images]
        for copy in copies:
            yield copy, "", None
            for name, transform in zip(self.names, self.transforms):
                view = transform.apply(copy)
                if not isinstance(view, torch.Tensor) or view.ndim != images.ndim or len(view) != len(images):
                    got = f"shape {tuple(view.shape)}" if isinstance(view, torch.Tensor) else type(view).__name__
                    raise ValueError(
                        f"augment: expected {name} to give {len(images)} images of {images.ndim} axes; got {got}"
                    )
                yield view, name, transform.undo


class _Settled(NamedTuple):
    """What the model says of the images as they are, and the request with the classes that it predicts there."""

    logits: torch.Tensor | None
    request: Request


def _settled(model: nn.Module, images: torch.Tensor, request: Request) -> _Settled:
    with guarded(model):
        # Where there are none and a look needs them, it says so.
        logits = logits_for(request, model(images), len(images), ListsOf(model, images), needed=False)
        indices = None if logits is None or logits.ndim != 2 else class_indices(request, logits)
        if logits is not None:  # a look checks those of the copies
            check_finite(are_sound(logits, indices, []))
        return _Settled(None if logits is None else logits.detach(), pinned(request, indices))


def _back(back: torch.Tensor, name: str, maps: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """What a transform's undoing made of maps, if it has the images' size."""
    if tuple(back.shape[-len(size) :]) != size:
        raise ValueError(
            f"augment: expected what undoes {name} to bring maps {tuple(maps.shape)} back to the images' size, "
            f"{size}; got {tuple(back.shape)}"
        )
    return back


class _Steps:
    """Progress of looks, some of which report their own: the share of all that is done never falls."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total = progress, total
        self.done = 0
        self._look_reports = False

    @property
    def within(self) -> Progress | None:
        """For the look that is under way."""
        return None if self.progress is None else self._within

    def _within(self, done_of_look: int, total_of_look: int) -> None:
        assert self.progress is not None
        self._look_reports = True
        self.progress(self.done * total_of_look + done_of_look, self.total * total_of_look)

    def advance(self) -> None:
        """The look is done."""
        self.done += 1
        if self.progress is not None and not self._look_reports:
            self.progress(self.done, self.total)
        self._look_reports = False


def _fused(maps: Sequence[torch.Tensor], spatial: int, fuse: Fuse) -> torch.Tensor:
    if len(maps) == 1:
        return maps[0]
    normalised = torch.stack([over_maximum(raw_maps, spatial) for raw_maps in maps])
    return normalised.mean(dim=0) if fuse == "mean" else normalised.amax(dim=0)


def check_fuse(fuse: object) -> None:
    """Refuse what is no way of fusing.

    Raises
    ------
    ValueError
    """
    if fuse is not None and fuse not in get_args(Fuse):
        raise ValueError(f"fuse: expected None, {' or '.join(map(repr, get_args(Fuse)))}; got {fuse!r}")


def _check_axes(explanation: Explanation) -> None:
    """Refuse images whose last axes are not those of the maps, which is what transforms turn."""
    layout = explanation.layers[0].layout
    axes = None if layout is None else layout.axes
    if axes is not None and axes[-2:] != (len(axes), len(axes) + 1):
        raise ValueError(
            f"augment: expected images whose last axes are the maps'; this model's maps lie along axes {axes} of them"
        )


def resized(raw_maps: torch.Tensor, size: Sequence[int], inside: Inside | None = None) -> torch.Tensor:
    """Raw maps (..., h, w) >= 0 at another size, on their own scale; with `inside`, that part of them."""
    spatial = len(size)
    flat = raw_maps.reshape(-1, 1, *raw_maps.shape[-spatial:])
    # Scaled first: the sums inside interpolation may overflow next to float32's end.
    peak = flat.amax(dim=last_axes(spatial), keepdim=True)
    return (interpolate(over_maximum(flat, spatial), size, inside) * peak).reshape(*raw_maps.shape[:-spatial], *size)


def _is_pair(item: object) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and all(callable(function) for function in item)


def _transform(item: Any) -> Transform:
    if isinstance(item, str) and item in TRANSFORMS:
        return TRANSFORMS[item]
    if _is_pair(item):
        return Transform(*item)
    raise ValueError(
        f"augment: expected {', '.join(map(repr, TRANSFORMS))}, a pair of callables (apply to images, undo on maps), "
        f"or a list of these; got {item!r}"
    )
