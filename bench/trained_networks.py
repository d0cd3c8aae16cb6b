"""Pictures of what trained networks of many families see, which package indexes bring.

``python -m bench.trained_networks --data FOLDER OUT_DIR [NAME ...]`` prints the layers that are chosen of each and
writes a picture for each: the images, CF-CAM over them, and Grad-CAM at the coarse layer. FOLDER has photographs as
``cfcam-gpu bench`` takes them. Each network is in a package of its own, which is imported where it is loaded, and never
its requirements; ``make`` installs them as the Makefile's NETWORK_PACKAGES.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import nn

from cfcam_gpu import CAM, CFCAM
from cfcam_gpu.evaluation import data as albums
from cfcam_gpu.hooks import layers
from cfcam_gpu.image_files import photos
from cfcam_gpu.results import overlay
from cfcam_gpu.targets import Segment, Target

from . import prototypes, trained_axes, trained_images
from .trained_images import Network

#: How many photographs are explained.
SHOWN = 6


class Loaded(NamedTuple):
    """A network in eval mode, what it is run on, what is explained, and what that is shown over."""

    model: nn.Module
    images: torch.Tensor
    target: Target
    shown: torch.Tensor


def _on_photographs(
    network: Network, photographs: Sequence[albums.Photograph], target: Target, model: nn.Module | None = None
) -> Loaded:
    pixels = torch.stack([network.preparation.pixels(photos.read(one.path)) for one in photographs])
    return Loaded(model or network.module, network.preparation.normalize(pixels), target, pixels / 255)


def with_prototypes(name: str, data: Path) -> Loaded:
    """Some photographs by the head of the first fold, which has not seen them."""
    network = trained_images.HEADLESS[name]()
    fold = next(prototypes.folds(*network, albums.read(data).photographs, trained_images.WHITENED.get(name)))
    some = fold.unseen[:: max(1, len(fold.unseen) // SHOWN)][:SHOWN]
    return _on_photographs(network, some, [one.class_index for one in some], fold.model)


def thin_resnet(data: Path) -> Loaded:
    """What it predicts of some photographs."""
    return _on_photographs(trained_images.thin_resnet(), albums.read(data).limited(SHOWN).photographs, None)


def saliency_vit(data: Path) -> Loaded:
    """What is salient in some photographs."""
    return _on_photographs(trained_images.saliency_vit(), albums.read(data).limited(SHOWN).photographs, Segment(0))


def linknet3d(data: Path) -> Loaded:
    """The brain."""
    del data
    shown, _ = trained_axes.brains(1)
    return Loaded(trained_axes.linknet3d(), trained_axes.prepared_volumes(shown), Segment(1), shown)


def crepe(data: Path) -> Loaded:
    """The pitch of some tones."""
    del data
    signals, _, _ = trained_axes.tones(3)
    return Loaded(trained_axes.crepe(), signals, None, signals)


NETWORKS: dict[str, Callable[[Path], Loaded]] = {
    **{name: partial(with_prototypes, name) for name in trained_images.HEADLESS},
    "saliency-vit": saliency_vit,
    "thin-resnet": thin_resnet,
    "linknet3d": linknet3d,
    "crepe": crepe,
}


def picture(shown: torch.Tensor, rows: Sequence[torch.Tensor]) -> Image.Image:
    """The images above their maps in colour; of a volume some slices, of signals one below the other."""
    drawn = [overlay(maps, shown) for maps in rows]
    if shown.ndim == 3:
        return Image.fromarray(torch.cat([torch.cat(tuple(one)) for one in drawn], dim=1).numpy())
    drawn = [overlay(torch.zeros_like(rows[0]), shown), *drawn]
    if shown.ndim == 5:
        drawn = [one[0, one.shape[1] // 6 :: one.shape[1] // 8] for one in drawn]
    return Image.fromarray(torch.cat([torch.cat(tuple(one), dim=1) for one in drawn]).numpy())


def explain(loaded: Loaded) -> tuple[list[str], list[torch.Tensor]]:
    """What is told of the chosen layers, and the maps of CF-CAM and of Grad-CAM at the coarse one."""
    chosen = [one for one in layers.candidates(loaded.model, loaded.images) if one.chosen]
    told = [
        f"{one.layer.name}, {' x '.join(map(str, one.shape))}, {one.layer.layout}: {one.layer.reason}" for one in chosen
    ]
    both = CFCAM(loaded.model)(loaded.images, loaded.target)
    coarse = CAM(loaded.model, chosen[-1].layer.name, method="gradcam")(loaded.images, loaded.target)
    for name, result in (("CF-CAM", both), ("Grad-CAM", coarse)):
        told.append(f"{name}: {int(result.empty.sum())} of {len(loaded.images)} maps are empty")
    return told, [both.maps, coarse.maps]


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if a network can't be explained."""
    parser = argparse.ArgumentParser(prog="python -m bench.trained_networks", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder with photographs and their manifest.csv")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("names", nargs="*", default=list(NETWORKS), help=", ".join(NETWORKS))
    options = parser.parse_args(arguments)
    options.out_dir.mkdir(parents=True, exist_ok=True)
    status = 0
    for name in options.names:
        print(name)
        try:
            loaded = NETWORKS[name](options.data)
            told, maps = explain(loaded)
        except (ImportError, ValueError) as error:
            print(f"  {error}")
            status = 1
            continue
        print(*(f"  {line}" for line in told), sep="\n")
        picture(loaded.shown, maps).save(options.out_dir / f"{name}.png")
    return status


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the packages deprecate
        sys.exit(main())
