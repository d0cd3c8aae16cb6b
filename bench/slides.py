"""What ``cfcam-gpu slide`` costs beside the bare explainer, and whether its memory stays flat.

``python -m bench.slides throughput`` explains a slide of stained tissue (JPEG tiles) by the command's job, from the
file to its pyramid, table, pictures and page, and explains the same tiles, which are there already as the model takes
them, in a loop of the bare explainer; in turn, round by round. ``tiles_per_second`` are of each, ``kept`` is the job's
over the loop's of its round, ``host_seconds`` the processors' time that a tile costs in each, the readers' included:
where a model runs on the CPU it has all cores already, so that what reading costs is taken from it. The
round counts if the job's map is the one that the loop's maps make; ``difference`` is how far they are apart at most.

``python -m bench.slides memory`` explains a slide of 40,000 x 40,000 pixels and notes the largest resident memory of
the process and of all of its readers with it: by a network of two channels at the slide's own scale, where the map is
largest, and by lite0 at a coarse one, where a network of its size is.

Each writes its part of results/MACHINE-slides.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile
import torch
from torch import nn

from cfcam_gpu.latency.machine import machine
from cfcam_gpu.latency.timing import keep_freed_memory, summary, to_json
from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.pipelines.found import Found
from cfcam_gpu.slides import job, table
from cfcam_gpu.slides.classes import of_classes
from cfcam_gpu.slides.stitching import Stitching
from cfcam_gpu.slides.work import Work
from tests.slides.files import big_slide

from .latency import record_path, versions, write
from .pipelines import _timed

RESULTS = Path(__file__).parent / "results"
#: How far the job's map may be from the one that the bare explainer's make.
TOLERANCE = 1e-5
#: Networks whose memory is measured, and the micrometres of a tile's pixels: 0.5 is the slide's own scale.
MEASURED = {"bench.slides:tiny": 0.5, "lite0": 4.0}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.slides", description=__doc__)
    parser.add_argument("part", choices=("throughput", "memory"))
    parser.add_argument("--model", default="lite0", help="as for cfcam-gpu slide; throughput")
    parser.add_argument("--device", default="auto", help="throughput")
    parser.add_argument("--side", type=int, help="of the slide in pixels; default: 4,000 for throughput, else 40,000")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="throughput")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the record")
    options = parser.parse_args(argv)
    options.side = options.side or (4_000 if options.part == "throughput" else 40_000)
    where = machine()
    path = record_path(options.out, where, "slides")
    record = json.loads(path.read_text()) if path.exists() else {"benchmark": "slides"}
    settings = {key: getattr(options, key) for key in ("side", "batch_size", "workers")}
    with tempfile.TemporaryDirectory() as folder:
        found = (throughput if options.part == "throughput" else memory)(Path(folder), options)
    record[options.part] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": where,
        "versions": versions([]),
        "settings": settings,
        **found,
    }
    write(record, path)
    print(to_json(found))
    print(f"written to {path}")
    return 0


def throughput(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    keep_freed_memory()
    source = big_slide(folder / "slide.tif", options.side)
    asked = job.Job(
        slides=[source],
        out=folder,
        settings=Settings(model=options.model, device=options.device),
        classes=["0"],
        batch_size=options.batch_size,
        workers=options.workers,
    )
    ready = job.check(asked)
    explain, device = ready.explainer(), ready.by.device
    with Work(source, folder / "first", ready.asked, _never) as work:
        plan, batches = work.plan, work.batches()
        tiles = list(work.read(batches))
    last: list[Found] = []

    def bare() -> None:
        last.clear()
        last.extend(of_classes(explain, images.to(device), [0])[0] for images in tiles)

    outs: list[Path] = []

    def whole() -> None:
        outs.append(folder / f"out-{len(outs)}")
        (outcome,) = job.check(_into(asked, outs[-1])).execute(lambda *told: None)
        if outcome.error is not None or outcome.failed:
            raise RuntimeError(f"the slide failed: {outcome.error or outcome.failed}")

    explain(tiles[0].to(device), [0] * len(tiles[0]))
    rounds, differences = [], []
    for _ in range(options.rounds):
        rounds.append({"bare": _timed(bare), "slide": _timed(whole)})
        expected = _stitched(Stitching(plan, 1), batches, last)
        found = tifffile.imread(outs[-1] / "slide" / "map-0.ome.tif")[0]
        differences.append(float(np.nanmax(np.abs(found - expected))))
        if differences[-1] > TOLERANCE or not np.array_equal(np.isnan(found), np.isnan(expected)):
            raise RuntimeError(f"the slide's map is not the one of the bare explainer's: {differences[-1]} apart")
    count = len(plan)
    return {
        "model": options.model,
        "device": str(device),
        "tiles": count,
        "tiles_per_second": {name: summary([count / one[name][0] for one in rounds]) for name in rounds[0]},
        "kept": summary([one["bare"][0] / one["slide"][0] for one in rounds]),
        "host_seconds": {
            name: round(float(np.median([one[name][1] for one in rounds])) / count, 5) for name in rounds[0]
        },
        "difference": max(differences),
    }


def _never(images: torch.Tensor, classes: object) -> list[Found]:
    raise AssertionError("the class is given")


def _into(asked: job.Job, out: Path) -> job.Job:
    return job.Job(**{**vars(asked), "out": out})


def _stitched(stitching: Stitching, batches: list[range], found: list[Found]) -> np.ndarray[Any, Any]:
    whole = np.full((stitching.height, stitching.width), np.nan, np.float32)

    def take(index: int) -> None:
        for first, values in stitching.finished(index):
            whole[first : first + values.shape[2]] = values[0, 0]

    for batch, of_batch in zip(batches, found):
        for place, (index, evidence) in enumerate(zip(batch, table.evidence(of_batch))):
            take(index)
            stitching.add(index, evidence[None], of_batch.probability[place : place + 1].numpy())
    take(len(stitching.plan))
    return whole


def tiny() -> nn.Module:
    """A network of two channels, for 5 classes."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 2, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 5)
    ).eval()


def memory(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    source = big_slide(folder / "slide.tif", options.side)
    found = {}
    # The larger network is the later one: what it takes is not in the other's peak.
    for model, mpp in MEASURED.items():
        asked = job.Job(
            slides=[source],
            out=folder / model.replace(":", "-"),
            settings=Settings(model=model, device="cpu"),
            classes=["0"],
            mpp=mpp,
            batch_size=options.batch_size,
            workers=options.workers,
        )
        found[model] = {"mpp": mpp, **_watched(asked)}
    return {"networks": found}


def _watched(asked: job.Job) -> dict[str, Any]:
    """Tiles, seconds and the largest resident memory of a job."""
    peaks, ended = [0, 0], threading.Event()

    def watch() -> None:
        process = psutil.Process()
        while not ended.wait(0.02):
            own = process.memory_info().rss
            readers = 0
            for reader in process.children():
                try:
                    readers += reader.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peaks[:] = max(peaks[0], own), max(peaks[1], own + readers)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        began = time.perf_counter()
        (outcome,) = job.check(asked).execute(lambda *told: None)
        seconds = time.perf_counter() - began
    finally:
        ended.set()
        watching.join()
    if outcome.error is not None:
        raise RuntimeError(outcome.error)
    return {
        "tiles": outcome.tiles,
        "seconds": round(seconds, 1),
        "peak_mib": {"process": round(peaks[0] / 2**20, 1), "with_readers": round(peaks[1] / 2**20, 1)},
    }


if __name__ == "__main__":
    sys.exit(main())
