"""Layouts of target layers: by what a forward tells, and where that is not enough, by what mixed images show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import nn
from torch.autograd.graph import Node

from ..core.axes import ACTIVATIONS
from ..core.finite import NotFiniteError
from . import own_thread, token_places
from .activation_hook import did_not_run, floating, runs_twice, tokens_first
from .evidence import Evidence
from .frames import Frame, frame_of, plain_frame
from .graph_places import with_places
from .grid_places import expected_reading, of_grid
from .layouts import Layout
from .places import Seen, folded_order, look
from .recording import recorded
from .target_layer import TargetLayer

_REMEDY = (
    "name another layer, or tell its layout: dataclasses.replace(cfcam_gpu.hooks.find(model, name), "
    "layout=cfcam_gpu.hooks.Layout(...))"
)
#: Digits of places by which what enters the first convolution is read.
_DIGITS = 5
#: What an arrangement of tokens must score; where others are scattered among the patches, or these are in columns; and
#: where the first layer that works on as many tokens is sure.
_SURE_TOKENS, _SURE_UNUSUAL, _SOME_OF_TOKENS = 0.4, 0.7, 0.1
#: Of the best arrangement's score, what that of the same tokens at the first layer must have to be theirs still.
_AS_BEFORE = 0.75
#: Where other tokens follow places so much, compared with those of the grid, they are patches, too.
_OTHER_SETS = 0.2

#: What models of images and texts call the part that takes images.
_TOWERS = ("vision_model", "visual", "vision_tower", "image_encoder", "vision_encoder")

Result = TypeVar("Result")
#: A layer, and the shape of its tensor in the forward that the evidence is of.
Asked = tuple[TargetLayer, tuple[int, ...]]


def laid_out(model: nn.Module, images: torch.Tensor, layers: Sequence[TargetLayer]) -> tuple[TargetLayer, ...]:
    """The layers with their layouts for images of this size.

    Parameters
    ----------
    model : torch.nn.Module
    images : (B, ...) tensor
        The first is looked at, or all of them where the model takes no other number.
    layers : sequence of TargetLayer
        One whose layout is known stays as it is.

    Raises
    ------
    TypeError, ValueError
        If one does not run, or gives no tensor of a layout that can be told.
    """
    size = tuple(images.shape[1:])
    unknown = [layer for layer in layers if not layer.knows_layout(size)]
    if not unknown:
        return tuple(layers)
    measured: dict[str, _Measured] = {}

    def observe(given: torch.Tensor) -> tuple[Evidence, Node | None]:
        def forward(copy: torch.Tensor, source: Node | None) -> tuple[Evidence, Node | None]:
            measured.clear()
            evidence = Evidence(model, given, copy)

            def handles() -> Any:
                yield from evidence.attach()
                for layer in unknown:
                    yield layer.hook(partial(_measure, layer, measured))

            with own_thread.hooked(handles()):
                model(copy)
            return evidence, source

        return recorded(model, given, forward)

    evidence, source = with_one(observe, model, images)
    missing = next((layer for layer in unknown if layer.name not in measured), None)
    if missing is not None:
        raise did_not_run(missing, model)
    placed = with_places([one.node for one in measured.values()], source, evidence)
    unsure = [(layer, measured[layer.name].shape) for layer in unknown if measured[layer.name].node not in placed]
    decided = iter(decide(evidence, unsure) if unsure else ())
    found: list[Layout] = []
    for layer in unknown:
        shape, node = measured[layer.name]
        layout = as_it_is(evidence, shape) if node in placed else next(decided)
        if isinstance(layout, ValueError):
            raise layout
        found.append(layout)
    settled = iter(replace(layer, layout=layout, checked=False) for layer, layout in zip(unknown, found))
    return tuple(layer if layer.knows_layout(size) else next(settled) for layer in layers)


def with_one(work: Callable[[torch.Tensor], Result], model: nn.Module, images: torch.Tensor) -> Result:
    """What `work` makes of the first image; of all where it fails: a model may take one number of images alone.

    Raises
    ------
    TypeError
        If the model takes more than images, and has a part that takes images alone.
    Exception
        What `work` raises of all.
    """
    if len(images) > 1:
        with suppress(Exception):  # whatever it is, it comes again if their number is not to blame
            return work(images[:1])
    try:
        return work(images)
    except (TypeError, ValueError, AttributeError) as error:
        tower = next((name for name in _TOWERS if isinstance(getattr(model, name, None), nn.Module)), None)
        if tower is None:
            raise
        raise TypeError(
            f"model: its forward takes no images alone ({type(error).__name__}: {error}); explain it by "
            f"cfcam_gpu.explain_text, or its image tower: give model.{tower}, or a module that returns the image's "
            "embedding, with a target of its embedding, such as targets.ImageText"
        ) from error


def decide(evidence: Evidence, asked: Sequence[Asked]) -> list[Layout | ValueError]:
    """The layout of each layer, or why it can't be told.

    Mixed images show it: they go through the model one by one.
    """
    images = evidence.images
    mixed = [axis for axis in range(2 if evidence.plain else 1, images.ndim) if images.shape[axis] > 1]
    tokens = [reading for _, shape in asked for reading in evidence.token_readings(shape)]
    levels = token_places.levels_of(tokens, mixed, least=2 if evidence.plain else _DIGITS)
    # Beside the layers themselves: the first ones that work on as many tokens, and what enters the first convolution.
    earliest = {shape[:2]: evidence.earliest[shape[:2]] for _, shape in asked if shape[:2] in evidence.earliest}
    entry = [] if evidence.entry is None or evidence.plain else [evidence.entry]
    looked = look(evidence.model, images, [*(layer for layer, _ in asked), *earliest.values(), *entry], levels)
    before = dict(zip(earliest, looked[len(asked) :]))
    frame = frame_of(evidence, looked[-1], mixed) if entry else plain_frame(len(evidence.size))
    if frame is None:
        return [_moved(evidence, layer.name) for layer, _ in asked]
    found = [
        _layout(evidence, frame, layer.name, shape, [seen, before.get(shape[:2])])
        for (layer, shape), seen in zip(asked, looked)
    ]
    folded = [i for i, layout in enumerate(found) if isinstance(layout, Layout) and layout.folded]
    order = folded_order(evidence.model, images, asked[folded[0]][0]) if folded else None
    for i in folded:
        found[i] = replace(cast(Layout, found[i]), folded=order) if order else _mixed(asked[i][0].name)
    return found


def _mixed(name: str) -> ValueError:
    return ValueError(
        f"target_layer: in which order {name} has the frames of several images in its batch can't be told; explain a "
        f"part of the model that takes the frames themselves, or {_REMEDY.removeprefix('name another layer, or ')}"
    )


def _moved(evidence: Evidence, name: str) -> ValueError:
    assert evidence.entry is not None
    return ValueError(
        f"target_layer: where the places of {name} are in the image can't be told: what enters the model's first "
        f"convolution, {evidence.entry.name}, {_shown(evidence, evidence.entry_shape)}, is not the image of "
        f"{evidence.size}, however its axes are ordered, enlarged, padded or cut; do what the model does to its images "
        f"before it gets them, or {_REMEDY.removeprefix('name another layer, or ')}"
    )


def as_it_is(evidence: Evidence, shape: tuple[int, ...]) -> Layout:
    """The layout of a tensor (B, C, *spatial) that has the places of the whole image in its order."""
    reading = evidence.readings(shape)[0]
    return plain_frame(len(evidence.size)).layout(reading, evidence.whole)


def plausible(evidence: Evidence, shape: tuple[int, ...]) -> Layout | None:
    """A layout that a tensor of this shape may have by its shape alone; None where it has none."""
    reading, frame = expected_reading(evidence, shape), plain_frame(len(evidence.size))
    if reading is not None:
        return frame.layout(reading, evidence.whole)
    known = next((reading for reading in evidence.readings(shape) if evidence.knows(reading.grid)), None)
    if known is not None:
        return frame.layout(known, evidence.whole)
    for tokens in evidence.token_readings(shape):
        layout = frame.layout(tokens, evidence.whole)
        return replace(layout, extra=shape[1] - layout.tokens)
    return None


class _Measured(NamedTuple):
    """A tensor's shape, and its place in autograd's graph."""

    shape: tuple[int, ...]
    node: Node | None


def _measure(layer: TargetLayer, measured: dict[str, _Measured], value: Any) -> None:
    if layer.name in measured:
        raise runs_twice(layer.name)
    activation = floating(value, layer.name)
    if not bool(activation.isfinite().all()):  # nothing can be seen of its places, and it is refused in the end
        raise NotFiniteError("activations: expected finite numbers within float32; image 0 has NaN or infinity")
    measured[layer.name] = _Measured(tuple(activation.shape), activation.grad_fn)


def _layout(
    evidence: Evidence, frame: Frame, name: str, shape: tuple[int, ...], seen: Sequence[Seen | None]
) -> Layout | ValueError:
    readings = evidence.readings(shape)
    # Tokens of signals have as many axes as maps do.
    if len(shape) == 3 and (not readings or (evidence.along_channels and evidence.token_readings(shape))):
        found = _of_tokens(evidence, frame, name, shape, *seen)
        if isinstance(found, Layout) or not readings:
            return found
    if readings:
        layout = of_grid(evidence, frame, shape, seen[0], readings)
        if isinstance(layout, Layout):
            return layout
        return ValueError(
            f"target_layer: {name} gives {_shown(evidence, shape)}, and which of its axes are the image's can't be "
            f"told: {layout}; {_REMEDY}"
        )
    rank = len(evidence.size)
    batch = f" with B = {evidence.batch}" if shape[0] != evidence.batch else ""
    return ValueError(f"target_layer: expected an activation {ACTIVATIONS[rank]}{batch} from {name}; got shape {shape}")


def _of_tokens(
    evidence: Evidence, frame: Frame, name: str, shape: tuple[int, ...], seen: Seen | None, before: Seen | None
) -> Layout | ValueError:
    readings = evidence.token_readings(shape)
    told = f"target_layer: {name} gives {shape[1]} tokens for an image of {evidence.size}, and "
    if not readings and shape[1] == evidence.batch and evidence.token_readings((shape[1], shape[0], shape[2])):
        return tokens_first(name, shape)
    if not readings:
        return ValueError(f"{told}no grid fits{evidence.seen()}; {_REMEDY}")
    own, earlier = (token_places.best(one, readings, frame) for one in (seen, before))
    chosen = own if own is not None and own.score >= _needed(own) else None
    if earlier is not None and earlier.score >= _needed(earlier):
        # Attention mixes what tokens hold, and leaves them where they were before it.
        same = 0.0 if seen is None else token_places.score_of(seen, earlier, frame)
        if same >= max(_SOME_OF_TOKENS, _AS_BEFORE * (0.0 if own is None else own.score)):
            chosen = earlier
    if chosen is not None and earlier is not None and earlier.others > _OTHER_SETS:
        return ValueError(
            f"{told}those that are not a grid of {chosen.reading.grid} follow the places in the image, too: of several "
            f"images or scales in one row the map would be of one alone{evidence.seen()}; {_REMEDY}"
        )
    if chosen is not None:
        return frame.layout(chosen.reading, evidence.whole, turned=chosen.turned, extra=chosen.extra)
    return ValueError(
        f"{told}what they hold does not follow the places in the image: they are in another order than that of the "
        f"image, or no patches{evidence.seen()}; {_REMEDY}"
    )


def _needed(arrangement: token_places.Arrangement) -> float:
    """What an arrangement must score: more where it is unusual, since of many unusual ones some fit by chance."""
    plain = isinstance(arrangement.extra, int) and arrangement.turned == tuple(range(len(arrangement.turned)))
    return _SURE_TOKENS if plain else _SURE_UNUSUAL


def _shown(evidence: Evidence, shape: tuple[int, ...]) -> str:
    return f"(B, {', '.join(map(str, shape[1:]))})" if shape[0] == evidence.batch else str(shape)
