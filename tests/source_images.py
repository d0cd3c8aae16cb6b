"""Images that are told by their seeds, and what a source gives of them."""

import io
import tarfile
from functools import cache

import numpy as np
from PIL import Image

from cfcam_gpu.pipelines import Photographs

from .pipeline_jobs import TINY


@cache
def picture(seed, form="PNG"):
    """An image file of noise."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (36, 36, 3), np.uint8)
    Image.fromarray(pixels).save(file, format=form)
    return file.getvalue()


@cache
def _pixels(seed, form):
    return TINY.pixels(Image.open(io.BytesIO(picture(seed, form))).convert("RGB")).numpy().tobytes()


def archive(path, members, mode="w"):
    """A tar of (name, bytes), or of what tarfile takes."""
    with tarfile.open(path, mode) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def link(name, to, *, hard=False):
    info = tarfile.TarInfo(name)
    info.type = tarfile.LNKTYPE if hard else tarfile.SYMTYPE
    info.linkname = to
    return info


def seen(source, *, size=3, workers=0, **options):
    """What a source gives: a name, the image's seed or its error, and the target, of each image."""
    photographs = source if isinstance(source, Photographs) else Photographs(source, TINY, workers=workers, **options)
    seeds = {_pixels(seed, form): seed for seed in range(9) for form in ("PNG", "JPEG")}
    return [
        (name, seeds.get(pixels.numpy().tobytes(), "another image") if error is None else error, target)
        for batch in photographs.batches(size)
        for name, pixels, error, target in zip(batch.sources, batch.images, batch.errors, batch.targets)
    ]
