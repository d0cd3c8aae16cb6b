"""What is timed side by side: the bare forward, CF-CAM, other methods, and other libraries' Grad-CAM."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ..core.config import Config
from ..explain.cam import CAM
from ..hooks.target_layer import TargetLayer
from ..methods import METHODS
from . import peers
from .timing import Call

FORWARD = "forward"
#: CF-CAM as :class:`cfcam_gpu.CFCAM` does it by default, and of one level.
OURS, OURS_OF_ONE_LEVEL = "cfcam", "cfcam-one"


@dataclass(frozen=True)
class Candidates:
    """Makers of calls by name, and by name why others are left out.

    Each maker gets a model and returns the call that is timed, which makes maps at the images' size. A call of a peer
    hooks a copy of the model, so that its hooks slow nobody else.
    """

    makers: dict[str, Callable[[nn.Module], Call]]
    left_out: dict[str, str]


def find(
    layers: tuple[TargetLayer, ...],
    methods: Sequence[str],
    engine: str,
    config: Config | None = None,
    *,
    libragrad: bool | None = None,
) -> Candidates:
    """All candidates for a model.

    Parameters
    ----------
    layers : tuple of TargetLayer
        Of CF-CAM, the finest first. Methods of one layer, and the peers, get the last; those of many choose theirs.
    methods : sequence of str
        Keys of :data:`cfcam_gpu.methods.METHODS`, beside CF-CAM.
    engine : str
        Of CF-CAM.
    config : Config, optional
    libragrad : bool, optional
        Of CF-CAM as it is by default; left out, what :class:`cfcam_gpu.CAM` has for layers that are named.
    """
    names = tuple(layer.name for layer in layers)
    makers: dict[str, Callable[[nn.Module], Call]] = {FORWARD: forward}
    left_out = {}
    makers[OURS] = partial(explainer, names, OURS, engine, config=config, libragrad=libragrad)
    if len(names) > 1:
        makers[OURS_OF_ONE_LEVEL] = partial(explainer, names[-1:], OURS_OF_ONE_LEVEL, engine)
    else:
        left_out[OURS_OF_ONE_LEVEL] = f"{OURS} has one level here"
    for name in methods:
        if name not in makers and name not in left_out:
            makers[name] = partial(explainer, names[-1:] if METHODS[name].layers == "one" else None, name, engine)
    reason = peers.why_not(layers[-1])
    for name, peer in peers.PEERS.items():
        if not peer.installed:
            left_out[name] = f"not installed; pip install {peer.package}"
        elif reason is not None:
            left_out[name] = reason
        else:
            makers[name] = partial(_of_peer, peer, names[-1])
    return Candidates(makers, left_out)


def forward(model: nn.Module) -> Call:
    """The prediction alone, under no_grad."""

    def call(images: torch.Tensor) -> object:
        with torch.no_grad():
            return model(images)

    return call


def explainer(
    layers: Sequence[str] | None,
    method: str,
    engine: str,
    model: nn.Module,
    *,
    config: Config | None = None,
    libragrad: bool | None = None,
) -> Call:
    """Images to maps in [0, 1] at the images' size, of the predicted classes.

    Parameters
    ----------
    layers : sequence of str or None
        None chooses them in the first call.
    method : str
        A key of :data:`cfcam_gpu.methods.METHODS`.
    engine : str
    model : torch.nn.Module
    config, libragrad
        As for :class:`cfcam_gpu.CAM`.
    """
    named = None if layers is None else list(layers)
    explain = CAM(model, named, method=method, engine=engine, config=config, libragrad=libragrad)
    # Maps are made at first use: without this the upsampling would go untimed.
    return lambda images: explain(images).maps


def _of_peer(peer: peers.Peer, module: str, model: nn.Module) -> Call:
    return peer.make(copy.deepcopy(model), module)


def known(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises
    ------
    ValueError
        If one is no method; the message has all names.
    """
    for name in names:
        if name not in METHODS:
            raise ValueError(f"methods: expected some of {', '.join(METHODS)}; got {name!r}")
    return tuple(dict.fromkeys(names))
