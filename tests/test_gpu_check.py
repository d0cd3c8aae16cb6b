"""The GPU check, its parts on the CPU: what it writes, what makes it fail, and that it never passes without a GPU."""

import importlib.util
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench import gpu_check, models
from bench.parity import compare
from bench.stages import Meter, measure, stages
from cfcam_gpu import Config, engines
from cfcam_gpu.cluster_filter import weigh
from cfcam_gpu.engines import cpu

TINY = gpu_check.Subject("tiny", models.tiny, "features", models.IMAGENET_NORM)
CPU = torch.device("cpu")


def clock(work):
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def three_mib(work):
    work()
    return 3 << 20


METER = Meter(milliseconds=clock, peak_bytes=three_mib)


def check(compared=(TINY,), test=lambda: {"passed": True}):
    return gpu_check.check("cpu", CPU, list(compared), TINY, METER, batches=(1, 3), repeats=3, test=test)


@pytest.fixture
def spoiled(monkeypatch):
    """The CPU engine with its result changed by a function."""

    def spoil(change):
        def run(activations, gradients, config):
            return change(cpu.run(activations, gradients, config))

        monkeypatch.setattr(engines, "choose", lambda name, device: SimpleNamespace(run=run))

    return spoil


def test_the_record_has_all_parts_and_is_json():
    record = check()
    assert record["passed"]
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert set(record) >= {"date", "versions", "cuda", "devices", "engines", "tests", "agreement", "stages"}
    assert set(record["agreement"]) == {"passed", "tiny", "random"}
    for subject in ("tiny", "random"):
        for preset in ("default", "paper"):
            found = record["agreement"][subject][preset]
            assert found["labels_equal"] == found["images"] > 0
            assert found["map_error"] < 1e-6
    assert set(record["stages"]) == {"passed", "network", "repeats", "batch 1", "batch 3"}
    batch = record["stages"]["batch 3"]
    assert set(batch) == {"images", "forward", "capture", "engine", "upsample", "end_to_end"}
    assert batch["end_to_end"]["ms"] > 0
    assert batch["forward"]["peak_mib"] == 3


WRONG = {
    "labels": lambda found: found._replace(labels=found.labels.clone().fill_(0)),
    "maps": lambda found: found._replace(raw_maps=found.raw_maps * 1.001),
    "no maps": lambda found: found._replace(raw_maps=found.raw_maps * float("nan")),
    "eps": lambda found: found._replace(eps=found.eps * (1 + 1e-6)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_engine_that_disagrees_fails_and_is_not_timed(spoiled, wrong):
    spoiled(WRONG[wrong])
    record = check()
    assert not record["passed"]
    assert not record["agreement"]["passed"]
    assert set(record["stages"]["batch 1"]) == {"images", "forward", "capture"}
    assert "disagrees" in record["stages"]["reason"]
    json.dumps(record, allow_nan=False)


def test_a_missing_engine_fails_and_is_not_timed(monkeypatch):
    monkeypatch.setattr(cpu, "why_missing", lambda: "cuML is not installed; install it")
    record = check()
    assert not record["passed"]
    assert record["agreement"] == {"passed": False, "reason": "cuML is not installed; install it"}
    assert "end_to_end" not in record["stages"]["batch 1"]


def test_failed_tests_fail_the_check():
    record = check(test=lambda: {"passed": False})
    assert not record["passed"]
    assert record["agreement"]["passed"]


def test_a_part_that_breaks_is_recorded_beside_the_others(spoiled, capfd):
    def breaks(found):
        raise RuntimeError("out of memory")

    spoiled(breaks)
    record = check()
    assert record["agreement"] == {"passed": False, "reason": "RuntimeError: out of memory"}
    assert record["tests"]["passed"]
    assert "out of memory" in capfd.readouterr().err


def test_a_network_that_is_not_installed_is_left_out_by_name():
    def absent():
        raise ImportError("No module named 'weights'")

    record = check([TINY._replace(name="absent", build=absent), TINY])
    assert record["passed"]
    assert record["agreement"]["absent"] == {"reason": "left out: No module named 'weights'"}


def test_a_label_may_differ_where_a_distance_is_within_rounding_of_eps():
    config = Config(dead_threshold=None, dominant_percentile=100, eps_percentile=0)
    gradients = torch.ones(1, 4, 1, 1, dtype=torch.float64)

    def report(third, labels):
        """Of an engine that finds these labels and what follows from them."""
        activations = torch.tensor([0.0, 1.0, third, 100.0], dtype=torch.float64).reshape(1, 4, 1, 1)
        found = cpu.run(activations, gradients[:, None], config)
        assert found.labels.flatten().tolist() == [0, 0, -1, -2]
        arrays = activations[0].numpy(), gradients[0].numpy(), np.array(labels)
        maps = torch.from_numpy(weigh(*arrays, config, cpu.PRIMITIVES).map).reshape(1, 1, 1, 1)
        found = found._replace(labels=torch.tensor(labels).reshape(1, 1, 4), raw_maps=maps)
        return compare(activations, gradients, config, found)

    for third, labels, key in [
        (2 + 1e-8, [0, 0, -1, -2], "labels_equal"),
        (2 + 1e-8, [0, 0, 0, -2], "labels_within_rounding"),
        (2 + 1e-6, [0, 0, 0, -2], "labels_wrong"),
        (2 + 1e-8, [0, 0, 1, -2], "labels_wrong"),
    ]:
        found = report(third, labels)
        assert found[key] == 1
        assert found["passed"] == (key != "labels_wrong")


def test_what_is_not_finite_never_passes():
    activations, gradients = torch.ones(1, 4, 2, 2), -torch.ones(1, 4, 2, 2)
    found = cpu.run(activations, gradients[:, None], Config())
    assert compare(activations, gradients, Config(), found)["passed"]
    found.raw_maps[0, 0, 1, 1] = float("nan")  # where the right value is 0
    assert not compare(activations, gradients, Config(), found)["passed"]


def test_a_map_is_compared_for_the_labels_found():
    """Or else labels within rounding of the CPU's would excuse any map."""
    config = Config(dead_threshold=None, dominant_percentile=100, eps_percentile=0)
    activations = torch.tensor([0.0, 1.0, 2 + 1e-8, 100.0], dtype=torch.float64).reshape(1, 4, 1, 1)
    gradients = torch.tensor([1.0, 1.0, 50.0, 1.0], dtype=torch.float64).reshape(1, 4, 1, 1)
    found = cpu.run(activations, gradients[:, None], config)
    found = found._replace(labels=torch.tensor([[[0, 0, 0, -2]]]))
    report = compare(activations, gradients, config, found)
    assert report["labels_within_rounding"] == 1
    assert not report["passed"]


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


def test_each_stage_runs_by_itself():
    images = torch.rand(2, 3, 64, 64)
    works = stages(models.tiny(), "features", images, "cpu")
    assert list(works) == ["forward", "capture", "engine", "upsample", "end_to_end"]
    torch.testing.assert_close(works["end_to_end"](), works["upsample"]())


def test_pictures_are_noise_where_photographs_are_missing(monkeypatch):
    def absent(count, norm):
        raise ImportError

    assert gpu_check.pictures(2, models.IMAGENET_NORM)[1] == "photographs"
    monkeypatch.setattr(models, "photographs", absent)
    images, kind = gpu_check.pictures(2, models.IMAGENET_NORM)
    assert (images.shape, kind) == ((2, 3, 224, 224), "smooth noise")


# The command


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_refuses_and_writes_nothing(tmp_path, capsys):
    assert gpu_check.main([str(tmp_path / "out")]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("passed", [True, False])
def test_the_exit_status_says_whether_all_passed(tmp_path, monkeypatch, capsys, passed):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Test (TM) 80GB/x")
    monkeypatch.setattr(gpu_check, "check", lambda *arguments, **options: {"passed": passed})
    assert gpu_check.main([str(tmp_path)]) == (0 if passed else 1)
    record = json.loads((tmp_path / "nvidia-test-tm-80gb-x.json").read_text())
    assert record["device"] == "NVIDIA Test (TM) 80GB/x"
    assert record["passed"] is passed
    assert ("passed" if passed else "FAILED") in capsys.readouterr().out


def test_gpu_tests_fail_without_a_gpu_where_one_is_required(monkeypatch, capfd):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = gpu_check.run_tests()
    assert not found["passed"]
    assert found["failed"]
    assert "CFCAM_REQUIRE_GPU=1, but torch finds no CUDA device" in capfd.readouterr().out


def test_a_missing_pytest_is_said_and_fails(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = gpu_check.run_tests()
    assert not found["passed"]
    assert "pytest is not installed" in found["reason"]
