"""Detections of an image and their maps, and what one does with them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from ..core.maps import upsample
from ..results import durable, overlays, saving
from .drawing import with_boxes


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The detections of one image, each with its class activation map, on the image's device.

    Parameters
    ----------
    boxes : (N, 4) float32 tensor
        x1, y1, x2, y2 in the image's pixels; those that were given, or those that were found, strongest first.
    labels : (N,) int64 tensor
        Their classes.
    names : tuple of N str
        What the classes are called; ``"class 5"`` where they have no names.
    scores : (N,) float32 tensor
        In [0, 1], by the detector; of a box that was given, the score of the candidate that speaks for it.
    raw_maps : (N, H, W) float32 tensor
        Evidence for each detection at the image's size, >= 0, not normalised.
    layers : tuple of N tuples of str
        The layers that each map comes from.
    masks : (N, H, W) float32 tensor, or None
        Of a detector of instances, how sure it is that a pixel is the object's, in [0, 1].
    saturation : float or None
        Of the configuration: a normalised map x is shown as x (1 + s) / (x + s).
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    names: tuple[str, ...]
    scores: torch.Tensor
    raw_maps: torch.Tensor
    layers: tuple[tuple[str, ...], ...]
    masks: torch.Tensor | None = None
    saturation: float | None = None

    @cached_property
    def maps(self) -> torch.Tensor:
        """(N, H, W) float32 in [0, 1]; higher is more evidence for the detection."""
        if not len(self):
            return self.raw_maps
        return upsample(self.raw_maps, self.size, saturation=self.saturation)

    @property
    def size(self) -> tuple[int, int]:
        """H and W of the image."""
        return int(self.raw_maps.shape[-2]), int(self.raw_maps.shape[-1])

    @property
    def empty(self) -> torch.Tensor:
        """(N,) bool: no position speaks for the detection, so the map is all zeros."""
        return self.raw_maps.flatten(1).sum(dim=1) <= 0

    @property
    def share_in_box(self) -> torch.Tensor:
        """(N,) float32: how much of each map's sum is in its box; 0 of an empty map."""
        total = self.maps.flatten(1).sum(dim=1)
        return (self.maps * self._inside("box")).flatten(1).sum(dim=1) / total.clamp_min(1e-12)

    def __len__(self) -> int:
        """N, the number of detections."""
        return len(self.boxes)

    def __repr__(self) -> str:
        """What was found, in one line."""
        found = ", ".join(f"{name} {score:.2f}" for name, score in zip(self.names[:5], self.scores.tolist()))
        more = f", and {len(self) - 5} more" if len(self) > 5 else ""
        height, width = self.size
        return f"<Detections: {len(self)} in {height} x {width}{': ' * bool(found)}{found}{more}>"

    def clipped(self, to: Literal["box", "mask"] = "box") -> Detections:
        """The same detections with maps that are zero outside of their boxes, or of their masks.

        A detector's score also hangs on what is around the object. A clipped map leaves that out, and so tells where in
        the object the evidence is; what is inside is shown over its own maximum.

        Parameters
        ----------
        to : {"box", "mask"}
            A mask is where `masks` are at least 0.5.

        Raises
        ------
        ValueError
            If `to` is neither, or there are no masks.
        """
        if to not in ("box", "mask"):
            raise ValueError(f"to: expected 'box' or 'mask'; got {to!r}")
        if to == "mask" and self.masks is None:
            raise ValueError("to: expected 'box', as this detector returns no masks of instances; got 'mask'")
        return replace(self, raw_maps=self.raw_maps * self._inside(to))

    def _inside(self, to: str) -> torch.Tensor:
        """(N, H, W) bool: the pixels of each box, or mask."""
        if to == "mask":
            assert self.masks is not None
            return self.masks >= 0.5
        height, width = self.size
        rows = torch.arange(height, device=self.boxes.device)[None, :, None] + 0.5
        columns = torch.arange(width, device=self.boxes.device)[None, None, :] + 0.5
        left, top, right, bottom = (side[:, None, None] for side in self.boxes.unbind(dim=1))
        return (rows >= top) & (rows <= bottom) & (columns >= left) & (columns <= right)

    def overlay(self, image: torch.Tensor, *, alpha: float = 0.6, colormap: str = "turbo") -> torch.Tensor:
        """Each map in colour over the image, with its box: (N, H, W, 3) uint8.

        Parameters
        ----------
        image : (C, H, W) tensor
            That was explained; see :func:`cfcam_gpu.results.overlay`.
        alpha, colormap
            See there.

        Raises
        ------
        TypeError, ValueError
            If the image has another size, or as there.
        """
        self._check(image)
        if not len(self):
            return torch.zeros(0, *self.size, 3, dtype=torch.uint8, device=image.device)
        drawn = overlays.overlay(self.maps[None], image[None], alpha=alpha, colormap=colormap)[0]
        return torch.stack([with_boxes(each, box[None]) for each, box in zip(drawn, self.boxes)])

    def picture(self, image: torch.Tensor, *, alpha: float = 0.6, colormap: str = "turbo") -> torch.Tensor:
        """All detections in one picture, (H, W, 3) uint8: numbered boxes, over the largest of the maps.

        Parameters
        ----------
        image, alpha, colormap
            As for :meth:`overlay`.
        """
        self._check(image)
        maps = self.maps.amax(dim=0) if len(self) else self.raw_maps.new_zeros(self.size)
        drawn = overlays.overlay(maps[None], image[None], alpha=alpha, colormap=colormap)[0]
        words = [f"{i + 1} {name} {score:.0%}" for i, (name, score) in enumerate(zip(self.names, self.scores.tolist()))]
        return with_boxes(drawn, self.boxes, words)

    def describe(self) -> list[dict[str, Any]]:
        """What is known of each detection, as JSON takes it."""
        return [
            {
                "label": label,
                "class": name,
                "score": score,
                "box": [round(side, 2) for side in box],
                "share_in_box": share,
                "empty": empty,
                "layers": list(layers),
            }
            for label, name, score, box, share, empty, layers in zip(
                self.labels.tolist(),
                self.names,
                self.scores.tolist(),
                self.boxes.tolist(),
                self.share_in_box.tolist(),
                self.empty.tolist(),
                self.layers,
            )
        ]

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        image: torch.Tensor | None = None,
        name: str = "image",
        overwrite: bool = False,
    ) -> list[Path]:
        """Write the detections of the image to a folder.

        ``NAME.json`` describes them, and ``NAME-1.npy``, ... are their maps, (H, W) float32 in [0, 1]. With `image`
        ``NAME.png`` has all numbered boxes, and ``NAME-1.png``, ... are the overlays.

        Parameters
        ----------
        folder : str or path
            There or new.
        image : (C, H, W) tensor, optional
            That was explained.
        name : str
        overwrite : bool

        Returns
        -------
        list of Path
            The files, ``NAME.json`` the last.

        Raises
        ------
        FileExistsError
            If one of them is there already, and `overwrite` is not given.
        """
        if not isinstance(name, str) or not name or Path(name).name != name:
            raise ValueError(f"name: expected the beginning of a file's name; got {name!r}")
        into = Path(folder)
        stems = [f"{name}-{i + 1}" for i in range(len(self))]
        maps = [into / f"{stem}.npy" for stem in stems]
        drawn = [] if image is None else [into / f"{name}.png", *(into / f"{stem}.png" for stem in stems)]
        files = [*maps, *drawn, into / f"{name}.json"]
        saving.check_free(files, overwrite=overwrite)
        pictures = [] if image is None else [self.picture(image), *self.overlay(image)]
        into.mkdir(parents=True, exist_ok=True)
        for path, values in zip(maps, self.maps.cpu().numpy()):
            with durable.replacing(path, last=False) as file:
                np.save(file, values)
        for path, pixels in zip(drawn, pictures):
            with durable.replacing(path, last=False) as file:
                Image.fromarray(pixels.cpu().numpy()).save(file, format="PNG")
        with durable.replacing(files[-1]) as file:
            file.write((json.dumps(self.describe(), indent=1) + "\n").encode())
        return files

    def _check(self, image: object) -> None:
        if not isinstance(image, torch.Tensor):
            raise TypeError(f"image: expected a tensor (C, H, W); got {type(image).__name__}")
        if image.ndim != 3 or tuple(image.shape[-2:]) != self.size:
            raise ValueError(
                f"image: expected (C, H, W) with H, W = {self.size}, as explained; got {tuple(image.shape)}"
            )


def named(labels: Sequence[int], names: Sequence[str] | None) -> tuple[str, ...]:
    """What classes are called."""
    known = names or ()
    return tuple(known[label] if 0 <= label < len(known) else f"class {label}" for label in labels)
