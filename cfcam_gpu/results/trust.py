"""How far an explanation can be trusted: figures of its own, from a few more forwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import torch

from ..core.chunks import DEFAULT_MEMORY, chunk_size
from ..core.finite import NotFiniteError
from ..core.similarity import agreement, is_same, pearson
from ..hooks.forward_memory import forward_bytes
from ..hooks.guard import guarded
from ..methods import METHODS
from ..methods.completeness import completeness
from ..methods.noise import noisy_copies
from ..targets.request import Request
from .record import Origin, Record
from .same import check_images

#: Noisy copies of each image, and the standard deviation of their noise as a share of the image's range of values.
COPIES, NOISE = 4, 0.1
#: What comes of more images than a model or a device takes: a shape, an assertion, or that memory is out.
_OF_SIZE = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)

Explain: TypeAlias = Callable[[torch.Tensor, Request], Record]


@dataclass(frozen=True, eq=False, repr=False)
class Trust:
    """Figures of B explanations, each (B,) on the device of the images. Printed, a line of words for each image.

    What can't be asked of an explanation is None. Where a map is empty, all that is asked of the map is NaN.

    Parameters
    ----------
    flip : float64 tensor or None
        Pearson's correlation of the map with that of the image flipped along its last axis, flipped back; 1 is the same
        map. None where a callable names places in the image. What a flip means is the user's to know: a model of
        letters, or of signals that have a beginning, may well see something else in a mirror.
    noise : float64 tensor
        The same of four copies of the image with Gaussian noise of 10% of its range of values; their mean. The noise
        is the same for every image, so that the figure is, too, whatever the batch.
    runner_up : int64 tensor or None
        The likeliest class beside the one that is explained. None where callables are, and where the model gives no
        logits of two classes or more.
    agreement : float64 tensor or None
        The share of the map's top 5% of positions that the runner-up's map has at its top, too, as in
        :func:`cfcam_gpu.metrics.class_sensitivity`; 1 is a map that does not tell the two apart. NaN where the
        runner-up's map is empty, and where the runner-up is masked out by a logit of -infinity.
    gap : float64 tensor or None
        The completeness gap of :func:`cfcam_gpu.metrics.completeness_gap` at the layer of `raw_maps`, of the score that
        is differentiated. None where callables are explained, where a method takes no gradients, LibraGrad's, whose sum
        has the biases' part, or those of a score that picks classes by their logits, and of several layers or looks.
        NaN where the model has no finite answer without the layer's activations.
    runner_up_empty : bool tensor or None
        Whether the runner-up's map is empty; None where there is no runner-up.
    classes : sequence of B str
        What is explained of each image, as `classes` of :class:`cfcam_gpu.Explanation` has it.
    runner_ups : sequence of B str, or None
        The same of the runner-up.
    """

    flip: torch.Tensor | None
    noise: torch.Tensor
    runner_up: torch.Tensor | None
    agreement: torch.Tensor | None
    gap: torch.Tensor | None
    runner_up_empty: torch.Tensor | None
    classes: Sequence[str]
    runner_ups: Sequence[str] | None

    def __len__(self) -> int:
        """B, the number of images."""
        return len(self.noise)

    def __repr__(self) -> str:
        return "\n".join(f"image {b}, {self.classes[b]}: {'; '.join(self.words(b))}" for b in range(len(self)))

    def words(self, b: int) -> list[str]:
        """What the figures of one image say, in words."""
        if bool(self.noise[b].isnan()):
            words = ["the map is empty"]
        else:
            flip = "" if self.flip is None else f"{self.flip[b]:.2f} under a flip, "
            words = [f"stability {flip}{self.noise[b]:.2f} under noise", self._beside_the_runner_up(b)]
        if self.gap is None:
            return words
        if bool(self.gap[b].isnan()):
            return [*words, "no completeness gap, as the model has no answer without the layer"]
        return [*words, f"completeness gap {self.gap[b]:.2f}"]

    def _beside_the_runner_up(self, b: int) -> str:
        if self.runner_up_empty is not None and bool(self.runner_up_empty[b]):
            assert self.runner_ups is not None
            return f"the runner-up's map, of {self.runner_ups[b]}, is empty"
        if self.agreement is None or self.runner_ups is None or bool(self.agreement[b].isnan()):
            return "no other class to compare with"
        return f"shares {self.agreement[b]:.0%} of its top with the runner-up, {self.runner_ups[b]}"


def examine(explanation: Record, images: torch.Tensor) -> Trust:
    """Figures of each explanation of a batch.

    See :meth:`cfcam_gpu.Explanation.trust`.

    Raises
    ------
    TypeError, ValueError
        As there.
    """
    origin = explanation.origin
    if origin is None or origin.explain is None:
        raise ValueError(
            "trust: this explanation does not know its explainer, as one that was pickled or copied, or that an "
            "exported file or a CUDA graph gave; explain the images by calling a CFCAM or a CAM, and ask that result"
        )
    if explanation.several:
        raise ValueError(
            f"trust: expected one target an image; this explanation has {explanation.raw_maps.shape[1]}. Explain each "
            "target in a call of its own: explain(images, target[:, t])"
        )
    check_images(explanation, images)
    runner_up = _runner_up(explanation)
    shared, runner_up_empty = _shared(explanation, images, origin.explain, runner_up)
    flip, noise = _stability(explanation, images, origin, origin.explain)
    gap = _gap(explanation, images, origin)
    names = None if runner_up is None else list(map(explanation.name_of, runner_up.tolist()))
    return Trust(flip, noise, runner_up, shared, gap, runner_up_empty, cast("list[str]", explanation.classes), names)


def _runner_up(explanation: Record) -> torch.Tensor | None:
    logits, target = explanation.logits, explanation.target
    if target is None or logits is None or logits.ndim != 2 or logits.shape[1] < 2:
        return None
    return logits.scatter(1, target[:, None], -torch.inf).argmax(dim=1)


def _shared(
    explanation: Record, images: torch.Tensor, explain: Explain, runner_up: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
    """The agreement with the runner-up's map and whether that is empty, (B,) each.

    On the way the images are checked to be those explained.
    """
    logits, target, origin = explanation.logits, explanation.target, explanation.origin
    if runner_up is None or logits is None or target is None or origin is None:
        _check_same(explanation, explain(images, _request(explanation)))
        return None, None
    masked_out = logits.gather(1, runner_up[:, None])[:, 0] == -torch.inf
    second = torch.where(masked_out, target, runner_up)  # which can be explained
    again = explain(images, Request(indices=torch.stack([target, second], dim=1), checked=True))
    _check_same(explanation, again)
    draws_noise = origin.noisy or METHODS[explanation.method].from_model is not None
    if draws_noise and not is_same(again.maps[:, 0], explanation.maps):
        raise ValueError(
            "trust: this explanation is of noise that was drawn for a whole batch, and for these images alone it is "
            "another; ask the explanation of the whole batch, or explain these images alone and ask that"
        )
    found = agreement(explanation.maps, again.maps[:, 1])
    return found.masked_fill(masked_out, torch.nan), again.empty[:, 1] & ~masked_out


def _check_same(explanation: Record, again: Record) -> None:
    """Refuse images of which the model says something else.

    Raises
    ------
    ValueError
    """
    pair = (again.raw_maps, explanation.raw_maps)
    if again.logits is not None and explanation.logits is not None:
        pair = (again.logits, explanation.logits)
    if not is_same(*pair):
        raise ValueError(
            "images: expected those that were explained, prepared in the same way and under the same autocast; the "
            "model says something else of these, or has changed since"
        )


def _stability(
    explanation: Record, images: torch.Tensor, origin: Origin, explain: Explain
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """The correlation of the maps with those of flipped and of noisy images, (B,) each."""
    copies = list(noisy_copies(images, COPIES, NOISE, seed=0, shared=True))
    layout = explanation.layers[0].layout
    flips = not any(getattr(score, "in_place", False) for score in _request(explanation).callables())
    if flips:
        copies.append(images.flip(-1 if layout is None or layout.axes is None else layout.axes[-1]))
    maps = _maps(explanation, torch.cat(copies), len(images), origin, explain)
    by_copy = list(maps.reshape(len(copies), *explanation.maps.shape))
    flip = pearson(explanation.maps, by_copy.pop().flip(-1)) if flips else None
    noise = torch.stack([pearson(explanation.maps, one) for one in by_copy]).mean(dim=0)
    empty = explanation.empty
    return None if flip is None else flip.masked_fill(empty, torch.nan), noise.masked_fill(empty, torch.nan)


def _maps(explanation: Record, copies: torch.Tensor, batch: int, origin: Origin, explain: Explain) -> torch.Tensor:
    """Maps of copies of the images: as many batches at once as the budget allows and the model and the device take."""
    size = _at_once(explanation, copies, batch, origin)
    maps: list[torch.Tensor] = []
    start = 0
    while start < len(copies):
        part = copies[start : start + size]
        at = [place % batch for place in range(start, start + len(part))]
        try:
            maps.append(explain(part, _request(explanation, at)).maps)
        except _OF_SIZE as error:
            if len(part) == batch or isinstance(error, NotFiniteError):
                raise
            size = batch  # it comes again if the number of images is not to blame
        else:
            start += len(part)
    return torch.cat(maps)


def _at_once(explanation: Record, copies: torch.Tensor, batch: int, origin: Origin) -> int:
    """How many of the copies to begin with, a multiple of the batch."""
    # SmoothGrad, which is several looks, and Smooth Grad-CAM++ draw noise for the whole batch: it is that of the
    # explanation in a batch of the same size alone.
    if origin.capture is None or METHODS[explanation.method].from_model is not None:
        return batch
    try:
        with guarded(origin.model):
            bytes_each = forward_bytes(origin.model, lambda: origin.model(copies[:1]), 1)
        return max(1, chunk_size(DEFAULT_MEMORY, bytes_each) // batch) * batch
    except _OF_SIZE:
        return batch


def _request(explanation: Record, images: Sequence[int] | None = None) -> Request:
    """What was explained, of these of the images, or of all of them."""
    origin, target = explanation.origin, explanation.target
    assert origin is not None
    at = range(len(explanation)) if images is None else images
    if target is None:
        assert origin.scores is not None
        return Request(scores=tuple(origin.scores[b] for b in at))
    return Request(indices=target[torch.as_tensor(at, device=target.device)], checked=True)


def _gap(explanation: Record, images: torch.Tensor, origin: Origin) -> torch.Tensor | None:
    method = METHODS[explanation.method]
    if origin.capture is None or explanation.target is None or not method.gradients or method.classes_only:
        return None  # classes that are picked would be others without the activations
    request = replace(_request(explanation), objective=method.objective)
    captured = origin.capture(images, request)
    if captured.libragrad:
        return None
    contrast = 0.0 if explanation.config is None else explanation.config.contrast
    return completeness(origin.model, images, captured, request, contrast=contrast).gap
