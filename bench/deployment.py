"""Exported files beside the library: how far their maps are, and what they cost.

``python -m bench.deployment`` exports :data:`bench.deployment_networks.NETWORKS`, plays each file at a batch of 1, of 8
and of all photographs, and times files of EfficientNet-Lite0 and ResNet-50 beside the model's own bare file and the
library's call, in turn, and AOTInductor's package beside torch's compiled forward. It writes
results/MACHINE-deployment.json; bench/README.md says how each figure comes about.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cfcam_gpu import CFCAM, Config, deploy
from cfcam_gpu.deploy.checking import difference
from cfcam_gpu.latency.machine import DISTURBED, cores_time, machine, taken_by_others
from cfcam_gpu.latency.timing import Call, ratios, summary, times_in_turn

from .deployment_networks import NETWORKS, Exported
from .latency import ROOT, record_path, versions, write

#: Photographs of the parity, and of the times.
COUNT, BATCH = 24, 8
ROUNDS = 15
#: What is exported beside the default: presets on two networks, and what a file may be asked on one.
PRESETS = {"paper": Config.paper(), "one level": Config()}
ASKED: dict[str, dict[str, Any]] = {
    "one class": {"target": "input"},
    "three classes": {"target": "input", "classes": 3},
    "batch 8": {"batch": 8},
    "tensorrt": {"runtime": "tensorrt"},
}
TIMED = ("EfficientNet-Lite0", "ResNet-50")


def variants(name: str, network: Exported) -> dict[str, dict[str, Any]]:
    """What is exported of a network, by name."""
    found: dict[str, dict[str, Any]] = {"default": dict(network.options)}
    if name in TIMED:
        found |= {preset: {"config": config} for preset, config in PRESETS.items()}
    if name == TIMED[0]:
        found |= ASKED
    return found


def parity(network: Exported, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The figures of one file: how its maps differ, its size over the bare model's, and the seconds of the export."""
    model, images = network.build(), network.inputs(COUNT if len(network.shape) == 3 else BATCH)
    path = folder / "explained.onnx"
    start = time.perf_counter()
    said = deploy.export(model, path, images[:4], overwrite=True, **options)
    seconds = time.perf_counter() - start
    explain = CFCAM(model, [each.name for each in said.layers], config=said.config, libragrad=said.libragrad)
    play = deploy.load(path)
    target = options.get("target")
    asked = None if target in (None, "predicted") else target
    if target == "input":
        predicted = explain(images[:1]).target
        count = len(images)
        asked = torch.arange(count * (said.classes or 1)).reshape(count, -1) + predicted
        asked = asked % said.logits[0] if said.classes else asked[:, 0] % said.logits[0]
    given = asked if target == "input" else None
    expected = explain(images, asked)
    dims = len(expected.size)
    by_batch = {}
    for batch in dict.fromkeys((1, BATCH, len(images))):
        parts = [
            play(images[first : first + batch], None if given is None else given[first : first + batch])
            for first in range(0, len(images), batch)
        ]
        found = torch.cat([part.maps for part in parts])
        off = difference(found, expected.maps, dims).double().numpy()
        by_batch[str(batch)] = {
            "median": float(np.median(off)),
            "p95": float(np.percentile(off, 95)),
            "worst": float(off.max()),
            "correlation": _lowest_correlation(found, expected.maps),
            "same_class": expected.target is None
            or torch.equal(torch.cat([part.target for part in parts]), expected.target),
            "same_empty": torch.equal(torch.cat([part.empty for part in parts]), expected.empty),
        }
    return {
        "layers": [each.name for each in said.layers],
        "images": len(images),
        "batches": by_batch,
        "export_seconds": round(seconds, 1),
        "megabytes": round(path.stat().st_size / 1e6, 3),
        "over_bare": round(path.stat().st_size / bare_file(model, images, folder).stat().st_size, 4),
        "opset": said.opset,
    }


def _lowest_correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    pairs = zip(one.flatten(0, -3).flatten(1), other.flatten(0, -3).flatten(1)) if one.ndim > 2 else zip(one, other)
    return min(float(np.corrcoef(a.numpy(), b.numpy())[0, 1]) for a, b in pairs if a.std() > 0 or b.std() > 0)


def bare_file(model: nn.Module, images: torch.Tensor, folder: Path) -> Path:
    """The model alone, as ``torch.onnx.export`` writes it."""
    from cfcam_gpu.deploy.onnx_file import OPSET, quiet

    path = folder / "bare.onnx"
    with quiet():
        torch.onnx.export(
            model,
            (images[:2],),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["images"],
            verbose=False,
        )
    return path


def player(path: Path, threads: int) -> Call:
    """A file's outputs in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images.numpy()})


def cost(name: str, folder: Path) -> dict[str, Any]:
    """Milliseconds of a call of each, in turn, with as many threads as torch has."""
    network = NETWORKS[name]
    model, images = network.build(), network.inputs(BATCH)
    path = folder / f"{name}.onnx"
    if not path.is_file():
        deploy.export(model, path, images)
    threads = torch.get_num_threads()
    explain, played = CFCAM(model), deploy.load(path, threads=threads)
    calls: dict[str, Call] = {
        "file": player(path, threads),
        "file's bare forward": player(bare_file(model, images, folder), threads),
        "deploy.load": lambda images: played(images).maps,
        "library": lambda images: explain(images).maps,
        "forward": _without_grad(model),
    }
    return timed(calls, images, ["file's bare forward", "library"])


def cost_of_package(name: str, folder: Path) -> dict[str, Any]:
    """The same of AOTInductor's package, over torch's compiled forward."""
    network = NETWORKS[name]
    model, images = network.build(), network.inputs(BATCH)
    path, bare_path = folder / f"{name}.pt2", folder / f"{name}-bare.pt2"
    if not path.is_file():
        deploy.export(model, path, images, batch=BATCH)
        with torch.no_grad():
            program = torch.export.export(model, (images,))
        torch._inductor.aoti_compile_and_package(program, package_path=str(bare_path))
    bare = torch._inductor.aoti_load_package(str(bare_path))
    package = torch._inductor.aoti_load_package(str(path))
    calls: dict[str, Call] = {"package": package, "compiled forward": bare, "forward": _without_grad(model)}
    return timed(calls, images, ["compiled forward"])


def _without_grad(call: Callable[[torch.Tensor], Any]) -> Call:
    def run(images: torch.Tensor) -> Any:
        with torch.no_grad():
            return call(images)

    return run


def timed(calls: dict[str, Call], images: torch.Tensor, over: Sequence[str]) -> dict[str, Any]:
    """Milliseconds of each call, in turn, and each over those named, paired by round."""
    found = {name: summary(values) for name, values in times_in_turn(calls, images, ROUNDS).clock.items()}
    return {"latency_ms": found, "ratios": ratios(found, over)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["parity", "cost"], help="one of the two; the record keeps the other's")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args(arguments)
    path = record_path(options.out, machine(), "deployment")
    record: dict[str, Any] = {
        "machine": machine(),
        "versions": versions([]) | _versions(),
        "date": datetime.date.today().isoformat(),
        "settings": {"threads": torch.get_num_threads(), "batch": BATCH, "rounds": ROUNDS},
        "networks": {},
    }
    if options.only and path.is_file():
        record["networks"] = json.loads(path.read_text())["networks"]
    before = cores_time()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            one = record["networks"].setdefault(name, {"family": NETWORKS[name].family})
            if options.only != "cost":
                one["parity"] = {}
                for variant, asked in variants(name, NETWORKS[name]).items():
                    one["parity"][variant] = parity(NETWORKS[name], asked, Path(folder))
                    print(name, variant, one["parity"][variant], file=sys.stderr)
            if options.only != "parity" and name in TIMED:
                one["cost"], one["cost_of_package"] = {}, {}
                for threads in dict.fromkeys((1, record["settings"]["threads"])):
                    torch.set_num_threads(threads)
                    one["cost"][str(threads)] = cost(name, Path(folder))
                    one["cost_of_package"][str(threads)] = cost_of_package(name, Path(folder))
                    for kind in ("cost", "cost_of_package"):
                        found = one[kind][str(threads)]["ratios"]
                        print(name, threads, {key: value["median"] for key, value in found.items()}, file=sys.stderr)
    record["taken_by_others"] = taken = taken_by_others(before, cores_time())
    record["disturbed"] = taken is None or taken > DISTURBED
    write(record, path)
    print(path)
    return 0


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("onnx", "onnxruntime", "onnxscript")}


if __name__ == "__main__":
    sys.exit(main())
