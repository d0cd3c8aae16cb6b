"""Explanation: the maps of a batch, and what one does with them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..engines import dlpack
from . import saving
from .record import Record

if TYPE_CHECKING:
    from .components import Component
    from .trust import Trust


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Record):
    """Class activation maps of a batch of B images, on the device of the images.

    With several targets a call, ``target=(B, T)``, every shape but that of `logits` has a T after the B. Of volumes
    (B, C, D, H, W), read (D, H, W) and (d, h, w) for (H, W) and (h, w); of signals (B, C, L), (L,) and (l,).

    Parameters
    ----------
    raw_maps : (B, h, w) float32 tensor
        Evidence for the target at the target layer's resolution, >= 0, not normalised.
    target : (B,) int64 tensor or None
        The explained classes; None where callables were given.
    logits : (B, K) tensor, or None
        The model's output, in its dtype; None where it has no logits and callables were given.
    labels : (B, C) int64 tensor or None
        Of each channel: >= 0 its cluster, -1 noise, -2 dominant, -3 dead. These three are None where the method is not
        CF-CAM, and where several looks were averaged or fused.
    weights : (B, C) float32 tensor or None
        The channels' weights; 0 for noise and dead channels. With ``combine="elementwise"`` their spatial means.
    eps : (B,) float64 tensor or None
        DBSCAN's radius, in units of the clustered points.
    layers : tuple of TargetLayer
        Where, and why there; of two, the finer one first: `raw_maps`, `labels` and `weights` are at its resolution and
        of its channels. In pickles and copies each is without its module.
    config : Config or None
        What was computed; None where the method is not CF-CAM.
    size : tuple of int
        H and W of the images: the length of each spatial axis.
    origin : Origin or None
        For :meth:`components` and :meth:`trust`; holds no activations and no images. Pickles and copies go without.
    inside : tuple of (float, float) or None
        Where the model pads its images: of each spatial axis, where the image begins and ends in `raw_maps`, as shares
        of their length. `maps` show that part.
    method : str
        A key of :data:`cfcam_gpu.methods.METHODS`; ``"cfcam"`` in any configuration from a :class:`~cfcam_gpu.CFCAM`.
    """

    def components(self, images: torch.Tensor, top: int = 4, *, measured: bool = False) -> list[list[Component]]:
        """Which groups of channels carry the evidence, and where each sees it, strongest first, for each image.

        `images` are those explained; they go through the model once more. With `measured` each component also has what
        the model says without its channels. See :func:`cfcam_gpu.results.decompose`.
        """
        from . import components  # SciPy and scikit-learn, which not everyone who holds an explanation has loaded

        return components.decompose(self, images, top, measured=measured)

    def trust(self, images: torch.Tensor) -> Trust:
        """Figures of each explanation to judge it by: is it stable, does it tell classes apart, is it complete.

        The images are explained again with the likeliest other class beside the target, then flipped and with noise on
        them, as many at once as 1 GiB of activations allows, but batch by batch where the explainer averages looks or
        fuses layers, and the model runs once more with the layer's activations zero: about eight forwards of the batch
        in all, where an explanation takes one.

        Parameters
        ----------
        images : (B, C, H, W) floating tensor
            Those explained, prepared as they were then; volumes and signals, too.

        Returns
        -------
        Trust
            Prints as a line of words for each image.

        Raises
        ------
        TypeError, ValueError
            If `images` are not those explained, the model has changed since, the explanation has several targets an
            image, or it was not returned by a CFCAM or CAM that was called in this process.
        """
        from . import trust  # it imports all methods

        return trust.examine(self, images)

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        images: torch.Tensor | None = None,
        names: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        overwrite: bool = False,
    ) -> list[Path]:
        """Write maps, overlays and a file of JSON lines to a folder. See :func:`cfcam_gpu.results.save`."""
        return saving.save(self, folder, images=images, names=names, class_names=class_names, overwrite=overwrite)

    def numpy(self) -> NDArray[np.float32]:
        """The maps as a NumPy array on the host, in memory of its own."""
        return self.maps.to("cpu", copy=True).numpy()

    def cupy(self) -> Any:
        """The maps as a CuPy array on the same device, in memory of its own."""
        return dlpack.to_cupy(self.maps.clone())

    def __dlpack__(self, *, copy: bool | None = None, **options: Any) -> Any:
        """The maps as a DLPack capsule: ``torch.from_dlpack(explanation)``, ``cupy.from_dlpack(explanation)``.

        The array that comes of it has memory of its own, on the same device. With ``copy=False``, which the libraries'
        ``from_dlpack`` take, it is on the memory of ``maps``: what is written to it is then written to ``maps``, and
        seen by all that is made of them, such as overlays and files.
        """
        if copy is False:
            return self.maps.__dlpack__(copy=False, **options)
        return self.maps.clone().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[Any, int]:
        """Where the maps are, for DLPack."""
        return self.maps.__dlpack_device__()
