"""All that only a machine with a GPU can show, part by part, in one record.

``make gpu-check OUT=FOLDER``, or ``python -m bench.gpu_check FOLDER`` in a checkout, writes FOLDER/<device>.json, anew
behind each part and each cell of the benchmark, so that a run that is cut off loses nothing. It needs torch, CuPy, cuML
and pytest, and nothing installed of this package. ``--only`` runs some parts, and the record keeps the others. The exit
status is 0 if all parts that ran are right, 1 if any is not, 2 if there is no GPU; then nothing is written.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cfcam_gpu import Config, engines, environment
from cfcam_gpu.engines import EngineResult
from cfcam_gpu.latency.stages import Meter, cuda_meter, measure, stages
from cfcam_gpu.latency.timing import to_json

from . import gpu_entries, gpu_latency, gpu_tests, kernel_calls, nvidia_tools
from .entries import NETWORKS, Network
from .gpu_entries import Scene, taken_by
from .latency import commit
from .models import pictures
from .parity import compare

PRESETS = {"default": Config(), "paper": Config.paper(), "two-level": Config.two_level()}
#: In the order in which they run; what is needed first comes first.
PARTS = ("agreement", "tests", "latency", "stages", "sanitizer", "bandwidth")
ENGINES = ("fused", "rapids")
#: Images of the largest batch whose stages are timed with ``rapids``, which takes one after the other.
FEW = 8

Report = Callable[[dict[str, Any]], None]
Part = Callable[[Report], dict[str, Any]]


def main(argv: list[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where <device>.json is written")
    parser.add_argument("--only", type=_parts, default=PARTS, metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--engines", type=lambda given: given.split(","), default=ENGINES, help="of fused,rapids")
    parser.add_argument("--minutes", type=float, default=9.0, help="no part is begun after so many (default: 9)")
    parser.add_argument("--authors-code", type=Path, metavar="FOLDER", help="a checkout of the published code")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the latency cells that the record has, where they are of this commit and these packages",
    )
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("gpu-check: torch finds no CUDA device, so there is nothing to check", file=sys.stderr)
        return 2
    end = time.monotonic() + 60 * options.minutes

    def minutes_left() -> float:
        return (end - time.monotonic()) / 60

    device = torch.device("cuda", torch.cuda.current_device())
    name = torch.cuda.get_device_name(device)
    path = options.folder / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    options.folder.mkdir(parents=True, exist_ok=True)
    record = json.loads(path.read_text()) if path.exists() else {}
    record |= {"device": name, "driver": driver(), **environment.describe()}
    known = record.get("latency") if options.resume else None
    chosen = parts(options.engines, device, cuda_meter(), minutes_left, options.authors_code, known)
    run({part: chosen[part] for part in PARTS if part in options.only}, record, partial(save, path), minutes_left)
    passed = all(record[part]["passed"] is not False for part in options.only)
    print(f"gpu-check: {'passed' if passed else 'FAILED'}; {path}")
    return 0 if passed else 1


def _parts(given: str) -> list[str]:
    chosen = given.split(",")
    unknown = set(chosen) - set(PARTS)
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(PARTS)}; got {', '.join(sorted(unknown))}")
    return chosen


def save(path: Path, record: dict[str, Any]) -> None:
    """Write the record, in one step: a run may be killed at any time."""
    new = path.with_suffix(".new")
    new.write_text(to_json(record))
    new.replace(path)


def parts(
    names: list[str],
    device: torch.device,
    meter: Meter,
    minutes_left: Callable[[], float],
    authors: Path | None = None,
    known: dict[str, Any] | None = None,
) -> dict[str, Part]:
    """All parts, ready to run.

    Parameters
    ----------
    names : list of str
        Engines; a missing one is a failure.
    device : torch.device
    meter : Meter
    minutes_left : callable
    authors : Path, optional
        A checkout of the authors' published code.
    known : dict, optional
        The part "latency" of an earlier record, to be completed.
    """
    subjects = [NETWORKS["efficientnet-lite0"], NETWORKS["resnet50"]]
    return {
        "agreement": lambda report: agreement(names, device, subjects, report),
        "tests": lambda report: gpu_tests.run("rapids" in names, report, seconds=60 * min(5.0, minutes_left())),
        "latency": lambda report: gpu_latency.measure(
            device, meter, report, authors=authors, known=known, minutes_left=minutes_left
        ),
        "stages": lambda report: timing(
            names, device, NETWORKS["resnet50"], meter, batches=(1, 8, 64, 256), repeats=11
        ),
        "sanitizer": lambda report: nvidia_tools.sanitize(60 * min(4.0, minutes_left())),
        "bandwidth": lambda report: nvidia_tools.bandwidth(60 * min(2.0, minutes_left())),
    }


def run(
    chosen: dict[str, Part],
    record: dict[str, Any],
    keep: Report,
    minutes_left: Callable[[], float],
) -> None:
    """Run parts one after the other, each into its place in `record`, which `keep` gets at every step.

    A part that fails does not stop the others. One that no time is left for keeps what the record has of it.
    """
    for name, part in chosen.items():
        if minutes_left() <= 0:
            record.setdefault(name, {"passed": False, "reason": "not begun: no time was left"})
            print(f"gpu-check: {name}: no time left", flush=True)
        else:
            print(f"gpu-check: {name}, {minutes_left():.1f} minutes left", flush=True)
            start = time.monotonic()
            origin = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit()}

            def report(found: dict[str, Any], name: str = name, origin: dict[str, Any] = origin) -> None:
                record[name] = {**found, "passed": False, "reason": "cut off", **origin}
                keep(record)

            report({})
            found = _attempt(part, report)
            record[name] = {**found, **origin, "seconds": round(time.monotonic() - start, 1)}
            word = {True: "passed", False: "FAILED", None: "not run"}[found["passed"]]
            print(f"gpu-check: {name}: {word} {found.get('reason', '')}", flush=True)
        record["passed"] = all(record.get(part, {"passed": False})["passed"] is not False for part in PARTS)
        record["not_run"] = [part for part in PARTS if record.get(part, {"passed": None})["passed"] is None]
        keep(record)


def _attempt(part: Part, report: Report) -> dict[str, Any]:
    try:
        return part(report)
    except Exception as error:  # whatever it is, the record says so, and has the other parts
        traceback.print_exc()
        return {"passed": False, "reason": f"{type(error).__name__}: {error}"}


def agreement(names: list[str], device: torch.device, subjects: list[Network], report: Report) -> dict[str, Any]:
    """Of each engine, whether it gives the CPU's labels and maps on each subject."""
    found: dict[str, Any] = {}
    for name in names:
        missing = engines.load(name).why_missing()
        if missing:
            found[name] = {"passed": False, "reason": missing}
        else:
            compared = dict(agreements(name, device, subjects))
            found[name] = {"passed": all(one.get("passed", True) for one in compared.values()), **compared}
        report(found)
    return {"passed": all(one["passed"] for one in found.values()), **found}


def agreements(engine: str, device: torch.device, subjects: list[Network]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each subject's comparison by preset and batch, and that of random activations with dead channels."""
    running = engines.choose(engine, device)
    for network in subjects:
        try:
            model = network.build().to(device)
        except ImportError as error:
            yield network.name, {"reason": f"left out: {error}"}
            continue
        images, kind = pictures(16, network.norm)
        scene = Scene(network, model, images.to(device), 0.0, engine, None)
        found = {}
        for name, config in PRESETS.items():
            taken = taken_by(config, scene)
            for batch in (1, 16):
                given = taken.activations[:batch], taken.gradients[:batch]
                found[f"{name}, batch {batch}"] = _compare(running, *given, config)
        yield network.name, {"passed": all(one["passed"] for one in found.values()), "images": kind, **found}
    activations, gradients = (tensor.to(device) for tensor in kernel_calls.draw((4, 1, 512, 14, 14)))
    found = {name: _compare(running, activations, gradients, config) for name, config in PRESETS.items()}
    yield "random", {"passed": all(one["passed"] for one in found.values()), **found}


def _compare(
    engine: engines.Engine, activations: torch.Tensor, gradients: torch.Tensor, config: Config
) -> dict[str, Any]:
    """The engine's result on the default stream, beside the CPU's; and whether a side stream gives the same bytes."""
    found = engine.run(activations, gradients, config)
    report = compare(activations, gradients[:, 0], config, found)
    if activations.device.type == "cuda":
        same = _same(found, _on_a_side_stream(lambda: engine.run(activations, gradients, config)))
        report |= {"side_stream_equal": same, "passed": report["passed"] and same}
    return report


def _same(first: EngineResult, second: EngineResult) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second))


def _on_a_side_stream(work: Callable[[], EngineResult]) -> EngineResult:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = work()
    stream.synchronize()
    return found


def timing(
    names: list[str], device: torch.device, network: Network, meter: Meter, *, batches: tuple[int, ...], repeats: int
) -> dict[str, Any]:
    """The time of every stage of an explanation, by levels, batch and engine."""
    model = network.build().to(device, memory_format=torch.channels_last)
    found: dict[str, Any] = {}
    with gpu_entries.precision("tf32"):
        for preset, config in gpu_entries.PRESETS.items():
            for batch in batches:
                images, kind = pictures(batch, network.norm)
                images = images.to(device).contiguous(memory_format=torch.channels_last)
                for name in names:
                    if name == "rapids" and batch > FEW:
                        continue
                    works = stages(model, network.layer, images, name, config)
                    timed = measure(works, meter, warmup=3, repeats=repeats)
                    found[f"{preset}, batch {batch}, {name}"] = {"images": kind, **timed}
    return {"passed": True, "network": network.name, "precision": "tf32", "repeats": repeats, **found}


def driver() -> str | None:
    """The NVIDIA driver's release, or None where nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


if __name__ == "__main__":
    sys.exit(main())
