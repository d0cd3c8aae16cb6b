"""``cfcam-gpu bench latency``: what it measures, tells, writes, withholds and refuses."""

import gc
import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cfcam_gpu import CAM, CFCAM, Config
from cfcam_gpu.cli import app
from cfcam_gpu.engines import cpu
from cfcam_gpu.hooks.layers import find
from cfcam_gpu.image_files import photos
from cfcam_gpu.latency import candidates, gate, machine, measure, memory, peers, pictures, stages, timing
from cfcam_gpu.named_models import models
from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.targets.request import Request

from ..networks import two_scales
from ..transformers import transformer

MODEL = "tests.networks:two_scales"


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Nothing that lasts as long as the process, no other processes, and one photograph with its mirror image."""
    samples = photos.samples()
    monkeypatch.setattr(timing, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(memory, "in_child", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(peers, "PEERS", {})
    monkeypatch.setattr(machine, "taken_now", lambda: 0.0)
    monkeypatch.setattr(measure, "FIRST", 1)
    monkeypatch.setattr(photos, "samples", lambda: samples[:1])
    gc.freeze()  # what a test before it has imported, too


def bench(out, *more):
    given = ["bench", "latency", "--model", MODEL, "--batch-size", "2,1", "--rounds", "2", "--out", str(out), *more]
    return CliRunner().invoke(app, given)


def read(out):
    (path,) = out.glob("latency-*.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One run with a method, its output and its folder."""
    out = tmp_path_factory.mktemp("latency")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "keep_freed_memory", lambda: None)
        patch.setattr(memory, "in_child", lambda work, *arguments: work(*arguments))
        patch.setattr(peers, "PEERS", {})
        done = bench(out, "--methods", "gradcam,cfcam")
    assert done.exit_code == 0, done.output
    return done, out


class Refusing(torch.nn.Module):
    """A model that takes no batch of two, and doesn't run in inference mode."""

    def __init__(self):
        super().__init__()
        self.parts = two_scales()

    def forward(self, images):
        if len(images) == 2:
            raise ValueError("no batches of two\nat all")
        assert not torch.is_inference_mode_enabled()
        return self.parts(images)


def test_what_was_measured_stays_where_the_model_takes_no_larger_batch(tmp_path):
    done = bench(tmp_path / "out", "--model", f"{__name__}:Refusing", "--batch-size", "1,2,3")
    assert done.exit_code == 0, done.output
    record = read(tmp_path / "out")
    assert [one["batch"] for one in record["batches"]] == [1]
    assert "batch 2, and what is larger: not measured: no batches of two" in record["notes"]
    assert "end_to_end" in record["batches"][0]["stages"]["cfcam"]


def test_every_candidate_has_every_figure_at_every_batch_size(measured):
    _, out = measured
    record = read(out)
    names = ["forward", "cfcam", "cfcam-one", "gradcam"]
    assert [one["batch"] for one in record["batches"]] == [1, 2]
    for one in record["batches"]:
        for figure in ("latency_ms", "processor_ms", "images_per_second"):
            assert list(one[figure]) == names
        times = one["latency_ms"]["cfcam"]
        assert len(times["rounds"]) == 2
        assert times["median"] <= times["p95"] <= times["p99"]
        assert one["images_per_second"]["cfcam"] == pytest.approx(1e3 * one["batch"] / times["median"], rel=1e-2)
        paired = one["ratios"]["latency_ms"]["cfcam / forward"]["rounds"]
        bare = one["latency_ms"]["forward"]["rounds"]
        assert paired == pytest.approx([a / b for a, b in zip(times["rounds"], bare)], rel=1e-2)
        assert {check["what"]: check["passed"] for check in one["gates"]["cfcam"]} == {
            "labels that differ from the reference's": True,
            "eps, against the reference": True,
            "maps, against the reference": True,
        }
        assert list(one["stages"]["cfcam-one"]) == ["forward", "capture", "engine", "upsample", "end_to_end"]
    assert len(record["layers"]) == 2
    assert (record["device"], record["engine"], record["trained"]) == ("cpu", "cpu", True)
    assert record["machine"]["torch_threads"] == torch.get_num_threads()
    assert record["first_call"]["ratio"]["median"] > 0


def test_the_terminal_has_what_the_record_has(measured):
    done, out = measured
    assert "batch 1" in done.stdout
    assert f"{read(out)['batches'][1]['latency_ms']['gradcam']['median']:.1f}" in done.stdout
    assert "the first call of a new explainer takes" in done.stdout
    assert "threads of torch" in done.stderr
    assert (out / "latency-tests.networks_two_scales.png").read_bytes().startswith(b"\x89PNG")


def test_results_that_are_there_are_kept(measured):
    _, out = measured
    before = {path: path.read_bytes() for path in out.iterdir()}
    done = bench(out)
    assert done.exit_code == 2
    assert "--overwrite" in done.stderr
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--methods", "gradcam,nope"], "methods: expected some of cfcam, cfcam-one"),
        (["--batch-size", "1,two"], "batch_size: expected whole numbers with commas between, such as 1,8; got '1,two'"),
        (["--batch-size", "0"], "batch_size: expected whole numbers from 1 to 65536; got 0"),
        (["--batch-size", ""], "batch_size: expected whole numbers from 1 to 65536; got none"),
        (["--batch-size", f"1,{10**23}"], f"batch_size: expected whole numbers from 1 to 65536; got 1, {10**23}"),
        (["--layer", "absent"], "target_layer: the model has no layer 'absent'"),
        (["--engine", "fused"], "engine: 'fused' works on CUDA tensors"),
        (["--model", "lite9"], "model: expected lite0, lite1, lite2"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(tmp_path, given, said):
    done = bench(tmp_path / "out", *given)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_engine_that_differs_has_no_figures(tmp_path, monkeypatch):
    right = cpu.run

    def wrong(*given):
        result = right(*given)
        return result._replace(eps=result.eps * 1.01)

    monkeypatch.setattr(cpu, "run", wrong)
    done = bench(tmp_path)
    assert done.exit_code == 1
    assert "cfcam: its figures at batch 1 are withheld: eps, against the reference: 0.01" in done.stderr
    assert [list(one["latency_ms"]) for one in read(tmp_path)["batches"]] == [["forward"], ["forward"]]


def peer(make):
    return peers.Peer("packaging", "json", make)


def test_a_peer_is_measured_and_one_that_fails_is_told(tmp_path, monkeypatch):
    seen = []

    def hooks(model, module):
        seen.append((model, module))
        model.get_submodule(module).register_forward_hook(lambda *args: None)
        return lambda images: model(images)

    def fails(model, module):
        raise AttributeError("no such version\nof it")

    there = {"good": peer(hooks), "bad": peer(fails), "absent": peers.Peer("nobody", "nobody_at_all", fails)}
    monkeypatch.setattr(peers, "PEERS", there)
    done = bench(tmp_path, "--layer", "4")
    assert done.exit_code == 0, done.output
    record = read(tmp_path)
    assert list(record["batches"][0]["latency_ms"]) == ["forward", "cfcam", "good"]
    notes = record["notes"]
    assert "bad: not measured: no such version" in notes
    assert "absent: not measured: not installed; pip install nobody" in notes
    assert "cfcam-one: not measured: cfcam has one level here" in notes
    assert {module for _, module in seen} == {"4"}


def test_a_peer_hooks_a_copy_of_the_model():
    model = models.load(MODEL).module
    hooked = peer(lambda copy, module: copy.get_submodule(module).register_forward_hook(lambda *given: None))
    candidates._of_peer(hooked, "4", model)
    assert not any(module._forward_hooks for module in model.modules())


def test_peers_are_left_out_where_they_would_explain_something_else(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "PEERS", {"good": peer(lambda model, module: model)})
    done = bench(tmp_path, "--layer", "5.input")
    assert done.exit_code == 0, done.output
    assert "good: not measured: the peers hook what a module returns, and 5.input is what enters one" in done.stderr


def test_a_method_of_many_layers_chooses_its_own():
    found = candidates.find((find(two_scales(), "4"),), ["winsorcam", "layercam"], "cpu")
    model, images = two_scales().eval(), torch.rand(1, 3, 64, 64)
    for name, layer in (("winsorcam", None), ("layercam", "4")):
        expected = CAM(model, layer, method=name)(images).maps
        assert torch.equal(found.makers[name](model)(images), expected)


def test_a_method_that_fails_ends_nothing(tmp_path, monkeypatch):
    explain = CAM.__call__

    def fails(self, images, *given, **options):
        if self.method == "layercam" and len(images) == 2:
            raise ValueError("two are too many")
        return explain(self, images, *given, **options)

    monkeypatch.setattr(CAM, "__call__", fails)
    done = bench(tmp_path, "--methods", "layercam")
    assert done.exit_code == 0, done.output
    one, two = (list(batch["latency_ms"]) for batch in read(tmp_path)["batches"])
    assert (one, two) == (["forward", "cfcam", "cfcam-one", "layercam"], ["forward", "cfcam", "cfcam-one"])
    assert "layercam: not measured at batch 2: two are too many" in done.stderr


def test_what_fails_in_the_middle_ends_nothing(tmp_path, monkeypatch):
    calls = []

    def tires(model, module):
        def call(images):
            calls.append(images)
            if len(calls) > 4:
                raise AttributeError("tired")

        return call

    monkeypatch.setattr(peers, "PEERS", {"tires": peer(tires)})
    done = bench(tmp_path, "--layer", "4", "--batch-size", "1")
    assert done.exit_code == 0, done.output
    assert list(read(tmp_path)["batches"][0]["latency_ms"]) == ["forward", "cfcam"]
    assert "tires: not measured at batch 1: tired" in done.stderr


@pytest.fixture
def bounded(monkeypatch):
    """Memory for one image at a time: an error for more."""

    def bound(error):
        forward = candidates.forward

        def fails(model):
            call = forward(model)

            def one_at_a_time(images):
                if len(images) > 1:
                    raise error
                return call(images)

            return one_at_a_time

        monkeypatch.setattr(candidates, "forward", fails)

    return bound


@pytest.mark.parametrize(
    "error",
    [torch.cuda.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:1] no memory")],
)
def test_what_fits_in_memory_is_kept(tmp_path, bounded, error):
    bounded(error)
    done = bench(tmp_path)
    assert done.exit_code == 0, done.output
    assert [one["batch"] for one in read(tmp_path)["batches"]] == [1]
    assert "batch 2, and what is larger: not measured: out of memory" in done.stderr


def test_where_nothing_fits_nothing_is_written(tmp_path, bounded):
    bounded(MemoryError())
    done = bench(tmp_path, "--batch-size", "2")
    assert done.exit_code == 1
    assert "nothing was measured" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("busy", [True, False])
def test_a_busy_machine_is_told(tmp_path, monkeypatch, busy):
    monkeypatch.setattr(machine, "taken_now", lambda: 0.5 if busy else 0.04)
    monkeypatch.setattr(machine, "taken_by_others", lambda before, after: 0.06 if busy else 0.05)
    done = bench(tmp_path, "--batch-size", "1")
    assert ("WARNING: other processes take 50% of the cores" in done.stderr) is busy
    assert ("WARNING: other processes took 6% of the cores at batch 1" in done.stderr) is busy
    assert read(tmp_path)["batches"][0]["taken_by_others"] == (0.06 if busy else 0.05)


def test_memory_is_that_of_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.undo()
    settings = measure.Settings(model="tests.albums:small")  # its module imports less than MODEL's
    found = memory.in_child(measure.peaks, settings, ("1",), (Config(), False), (), "cpu", "forward", [1, 64])
    if None in found:
        pytest.skip("this kernel does not reset the peak of resident memory")
    assert found[1] > found[0]


def test_noise_stands_in_for_photographs(monkeypatch):
    monkeypatch.undo()

    def absent():
        raise FileNotFoundError

    preparation = models.load(MODEL).preparation
    images, kind = pictures.pictures(11, preparation)
    assert (images.shape, kind) == ((11, 3, 224, 224), "the sample photographs")
    assert torch.equal(images[10], images[0])
    assert torch.equal(images[5], images[0].flip(-1))
    monkeypatch.setattr(photos, "samples", absent)
    images, kind = pictures.pictures(3, preparation)
    assert kind.startswith("smooth noise")
    assert images.std() > 0.1
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize("name", ["torch-cam", "captum"])
def test_the_other_libraries_give_maps_at_the_images_size(name, monkeypatch):
    monkeypatch.undo()
    one = peers.PEERS[name]
    if not one.installed:
        pytest.skip(f"{one.package} is not installed")
    model = models.load(MODEL).module
    maps = one.make(model, "4")(torch.rand(2, 3, 32, 32))
    assert maps.shape[-2:] == (32, 32)
    assert maps.isfinite().all()


def test_a_gpu_that_torch_cannot_ask_is_not_called_busy(monkeypatch):
    def absent():
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "utilization", absent)
    assert machine.gpu_taken() is None
    monkeypatch.setattr(torch.cuda, "utilization", lambda: 40)
    assert machine.gpu_taken() == 0.4


def test_without_the_command_torch_is_not_imported():
    code = "import sys, cfcam_gpu.latency.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_of_tokens_the_default_is_measured(tmp_path, monkeypatch):
    """Its layer by name would have another configuration, and plain gradients."""
    takes = photos.Preparation(24, 24, Image.Resampling.BILINEAR, (0.5,) * 3, (0.5,) * 3)
    found = models.Model(name="some", module=transformer(), takes=takes, trained=True)
    monkeypatch.setattr(models, "load", lambda spec, weights, **asked: found)
    run = measure.check_job(measure.Job(settings=Settings(model="some"), out=tmp_path))
    pixels = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    explain = CFCAM(found.module)
    expected = explain(pixels)
    assert torch.equal(run.candidates.makers["cfcam"](found.module)(pixels), expected.maps)
    works = []
    monkeypatch.setattr(stages, "measure", lambda given, *rest, **more: works.append(given))
    run._stages("cfcam", pixels)
    assert torch.equal(works[0]["end_to_end"](), expected.maps)
    captured = explain._plan.capture(found.module, pixels, Request())
    assert torch.equal(works[0]["capture"]().gradients, captured.gradients)
    held = []
    launch = gate.execution.launch

    def seen(engine, activations, gradients, *rest, **more):
        held.append(gradients)
        return launch(engine, activations, gradients, *rest, **more)

    monkeypatch.setattr(gate.execution, "launch", seen)
    assert all(check.passed for check in run._checks("cfcam", pixels))
    assert all(torch.equal(gradients, captured.gradients) for gradients in held), "those that are timed"
