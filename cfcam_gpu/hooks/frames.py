"""Where the images are in what a model's first convolution takes, and so in all the grids that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.nn.modules.conv import _ConvNd

from ..core.maps import Inside
from .evidence import Evidence, Reading
from .layouts import Grid, Layout
from .places import WHOLE, Seen
from .target_layer import TargetLayer

#: How far from the border of a grid the image may seem to end where it ends there.
_NEARLY = 0.02
#: An axis too short for its places to be read follows another so well.
_CLEAR = 0.5


@dataclass(frozen=True)
class Frame:
    """Where the images are in what the model's first convolution takes.

    Parameters
    ----------
    axes : tuple of int
        Of each axis of a grid, in the convolution's order, the images' axis that it lies along.
    inside : tuple of (float, float)
        Of each, where the image begins and ends, as shares.
    """

    axes: tuple[int, ...]
    inside: Inside

    def layout(
        self,
        reading: Reading,
        size: Grid,
        *,
        turned: Sequence[int] | None = None,
        extra: int | tuple[int, ...] = 0,
    ) -> Layout:
        """The layout of a reading for images of `size`; its axes are the convolution's, in the order `turned`."""
        turned = range(len(self.axes)) if turned is None else turned
        axes = [self.axes[axis] for axis in turned]
        order = tuple(sorted(range(len(axes)), key=axes.__getitem__))
        inside = tuple(self.inside[turned[axis]] for axis in order)
        in_place = tuple(sorted(axes))
        return Layout(
            reading.kind,
            reading.grid,
            extra,
            size,
            order=None if order == tuple(range(len(order))) else order,
            axes=None if in_place == tuple(range(2, 2 + len(axes))) else in_place,
            inside=None if all(share == WHOLE for share in inside) else inside,
            folded="image by image" if reading.folded else None,
        )


def plain_frame(rank: int) -> Frame:
    """Of images that the model takes as they are."""
    return Frame(tuple(range(2, 2 + rank)), (WHOLE,) * rank)


def frame_of(evidence: Evidence, seen: Seen | None, mixed: Sequence[int]) -> Frame | None:
    """What was seen of what enters the first convolution; None where the images can't be found there.

    Parameters
    ----------
    evidence : Evidence
    seen : Seen or None
    mixed : sequence of int
        The images' axes that were mixed along.
    """
    axes = evidence.entry_axes()
    # Some convolutions take patches, and some what a part without hooks has made of the images.
    of_images = evidence.folded or evidence.entry_shape[0] == evidence.batch
    of_images = of_images and evidence.entry_shape[1] in evidence.whole
    if seen is None or len(axes) != len(evidence.size) or not of_images:
        return plain_frame(len(evidence.size))
    found: dict[int, tuple[int, tuple[float, float]]] = {}
    for axis in axes:
        for other in mixed:
            ends = seen.placed(axis, other)
            if ends is None and 1 < seen.shape[axis] < 4 and seen.along(axis, other) > _CLEAR:
                ends = WHOLE
            if ends is not None:
                found[axis] = other, _exactly(ends, seen.changed(axis), seen.shape[axis], evidence.images.shape[other])
    # An axis of length 1 follows nothing; the channels' axis is the second where nothing speaks against it.
    left = [other for other in (*range(2, evidence.images.ndim), 1) if other not in {one for one, _ in found.values()}]
    for axis in axes:
        if axis not in found and seen.shape[axis] == 1:
            alike = [other for other in left if evidence.images.shape[other] == 1]
            if alike:
                found[axis] = alike[0], WHOLE
                left.remove(alike[0])
    if len({other for other, _ in found.values()}) < len(axes):
        return None
    pads = _own_padding(evidence.entry)
    inside = []
    for axis in axes:
        low, high = found[axis][1]
        padded = low >= 0 and high <= 1 and round((1 - abs(high - low)) * seen.shape[axis]) <= pads.get(axis, 0)
        inside.append((WHOLE if high > low else WHOLE[::-1]) if padded else (low, high))
    return Frame(tuple(found[axis][0] for axis in axes), tuple(inside))


def _exactly(ends: tuple[float, float], changed: tuple[float, float], count: int, pixels: int) -> tuple[float, float]:
    """The ends as they are meant: of the whole axis, of what changes, or of pixels, where they are nearly those."""
    for exact in (WHOLE, changed):
        for turned in (exact, exact[::-1]):
            if all(abs(end - other) < _NEARLY for end, other in zip(ends, turned)):
                return turned[0], turned[1]
    low, high = sorted(ends)
    if abs((high - low) * count / pixels - 1) < _NEARLY:  # each pixel as it is
        first = round(low * count)
        low, high = first / count, (first + pixels) / count
        return (low, high) if ends[0] < ends[1] else (high, low)
    return ends


def _own_padding(entry: TargetLayer | None) -> dict[int, int]:
    """Of each axis of what enters a convolution that overlaps its steps, how much of it may be padding of its own.

    Some models pad for a convolution by a module before it: then its grid covers the image, as behind one that pads by
    itself, and not what was padded.
    """
    convolution = None if entry is None else entry.module
    if not isinstance(convolution, _ConvNd):
        return {}
    reach = [(kernel - 1) * step for kernel, step in zip(convolution.kernel_size, convolution.dilation)]
    return {2 + i: reach[i] if convolution.stride[i] <= reach[i] else 0 for i in range(len(reach))}
