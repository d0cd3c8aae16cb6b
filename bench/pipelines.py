"""What ``cfcam_gpu.pipelines.run`` costs beside the bare explainer, and whether its memory stays flat.

``python -m bench.pipelines overhead`` explains a folder of photographs (JPEG, 500 x 375) with ``run`` and with the
bare explainer in a loop over the same reader (maps as float16, nothing written), and does the parts of it alone: it
decodes them, and explains them as tensors that are there already; in turn, round by round. ``throughput`` is images a
second, ``kept`` that of ``run`` over the bare loop's of its round. ``host_seconds`` is the processors' time that an
image costs in each: where a model runs on the CPU it has all cores already, so that what else is done to an image is
taken from it, and ``at_most`` is what ``run`` can keep of the throughput however well it is arranged.

``python -m bench.pipelines memory`` explains a folder of 50,000 small images with a network of two channels and notes
the resident memory of the process and of its worker with every shard. ``growth_kib_per_1000`` is a line's slope from a
tenth of the way on.

Each writes its part of results/MACHINE-pipelines.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cfcam_gpu import CFCAM
from cfcam_gpu.image_files import photos
from cfcam_gpu.image_files.photos import Preparation
from cfcam_gpu.latency.machine import CoresTime, cores_time, machine, taken_by_others
from cfcam_gpu.latency.timing import keep_freed_memory, summary, to_json
from cfcam_gpu.named_models import loading
from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.pipelines import Photographs, run
from cfcam_gpu.pipelines.command import default_workers

from .latency import record_path, versions, write

RESULTS = Path(__file__).parent / "results"
TINY = Preparation(32, 36, Image.Resampling.BILINEAR, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.pipelines", description=__doc__)
    parser.add_argument("part", choices=("overhead", "memory"))
    parser.add_argument("--model", default="lite0", help="as for cfcam-gpu run; overhead")
    parser.add_argument("--device", default="auto", help="overhead")
    parser.add_argument("--images", type=int, help="default: 128 for overhead, 50,000 for memory")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5, help="overhead")
    parser.add_argument("--workers", type=int, help="default: cfcam-gpu run's for overhead, 1 for memory")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the record")
    options = parser.parse_args(argv)
    options.images = options.images or (128 if options.part == "overhead" else 50_000)
    if options.workers is None:
        options.workers = default_workers() if options.part == "overhead" else 1
    where = machine()
    path = record_path(options.out, where, "pipelines")
    record = json.loads(path.read_text()) if path.exists() else {"benchmark": "pipelines"}
    settings = {key: getattr(options, key) for key in ("images", "batch_size", "workers")}
    with tempfile.TemporaryDirectory() as folder:
        found = (overhead if options.part == "overhead" else memory)(Path(folder), options)
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


def overhead(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    keep_freed_memory()
    loaded = loading.load_explainer(Settings(model=options.model, device=options.device))
    wants, explain = loaded.model.preparation, loaded.explain
    source = folder / "photographs"
    _photographs(source, options.images)
    dataset = Photographs(source, wants, workers=options.workers)
    batches = [batch.images for batch in dataset.batches(options.batch_size)]
    ready = [wants.normalize(batch.to(loaded.device)) for batch in batches]

    def bare() -> None:
        for batch in dataset.batches(options.batch_size):
            explain(wants.normalize(batch.images.to(loaded.device))).maps.half().cpu()

    def explain_only() -> None:
        for batch in ready:
            explain(batch).maps.half().cpu()

    def decode() -> None:
        for _ in dataset.batches(options.batch_size):
            pass

    def whole() -> None:
        name = f"{len(list(folder.iterdir()))}"
        found = run(explain, dataset, folder / name, batch_size=options.batch_size)
        if found.failed:
            raise RuntimeError(f"{found.failed} of {found.images} images failed")

    calls = {"bare": bare, "run": whole, "explain": explain_only, "decode": decode}
    explain(ready[0])
    before, rounds = cores_time(), []
    for _ in range(options.rounds):
        rounds.append({name: _timed(call) for name, call in calls.items()})
    after = cores_time()
    host = {name: float(np.median([one[name][1] for one in rounds])) / options.images for name in calls}
    return {
        "model": options.model,
        "device": str(loaded.device),
        "throughput": {name: summary([options.images / one[name][0] for one in rounds]) for name in calls},
        "kept": summary([one["bare"][0] / one["run"][0] for one in rounds]),
        "host_seconds": {name: round(seconds, 5) for name, seconds in host.items()},
        "at_most": round(host["bare"] / host["run"], 3) if loaded.device.type == "cpu" else None,
        "taken_by_others": _others(before, after, rounds),
    }


def _timed(call: Callable[[], None]) -> tuple[float, float]:
    """Seconds that passed, and seconds of the processors, those of the workers included."""
    began, spent = time.perf_counter(), os.times()
    call()
    now = os.times()
    return time.perf_counter() - began, sum(late - early for early, late in zip(spent[:4], now[:4]))


def _others(before: CoresTime | None, after: CoresTime | None, rounds: list[dict[str, tuple[float, float]]]) -> Any:
    if before is None or after is None:
        return None
    # The workers' time is this benchmark's, too.
    own = before.own + sum(spent for one in rounds for _, spent in one.values())
    return taken_by_others(before, after._replace(own=own))


def _photographs(folder: Path, count: int) -> None:
    """Crops of the demonstration's photographs, each another one."""
    folder.mkdir()
    originals = [photos.read(path).resize((600, 450)) for path in photos.samples()]
    for number in range(count):
        left, top = number // 5 * 7 % 100, number // 5 * 3 % 75
        image = originals[number % 5].crop((left, top, left + 500, top + 375))
        image.save(folder / f"{number:06d}.jpg", quality=90)


def memory(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    source = folder / "images"
    source.mkdir()
    draw = np.random.default_rng(0)
    for number in range(options.images):
        Image.fromarray(draw.integers(0, 256, (36, 36, 3), np.uint8)).save(
            source / f"{number:06d}.png", compress_level=1
        )
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 16, 16),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(2, 5),
    ).eval()
    seen: list[tuple[int, int, int]] = []

    def progress(done: int, total: int | None) -> None:
        workers = sum(_resident(str(child.pid)) for child in multiprocessing.active_children())
        seen.append((done, _resident("self"), workers))

    dataset = Photographs(source, TINY, workers=options.workers)
    began = time.perf_counter()
    run(CFCAM(network, "1"), dataset, folder / "out", batch_size=options.batch_size, progress=progress)
    seconds = time.perf_counter() - began
    # At the first nothing has run, and at the last the worker has ended.
    done, own, workers = np.array(seen[1:-1]).T
    late = done >= options.images / 10
    every = max(1, math.ceil(len(done) / 50))
    return {
        "seconds": round(seconds, 1),
        "images": done[::every].tolist(),
        "resident_mib": np.round(own[::every] / 1024, 1).tolist(),
        "workers_mib": np.round(workers[::every] / 1024, 1).tolist(),
        "growth_kib_per_1000": {
            name: round(float(np.polyfit(done[late] / 1000, kib[late], 1)[0]), 1)
            for name, kib in (("run", own), ("workers", workers))
        },
    }


def _resident(process: str) -> int:
    """KiB; 0 for one that has just ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return int((re.findall(r"^VmRSS:\s+(\d+)", text, re.MULTILINE) or [0])[0])


if __name__ == "__main__":
    sys.exit(main())
