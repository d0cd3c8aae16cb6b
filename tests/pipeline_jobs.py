"""Jobs of pipelines that take no time: tiny photographs, a tiny network, and what a folder of results holds."""

import multiprocessing
import random
import signal
import time

import numpy as np
import pyarrow.parquet as pq
import torch
import zarr
from PIL import Image
from torch import nn

from cfcam_gpu import CFCAM
from cfcam_gpu.image_files.photos import Preparation
from cfcam_gpu.photographs import terminal
from cfcam_gpu.pipelines import Photographs, run
from cfcam_gpu.results import durable

from .albums import small

TINY = Preparation(32, 36, Image.Resampling.BILINEAR, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def photographs(folder, count, *, seed=0):
    """`count` small PNGs of noise, in order of name."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (count, 36, 36, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{index:05d}.png")
    return folder


def tiny():
    """A network of two channels, whose maps take a fifth of the time that those of `small` take."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 2, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 5)
        ).eval()


def explain(source, out, *, model=None, engine="auto", workers=0, **options):
    """Explain a SOURCE with a network of 5 classes at its one layer."""
    explainer = CFCAM(small().eval() if model is None else model, "1", engine=engine)
    return run(explainer, Photographs(source, TINY, workers=workers), out, **options)


def contents(folder):
    """Every file of a folder by its path, but for what a killed process leaves under a hidden name."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def explain_tiny(source, out, **options):
    """By the engine of which a process has nothing to load: in that time it could explain hundreds of images."""
    return explain(source, out, model=tiny(), engine="reference", **options)


def explain_in_a_process(source, out):
    """What a killed process was doing: a worker reads, and there are four batches in a shard."""
    # A child of a fork server would start its worker by another one.
    multiprocessing.set_start_method("fork", force=True)
    explain_tiny(source, out, workers=1, batch_size=8, shard_size=32)


def explain_on_a_slow_disk(source, out, seed, said):
    """What an interrupted process was doing; what it says is what was there when the run had been left, and later."""
    multiprocessing.set_start_method("fork", force=True)
    write, moments = durable.write, random.Random(seed)

    def slow(*args, **options):
        time.sleep(moments.uniform(0, 0.1))
        write(*args, **options)

    durable.write = slow
    with terminal.stoppable():
        said.send("began")
        try:
            explain_tiny(source, out, workers=1, batch_size=8, shard_size=16, overlays="png")
            said.send("done")
        except KeyboardInterrupt:
            # The run has been left; a second signal that comes now is none of its business, and would end this instead.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            left = contents(out)
            said.send("stopped")
            time.sleep(0.3)
            said.send(contents(out) == left)


def maps(out):
    return zarr.open_array(out / "maps.zarr", mode="r")


def rows(out):
    return pq.read_table(out / "manifest.parquet").to_pylist()


def errors(out):
    return {row["source"]: row["error"] for row in rows(out)}


def images(count, *, seed=0):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1
