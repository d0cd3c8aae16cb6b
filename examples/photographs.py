"""A photograph of scikit-image as a model wants it, and a folder for what the examples write."""

import sys
from pathlib import Path

import skimage.data
import torch
from PIL import Image
from torch.nn import functional

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def prepared(name: str, size: int, norm: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET) -> torch.Tensor:
    """(1, 3, size, size): the central square of a photograph, resized and normalised."""
    pixels = torch.from_numpy(getattr(skimage.data, name)()).movedim(-1, 0)[None].float() / 255
    side = min(pixels.shape[2:])
    top, left = (pixels.shape[2] - side) // 2, (pixels.shape[3] - side) // 2
    square = pixels[..., top : top + side, left : left + side]
    mean, deviation = (torch.tensor(values).reshape(1, 3, 1, 1) for values in norm)
    return (functional.interpolate(square, (size, size), mode="bilinear", antialias=True) - mean) / deviation


def write(name: str, result, images: torch.Tensor) -> None:
    """Each map over its image, to the folder given on the command line or out/examples."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out/examples")
    folder.mkdir(parents=True, exist_ok=True)
    overlays = result.overlay(images).flatten(0, -4)
    for i, overlay in enumerate(overlays):
        Image.fromarray(overlay.numpy()).save(folder / (f"{name}-{i}.png" if len(overlays) > 1 else f"{name}.png"))
    print(f"{name}: {len(overlays)} maps of {tuple(result.raw_maps.shape[-2:])} at {result.layers[-1].name}")
