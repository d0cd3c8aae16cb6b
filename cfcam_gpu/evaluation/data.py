"""The images that methods are measured on, their classes, masks and mosaics."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from .. import metrics
from ..image_files import photos
from ..image_files.photos import Page, Preparation
from ..targets.names import classes_called, either
from . import masks

Item = TypeVar("Item")

MANIFEST = "manifest.csv"
MOSAICS = "mosaics.csv"
#: Sides of the mosaics that a folder may have.
SIDES = (2, 3)


class Sample(NamedTuple):
    """One image as a model gets it, and what is known of it.

    ``image`` (3, S, S) float32, normalised; ``classes`` (T,) int64, each to be explained; ``mask`` (S, S) bool or None;
    ``size``, H and W at which its maps are measured. Of a volume or a signal, each has that one's axes.
    """

    image: torch.Tensor
    classes: torch.Tensor
    mask: torch.Tensor | None
    size: tuple[int, ...]


@dataclass(frozen=True)
class Photograph:
    """An image of one class. ``seed`` is its place in the folder: noise made of it is the image's own."""

    name: str
    path: Path
    mask: Path | None
    class_index: int
    seed: int

    def load(self, preparation: Preparation) -> Sample:
        """Read it, and its mask where it has one.

        Raises
        ------
        ValueError
            If a file can't be read, or the mask doesn't fit the image.
        """
        page = photos.first_page(self.path, takes=preparation)
        mask = None
        if self.mask is not None:
            drawn = Image.fromarray(np.where(masks.read(self.mask), np.uint8(255), np.uint8(0)))
            if drawn.size != page.size:
                raise ValueError(f"mask: expected {_sides(page)} pixels, as the image; {self.mask} has {_sides(drawn)}")
            half = (0.5, 0.5, 0.5)
            nearest = replace(preparation, interpolation=Image.Resampling.NEAREST, mean=half, std=half)
            mask = _pixels(drawn.convert("RGB"), nearest)[0] > 127
        pixels = _pixels(page.image, preparation)
        size = preparation.height, preparation.width
        return Sample(preparation.normalize(pixels), torch.tensor([self.class_index]), mask, size)


@dataclass(frozen=True)
class Grid:
    """A mosaic of n x n photographs of distinct classes, row by row, each class to be explained."""

    name: str
    n: int
    cells: tuple[Photograph, ...]
    seed: int

    def load(self, preparation: Preparation) -> Sample:
        """Read its photographs, and shrink the mosaic of them to the model's size.

        Its maps are measured at the next size that n divides, so that every cell has the same number of pixels.

        Raises
        ------
        ValueError
            If a file can't be read.
        """
        images = torch.stack([cell.load(preparation).image for cell in self.cells])
        large = metrics.mosaic(images[None], self.n)
        size = preparation.height, preparation.width
        small = functional.interpolate(large, size=size, mode="bilinear", antialias=True, align_corners=False)
        divided = tuple(-(-side // self.n) * self.n for side in size)
        return Sample(small[0], torch.tensor([cell.class_index for cell in self.cells]), None, divided)


@dataclass(frozen=True)
class Album:
    """What a folder has: photographs, in order, and mosaics of them.

    ``folders`` are the names of classes where they are names: until :meth:`with_classes_of` a class index is a place
    among them. ``passed_over`` counts what such folders have besides; see
    :func:`cfcam_gpu.image_files.photos.told`.
    """

    photographs: tuple[Photograph, ...]
    grids: tuple[Grid, ...]
    folders: tuple[str, ...] = ()
    passed_over: Counter[str] = field(default_factory=Counter)

    def with_classes_of(self, names: Sequence[str]) -> Album:
        """The same with the classes of a model whose classes have these names.

        A folder's name is a class's name; where none is written so, in any case, with underscores or spaces. Or, where
        there are as many folders as classes, the folders in alphabetical order are the classes in theirs.

        Raises
        ------
        ValueError
            If the model has no such classes, or several that a folder may mean.
        """
        if not self.folders:
            return self
        called = [classes_called(folder, names, _plain) for folder in self.folders]
        for folder, some in zip(self.folders, called):
            if len(some) > 1:
                raise ValueError(
                    f"data: the folder {folder} may be {either(some, names)}; call the folders by class indices"
                )
        indices = [some[0] if some else None for some in called]
        if None in indices and len(self.folders) == len(names):
            indices = list(range(len(names)))
        unknown = [folder for folder, index in zip(self.folders, indices) if index is None]
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise ValueError(
                f"data: the folders {', '.join(unknown[:3])}{more} are no classes of the model by name, and there are "
                f"{len(self.folders)} folders for its {len(names)} classes; expected folders called by class indices "
                f"or by names such as {names[0]!r}, or a {MANIFEST} (columns file, mask, class_index)"
            )
        photographs = tuple(replace(one, class_index=cast("int", indices[one.class_index])) for one in self.photographs)
        return replace(self, photographs=photographs, folders=())

    def limited(self, limit: int | None) -> Album:
        """At most `limit` photographs, and as many mosaics of each side, spread evenly over the folder's order."""
        grids = [_spread([grid for grid in self.grids if grid.n == n], limit) for n in SIDES]
        photographs = tuple(_spread(self.photographs, limit))
        return replace(self, photographs=photographs, grids=tuple(grid for some in grids for grid in some))


def read(folder: Path) -> Album:
    """Find out what a folder has; no image is opened.

    Parameters
    ----------
    folder : Path
        With ``manifest.csv`` (columns file, mask, class_index; paths from the folder, an empty mask is none) and maybe
        ``mosaics.csv`` (columns grid, files_row_major, the files separated by semicolons). Without a manifest: one
        sub-folder for each class, called by its index, or by a name for :meth:`Album.with_classes_of`.

    Raises
    ------
    OSError
        If the folder, or a file that it should have, is not there.
    ValueError
        If a table is wrong; the message names its line.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"data: {folder} is not a folder")
    if not (folder / MANIFEST).exists():
        return _image_folder(folder)
    photographs: dict[str, Photograph] = {}
    for place, row in _table(folder / MANIFEST, ("file", "mask", "class_index")):
        name, mask = row["file"], row["mask"]
        if name in photographs:
            raise ValueError(f"{place}: {name} is there twice")
        for file in (name, mask) if mask else (name,):
            if not (folder / file).is_file():
                raise FileNotFoundError(f"{place}: {folder / file} is not a file")
        if not row["class_index"].isdecimal():
            raise ValueError(f"{place}: class_index: expected a class index; got {row['class_index']!r}")
        photographs[name] = Photograph(
            name, folder / name, folder / mask if mask else None, int(row["class_index"]), len(photographs)
        )
    if not photographs:
        raise ValueError(f"data: {folder / MANIFEST} names no image")
    grids = _grids(folder / MOSAICS, photographs) if (folder / MOSAICS).exists() else []
    return Album(tuple(photographs.values()), tuple(grids))


def _grids(path: Path, photographs: Mapping[str, Photograph]) -> list[Grid]:
    grids: list[Grid] = []
    for place, row in _table(path, ("grid", "files_row_major")):
        if row["grid"] not in map(str, SIDES):
            raise ValueError(f"{place}: grid: expected one of {', '.join(map(str, SIDES))}; got {row['grid']!r}")
        n, files = int(row["grid"]), row["files_row_major"].split(";")
        unknown = [file for file in files if file not in photographs]
        if len(files) != n * n or unknown:
            got = f"{unknown[0]!r}, which is not in {MANIFEST}" if unknown else f"{len(files)} files"
            raise ValueError(f"{place}: files_row_major: expected {n * n} files of {MANIFEST}; got {got}")
        cells = tuple(photographs[file] for file in files)
        if len({cell.class_index for cell in cells}) < len(cells):
            raise ValueError(f"{place}: files_row_major: expected images of distinct classes; two are of one")
        grids.append(Grid(f"mosaic {n}x{n}, line {len(grids) + 2}", n, cells, len(grids)))
    return grids


def _table(path: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """The rows of a CSV file, each with where it is, for messages."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"{path}: expected the columns {', '.join(columns)}; {', '.join(missing)} is not there")
        # A line that is too short has None in its last columns.
        return [
            (f"{path}, line {reader.line_num}", {column: row[column] or "" for column in columns}) for row in reader
        ]


def _image_folder(folder: Path) -> Album:
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    numbered = [name.isdecimal() for name in classes]
    if not classes or (any(numbered) and not all(numbered)):
        raise ValueError(
            f"data: expected {folder} to have a {MANIFEST}, or a sub-folder for each class, all called by class "
            f"indices or none; got {', '.join(classes[:5]) or 'no sub-folder'}"
        )
    found: list[Photograph] = []
    passed_over: Counter[str] = Counter()
    for position, name in enumerate(classes):
        for path in photos.find([folder / name], skip=folder, passed_over=passed_over, arrays=True):
            index = int(name) if numbered[position] else position
            found.append(Photograph(path.relative_to(folder).as_posix(), path, None, index, len(found)))
    return Album(tuple(found), (), () if all(numbered) else tuple(classes), passed_over)


def _spread(items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    if limit is None or limit >= len(items):
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


def _pixels(image: Image.Image | NDArray[Any], preparation: Preparation) -> torch.Tensor:
    """An image that has the model's size is taken as it is; others are resized and cropped."""
    size = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
    if size == (preparation.width, preparation.height):
        preparation = replace(preparation, resize=(preparation.height, preparation.width))
    return preparation.pixels(image)


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ")


def _sides(image: Image.Image | Page) -> str:
    width, height = image.size
    return f"{width} x {height}"
