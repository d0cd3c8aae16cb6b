"""Explanation: the maps of a batch, and what one does with them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from ..engines import dlpack
from . import parts, saving
from .record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .components import Component
    from .trust import Trust


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Record):
    """Class activation maps of a batch of B images, on the device of the images.

    With several targets a call, ``target=(B, T)``, every shape but that of `logits` has a T after the B. Of volumes
    (B, C, D, H, W), read (D, H, W) and (d, h, w) for (H, W) and (h, w); of signals (B, C, L), (L,) and (l,).

    ``result[i]`` is the explanation of one image, ``result[:4]``, ``result[[2, 0]]`` and ``result[~result.empty]`` are
    those of several, and iteration gives one after the other. All of them have memory of their own.

    In a notebook it shows itself: each image, its map over it, the class and its probability. It does not keep the
    images, which would cost memory in every loop, but refers to them: they are shown as long as they exist and no one
    has written to them. Where they are gone, or were made in ``torch.inference_mode``, the maps alone are shown, and
    :meth:`figure` takes the images.

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
    class_names : tuple of K str, or None
        Names of the model's classes, by index, by which `classes` tells the targets; None where none are known.
    """

    def __getitem__(self, index: int | slice | Sequence[int] | Sequence[bool] | torch.Tensor | NDArray[Any]) -> Self:
        """The explanations of some of the images.

        Parameters
        ----------
        index : int, slice, sequence or 1-D tensor of int, or of B bool
            An int gives an explanation of one image, whose length is 1. Negative ones count from the end.

        Raises
        ------
        IndexError
            If there is no such image.
        TypeError
            If it is none of these.
        """
        return parts.part(self, parts.rows_of(index, len(self)))

    def __iter__(self) -> Iterator[Self]:
        """The explanation of each image, one after the other."""
        return (self[b] for b in range(len(self)))

    def to(self, device: torch.device | str | int) -> Self:
        """The same on another device; on its own it is this very one.

        As in a pickle, layers are without their modules there, and :meth:`components` and :meth:`trust` can't be asked:
        the model is where it was.

        Raises
        ------
        TypeError
            If it is no device.
        """
        return parts.moved(self, device)

    def cpu(self) -> Self:
        """The same on the host. See :meth:`to`."""
        return self.to("cpu")

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

    def figure(
        self,
        images: torch.Tensor | None = None,
        *,
        components: Sequence[Sequence[Component]] | None = None,
        width: float = 6.9,
        alpha: float = 0.6,
        colormap: str = "turbo",
    ) -> Figure:
        """A figure for a paper: a row for each map, with the image, the map and the map over the image.

        It is a matplotlib figure that pyplot does not know of. ``figure.savefig("figure.pdf")`` keeps text as text, in
        PDF and SVG, and pictures in their own resolution. Of a volume the slice of its first axis through the peak is
        shown, of a signal its lines over the map. A map that is empty says so.

        Parameters
        ----------
        images : (B, C, H, W) tensor, optional
            As for :meth:`overlay`: those explained, or others of their size, such as photographs before they were
            normalised. By default those explained, as long as they exist unchanged; where not, the maps are alone.
        components : list of B lists of Component, optional
            What :meth:`components` gave: each map is followed by its groups, in the place of the map alone.
        width : float
            Inches, at most: 6.9 fits two columns of most journals, 3.3 one. A picture is never wider than 2.3.
        alpha : float in [0, 1]
            How much of the colour shows where the map is 1.
        colormap : str
            A matplotlib colormap.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        TypeError, ValueError
            As for :meth:`overlay`; if `components` are not one list for each image, `width` is no number of at least 2,
            or there are no maps, or more than a figure has room for.
        """
        from . import figures

        return figures.figure(self, images, components=components, width=width, alpha=alpha, colormap=colormap)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from . import notebook

        return notebook.page(self)

    def numpy(self) -> NDArray[np.float32]:
        """The maps as a NumPy array on the host, in memory of its own."""
        return self.maps.to("cpu", copy=True).numpy()

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """The maps for NumPy, ``np.asarray(result)``, in memory of their own."""
        if copy is False:
            raise ValueError("copy: NumPy gets the maps as a copy; np.from_dlpack(result, copy=False) shares them")
        return self.numpy() if dtype is None else self.numpy().astype(dtype, copy=False)

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
