"""The latency benchmark's machinery, on a tiny network and without the peers."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch

from bench import entries, latency, models, plain
from cfcam_gpu import Config
from cfcam_gpu.engines import cpu
from cfcam_gpu.latency import memory

QUICK = ["--networks", "tiny", "--without-peers", "--rounds", "2", "--batch", "2", "--memory-repeats", "0"]
OURS = {"cfcam", "two-level", "cfcam-paper"}
#: What the engines' process returns.
SPENT = {"cfcam": [1.0, 1.0], "cfcam, reference": [4.0, 10.0]}
#: Three of the bars, at the batch sizes of the tiny network.
TINY_BARS = [(entries.BARS[0], 2), (entries.BARS[1], 1), *((bar, 2) for bar in entries.BARS[8:14])]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the benchmark; the exit status and the record."""
    # It lasts as long as the process, and other tests here look at how its memory grows.
    monkeypatch.setattr(latency, "keep_freed_memory", lambda: None)
    # What runs in processes of their own has tests of its own.
    monkeypatch.setattr(latency.memory, "in_child", lambda work, network, *given: SPENT)
    bars = [entries.Bar("tiny", bar.figure, bar.of, bar.over, bar.limit, batch) for bar, batch in TINY_BARS]
    monkeypatch.setattr(latency, "BARS", bars)

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
    assert record["settings"] == {"batch": 2, "rounds": 2, "memory_batch": 8, "memory_repeats": 0}
    tiny = record["networks"]["tiny"]
    assert set(tiny["latency_ms"]) == {"forward", "capture-only", entries.BY_HAND, *OURS}
    assert set(tiny["gates"]) == OURS
    assert {name: len(checks) for name, checks in tiny["gates"].items()} == {
        "cfcam": 9,
        "cfcam-paper": 9,
        "two-level": 11,
    }
    for checks in tiny["gates"].values():
        assert all(check["passed"] and check["difference"] <= check["tolerance"] for check in checks)
    # Paired: each round's ratio is of that round's own times.
    ours, bare = (tiny["latency_ms"][name]["rounds"] for name in ("cfcam", "forward"))
    paired = tiny["ratios"]["latency_ms"]["cfcam / forward"]
    assert paired["rounds"] == pytest.approx([a / b for a, b in zip(ours, bare)], rel=1e-2)
    assert paired["median"] == pytest.approx(np.median(paired["rounds"]), abs=1e-3)
    bars = {(bar["figure"], bar["of"], bar["over"]): bar for bar in tiny["bars"]}
    assert bars["latency_ms", "cfcam", "forward"]["met"] is (paired["median"] <= 1.12)
    assert bars["latency_ms", "two-level", "forward"]["batch"] == 1
    at_one = tiny["other_batches"]["1"]["ratios"]["latency_ms"]["two-level / forward"]["median"]
    assert bars["latency_ms", "two-level", "forward"]["ratio"] == at_one
    assert bars["latency_ms", "cfcam", "torch-cam"]["met"] is None
    assert bars["memory_mib", "cfcam", "forward"]["met"] is None
    engine = bars["engine_processor_ms", "cfcam", "cfcam, reference"]
    assert (engine["ratio"], engine["met"]) == (0.175, True)
    assert bars["engine_processor_ms", "two-level", "two-level, reference"]["met"] is None
    assert bars["first_call_ms", "first", "later"]["ratio"] > 0


def test_a_failed_gate_withholds_its_figures(run, monkeypatch, capsys):
    right = cpu.run

    def wrong(*given):
        result = right(*given)
        return result._replace(eps=result.eps * 1.01)

    monkeypatch.setattr(cpu, "run", wrong)
    status, record, _ = run()
    assert status == 1
    tiny = record["networks"]["tiny"]
    for checks in tiny["gates"].values():
        failed = {check["what"] for check in checks if not check["passed"]}
        assert failed == {"eps, against the plain derivation", "eps, against the reference"}
    assert set(tiny["latency_ms"]) == {"forward", "capture-only", entries.BY_HAND}
    assert set(tiny["ratios"]["latency_ms"]) == {"capture-only / forward", f"{entries.BY_HAND} / forward"}
    assert set(tiny["other_batches"]["1"]["latency_ms"]) == {"forward", entries.BY_HAND}
    assert [bar["ratio"] for bar in tiny["bars"] if bar["figure"] == "latency_ms"] == [None] * 3
    said = capsys.readouterr().out
    assert "withheld" in said
    assert "gate of cfcam at batch 1 failed" in said


def test_the_bars_are_those_of_the_network_at_each_batch_size():
    def at(ratio):
        return {"ratios": {"latency_ms": {"cfcam / forward": {"median": ratio}}}}

    lite0, resnet = entries.DEFAULT_NETWORKS
    judged = latency.judge(lite0, 8, {**at(1.12), "other_batches": {"1": at(1.21), "32": at(1.0)}})
    told = {
        bar["batch"]: bar["met"] for bar in judged if (bar["of"], bar["over"]) == ("cfcam", "forward") and bar["ratio"]
    }
    assert told == {8: True, 1: False, 32: True}
    assert {bar["network"] for bar in judged} == {lite0}
    assert {bar["met"] for bar in latency.judge(resnet, 8, {"ratios": {}, "other_batches": {}})} == {None}


def test_the_engines_beside_each_other(monkeypatch):
    monkeypatch.setattr(latency, "keep_freed_memory", lambda: None)
    threads = torch.get_num_threads()
    try:
        spent = latency.engine_parts("tiny", 2)
    finally:
        torch.set_num_threads(threads)
    names = ("cfcam", "two-level")
    assert set(spent) == {*names, *(f"{name}, {how}" for name in names for how in ("uncompiled", "reference"))}
    assert {len(values) for values in spent.values()} == {latency.ENGINE_ROUNDS}


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


def test_a_peer_that_explains_something_else_fails():
    network = entries.NETWORKS["tiny"]
    true = entries.truth(network, models.photographs(2, network.norm))
    maps = plain.grad_cam(true.captured_activations.double().numpy(), true.captured_gradients.double().numpy())
    maps = plain.resize(plain.scale(maps, from_minimum=True), (224, 224))
    (same,) = entries.check_grad_cam(lambda images: torch.from_numpy(maps), true)
    (other,) = entries.check_grad_cam(lambda images: torch.from_numpy(maps[:, ::-1].copy()), true)
    assert same.passed
    assert not other.passed


@pytest.mark.long
def test_peak_memory_of_a_process_of_its_own():
    peak = memory.in_child(latency.peak_of, "tiny", "forward", 512)
    if peak is None:
        pytest.skip("this kernel does not reset the peak of resident memory")
    # What the first convolution returns, 512 x 16 x 28 x 28 float32, is 24.5 MiB; three to five such lie side by side.
    assert 12 < peak < 150


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
