"""Photographs: found, read with Pillow, and prepared as a model wants them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

#: Pillow's decoders that are let near a file. The list keeps out EPS, for one, which Pillow hands to Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
#: What counts as a photograph in a folder.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm"})

_SAMPLES = (
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)


class UnreadableError(ValueError):
    """A file that is no photograph that can be explained; the message says why, without the file's name."""


class TooLargeError(UnreadableError):
    """A photograph of more pixels than are allowed."""


@dataclass(frozen=True)
class Preparation:
    """How a model wants its photographs.

    Parameters
    ----------
    size : int
        Side of the square input, in pixels.
    resize : int
        Length of the photograph's shorter side before the central `size` x `size` are cut out.
    interpolation : PIL.Image.Resampling
    mean, std : three floats
        Of red, green and blue in [0, 1]: subtracted, and divided by.
    """

    size: int
    resize: int
    interpolation: Image.Resampling
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """What the model sees of an RGB image, before normalisation: (3, size, size) uint8."""
        # The crop takes a central square. Of a panorama one of 2:1 is enough for it, and can't exhaust the memory.
        limit = 2 * min(image.size)
        image = _central(image, min(image.width, limit), min(image.height, limit))
        scale = self.resize / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), self.interpolation)
        return torch.from_numpy(np.array(_central(image, self.size, self.size))).movedim(-1, 0)

    def blank(self, count: int) -> torch.Tensor:
        """`count` black images, as :meth:`pixels` makes them: (count, 3, size, size) uint8."""
        return torch.zeros(count, 3, self.size, self.size, dtype=torch.uint8)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """The model's input (B, 3, size, size) float32 from `pixels` of the same shape, uint8, on their device."""
        mean, std = (torch.tensor(value, device=pixels.device)[:, None, None] for value in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std


def _central(image: Image.Image, width: int, height: int) -> Image.Image:
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def find(paths: Sequence[Path], *, skip: Path) -> list[Path]:
    """The photographs that `paths` mean, each once.

    A file is taken as it is. A folder is searched with its subfolders, in alphabetical order, for the suffixes in
    :data:`SUFFIXES`; what is hidden (its name starts with a dot) is passed over, and links to folders are not followed.

    Parameters
    ----------
    paths : sequence of Path
    skip : Path
        A folder that is not searched: where results go, which are images too.

    Raises
    ------
    FileNotFoundError
        If one of `paths` does not exist.
    OSError
        If a folder can't be read.
    ValueError
        If a folder has no photograph.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            inside = list(search(path, skip.resolve()))
            if not inside:
                raise ValueError(f"no photographs in {path} (looked for {', '.join(sorted(SUFFIXES))})")
        elif path.exists():
            inside = [path]
        else:
            raise FileNotFoundError(f"{path} does not exist")
        for file in inside:
            found.setdefault(Path(os.path.realpath(file)), file)  # resolve() fails of a loop of links
    return list(found.values())


def search(folder: Path, skip: Path) -> Iterator[Path]:
    """The photographs in one folder, as :func:`find` says."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if path.resolve() != skip:
                yield from search(path, skip)
        # A broken link or a pipe is found, too: whoever reads it says what it is. The entry's own fails of a loop.
        elif path.suffix.lower() in SUFFIXES and not os.path.isdir(path):
            yield path


def read(path: Path | IO[bytes], *, max_pixels: int | None = None) -> Image.Image:
    """A photograph as RGB, upright.

    The orientation in its EXIF data is applied, what is transparent is laid on white, 16-bit greys are scaled down,
    and of several frames the first is taken.

    Parameters
    ----------
    path : Path, or a binary file
    max_pixels : int, optional
        Refuse an image whose header promises more, before it is decoded. Pillow's own limit holds all the same.

    Raises
    ------
    UnreadableError
        If it is missing, no image in one of :data:`FORMATS`, or damaged.
    TooLargeError
        If it has too many pixels.
    """
    with warnings.catch_warnings():
        # Pillow only warns of an image up to twice its limit; about damaged EXIF data nothing need be said.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            if isinstance(path, Path) and path.exists() and not path.is_file():
                raise UnreadableError("not a regular file")  # reading a pipe would wait for ever
            with Image.open(path, formats=FORMATS) as image:
                pixels = image.width * image.height
                # The warnings' filter is the whole process's, and another thread may have set it back.
                if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
                    raise Image.DecompressionBombError
                if max_pixels is not None and pixels > max_pixels:
                    raise TooLargeError(f"{image.width} x {image.height}, more than the limit of {max_pixels:,} pixels")
                return _rgb(ImageOps.exif_transpose(image))
        except UnreadableError:
            raise
        except UnidentifiedImageError:
            raise UnreadableError(f"not an image in a format of {', '.join(FORMATS)}, or damaged") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise TooLargeError(f"more than Pillow's limit of {Image.MAX_IMAGE_PIXELS:,} pixels") from None
        except Exception as error:  # what a decoder raises on damaged data is anything: SyntaxError, struct.error, ...
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UnreadableError(reason) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnreadableError("its pixels are floating-point numbers of no fixed range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise UnreadableError("its pixels are integers beyond 16 bits; save it with 8 or 16 bits")
        return Image.fromarray(((values * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def samples() -> list[Path]:
    """The photographs of the demonstration, which scikit-image and scikit-learn bring along.

    Raises
    ------
    FileNotFoundError
        If scikit-image is not installed, or has them no more.
    """
    paths = []
    for package, inside in _SAMPLES:
        spec = find_spec(package)
        # Found without importing the package, which takes long.
        path = Path(spec.origin).parent / inside if spec and spec.origin else None
        if path is None or not path.is_file():
            raise FileNotFoundError(
                f"the sample photograph {package}/{inside} is not installed; pip install 'cfcam-gpu[demo]'"
            )
        paths.append(path)
    return paths
