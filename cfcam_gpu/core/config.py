"""What a CF-CAM computation does at each step, as one frozen value."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Literal, cast, get_args, get_type_hints

Importance = Literal["activation", "contribution"]
Distance = Literal["euclidean", "unit_norm"]
EpsRule = Literal["pair_percentile", "neighbor_median"]
Boundary = Literal["reflect", "zero"]
Gradient = Literal["cluster_mean", "own"]
Combine = Literal["pooled", "elementwise", "positive"]
Weighting = Literal["linear", "softmax"]
GateBy = Literal["coarse", "own"]
Extent = Literal["broad", "balanced", "tight"]

#: Saturation by extent: points of the frontier between Average Drop and energy in the object.
_SATURATION: dict[str, float | None] = {"broad": 0.1, "balanced": 0.25, "tight": None}


@dataclass(frozen=True, kw_only=True, repr=False)
class Config:
    """Options of CF-CAM, one for each choice the method makes.

    The defaults keep the paper's steps with two repairs: dead channels are set aside before anything else, and the
    weights stay linear. :meth:`paper` is the authors' form, exactly, :meth:`two_level` what `CFCAM` does where it
    is given two layers or none. Numbers of other types, such as NumPy's scalars, are kept as Python's int and float.

    Parameters
    ----------
    dead_threshold : float or None
        A channel whose L2 norm is at most this fraction of the image's largest is *dead*: it gets label -3 and takes
        no further part. 0 sets aside the channels that are zero everywhere; None sets none aside.
    importance : {"activation", "contribution"}
        What ranks the channels: the L2 norm of the activation, or that norm times the absolute mean of the gradient.
    dominant_percentile : float
        Channels at or above this percentile of importance are *dominant* (label -2) and keep their own gradient.
    distance : {"euclidean", "unit_norm"}
        Euclidean distance between activations as they are, or scaled to unit L2 norm first.
    eps_rule : {"pair_percentile", "neighbor_median"}
        DBSCAN's radius: a percentile of all pairwise distances, or the median distance to the k-th neighbour.
    eps_percentile : float
        The percentile for ``"pair_percentile"``.
    eps_neighbor : int
        The k of ``"neighbor_median"``; the point itself counts as the first.
    min_samples : int or float
        As in scikit-learn: neighbours, the point itself included, that make a core point. A float is that fraction of
        the clustered channels, rounded down, at least 2.
    gradient : {"cluster_mean", "own"}
        What is filtered and used for a clustered channel: its cluster's mean gradient, or its own. With
        ``"cluster_mean"`` dominant channels keep their gradient unfiltered and noise channels are dropped; with
        ``"own"`` every live channel is filtered and kept, and its label decides its noise floor.
    sigma : float
        Standard deviation of the Gaussian filter, in feature-map pixels; 0 means no filter.
    boundary : {"reflect", "zero"}
        How the filter continues a gradient beyond its border. A reflecting border preserves the spatial mean, so that
        together with ``combine="pooled"`` the filter has no effect on the map.
    combine : {"pooled", "elementwise", "positive"}
        Weight a channel by the spatial mean of its filtered gradient, or multiply the two position by position, or
        multiply only what of the filtered gradient is positive and above the noise floor.
    noise_floor : float
        With ``combine="positive"``: how many standard deviations of the noise left after the filter are taken off the
        filtered gradient. The noise is told from the gradient's residual, averaged over the channel's cluster.
    weighting : {"linear", "softmax"}
        Use the pooled weights as they are, or their softmax over the valid channels.
    gate : float or None
        With a number the map is multiplied by c^2 / (c^2 + gate), where c is what `gate_by` says, over its maximum.
    gate_by : {"coarse", "own"}
        ``"coarse"`` makes two levels of it: the finer layer's map is gated by the coarser layer's Grad-CAM map. With
        ``"own"`` there is one layer, and its map is gated by its own net evidence: gradient times activation, summed
        over the channels, where that is positive.
    contrast : float
        Explain a class against its rivals: the score is its logit minus this share of the log-sum-exp of all others. At
        0 that is the logit, at 1 the class's log-odds. Callables are taken as they are.
    saturation : float or None
        With a number s, a normalised map x is shown as x (1 + s) / (x + s): the order of the positions stays, what is
        strong is seen whole. None shows x.

    Raises
    ------
    TypeError, ValueError
        If an option is of the wrong type, out of range, or does not go with another.

    References
    ----------
    Cluster Filter Class Activation Mapping, arXiv:2504.00060, version 2.
    """

    dead_threshold: float | None = 0.0
    importance: Importance = "activation"
    dominant_percentile: float = 75.0
    distance: Distance = "euclidean"
    eps_rule: EpsRule = "pair_percentile"
    eps_percentile: float = 25.0
    eps_neighbor: int = 3
    min_samples: int | float = 0.05
    gradient: Gradient = "cluster_mean"
    sigma: float = 1.0
    boundary: Boundary = "reflect"
    combine: Combine = "pooled"
    noise_floor: float = 0.0
    weighting: Weighting = "linear"
    gate: float | None = None
    gate_by: GateBy = "coarse"
    contrast: float = 0.0
    saturation: float | None = None

    @classmethod
    def paper(cls) -> Config:
        """The form of the authors' code (commit c227652): no dead channels set aside, softmax weights."""
        return cls(dead_threshold=None, weighting="softmax")

    @classmethod
    def two_level(cls, extent: Extent = "balanced") -> Config:
        """Where from a fine layer, which class from a coarse one.

        Channels of the fine layer are ranked by their contribution and clustered by direction, so that a channel's
        scale does not matter; their own gradients are filtered, and what is left of the noise is taken off, cluster by
        cluster. docs/method.md tells what each part is for, bench/NOTES.md how its numbers were chosen.

        Parameters
        ----------
        extent : {"broad", "balanced", "tight"}
            How much of the image the map shows strongly. What a broad map leaves of an image keeps more of the class's
            probability; a tight one has more of its sum on the object. All three put the positions in the same order.
            They differ in `saturation` alone: 0.1, 0.25 and None; docs/choosing.md has figures.

        Raises
        ------
        ValueError
            If `extent` is none of these.
        """
        if not isinstance(extent, str) or extent not in _SATURATION:
            raise ValueError(f"extent: expected one of {', '.join(_SATURATION)}; got {extent!r}")
        return cls(
            dead_threshold=1e-3,
            importance="contribution",
            distance="unit_norm",
            eps_rule="neighbor_median",
            min_samples=3,
            gradient="own",
            sigma=1.5,
            boundary="zero",
            combine="positive",
            noise_floor=1.0,
            gate=0.07,
            contrast=0.75,
            saturation=_SATURATION[extent],
        )

    @classmethod
    def gated(cls, extent: Extent = "balanced") -> Config:
        """One layer that says where, and by its net evidence which class.

        `CFCAM` does so with the tokens of a vision transformer, whose blocks have one resolution, together with
        LibraGrad's gradients, and wherever it finds a single layer. Gradients need not be constant over space, as
        behind a pooling. All numbers are those of :meth:`two_level`.

        Parameters
        ----------
        extent : {"broad", "balanced", "tight"}
            As for :meth:`two_level`.

        Raises
        ------
        ValueError
            If `extent` is none of these.
        """
        return replace(cls.two_level(extent), gate_by="own")

    def __repr__(self) -> str:
        """A ready-made configuration by its name; of any other, what is not as in ``Config()``."""
        named = {"paper()": Config.paper()}
        for extent in _SATURATION:
            named[f"two_level({extent!r})"] = Config.two_level(cast(Extent, extent))
            named[f"gated({extent!r})"] = Config.gated(cast(Extent, extent))
        for name, config in named.items():
            if self == config:
                return f"Config.{name}"
        changed = (field.name for field in fields(self) if getattr(self, field.name) != field.default)
        return f"Config({', '.join(f'{name}={getattr(self, name)!r}' for name in changed)})"

    @property
    def levels(self) -> int:
        """How many target layers this configuration takes: 1 or 2."""
        return 1 if self.gate is None or self.gate_by == "own" else 2

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
            choices = get_args(hints[field.name])
            if choices and isinstance(choices[0], str):
                _check(field.name, getattr(self, field.name) in choices, f"one of {', '.join(choices)}", self)
        if self.dead_threshold is not None:
            _check_number("dead_threshold", 0.0, 1.0, self, expected="None or a number in [0, 1)", open_end=True)
        _check_number("dominant_percentile", 0.0, 100.0, self)
        _check_number("eps_percentile", 0.0, 100.0, self)
        _check_number("sigma", 0.0, 64.0, self)
        _check("eps_neighbor", _is_int(self.eps_neighbor) and self.eps_neighbor >= 2, "an int of at least 2", self)
        count = _is_int(self.min_samples) and self.min_samples >= 1
        fraction = isinstance(self.min_samples, float) and 0.0 < self.min_samples < 1.0
        _check("min_samples", count or fraction, "an int of at least 1, or a float in (0, 1)", self)
        pooled = self.weighting == "linear" or self.combine == "pooled"
        _check(
            "weighting", pooled, "'linear' where combine is not 'pooled' (a softmax needs one weight a channel)", self
        )
        _check_number("noise_floor", 0.0, 16.0, self)
        floor = self.noise_floor == 0 or (self.combine == "positive" and self.sigma > 0)
        _check("noise_floor", floor, "0 where combine is not 'positive' or sigma is 0", self)
        for name in ("gate", "saturation"):
            if getattr(self, name) is not None:
                _check_number(name, 1e-6, 1e6, self, expected="None or a number in [1e-06, 1e+06]")
        gated = self.gate_by == "coarse" or self.gate is not None
        _check("gate_by", gated, "'coarse' where gate is None", self)
        _check_number("contrast", 0.0, 1.0, self)

    def min_samples_for(self, channels: int) -> int:
        """DBSCAN's ``min_samples`` when `channels` channels are clustered."""
        if isinstance(self.min_samples, float):
            return max(2, int(self.min_samples * channels))
        return self.min_samples


def _plain(value: object) -> object:
    """Any number as Python's own, which compares, prints and goes into JSON as one; what is no number as it is."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(name: str, good: bool, expected: str, config: Config) -> None:
    if not good:
        value = getattr(config, name)
        kind = ValueError if isinstance(value, (str, int, float)) and not isinstance(value, bool) else TypeError
        raise kind(f"Config: {name} must be {expected}; got {value!r}")


def _check_number(
    name: str, low: float, high: float, config: Config, *, expected: str | None = None, open_end: bool = False
) -> None:
    value = getattr(config, name)
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    good = number and low <= value <= high and not (open_end and value == high)
    _check(name, good, expected or f"a number in [{low:g}, {high:g}]", config)
