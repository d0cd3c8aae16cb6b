"""Which axes of an activation are the image's: told by what mixed images make of each position along them."""

from __future__ import annotations

from collections.abc import Sequence

from .evidence import Evidence, Reading
from .frames import Frame
from .layouts import Layout
from .places import Seen, orders

#: A reading is sure where its axes follow those of the images so well in the mean: one that layers state, one of a grid
#: that the model has, as an attention matrix may be, and one of neither.
_SURE = (0.3, 0.4, 0.5)
#: No axis may follow less than this, or, of a small grid that layers state, the contrary: over a whole small image
#: convolutions mix so much that nothing may be left to see.
_AT_ALL, _CONTRARY = 0.1, -0.2
#: Positions along an axis of a small grid.
_SMALL = 8


def of_grid(
    evidence: Evidence, frame: Frame, shape: tuple[int, ...], seen: Seen | None, readings: Sequence[Reading]
) -> Layout | str:
    """The layout of a tensor (B, C, h, w) or (B, h, w, C), or why it has none."""
    plain = tuple(range(len(evidence.size)))
    ranked: list[tuple[float, Reading, tuple[int, ...]]] = []
    for reading in readings if seen is not None else ():
        doubt = 0 if reading.kind in evidence.touched(shape) else 1 if evidence.knows(reading.grid) else 2
        # Of other grids the transformers' own could be any.
        if doubt == 2 and (evidence.along_channels or reading.kind != "channels first"):
            continue
        for turned in orders(len(evidence.size)):
            assert seen is not None
            follows = _follows(seen, reading, turned, frame, digits=1 + doubt)
            if follows and min(follows) >= _AT_ALL and sum(follows) >= _SURE[doubt] * len(follows):
                ranked.append((sum(follows) / len(follows), reading, turned))
    ranked.sort(key=lambda one: -one[0])
    if ranked and (len(ranked) == 1 or ranked[0][0] > 1.5 * ranked[1][0]):
        _, reading, turned = ranked[0]
        return frame.layout(reading, evidence.whole, turned=turned)
    expected = expected_reading(evidence, shape)
    if expected is None:
        grids = " nor ".join(str(reading.grid) for reading in readings)
        return f"neither {grids} is a grid that it cuts images of {evidence.size} into{evidence.seen()}"
    follows = [] if seen is None else _follows(seen, expected, plain, frame, digits=1)
    stated = evidence.touched(shape) or not evidence.along_channels
    if stated and (seen is None or max(expected.grid) <= _SMALL) and min(follows, default=0.0) > _CONTRARY:
        return frame.layout(expected, evidence.whole)
    return "what is at its positions does not follow the places in the image"


def _follows(seen: Seen, reading: Reading, turned: tuple[int, ...], frame: Frame, *, digits: int) -> list[float]:
    return [
        seen.along(axis, frame.axes[turned[i]], frame.inside[turned[i]], digits=digits)
        for i, axis in enumerate(reading.axes)
        if seen.shape[axis] > 1
    ]


def expected_reading(evidence: Evidence, shape: tuple[int, ...]) -> Reading | None:
    """How a tensor is read by what the model's layers state of its shape, or by a grid that they know."""
    readings = evidence.readings(shape)
    if not readings:
        return None
    touched = evidence.touched(shape)
    stated = [reading for reading in readings if reading.kind in touched]
    fits = [reading for reading in (*stated, *readings) if evidence.knows(reading.grid)]
    if len(stated) == 2 and len({reading.kind for reading in fits}) == 2:
        return None
    # torch's own convention, unless the model's layers say otherwise.
    if stated[:1] == readings[:1] and len(stated) == 1:
        return stated[0]
    return fits[0] if fits else None
