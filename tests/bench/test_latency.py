"""The latency benchmark's machinery, on a tiny network and without the peers."""

from __future__ import annotations

import gc
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench import entries, latency, models, plain
from cfcam_gpu import Config
from cfcam_gpu.engines import cpu

QUICK = ["--networks", "tiny", "--without-peers", "--rounds", "2", "--batch", "2", "--memory-repeats", "0"]
OURS = {"cfcam", "two-level", "cfcam-paper"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the benchmark; the exit status and the record."""
    # It lasts as long as the process, and other tests here look at how its memory grows.
    monkeypatch.setattr(latency, "keep_freed_memory", lambda: None)

    def run(*more):
        status = latency.main([*QUICK, "--out", str(tmp_path), *more])
        (path,) = tmp_path.glob("*-latency.json")
        return status, json.loads(path.read_text()), path

    return run


def test_record(run):
    status, record, _ = run()
    assert status == 0
    assert set(record) == {"benchmark", "date", "machine", "versions", "settings", "networks"}
    assert {"cpu", "cores", "torch_threads"} <= set(record["machine"])
    assert {"cfcam_gpu", "commit", "python", "torch"} <= set(record["versions"])
    assert record["settings"] == {"batch": 2, "rounds": 2, "memory_batch": 32, "memory_repeats": 0}
    tiny = record["networks"]["tiny"]
    assert set(tiny["latency_ms"]) == {"forward", "capture-only", *OURS}
    assert set(tiny["gates"]) == OURS
    assert {name: len(checks) for name, checks in tiny["gates"].items()} == {
        "cfcam": 6,
        "cfcam-paper": 6,
        "two-level": 8,
    }
    for checks in tiny["gates"].values():
        assert all(check["passed"] and check["difference"] <= check["tolerance"] for check in checks)
    # Paired: each round's ratio is of that round's own times.
    ours, bare = (tiny["latency_ms"][name]["rounds"] for name in ("cfcam", "forward"))
    paired = tiny["ratios"]["latency_ms"]["cfcam / forward"]
    assert paired["rounds"] == pytest.approx([a / b for a, b in zip(ours, bare)], rel=1e-2)
    assert paired["median"] == pytest.approx(np.median(paired["rounds"]), abs=1e-3)
    bars = {(bar["figure"], bar["over"]): bar for bar in tiny["bars"]}
    assert bars["latency_ms", "forward"]["met"] is (paired["median"] <= 1.5)
    assert bars["latency_ms", "pytorch-grad-cam"]["met"] is None
    assert bars["memory_mib", "forward"]["met"] is None


def test_every_round_runs_each_once_in_changing_order():
    seen = []

    def call(name):
        return lambda images: seen.append((name, gc.isenabled()))

    times = latency.time_in_turn({name: call(name) for name in "abcd"}, torch.empty(0), 16)
    warm, timed = seen[:8], [name for name, _ in seen[8:]]
    assert sorted(name for name, _ in warm) == sorted(2 * "abcd")
    rounds = ["".join(timed[i : i + 4]) for i in range(0, 64, 4)]
    assert all(sorted(one) == list("abcd") for one in rounds)
    assert len(set(rounds)) > 4
    assert {name: len(values) for name, values in times.items()} == dict.fromkeys("abcd", 16)
    assert not any(collecting for _, collecting in seen[8:])
    assert gc.isenabled()


def test_a_slow_call_is_in_the_first_rounds_only():
    cost = {"quick": 1.0, "slow": 100.0, "slowest": 1e9}
    calls = {name: (lambda images, name=name: name) for name in cost}
    clock = lambda call, images: cost[call(images)]  # noqa: E731
    times = latency.time_in_turn(calls, torch.empty(0), 10, clock=clock, budget_ms=500)
    assert {name: len(values) for name, values in times.items()} == {"quick": 10, "slow": 5, "slowest": 3}


def test_a_failed_gate_withholds_its_figures(run, monkeypatch, capsys):
    wide = replace(
        cpu.PRIMITIVES,
        order_statistics=lambda values, k: cpu.order_statistics(values, k) * 1.01,
        squareform=lambda pairs, n: cpu.squareform(pairs, n) * 1.01,
    )
    monkeypatch.setattr(cpu, "PRIMITIVES", wide)
    status, record, _ = run()
    assert status == 1
    tiny = record["networks"]["tiny"]
    for checks in tiny["gates"].values():
        assert "eps, against the plain derivation" in {check["what"] for check in checks if not check["passed"]}
    assert set(tiny["latency_ms"]) == {"forward", "capture-only"}
    assert set(tiny["ratios"]["latency_ms"]) == {"capture-only / forward"}
    assert [bar["ratio"] for bar in tiny["bars"]] == [None] * 5
    assert "withheld" in capsys.readouterr().out


def test_other_processes_are_seen():
    before = latency.CoresTime(busy=10.0, own=4.0, passed=100.0)
    after = latency.CoresTime(busy=16.0, own=8.0, passed=120.0)
    assert latency.taken_by_others(before, after) == 0.1
    assert latency.taken_by_others(None, after) is None


def test_nan_fails_a_gate():
    assert not entries.Check("", float("nan"), 1e-4).passed


def test_a_missing_peer_is_an_error_that_names_the_command(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert latency.main(["--networks", "tiny", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().out
    assert "grad-cam and torchcam not installed" in said
    assert "make bench-latency" in said
    assert not list(tmp_path.iterdir())


def test_show_prints_a_record(run, capsys):
    _, _, path = run()
    capsys.readouterr()
    assert latency.main(["--show", str(path)]) == 0
    said = capsys.readouterr().out
    assert "tiny: features" in said
    assert "cfcam-paper" in said
    assert "not measured" in said


def test_ratios_pair_the_rounds():
    found = {"forward": {"rounds": [1.0, 2.0, 4.0]}, "cfcam": {"rounds": [4.0, 2.0, 1.0]}}
    ratios = latency.ratios(found)
    assert set(ratios) == {"cfcam / forward"}
    assert ratios["cfcam / forward"] == {"median": 1.0, "quartiles": [0.625, 2.5], "rounds": [4.0, 1.0, 0.25]}


def test_peak_memory_of_a_process_of_its_own():
    command = [sys.executable, "-m", "bench.latency", "--peak-of", "tiny", "forward", "--memory-batch", "512"]
    peak = json.loads(subprocess.run(command, cwd=latency.ROOT, capture_output=True, check=True).stdout)
    if peak is None:
        pytest.skip("this kernel does not reset the peak of resident memory")
    # What the first convolution returns, 512 x 16 x 28 x 28 float32, is 24.5 MiB; three to five such lie side by side.
    assert 12 < peak < 150


def test_peak_memory_counts_what_malloc_had_kept():
    pins = []

    def call(images):
        blocks = [np.ones(8192) for _ in range(800)]  # 50 MiB, too small to be mapped on their own
        pins.append(np.ones(8192))  # above them in the heap, so that freeing them does not shrink it
        del blocks

    peak = latency.peak_of(entries.NETWORKS["tiny"], entries.Candidate("heap", lambda network, model: call), 2)
    if peak is None:
        pytest.skip("this kernel does not reset the peak of resident memory")
    assert 40 < peak < 60


def test_a_peer_that_explains_something_else_fails():
    network = entries.NETWORKS["tiny"]
    true = entries.truth(network, models.photographs(2, network.norm))
    maps = plain.grad_cam(true.captured_activations.double().numpy(), true.captured_gradients.double().numpy())
    maps = plain.resize(plain.scale(maps, from_minimum=True), (224, 224))
    (same,) = entries.check_grad_cam(lambda images: torch.from_numpy(maps), true)
    (other,) = entries.check_grad_cam(lambda images: torch.from_numpy(maps[:, ::-1].copy()), true)
    assert same.passed
    assert not other.passed


def test_plain_resize_is_bilinear():
    maps = np.random.default_rng(0).random((2, 7, 5))
    wanted = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], (224, 31), mode="bilinear")[:, 0]
    np.testing.assert_allclose(plain.resize(maps, (224, 31)), wanted, atol=1e-12)


def test_plain_derivation_refuses_what_it_does_not_cover():
    with pytest.raises(NotImplementedError, match="the presets only"):
        plain.cf_cam(np.ones((4, 2, 2)), np.ones((4, 2, 2)), Config(sigma=2.0))


def test_resnet50_has_the_parameters_of_torchvisions():
    parameters = sum(parameter.numel() for parameter in models.resnet50().parameters())
    assert parameters == 25_557_032
