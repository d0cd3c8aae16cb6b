"""Which images were explained, without keeping them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

#: Of each spatial axis of the images about so many positions are kept, to be compared with what is there later.
_SAMPLES = 8


@dataclass(frozen=True, eq=False)
class Seen:
    """A batch of images by reference: it neither keeps them alive nor takes them for others.

    Parameters
    ----------
    reference : weak reference to a tensor
        The images, or where they are a view, as ``images[:4]`` is, what they are a view of.
    place : tuple of (size, stride, offset), or None
        Of the images in that; None where they are all of it.
    version : int
        torch's count of the operators that wrote to it.
    marks : tuple of tensors
        A few of its values, and of each image the sum of its bytes as integers. Others may write to its memory, through
        NumPy for example, which torch does not count.
    rows : tuple of int, optional
        Which of the images are meant; None are all of them.
    """

    reference: weakref.ref[torch.Tensor]
    place: tuple[torch.Size, tuple[int, ...], int] | None
    version: int
    marks: tuple[torch.Tensor, torch.Tensor]
    rows: tuple[int, ...] | None = None

    @classmethod
    def of(cls, images: torch.Tensor) -> Seen | None:
        """Images as they are now; None of a tensor made in inference mode, whose changes torch does not count.

        The images are read once. Nothing waits for the device, and some kilobytes are kept there.
        """
        if images.is_inference():
            return None
        marks, base = _marks(images), images._base
        if base is None or type(base) is not torch.Tensor or base.dtype != images.dtype:
            return cls(weakref.ref(images), None, images._version, marks)
        place = (images.shape, images.stride(), int(images.storage_offset()))
        return cls(weakref.ref(base), place, images._version, marks)  # a view shares its base's count

    def part(self, rows: Sequence[int]) -> Seen:
        """These of the images, by their places among those meant here."""
        return replace(self, rows=tuple(rows if self.rows is None else (self.rows[row] for row in rows)))

    def images(self) -> torch.Tensor | None:
        """The images, or None where they are gone or have changed. Makes the host wait."""
        images = self.reference()
        if images is None or images._version != self.version:
            return None
        place = self.place or (images.shape, images.stride(), int(images.storage_offset()))
        if not _has_memory(images, *place):  # set_(), .data = and what frees memory early are not counted, either
            return None
        if self.place is not None:
            images = images.detach().as_strided(*self.place)
        for now, then in zip(_marks(images), self.marks):
            alike = (now.shape, now.dtype, now.device) == (then.shape, then.dtype, then.device)
            if not alike or not torch.equal(now, then):
                return None
        return images if self.rows is None else images[list(self.rows)]


def _marks(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values spread over the images, and (B,) sums of their bytes."""
    images = images.detach()
    steps = (slice(None, None, max(1, side // _SAMPLES)) for side in images.shape[1:])
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[images.element_size()]
    # In their own type sums run over, which does no harm, and no copy in a wider one is made.
    sums = images.view(whole).sum(dim=tuple(range(1, images.ndim)), dtype=whole)
    return images[(slice(None), *steps)].clone(), sums


def _has_memory(tensor: torch.Tensor, shape: torch.Size, strides: tuple[int, ...], offset: int) -> bool:
    """Whether all of such a view of a tensor lies in its memory."""
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides))
    return (last + 1) * tensor.element_size() <= tensor.untyped_storage().nbytes()
