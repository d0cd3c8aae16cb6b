"""The service under load: many clients at once, every map that it returns checked against the library's.

Beside the load alone: a rolling restart under it, which must lose no request, and memory over thousands of requests.

``python -m bench.service`` measures and writes a JSON file; ``--show FILE`` prints one. See bench/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import datetime
import io
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from cfcam_gpu.image_files import photos
from cfcam_gpu.latency.machine import machine
from cfcam_gpu.latency.timing import keep_freed_memory
from cfcam_gpu.pipelines import ray_session
from cfcam_gpu.results import durable

from .latency import ROOT, record_path, versions

#: A map is wrong where it differs by more from the library's at one of its places: beyond float16's rounding, and that
#: of convolutions over batches of other sizes.
TOLERANCE = 0.002
#: By how much memory may grow, as a fraction, after the first fifth of many requests.
GROWTH = 0.05
#: How often memory is looked at.
STEPS = 10
#: Seconds of load before anything is counted.
WARM_UP = 3.0
#: The shorter side of the photographs that are sent, so that JPEG's decoding is no more than it must be.
SIDE = 256


class Job(NamedTuple):
    """An image as JPEG, the class that is asked for, None for the predicted one, and the map that it must get."""

    data: bytes
    target: int | None
    map: NDArray[np.float32]


def jobs(answering: Any, classes: int) -> list[Job]:
    """The photographs of the demonstration, each with its predicted class and its `classes` likeliest by name."""
    found = []
    for path in photos.samples():
        image = photos.read(path)
        scale = SIDE / min(image.size)
        file = io.BytesIO()
        image.resize((round(image.width * scale), round(image.height * scale))).save(file, "JPEG", quality=90)
        pixels = answering.model.preparation.normalize(answering.decode(file.getvalue())[None])
        first = answering.explainer(pixels)
        for target in (None, *first.logits[0].topk(classes).indices.tolist()):
            result = first if target is None else answering.explainer(pixels, target)
            found.append(Job(file.getvalue(), target, result.maps[0].numpy()))
    return found


def _passed(end: float) -> bool:
    return time.perf_counter() >= end


def throughput(call: Callable[[torch.Tensor], object], images: torch.Tensor, seconds: float) -> float:
    """Images a second."""
    call(images)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        call(images)
        count += len(images)
    return count / (time.perf_counter() - began)


class Seen:
    """What the clients of one service saw."""

    def __init__(self) -> None:
        self.milliseconds: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.differences: list[float] = []

    def record(self, seconds: float) -> dict[str, Any]:
        """As JSON has it."""
        times = np.array(self.milliseconds) if self.milliseconds else np.array([np.nan])
        percentiles = dict(zip(("p50", "p95", "p99"), np.percentile(times, [50, 95, 99]).round(1).tolist()))
        return {
            "seconds": round(seconds, 1),
            "requests": sum(self.statuses.values()),
            "statuses": dict(self.statuses),
            "images_per_second": round(len(self.milliseconds) / seconds, 2),
            "latency_ms": percentiles,
            "maps_checked": len(self.differences),
            "maps_wrong": sum(difference > TOLERANCE for difference in self.differences),
            "largest_difference": max(self.differences, default=None),
        }


async def load(
    url: str, work: list[Job], clients: int, done: Callable[[], bool], *, warm_up: float = 0.0
) -> dict[str, Any]:
    """Have `clients` ask one after another, each as soon as it is answered, until `done`."""
    import aiohttp

    turn: Iterator[Job] = itertools.cycle(work)
    seen = Seen()
    began = time.perf_counter() + warm_up

    async def client(session: aiohttp.ClientSession) -> None:
        while not done():
            asked, job = time.perf_counter(), next(turn)
            query = {} if job.target is None else {"target": str(job.target)}
            try:
                async with session.post(f"{url}explain", data=job.data, params=query) as answer:
                    status, body = str(answer.status), await answer.read()
            except aiohttp.ClientError as error:
                status, body = type(error).__name__, b""
            took = 1000 * (time.perf_counter() - asked)
            if asked < began and status == "200":
                continue
            seen.statuses[status] += 1
            if status == "200":
                seen.milliseconds.append(took)
                (found,) = json.loads(body)["explanations"]
                values = np.frombuffer(base64.b64decode(found["map"]["data"]), "<f2").reshape(found["map"]["shape"])
                seen.differences.append(round(float(np.abs(values.astype(np.float32) - job.map).max()), 5))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return seen.record(time.perf_counter() - began)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The model by itself, then the service, at batch 1 and at the batch size that is asked for."""
    ray_session.prepare()
    from cfcam_gpu.named_models.options import Settings
    from cfcam_gpu.service.backend import Backend, Limits
    from cfcam_gpu.service.deployment import Options, running

    keep_freed_memory()
    # The same for the replicas, which inherit them.
    os.environ |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
    answering = Backend(Settings(model=options.model, device="cpu"), Limits())
    work = jobs(answering, options.classes)
    pixels = [answering.decode(job.data) for job in work]
    images = answering.model.preparation.normalize(torch.stack(pixels))
    sizes = (1, options.batch_size)
    alone: dict[str, dict[str, float]] = {"forward": {}, "explainer": {}}
    for size in sizes:
        batch = images[torch.arange(size) % len(images)]
        with torch.no_grad():
            alone["forward"][str(size)] = round(throughput(answering.model.module, batch, options.alone), 2)
        alone["explainer"][str(size)] = round(throughput(answering.explainer, batch, options.alone), 2)
    service = {}
    for size in sizes:
        with running(Options(settings=answering.settings, batch_size=size), port=options.port) as started:
            end = time.perf_counter() + WARM_UP + options.seconds
            done = partial(_passed, end)
            service[str(size)] = asyncio.run(load(started.url, work, options.clients, done, warm_up=WARM_UP))
            if size == options.batch_size:
                memory = over_requests(started.url, work, options.clients, options.requests)
    with running(Options(settings=answering.settings, replicas=2), port=options.port) as started:
        rolling = restarted(started, work, options.clients)
    ratios = {name: found[str(sizes[1])] / found["1"] for name, found in alone.items()}
    ratios["service"] = service[str(sizes[1])]["images_per_second"] / service["1"]["images_per_second"]
    return {
        "benchmark": "service",
        "date": datetime.date.today().isoformat(),
        "machine": {**machine(), "load_average_before": round(options.load_before, 2)},
        "versions": {**versions([]), **{name: _version(name) for name in ("ray", "aiohttp")}},
        "settings": {
            "model": options.model,
            "clients": options.clients,
            "batch_sizes": list(sizes),
            "tolerance": TOLERANCE,
        },
        "images_per_second": alone,
        "service": service,
        "rolling_restart": rolling,
        "memory": memory,
        "batch_over_single": {name: round(ratio, 2) for name, ratio in ratios.items()},
    }


def restarted(service: Any, work: list[Job], clients: int) -> dict[str, Any]:
    """What clients see while all replicas are replaced one after another, and then one is killed."""

    def replace() -> None:
        before = set(processes("ServeReplica"))
        time.sleep(WARM_UP)
        service.restart()
        while before & set(processes("ServeReplica")):
            time.sleep(0.1)
        next(iter(processes("ServeReplica").values())).kill()
        time.sleep(WARM_UP)

    with ThreadPoolExecutor(1) as pool:
        replacing = pool.submit(replace)
        seen = asyncio.run(load(service.url, work, clients, replacing.done))
        replacing.result()
    return seen


def over_requests(url: str, work: list[Job], clients: int, count: int) -> dict[str, Any]:
    """The resident memory, in MiB, of the server and the replicas after each of STEPS parts of `count` requests."""
    found = []
    for step in range(1, STEPS + 1):
        # Each client that goes on takes one of the requests.
        left = iter(range(count // STEPS))
        seen = asyncio.run(load(url, work, clients, lambda left=left: next(left, None) is None))  # type: ignore[misc]
        there = [*processes("ProxyActor").values(), *processes("ServeReplica").values()]
        mib = [one.memory_info().rss >> 20 for one in there]
        found.append({"requests": step * (count // STEPS), "mib": mib, "statuses": seen["statuses"]})
    return {"requests": count, "steps": found}


def processes(title: str) -> dict[int, psutil.Process]:
    """Ray's processes of this title among this one's children, by their number."""
    children = psutil.Process().children(recursive=True)
    found = {}
    for child in children:
        with suppress(psutil.Error):
            if f"ray::{title}" in " ".join(child.cmdline()):
                found[child.pid] = child
    return found


def _version(package: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(package)


def show(record: dict[str, Any], console: Console) -> None:
    """Print a record."""
    table = Table(
        "batch size", "forward", "explainer", "service", "p50", "p95", "p99", "answers", "wrong maps", box=None
    )
    for size, found in record["service"].items():
        alone = record["images_per_second"]
        answers = ", ".join(f"{count} x {status}" for status, count in found["statuses"].items())
        table.add_row(
            size,
            *(f"{rates[size]:.1f}/s" for rates in (alone["forward"], alone["explainer"])),
            f"{found['images_per_second']:.1f}/s",
            *(f"{value:.0f} ms" for value in found["latency_ms"].values()),
            answers,
            str(found["maps_wrong"]),
        )
    ratios = record["batch_over_single"]
    table.add_row("ratio", *(f"{ratios[name]:.2f}" for name in ("forward", "explainer", "service")))
    console.print(table)
    found = record["rolling_restart"]
    answers = ", ".join(f"{count} x {status}" for status, count in found["statuses"].items())
    console.print(
        f"rolling restart: {answers}; p99 {found['latency_ms']['p99']:.0f} ms, {found['maps_wrong']} wrong maps"
    )
    first, last = (record["memory"]["steps"][i] for i in (1, -1))
    console.print(
        f"memory: {first['mib']} MiB after {first['requests']} requests, {last['mib']} after {last['requests']}"
    )


def passed(record: dict[str, Any]) -> bool:
    """No wrong map, no answer of 5xx and no broken connection; twice the throughput where the forward has it.

    In the rolling restart all are answered; memory grows by no more than GROWTH after the first fifth of the requests.
    """
    clean = all(
        found["maps_wrong"] == 0 and all(status[0] in "24" for status in found["statuses"])
        for found in record["service"].values()
    )
    rolling, steps = record["rolling_restart"], record["memory"]["steps"]
    lossless = rolling["maps_wrong"] == 0 and set(rolling["statuses"]) == {"200"}
    flat = sum(steps[-1]["mib"]) <= (1 + GROWTH) * sum(steps[1]["mib"])
    ratios = record["batch_over_single"]
    return clean and lossless and flat and (ratios["forward"] < 2 or ratios["service"] >= 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of load at each batch size")
    parser.add_argument("--alone", type=float, default=10, help="seconds for each figure of the model by itself")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8, help="beside batch 1")
    parser.add_argument("--requests", type=int, default=5000, help="over which memory must be flat")
    parser.add_argument("--classes", type=int, default=3, help="asked for by index, of each photograph")
    parser.add_argument("--model", default="lite0")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--out", type=Path, help="default: bench/results/<device>-service.json")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print a record, measure nothing")
    options = parser.parse_args()
    console = Console()
    if options.show:
        show(json.loads(options.show.read_text()), console)
        return
    options.load_before = os.getloadavg()[0]
    record = measure(options)
    show(record, console)
    out = options.out or record_path(ROOT / "bench" / "results", record["machine"], "service")
    with durable.replacing(out) as file:
        file.write(json.dumps(record, indent=1).encode() + b"\n")
    if not passed(record):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
