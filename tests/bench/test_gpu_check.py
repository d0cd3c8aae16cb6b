"""The GPU check, its parts on the CPU: what it writes, what makes it fail, and that it never passes without a GPU."""

import importlib.util
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import gpu_check, gpu_latency, gpu_tests, kernel_calls, models, nvidia_tools, trace
from bench.entries import NETWORKS
from bench.parity import compare
from cfcam_gpu import Config, engines
from cfcam_gpu.engines import execution, rapids, reference
from cfcam_gpu.hooks import evidence
from cfcam_gpu.latency.stages import Meter, measure, stages

TINY = NETWORKS["tiny"]
CPU = torch.device("cpu")


def clock(work):
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def three_mib(work):
    work()
    return 3 << 20


METER = Meter(milliseconds=clock, peak_bytes=three_mib)


def nothing(record):
    pass


def agreement(compared=(TINY,), names=("cpu",), report=nothing):
    return gpu_check.agreement(list(names), CPU, list(compared), report)


@pytest.fixture
def spoiled(monkeypatch):
    """The CPU engine with its result changed by a function, on small images and few random activations."""
    draw = kernel_calls.draw
    monkeypatch.setattr(kernel_calls, "draw", lambda shape: draw((2, 1, 64, 7, 7)))
    images = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(gpu_check, "pictures", lambda count, norm: (images, "noise"))

    def spoil(change):
        def run(activations, gradients, config):
            return change(reference.run(activations, gradients, config))

        monkeypatch.setattr(engines, "choose", lambda name, device: SimpleNamespace(run=run))

    return spoil


def test_an_engine_is_compared_on_networks_presets_and_batches():
    found = agreement()
    assert found["passed"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) == {"passed", "cpu"}
    assert set(found["cpu"]) == {"passed", "tiny", "random"}
    presets = {"default", "paper", "two-level"}
    wanted = {f"{preset}, batch {batch}" for preset in presets for batch in (1, 16)}
    assert set(found["cpu"]["tiny"]) == {"passed", "images", *wanted}
    for one in (*(found["cpu"]["tiny"][name] for name in wanted), *(found["cpu"]["random"][name] for name in presets)):
        assert one["labels_equal"] == one["images"] > 0
        assert one["map_error"] < 1e-6
    assert found["cpu"]["tiny"]["paper, batch 16"]["images"] == 16


WRONG = {
    "labels": lambda found: found._replace(labels=found.labels.clone().fill_(0)),
    "maps": lambda found: found._replace(raw_maps=found.raw_maps * 1.001),
    "no maps": lambda found: found._replace(raw_maps=found.raw_maps * float("nan")),
    "eps": lambda found: found._replace(eps=found.eps * (1 + 1e-6)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_engine_that_disagrees_fails(spoiled, wrong):
    spoiled(WRONG[wrong])
    found = agreement()
    assert not found["passed"]
    assert not found["cpu"]["passed"]
    assert not found["cpu"]["tiny"]["passed"]
    assert not found["cpu"]["random"]["passed"]
    json.dumps(found, allow_nan=False)


def test_a_missing_engine_fails_and_the_others_are_compared(monkeypatch):
    monkeypatch.setattr(rapids, "why_missing", lambda: "cuML is not installed; install it")
    seen = []
    found = agreement(names=["rapids", "cpu"], report=lambda found: seen.append(list(found)))
    assert not found["passed"]
    assert found["rapids"] == {"passed": False, "reason": "cuML is not installed; install it"}
    assert found["cpu"]["passed"]
    assert seen == [["rapids"], ["rapids", "cpu"]]


def test_a_network_that_is_not_installed_is_left_out_by_name():
    def absent():
        raise ImportError("No module named 'weights'")

    found = agreement([replace(TINY, name="absent", build=absent), TINY])
    assert found["passed"]
    assert found["cpu"]["absent"] == {"reason": "left out: No module named 'weights'"}


def test_maps_behind_the_gate_are_compared_behind_it():
    generator = torch.Generator().manual_seed(0)
    activations, gradients = torch.rand(2, 20, 8, 8, generator=generator), torch.randn(2, 1, 20, 8, 8)
    coarse = torch.rand(2, 9, 4, 4, generator=generator), torch.randn(2, 1, 9, 4, 4, generator=generator)
    config = Config.two_level()
    found = execution.compute(activations, gradients, config, "cpu", coarse=coarse)
    assert compare(activations, gradients[:, 0], config, found, coarse=coarse)["passed"]
    assert not compare(activations, gradients[:, 0], config, found)["passed"]


# The parts of a run


def run(chosen, record=None, minutes=lambda: 1.0):
    record, kept = record or {}, []
    gpu_check.run(chosen, record, lambda record: kept.append(json.loads(json.dumps(record))), minutes)
    return record, kept


@pytest.fixture
def two_parts(monkeypatch):
    monkeypatch.setattr(gpu_check, "PARTS", ("first", "second"))


def test_a_part_that_breaks_is_recorded_beside_the_others(two_parts, capfd):
    def breaks(report):
        raise RuntimeError("out of memory")

    record, _ = run({"first": breaks, "second": lambda report: {"passed": True}})
    assert (record["first"]["passed"], record["first"]["reason"]) == (False, "RuntimeError: out of memory")
    assert record["second"]["passed"]
    assert not record["passed"]
    said = capfd.readouterr()
    assert "out of memory" in said.err
    assert "first: FAILED RuntimeError: out of memory" in said.out


def test_what_is_cut_off_is_in_the_record_and_has_not_passed(two_parts):
    def part(report):
        report({"passed": True, "cells": 1})
        report({"passed": True, "cells": 2})
        raise KeyboardInterrupt  # as far as the record goes, a kill

    kept = []
    with pytest.raises(KeyboardInterrupt):
        gpu_check.run({"first": part}, {}, lambda record: kept.append(json.loads(json.dumps(record))), lambda: 1.0)
    assert [record["first"].get("cells") for record in kept] == [None, 1, 2]
    assert all((one["first"]["passed"], one["first"]["reason"]) == (False, "cut off") for one in kept)


def test_parts_that_do_not_run_keep_what_the_record_has(two_parts):
    first = {"passed": True, "value": 3}
    record, _ = run({"second": lambda report: {"passed": True}}, {"first": first})
    assert record["first"] is first
    assert record["passed"]
    assert {"date", "commit", "seconds"} <= set(record["second"])
    record, _ = run({"first": lambda report: {"passed": True}})
    assert not record["passed"]


def test_no_part_is_begun_without_time(two_parts):
    left = iter([1.0, 1.0, 0.0])
    record, _ = run({name: lambda report: {"passed": True} for name in ("first", "second")}, minutes=lambda: next(left))
    assert record["first"]["passed"]
    assert record["second"] == {"passed": False, "reason": "not begun: no time was left"}
    record, _ = run({"first": None}, {"first": {"passed": True}}, minutes=lambda: 0.0)
    assert record["first"] == {"passed": True}


def test_a_part_whose_tool_is_absent_has_neither_passed_nor_failed(two_parts):
    record, _ = run(
        {"first": lambda report: {"passed": None, "reason": "x"}, "second": lambda report: {"passed": True}}
    )
    assert record["passed"]
    assert record["not_run"] == ["first"]


def test_all_parts_are_there_and_get_what_they_need(monkeypatch):
    seen = {}
    monkeypatch.setattr(gpu_check, "agreement", lambda names, device, subjects, report: seen.update(names=names))
    monkeypatch.setattr(gpu_tests, "run", lambda rapids, report, seconds: seen.update(rapids=rapids, seconds=seconds))
    monkeypatch.setattr(gpu_latency, "measure", lambda *given, **options: seen.update(latency=options))
    monkeypatch.setattr(gpu_check, "timing", lambda names, *given, **options: seen.update(timed=names))
    monkeypatch.setattr(nvidia_tools, "sanitize", lambda seconds: seen.update(sanitizer=seconds))
    monkeypatch.setattr(nvidia_tools, "bandwidth", lambda seconds: seen.update(bandwidth=seconds))
    chosen = gpu_check.parts(["fused"], CPU, METER, lambda: 2.0, Path("code"), {"cells": {}})
    assert set(chosen) == set(gpu_check.PARTS)
    for part in chosen.values():
        part(nothing)
    latency = seen.pop("latency")
    assert (latency["authors"], latency["known"], latency["minutes_left"]()) == (Path("code"), {"cells": {}}, 2.0)
    assert seen == {
        "names": ["fused"],
        "rapids": False,
        "seconds": 120.0,
        "timed": ["fused"],
        "sanitizer": 120.0,
        "bandwidth": 120.0,
    }


def test_every_stage_is_timed_by_batch_and_engine():
    found = gpu_check.timing(["cpu"], CPU, TINY, METER, batches=(1, 3), repeats=3)
    timed = {f"{preset}, batch {batch}, cpu" for preset in ("cfcam", "two-level") for batch in (1, 3)}
    assert set(found) == {"passed", "network", "precision", "repeats", *timed}
    batch = found["cfcam, batch 3, cpu"]
    assert set(batch) == {"images", "forward", "capture", "engine", "upsample", "end_to_end"}
    assert batch["end_to_end"]["ms"] > 0
    assert batch["forward"]["peak_mib"] == 3


def test_stages_take_turns_and_report_medians_and_quartiles():
    order, times = [], iter([5.0, 50.0, 1.0, 10.0, 3.0, 30.0])

    def milliseconds(work):
        work()
        return next(times)

    works = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    meter = Meter(milliseconds, peak_bytes=lambda work: 1 << 19)
    found = measure(works, meter, warmup=1, repeats=3)
    assert order == ["a", "b"] * 4
    assert found["a"] == {"ms": 3.0, "quartiles_ms": [2.0, 4.0], "peak_mib": 0.5}
    assert found["b"]["ms"] == 30.0


@pytest.mark.parametrize("config", [None, Config.two_level()], ids=["one level", "two levels"])
def test_each_stage_runs_by_itself(config):
    images = torch.rand(2, 3, 64, 64)
    works = stages(models.tiny(), "features", images, "cpu", config)
    assert list(works) == ["forward", "capture", "engine", "upsample", "end_to_end"]
    torch.testing.assert_close(works["end_to_end"](), works["upsample"]())


def test_the_stage_of_capturing_knows_the_layout_as_an_explainer_does(monkeypatch):
    works = stages(models.tiny(), "features", torch.rand(2, 3, 16, 16), None)
    monkeypatch.delattr(evidence.Evidence, "attach")
    works["capture"]()


def test_pictures_are_noise_where_photographs_are_missing(monkeypatch):
    def absent(count, norm):
        raise ImportError

    assert models.pictures(2, models.IMAGENET_NORM)[1] == "photographs"
    monkeypatch.setattr(models, "photographs", absent)
    images, kind = models.pictures(2, models.IMAGENET_NORM)
    assert (images.shape, kind) == ((2, 3, 224, 224), "smooth noise")


def test_copies_to_the_host_are_counted():
    events = [
        {"name": "Memcpy DtoH (Device -> Pinned)", "cat": "gpu_memcpy", "args": {"bytes": 8}},
        {"name": "Memcpy HtoD (Pageable -> Device)", "cat": "gpu_memcpy", "args": {"bytes": 16}},
        {"name": "pair_distances", "cat": "kernel", "args": {}},
        {"name": "Memcpy DtoH (Device -> Pageable)", "cat": "gpu_memcpy", "args": {"bytes": 4}},
    ]
    assert trace.sizes(events) == [8, 4]
    with pytest.raises(RuntimeError, match="saw no kernel"):
        trace.sizes(events[:2])


# The command


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_refuses_and_writes_nothing(tmp_path, capsys):
    assert gpu_check.main([str(tmp_path / "out")]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command with parts of ours: the exit status, and the record."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Test (TM) 80GB/x")

    def call(*arguments, **outcomes):
        found = {name: (lambda report, name=name: {"passed": outcomes.get(name, True)}) for name in gpu_check.PARTS}
        monkeypatch.setattr(gpu_check, "parts", lambda *given: found)
        status = gpu_check.main([str(tmp_path), *arguments])
        return status, json.loads((tmp_path / "nvidia-test-tm-80gb-x.json").read_text())

    return call


def test_the_exit_status_says_whether_all_passed(command, capsys):
    status, record = command()
    assert status == 0
    assert record["device"] == "NVIDIA Test (TM) 80GB/x"
    assert record["passed"]
    assert set(record) >= {"versions", "cuda", "devices", "engines", *gpu_check.PARTS}
    assert "gpu-check: passed" in capsys.readouterr().out
    status, record = command(agreement=False)
    assert status == 1
    assert not record["passed"]
    assert "gpu-check: FAILED" in capsys.readouterr().out


def test_only_some_parts_run_and_the_others_stay(command):
    command(agreement=False)
    status, record = command("--only", "tests,latency")
    assert status == 0
    assert not record["passed"]
    status, record = command("--only", "agreement")
    assert record["passed"]


def test_an_unknown_part_is_refused(command, capsys):
    with pytest.raises(SystemExit):
        command("--only", "tests,speed")
    assert (
        "expected some of agreement, tests, latency, stages, sanitizer, bandwidth; got speed" in capsys.readouterr().err
    )


# Tests on a GPU


def test_gpu_tests_fail_without_a_gpu_where_one_is_required(monkeypatch, capfd):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = gpu_tests.run(True, nothing, files=["test_dlpack"])
    assert not found["passed"]
    assert found["files"]["test_dlpack"].keys() == {"passed", "seconds"}
    assert len(found["failed"]) > 10
    assert set(found["outcomes"]["tests.gpu.test_dlpack"]["test_inside_memory_is_torchs"]) <= {"failure", "error"}
    assert "CFCAM_REQUIRE_GPU=1, but torch finds no CUDA device" in capfd.readouterr().out


def test_all_files_of_tests_on_a_gpu_run():
    there = {path.stem for path in (Path(__file__).parents[1] / "gpu").glob("test_*.py")}
    assert sorted(gpu_tests.FILES) == sorted(there)


def test_a_file_that_hangs_or_crashes_takes_no_other_with_it(monkeypatch):
    passes = '<t><testcase classname="c" name="n"/></t>'
    endings = {"hangs": (None, "", None), "crashes": (-6, "why", None), "passes": (0, "", passes)}
    monkeypatch.setattr(gpu_tests, "_run", lambda name, rapids, seconds: endings[name])
    seen = []
    found = gpu_tests.run(True, lambda found: seen.append(len(found["files"])), seconds=20.0, files=list(endings))
    assert seen == [1, 2, 3]
    assert not found["passed"]
    assert found["outcomes"] == {"c": {"n": {"passed": 1}}}
    reasons = {name: one.get("reason") for name, one in found["files"].items()}
    assert reasons == {
        "hangs": "not done within 20 s",
        "crashes": "pytest ended with status -6 and without outcomes",
        "passes": None,
    }
    found = gpu_tests.run(True, nothing, seconds=0.0, files=["passes"])
    assert found["files"]["passes"] == {"passed": False, "reason": "not begun: no time was left"}


def test_outcomes_of_tests_are_counted_by_test_and_what_they_recorded_is_kept():
    text = """<testsuites><testsuite>
    <testcase classname="tests.gpu.test_a" name="test_x[1]"/>
    <testcase classname="tests.gpu.test_a" name="test_x[2]"><failure message="no">why</failure></testcase>
    <testcase classname="tests.gpu.test_b" name="test_z"><skipped message="rapids"/></testcase>
    <testcase classname="tests.gpu.test_b" name="test_w">
    <properties><property name="copies" value="3"/></properties></testcase>
    </testsuite></testsuites>"""
    assert gpu_tests.read(text) == {
        "outcomes": {
            "tests.gpu.test_a": {"test_x": {"passed": 1, "failure": 1}},
            "tests.gpu.test_b": {"test_z": {"skipped": 1}, "test_w": {"passed": 1}},
        },
        "failed": ["tests.gpu.test_a.test_x[2]"],
        "recorded": {"tests.gpu.test_b.test_w": {"copies": "3"}},
    }


def test_a_missing_pytest_is_said_and_fails(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = gpu_tests.run(True, nothing)
    assert not found["passed"]
    assert "pytest is not installed" in found["reason"]
