"""The GPU latency benchmark on the CPU: a clock of the test's, the CPU engine, a tiny network, no peers."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from bench import gpu_entries, gpu_latency, torchvision_shim
from bench.gpu_entries import BARS, CANDIDATES, CELLS, NETWORKS, Bar, Candidate, Cell
from cfcam_gpu.engines import cpu
from cfcam_gpu.explain import cfcam
from cfcam_gpu.latency.stages import Meter

from .. import recorder

CPU = torch.device("cpu")
CELL = Cell("tiny", 2, "float32")
#: What runs without a GPU.
HERE = [one for one in CANDIDATES if not one.name.endswith("captured") and not one.full]
NAMES = {one.name for one in HERE}


def milliseconds(work):
    work()
    return 2.0


METER = Meter(milliseconds=milliseconds, peak_bytes=lambda work: 3 << 20)


@pytest.fixture(autouse=True)
def autocast(monkeypatch):
    """Torch warns of CUDA's autocast where there is no CUDA."""
    monkeypatch.setattr(torch, "autocast", lambda *given, **options: nullcontext())


def measure(*, cells=(CELL,), candidates=HERE, report=lambda record: None, **options):
    return gpu_latency.measure(
        CPU, METER, report, engine="cpu", cells=list(cells), candidates=list(candidates), rounds=3, **options
    )


@pytest.fixture(scope="module")
def record():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "autocast", lambda *given, **options: nullcontext())
        latency = measure(cells=[CELL, Cell("tiny", 1, "float32")])
    return {"device": "A test", "latency": latency}


def test_record(record):
    found = record["latency"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["passed"]
    assert set(found["cells"]) == {"tiny, batch 2, float32", "tiny, batch 1, float32"}
    cell = found["cells"]["tiny, batch 2, float32"]
    assert set(cell["latency_ms"]) == set(cell["memory_mib"]) == NAMES
    assert cell["latency_ms"]["cfcam"] == {"median": 2.0, "quartiles": [2.0, 2.0], "rounds": [2.0] * 3}
    assert cell["memory_mib"]["cfcam"]["median"] == 3.0
    assert cell["ratios"]["latency_ms"]["cfcam / forward"]["median"] == 1.0
    for name in ("cfcam", "two-level", "cfcam-part", "two-level-part"):
        assert cell["gates"][name]
        assert all(check["passed"] for check in cell["gates"][name])
    assert {bar["met"] for bar in found["bars"]} == {None}


def test_a_candidate_that_fails_its_gate_has_no_figures(monkeypatch):
    run = cpu.run

    def spoiled(activations, gradients, config):
        found = run(activations, gradients, config)
        return found._replace(raw_maps=found.raw_maps * 1.01) if len(activations) == 3 else found

    monkeypatch.setattr(cpu, "run", spoiled)
    cell = measure(cells=[Cell("tiny", 3, "float32")])["cells"]["tiny, batch 3, float32"]
    assert not cell["passed"]
    assert set(cell["latency_ms"]) == NAMES - {"cfcam-part", "two-level-part"}
    failed = [check["what"] for check in cell["gates"]["cfcam-part"] if not check["passed"]]
    assert failed == ["maps, against the cpu engine"]


def test_maps_of_the_whole_call_are_compared():
    scene = gpu_entries.Scene(
        NETWORKS["tiny"], NETWORKS["tiny"].build(), torch.randn(2, 3, 224, 224), 1e-4, "cpu", None
    )
    for config in gpu_entries.PRESETS.values():
        call = gpu_entries.eager(config)(scene)
        check = gpu_entries.check_explanation(config)
        assert all(one.passed for one in check(call, scene))
        assert [one.passed for one in check(lambda images, call=call: call(images.flip(0)), scene)] == [False, False]


def test_what_breaks_is_left_out_by_name_and_the_others_are_measured(capsys):
    def breaks(scene):
        raise RuntimeError("no such engine")

    peer = Candidate("peer", breaks, full=True)
    ours = next(one for one in HERE if one.name == "cfcam")._replace(setup=breaks)
    cell = measure(cells=[CELL._replace(full=True)], candidates=[HERE[0], peer])["cells"][CELL.name]
    assert cell["passed"]
    assert cell["left_out"] == {"peer": "RuntimeError: no such engine"}
    assert set(cell["latency_ms"]) == {"forward"}
    assert not measure(candidates=[HERE[0], ours])["cells"][CELL.name]["passed"]
    assert "no such engine" in capsys.readouterr().err


def test_captured_candidates(monkeypatch):
    recorder.install(monkeypatch)
    monkeypatch.setattr(cfcam, "fused_engine", lambda model, device, engine: recorder.FUSED)
    found = measure(candidates=[one for one in CANDIDATES if not one.full])["cells"][CELL.name]
    assert found["passed"], found["left_out"]
    assert {"forward-captured", "cfcam-captured", "two-level-captured"} <= set(found["latency_ms"])


def test_what_takes_no_memory_has_no_figure_of_it():
    peaks = iter([1 << 20, 0])
    meter = Meter(milliseconds=milliseconds, peak_bytes=lambda work: next(peaks))
    forward = HERE[0]._replace(name="forward")
    other = HERE[0]._replace(name="forward-captured")
    found = gpu_latency.measure(
        CPU, meter, lambda record: None, engine="cpu", cells=[CELL], candidates=[forward, other]
    )
    cell = found["cells"][CELL.name]
    assert set(cell["memory_mib"]) == {"forward"}
    assert set(cell["latency_ms"]) == {"forward", "forward-captured"}


def test_peers_run_in_full_cells_only():
    peer = Candidate("peer", lambda scene: lambda images: None, full=True)
    assert set(measure(candidates=[HERE[0], peer])["cells"][CELL.name]["latency_ms"]) == {"forward"}


def test_absent_packages_and_code_are_said(tmp_path):
    gone = Candidate("gone", HERE[0].setup, full=True, package="gone-package", module="no_such_module")
    authors = next(one for one in CANDIDATES if one.name == "authors")
    record = measure(candidates=[HERE[0], gone, authors])
    assert record["left_out"] == {
        "gone": "gone-package is not installed",
        "authors": "no checkout of the published code was given (--authors-code)",
    }
    assert record["passed"]
    assert measure(candidates=[HERE[0], authors], authors=tmp_path)["left_out"] == {}


def test_the_authors_code_is_taken_from_its_folder_one_image_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision_shim, "import_torchvision", lambda: None)
    (tmp_path / "cfcam.py").write_text(
        "class CFCAM:\n"
        "    def __init__(self, model, target_layer):\n"
        "        self.model = model\n"
        "    def __call__(self, x):\n"
        "        assert len(x) == 1\n"
        "        return x[0, 0].numpy(), 0, self.model(x)\n"
    )
    authors = next(one for one in CANDIDATES if one.name == "authors")
    seen = []

    def counted(scene):
        call = authors.setup(scene)
        return lambda images: seen.append(len(call(images)))

    cell = Cell("tiny", 8, "float32", full=True)
    found = measure(cells=[cell], candidates=[HERE[0], authors._replace(setup=counted)], authors=tmp_path)
    assert set(seen) == {1}
    found = found["cells"][cell.name]
    assert found["sampled"] == {"authors": 1}
    assert found["latency_ms"]["authors"]["median"] == 16.0
    assert found["ratios"]["latency_ms"]["forward / authors"]["median"] == 0.125


def test_cells_are_reported_as_they_are_done_and_none_is_begun_without_time():
    seen, left = [], iter([1.0, 1.0, 0.0])
    cells = [CELL, Cell("tiny", 1, "float32"), Cell("tiny", 3, "float32")]
    found = measure(
        cells=cells,
        candidates=HERE[:1],
        report=lambda record: seen.append(list(record["cells"])),
        minutes_left=lambda: next(left),
    )
    assert [len(names) for names in seen] == [1, 2]
    assert not found["passed"]
    assert found["cells"][cells[2].name] == {"passed": False, "reason": "not begun: no time was left"}


@pytest.mark.parametrize("change", [{}, {"torch": "0.1"}, {"commit": "unknown"}])
def test_cells_of_a_record_are_kept_where_nothing_has_changed(monkeypatch, change):
    versions = {"commit": "abc", "torch": "2.0", **change}
    kept = {"passed": True, "batch": 2, "latency_ms": {"forward": {"median": 7.0}}}
    cells = [CELL, Cell("tiny", 1, "float32")]
    known = {"versions": versions, "cells": {CELL.name: kept, cells[1].name: {"passed": False, "reason": "cut off"}}}
    now = versions if change.get("commit") == "unknown" else {"commit": "abc", "torch": "2.0"}
    monkeypatch.setattr(gpu_latency, "versions", lambda candidates: now)
    found = measure(cells=cells, candidates=HERE[:1], known=known)
    assert set(found["cells"]) == {cell.name for cell in cells}
    assert (found["cells"][CELL.name] is kept) == (not change)
    assert "latency_ms" in found["cells"][cells[1].name]


def test_a_network_that_is_not_installed_is_left_out(monkeypatch):
    def absent():
        raise ImportError("No module named 'torchvision'")

    monkeypatch.setitem(gpu_entries.NETWORKS, "tiny", replace(NETWORKS["tiny"], build=absent))
    found = measure(candidates=HERE[:1])
    assert found["cells"][CELL.name] == {"passed": True, "reason": "left out: No module named 'torchvision'"}


def test_flags_are_as_before_behind_a_cell():
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for name, wanted in (("float32", False), ("tf32", True), ("bfloat16", True)):
        with gpu_entries.precision(name):
            assert torch.backends.cuda.matmul.allow_tf32 is wanted
            assert torch.backends.cudnn.allow_tf32 is wanted
        assert flags == (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)


# Data


def test_bars_are_of_cells_and_candidates_that_there_are():
    cells, names = {cell.name: cell for cell in CELLS}, {one.name: one for one in CANDIDATES}
    assert len(cells) == len(CELLS)
    assert len(names) == len(CANDIDATES)
    for bar in BARS:
        for name in filter(None, (bar.of, bar.over)):
            assert cells[bar.cell].full or not names[name].full
        assert bar.over is None or bar.over in gpu_entries.YARDSTICKS
    assert {cell.network for cell in CELLS} <= set(NETWORKS)
    assert {cell.precision for cell in CELLS} == set(gpu_entries.TOLERANCES)


def test_bars_are_judged():
    bars = [
        Bar("a", "latency_ms", "cfcam", "forward", 1.1),
        Bar("a", "us_per_image", "part", None, 25.0),
        Bar("a", "us_per_image", "absent", None, 25.0),
        Bar("a", "memory_mib", "cfcam", "forward", 1.1),
        Bar("b", "latency_ms", "cfcam", "forward", 1.1),
    ]
    cell = {
        "batch": 64,
        "latency_ms": {"part": {"median": 1.28}},
        "ratios": {"latency_ms": {"cfcam / forward": {"median": 1.2}}, "memory_mib": {}},
    }
    judged = gpu_latency.judge({"a": cell}, bars)
    assert [(bar["value"], bar["met"]) for bar in judged] == [
        (1.2, False),
        (20.0, True),
        (None, None),
        (None, None),
        (None, None),
    ]


# What is made of a record


def test_show_is_markdown(record, tmp_path, capsys):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    assert gpu_latency.main([str(path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("A test, ")
    assert "| tiny, float32 | batch 1 | batch 2 |" in said
    assert "| forward, ms | 2 | 2 |" in said
    assert "| cfcam, x forward | 1 (memory 1) | 1 (memory 1) |" in said
    assert "| resnet50, batch 64, tf32: us_per_image of cfcam-part | 25 | - | not measured |" in said
    table = [line for line in said.splitlines() if line.startswith(("| tiny", "| cfcam"))]
    assert len({line.count("|") for line in table}) == 1


def test_plot_is_a_picture(record, tmp_path, capsys):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    assert gpu_latency.main([str(path), "--plot", str(tmp_path / "plot.png")]) == 0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
