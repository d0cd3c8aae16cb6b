"""Ready targets: frozen callables that score one image's part of a model's output.

They are to be had from :mod:`cfcam_gpu.targets`. All return float32 scalars, and none reads a value on the host, so
that a CUDA graph can hold them; tensors that they are given should then be on the device already. ``whole_output`` says
that a target gets the image's part of the whole output, ``in_place`` that it names places in the image, and
``of_positions`` that its logits have the images' spatial axes, and ``of_classes`` which of its fields are classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional


@dataclass(frozen=True)
class WholeOutput:
    """A function of the image's part of the whole output, where it would else get the logits.

    Parameters
    ----------
    score : callable
        Gets what :func:`cfcam_gpu.targets.outputs.samples` makes of the model's output, and returns a scalar tensor.

    Raises
    ------
    TypeError
        If `score` can't be called.
    """

    score: Callable[[Any], torch.Tensor]
    whole_output: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not callable(self.score):
            raise TypeError(f"score: expected a callable; got {type(self.score).__name__}")

    def __call__(self, sample: Any) -> torch.Tensor:
        """The score."""
        return self.score(sample)


@dataclass(frozen=True)
class Probability:
    """The softmax probability of a class.

    Its gradient is that of the class's log-odds times p (1 - p): where the model is certain nothing of it is left, and
    an empty map or one of rounding errors comes out. ``Contrast(index)`` is the log-odds.

    Parameters
    ----------
    index : int
        The class.

    Raises
    ------
    TypeError, ValueError
        If `index` is no int of at least 0.
    """

    index: int
    of_classes: ClassVar[tuple[str, ...]] = ("index",)

    def __post_init__(self) -> None:
        check_index("index", self.index)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """From logits (K,).

        Raises
        ------
        TypeError, ValueError
            If they are of another shape, or have no such class.
        """
        return _row(self, logits, self.index).softmax(dim=0)[self.index]


@dataclass(frozen=True)
class Contrast:
    """One class against others: its logit minus the log-sum-exp of theirs, so the log-odds among them.

    Parameters
    ----------
    index : int
        The class.
    against : int, sequence of int, or None
        Against one class it is the difference of the two logits. None: all other classes, as ``Config(contrast=1)``.

    Raises
    ------
    TypeError, ValueError
        If a class is no int of at least 0, or `against` are none, or have `index` among them.
    """

    index: int
    against: int | Sequence[int] | None = None
    of_classes: ClassVar[tuple[str, ...]] = ("index", "against")

    def __post_init__(self) -> None:
        check_index("index", self.index)
        if self.against is None:
            return
        rivals = (self.against,) if isinstance(self.against, (int, str)) else tuple(self.against)
        for rival in rivals:
            check_index("against", rival)
        if not rivals or self.index in rivals:
            raise ValueError(f"against: expected classes other than {self.index}, at least one; got {rivals}")
        object.__setattr__(self, "against", rivals)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """From logits (K,).

        Raises
        ------
        TypeError, ValueError
            If they are of another shape, or have no such class, or no other to set it against.
        """
        if self.against is None:
            row = _row(self, logits, self.index)
            rivals = [row[: self.index], row[self.index + 1 :]]
            if len(row) < 2:
                raise ValueError("target: Contrast expected at least two classes; this model has one")
        else:
            assert isinstance(self.against, tuple)
            row = _row(self, logits, self.index, *self.against)
            rivals = [row[k : k + 1] for k in self.against]
        return row[self.index] - torch.cat(rivals).logsumexp(dim=0)


@dataclass(frozen=True)
class Binary:
    """A head of one logit: that of the positive class, or minus that for the negative one.

    Parameters
    ----------
    positive : bool
    """

    positive: bool = True

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """From logits () or (1,).

        Raises
        ------
        TypeError
            If they are of another shape.
        """
        checked(self, logits, "one logit, () or (1,)", lambda shape: shape.numel() == 1)
        return logits.float().sum() * (1 if self.positive else -1)


@dataclass(frozen=True)
class Label:
    """A label of a multi-label head, whose outputs are independent of each other: its logit.

    Parameters
    ----------
    index : int
        The label.
    present : bool
        Evidence that the label applies, or that it does not.

    Raises
    ------
    TypeError, ValueError
        If `index` is no int of at least 0.
    """

    index: int
    present: bool = True
    of_classes: ClassVar[tuple[str, ...]] = ("index",)

    def __post_init__(self) -> None:
        check_index("index", self.index)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """From logits (K,).

        Raises
        ------
        TypeError, ValueError
            If they are of another shape, or have no such class.
        """
        return _row(self, logits, self.index)[self.index] * (1 if self.present else -1)


@dataclass(frozen=True)
class Value:
    """An output of a regression: what makes it larger, or smaller.

    Parameters
    ----------
    index : int
        Of several outputs.
    larger : bool

    Raises
    ------
    TypeError, ValueError
        If `index` is no int of at least 0.
    """

    index: int = 0
    larger: bool = True

    def __post_init__(self) -> None:
        check_index("index", self.index)

    def __call__(self, outputs: torch.Tensor) -> torch.Tensor:
        """From outputs () or (K,).

        Raises
        ------
        TypeError, ValueError
            If they are of another shape, or there is no such output.
        """
        return _row(self, outputs, self.index, least=0)[self.index] * (1 if self.larger else -1)


@dataclass(frozen=True)
class Toward:
    """A regression toward a value: minus the distance between an output and it. Where it is met the map is empty.

    Parameters
    ----------
    value : float
    index : int
        Of several outputs.

    Raises
    ------
    TypeError, ValueError
        If `value` is no number, or `index` no int of at least 0.
    """

    value: float
    index: int = 0

    def __post_init__(self) -> None:
        check_index("index", self.index)
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)):
            raise TypeError(f"value: expected a number; got {type(self.value).__name__}")

    def __call__(self, outputs: torch.Tensor) -> torch.Tensor:
        """From outputs () or (K,).

        Raises
        ------
        TypeError, ValueError
            If they are of another shape, or there is no such output.
        """
        return -(_row(self, outputs, self.index, least=0)[self.index] - self.value).abs()


@dataclass(frozen=True, eq=False)
class Segment:
    """The mean logit of a class over the pixels of a mask.

    Parameters
    ----------
    index : int
        The class.
    mask : (H, W) tensor or array, or None
        Its pixels, not 0 or True; at another size than the logits it is averaged over the pixels of theirs. None: the
        pixels at which the class is predicted, or where a single logit is positive; if there are none, the map is
        empty.

    Raises
    ------
    TypeError, ValueError
        If `index` is no int of at least 0, or `mask` no tensor or array with a pixel.
    """

    index: int
    mask: Any = None
    of_positions: ClassVar[bool] = True
    of_classes: ClassVar[tuple[str, ...]] = ("index",)

    def __post_init__(self) -> None:
        check_index("index", self.index)
        if self.mask is not None:
            mask = copied("mask", self.mask)
            if mask.ndim < 1 or not bool((mask != 0).any()):
                raise ValueError(f"mask: expected (H, W) with at least one pixel; got {tuple(mask.shape)}, all zero")
            object.__setattr__(self, "mask", (mask != 0).float())

    @property
    def in_place(self) -> bool:
        """Whether places in the image are named."""
        return self.mask is not None

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """From logits (K, h, w).

        Raises
        ------
        TypeError, ValueError
            If they are of another shape, or have no such class, or not as many axes as the mask.
        """
        checked(self, logits, "logits (K, h, w)", lambda shape: len(shape) > 1)
        _check_class(self, self.index, len(logits))
        class_logits = logits[self.index].float()
        if self.mask is None:
            inside = (class_logits > 0 if len(logits) == 1 else logits.detach().argmax(dim=0) == self.index).float()
        elif self.mask.ndim != class_logits.ndim:
            raise ValueError(
                f"mask: expected {class_logits.ndim} axes, as the logits have; got shape {tuple(self.mask.shape)}"
            )
        else:
            inside = beside(self.mask, class_logits)
            if inside.shape != class_logits.shape:
                inside = functional.interpolate(inside[None, None], size=class_logits.shape, mode="area")[0, 0]
        return (class_logits * inside).sum() / inside.sum().clamp_min(torch.finfo(torch.float32).tiny)


def check_index(argument: str, index: object) -> None:
    """Refuse what is no int of at least 0.

    Raises
    ------
    TypeError, ValueError
        The message names `argument`.
    """
    if isinstance(index, bool) or not isinstance(index, int):
        hint = f". Of a class's name that is class_names.index({index!r})" if isinstance(index, str) else ""
        raise TypeError(f"{argument}: expected an int; got {type(index).__name__}{hint}")
    if index < 0:
        raise ValueError(f"{argument}: expected at least 0; got {index}")


def copied(argument: str, value: Any) -> torch.Tensor:
    """A copy: the caller's own may change later.

    Raises
    ------
    TypeError
        If it is no tensor or array.
    """
    try:
        return torch.as_tensor(value).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{argument}: expected a tensor or array; got {type(value).__name__} ({error})") from None


def beside(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The tensor on the other's device, and such that autograd can keep it."""
    moved = tensor.to(other.device)
    return moved.clone() if moved.is_inference() else moved


def checked(target: object, value: Any, wanted: str, fits: Callable[[torch.Size], bool]) -> torch.Tensor:
    """`value`, if it is a tensor of a shape that fits.

    Raises
    ------
    TypeError
        If it is none.
    """
    if isinstance(value, torch.Tensor) and fits(value.shape):
        return value
    name = type(target).__name__
    raise TypeError(f"target: {name} expected {wanted} of one image; got {what_came(value)}")


def what_came(value: Any) -> str:
    """What came, for an error."""
    if isinstance(value, torch.Tensor):
        return f"shape {tuple(value.shape)}"
    keys = f" with {', '.join(map(str, value))}" if isinstance(value, Mapping) else ""
    return f"a {type(value).__name__}{keys}"


def _check_class(target: object, index: int, classes: int) -> None:
    if index >= classes:
        name = type(target).__name__
        raise ValueError(f"target: {name}: {index} is out of range for {classes} classes (0 to {classes - 1})")


def _row(target: object, logits: Any, *indices: int, least: int = 1) -> torch.Tensor:
    """Logits (K,) in float32, in which `indices` are."""
    wanted = "logits (K,)" if least else "outputs () or (K,)"
    row = checked(target, logits, wanted, lambda shape: least <= len(shape) <= 1).float().reshape(-1)
    for index in indices:
        _check_class(target, index, len(row))
    return row
