"""Photographs beside the maps of all methods, made when the page is."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..evaluation.candidates import Candidate
from ..evaluation.candidates import find as find_candidates
from ..explain.attempts import attempt, reason
from ..explain.cfcam import CFCAM
from ..image_files import photos
from ..named_models import models
from ..named_models.asked_input import AskedInput
from ..named_models.loading import device_of, names_for
from ..named_models.models import Model
from ..photographs import contact_sheet
from ..results import overlays
from ..targets.outputs import logits_of

#: Photographs that a page can hold: more would make one that few browsers open.
LIMIT = 60
#: Side of an image on the page, in pixels: enough for a phone's screen, a few kilobytes as WebP.
SIDE = 256
#: The method whose maps are taken apart, and into how many groups of channels.
OURS = "cfcam"
PARTS = 4
QUALITY = 80


@dataclass(frozen=True)
class Tile:
    """An overlay, as a data URI; or why there is none. ``empty``: the map has no evidence for the class."""

    method: str
    source: str | None
    empty: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Part:
    """A group of channels of CF-CAM's explanation: its overlay as a data URI, its share in percent, its channels."""

    source: str
    share: float
    channels: int


@dataclass(frozen=True)
class Row:
    """A photograph as the model sees it, what the model says it is, the overlays, and the parts of CF-CAM's map.

    ``parts_error``: why there are none, where CF-CAM's map is there.
    """

    file: str
    label: str
    probability: float
    source: str
    tiles: tuple[Tile, ...]
    parts: tuple[Part, ...] = ()
    parts_error: str | None = None


@dataclass(frozen=True)
class Gallery:
    """A model, its photographs and its methods, ready to be drawn.

    ``unknown`` are methods that have no map here, ``class_names`` what the classes were called in the evaluation.
    """

    model: Model
    device: torch.device
    photographs: Sequence[tuple[Path, torch.Tensor]]
    candidates: Sequence[Candidate]
    unknown: Sequence[str]
    class_names: tuple[str, ...] | None = None

    @property
    def steps(self) -> int:
        """How many maps, and parts of CF-CAM's, :meth:`draw` makes."""
        return len(self.photographs) * (len(self.candidates) + 1)

    def draw(self, done: Callable[[int], None]) -> list[Row]:
        """Explain the predicted class of each photograph; `done` hears of each map, and of the parts."""
        return [self._row(path, pixels.to(self.device), done) for path, pixels in self.photographs]

    def _row(self, path: Path, pixels: torch.Tensor, done: Callable[[int], None]) -> Row:
        images = self.model.preparation.normalize(pixels[None])
        with torch.no_grad():
            probabilities = logits_of(self.model.module(images)).float().softmax(dim=1)
        index = int(probabilities.argmax())
        tiles = []
        for candidate in self.candidates:
            tiles.append(self._tile(candidate, images, pixels, index))
            done(1)
        label = names_for(self.model, probabilities.shape[1], self.class_names).names[index]
        # The overlay of no evidence is the photograph, of any channels.
        plain = overlays.overlay(torch.zeros_like(images[:, 0]), pixels[None])[0]
        row = Row(path.name, label, float(probabilities[0, index]), _uri(plain), tuple(tiles))
        ours = any(tile.method == OURS and tile.source for tile in tiles)
        parts = attempt(lambda: tuple(self._parts(images, pixels, index)), self.device) if ours else ()
        done(1)
        if isinstance(parts, Exception):
            return replace(row, parts_error=reason(parts))
        return replace(row, parts=parts)

    def _parts(self, images: torch.Tensor, pixels: torch.Tensor, index: int) -> Iterator[Part]:
        """The strongest groups."""
        (components,) = CFCAM(self.model.module)(images, index).components(images, top=PARTS)
        for component in components[:-1]:
            overlay = overlays.overlay(component.map[None], pixels[None])[0]
            yield Part(_uri(overlay), 100 * component.share, len(component.channels))

    def _tile(self, candidate: Candidate, images: torch.Tensor, pixels: torch.Tensor, index: int) -> Tile:
        classes = torch.tensor([[index]], device=self.device)
        size = (images.shape[-2], images.shape[-1])
        maps = attempt(lambda: candidate.maps(self.model.module, images, classes, size)[:, 0], self.device)
        if isinstance(maps, Exception):
            return Tile(candidate.name, None, error=reason(maps))
        return Tile(candidate.name, _uri(overlays.overlay(maps, pixels[None])[0]), empty=not bool(maps.any()))


def check(
    spec: str,
    methods: Sequence[str],
    files: Sequence[Path],
    weights: Path | None = None,
    *,
    asked: AskedInput | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Gallery:
    """Load a model and photographs, and find whatever keeps them from being explained.

    Parameters
    ----------
    spec : str
        See :func:`cfcam_gpu.photographs.load`.
    methods : sequence of str
        Names of :func:`cfcam_gpu.evaluation.candidates.find`; others become ``unknown``.
    files : sequence of Path
        Photographs.
    weights : Path, optional
        A state dict for the model.
    asked : AskedInput, optional
    class_names : tuple of str, optional
        What the model was evaluated with.

    Raises
    ------
    OSError, ImportError, TypeError, ValueError, RuntimeError
        If the model or its weights can't be had, it has no layers to choose, or a photograph can't be read.
    """
    device = device_of("auto")
    model = models.load(spec, weights, asked=asked, classes=None if class_names is None else len(class_names))
    model.module.to(device)
    photographs = [(path, _pixels(path, model)) for path in files]
    blank = torch.zeros_like(photographs[0][1], device=device)
    by_name: Mapping[str, Candidate] = find_candidates(model.module, model.preparation.normalize(blank[None]))
    return Gallery(
        model,
        device,
        photographs,
        [by_name[name] for name in methods if name in by_name],
        [name for name in methods if name not in by_name],
        class_names,
    )


def find(paths: Sequence[Path], *, skip: Path) -> list[Path]:
    """The photographs of `paths`, of the demonstration if none; `skip` is a folder that is not searched.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        If there are none, or more than :data:`LIMIT`.
    """
    if not paths:
        try:
            return photos.samples()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}, or give --gallery") from None
    files = photos.find(paths, skip=skip)
    if len(files) > LIMIT:
        raise ValueError(f"gallery: expected at most {LIMIT} photographs; got {len(files)}")
    return files


def _pixels(path: Path, model: Model) -> torch.Tensor:
    try:
        return model.preparation.pixels(photos.first_page(path, takes=model.preparation).image)
    except photos.UnreadableError as error:
        raise ValueError(f"gallery: {path}: {error}; give --gallery with images that the model takes") from None


def scale() -> str:
    """What the colours of overlays mean, as a data URI."""
    file = io.BytesIO()
    contact_sheet.color_scale().save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _uri(pixels: torch.Tensor) -> str:
    """(H, W, 3) uint8 as a WebP in a data URI."""
    array: NDArray[np.uint8] = pixels.cpu().numpy()
    image = Image.fromarray(array)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
