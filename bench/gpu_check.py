"""The check for a machine with a GPU: its tests, the agreement of rapids with cpu, and the time of every stage.

``make gpu-check OUT=FOLDER``, or ``python -m bench.gpu_check FOLDER`` in a checkout, writes FOLDER/<device>.json. It
needs torch, CuPy, cuML and pytest, and nothing installed of this package. The exit status is 0 if everything ran and
agreed, 1 if anything did not, 2 if there is no GPU; then nothing is written.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from cfcam_gpu import Config, engines, environment, layers, targets
from cfcam_gpu.capture import capture

from . import models
from .parity import compare
from .stages import Meter, cuda_meter, measure, stages

ROOT = Path(__file__).resolve().parents[1]
PRESETS = {"default": Config(), "paper": Config.paper()}


class Subject(NamedTuple):
    """A network on whose activations the engines are compared."""

    name: str
    build: Callable[[], nn.Module]
    layer: str
    norm: tuple[tuple[float, ...], tuple[float, ...]]


LITE0 = Subject("EfficientNet-Lite0, trained", models.lite0, models.LITE0_LAYER, models.LITE0_NORM)
RESNET50 = Subject("ResNet-50, random weights", models.resnet50, models.RESNET50_LAYER, models.IMAGENET_NORM)


def main(argv: list[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where <device>.json is written")
    folder = parser.parse_args(argv).folder
    if not torch.cuda.is_available():
        print("gpu-check: torch finds no CUDA device, so there is nothing to check", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    name = torch.cuda.get_device_name(device)
    record = {
        "device": name,
        "driver": driver(),
        **check("rapids", device, [LITE0, RESNET50], RESNET50, cuda_meter(), batches=(1, 64), repeats=30),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"gpu-check: {'passed' if record['passed'] else 'FAILED'}; {path}")
    return 0 if record["passed"] else 1


def check(
    engine: str,
    device: torch.device,
    compared: list[Subject],
    timed: Subject,
    meter: Meter,
    *,
    batches: tuple[int, ...],
    repeats: int,
    test: Callable[[], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The record of one run, as JSON takes it.

    A part that fails does not stop the others; ``passed`` says that all of them ran and are right. An engine is timed
    only where it agrees with the CPU's.

    Parameters
    ----------
    engine : str
    device : torch.device
    compared : list of Subject
        Left out, and said so, where what they come from is not installed.
    timed : Subject
    meter : Meter
    batches : tuple of int
    repeats : int
    test : callable, optional
        Runs the tests; ``run_tests`` by default.
    """
    described = environment.describe()
    missing = described["engines"][engine]

    def agreement() -> dict[str, Any]:
        if missing:
            return {"passed": False, "reason": missing}
        found = dict(agreements(engine, device, compared))
        return {"passed": all(one.get("passed", True) for one in found.values()), **found}

    agreed = _attempt(agreement)

    def timing() -> dict[str, Any]:
        model = timed.build().to(device)
        found = {}
        for batch in batches:
            images, kind = pictures(batch, timed.norm)
            works = stages(model, timed.layer, images.to(device), engine if agreed["passed"] else None)
            figures = measure(works, meter, warmup=3, repeats=repeats)
            found[f"batch {batch}"] = {"images": kind, **figures}
        note = {} if agreed["passed"] else {"reason": f"{engine} is not timed, because it is missing or disagrees"}
        return {"passed": agreed["passed"], **note, "network": timed.name, "repeats": repeats, **found}

    parts = {"tests": _attempt(test or run_tests), "agreement": agreed, "stages": _attempt(timing)}
    return {
        "passed": all(part["passed"] for part in parts.values()),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **described,
        **parts,
    }


def _attempt(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return part()
    except Exception as error:  # whatever it is, the record says so, and has the other parts
        traceback.print_exc()
        return {"passed": False, "reason": f"{type(error).__name__}: {error}"}


def agreements(engine: str, device: torch.device, subjects: list[Subject]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each subject's and each preset's comparison, and that of random activations with dead channels."""
    for subject in subjects:
        try:
            model = subject.build().to(device)
        except ImportError as error:
            yield subject.name, {"reason": f"left out: {error}"}
            continue
        images, kind = pictures(6, subject.norm)
        layer, request = layers.find(model, subject.layer), targets.read(None, len(images))
        captured = capture(model, layer, images.to(device), request)
        yield subject.name, {"images": kind, **_presets(engine, captured.activations, captured.gradients)}
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(4, 512, 14, 14, generator=generator).relu()
    activations *= torch.rand(4, 512, 1, 1, generator=generator) > 0.3
    gradients = torch.randn(4, 1, 512, 14, 14, generator=generator)
    yield "random", _presets(engine, activations.to(device), gradients.to(device))


def _presets(engine: str, activations: torch.Tensor, gradients: torch.Tensor) -> dict[str, Any]:
    running = engines.choose(engine, activations.device)
    found: dict[str, Any] = {
        name: compare(activations, gradients[:, 0], config, running.run(activations, gradients, config))
        for name, config in PRESETS.items()
    }
    return {"passed": all(one["passed"] for one in found.values()), **found}


def pictures(count: int, norm: tuple[tuple[float, ...], tuple[float, ...]]) -> tuple[torch.Tensor, str]:
    """(count, 3, 224, 224) float32 photographs, or smooth noise where their packages are missing; and which of them."""
    try:
        return models.photographs(count, norm), "photographs"
    except ImportError:
        noise = torch.randn(count, 3, 14, 14, generator=torch.Generator().manual_seed(0))
        return functional.interpolate(noise, (224, 224), mode="bicubic"), "smooth noise"


def run_tests() -> dict[str, Any]:
    """The tests marked ``gpu``, in a process of their own, where a missing GPU or library is a failure."""
    if importlib.util.find_spec("pytest") is None:
        return {"passed": False, "reason": "no test ran, because pytest is not installed: pip install pytest"}
    # The project's options name plugins that a GPU machine may lack.
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-q", "-rfEs", "-o", "addopts="]
    command += ["-W", "ignore::pytest.PytestConfigWarning"]
    environ = {**os.environ, "CFCAM_REQUIRE_GPU": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print(done.stdout)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"passed": done.returncode == 0, "summary": lines[-1] if lines else "", "failed": failed}


def driver() -> str | None:
    """The NVIDIA driver's release, or None where nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


if __name__ == "__main__":
    sys.exit(main())
