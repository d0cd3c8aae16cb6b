"""What "auto" asks of the fused engine before it relies on it, of the kernels as they run on the CPU."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses import FakeTensorMode

from cfcam_gpu.engines import fused, kernels, reference, self_check

from .emulator import launch

HOST = torch.device("cpu")


def emulated(activations, gradients, config, start=launch):
    return fused.compute(activations, gradients, config, start)[0]


def test_the_kernels_pass_and_all_of_them_are_launched():
    launched = set()

    def record(name, grid, block, *arguments, **macros):
        launched.add((name, macros.get("EACH")))
        launch(name, grid, block, *arguments, **macros)

    def run(*given):
        return emulated(*given, record)

    assert self_check.disagreement(run, reference.run, HOST) is None
    assert {name for name, _ in launched} == {path.stem for path in kernels.folder().glob("*.cu")}
    assert {each for name, each in launched if name == "pair_distances"} == {4, 8}


@pytest.mark.parametrize("which", ["raw_maps", "labels", "weights", "eps"])
@pytest.mark.parametrize("by", [1, torch.nan], ids=str)
def test_what_is_wrong_is_named(monkeypatch, which, by):
    monkeypatch.setattr(self_check, "EXAMPLES", self_check.EXAMPLES[-1:])

    def run(*given):
        found = reference.run(*given)
        part = getattr(found, which).clone()
        part.view(-1)[-1] += 1 if which == "labels" else by
        return found._replace(**{which: part})

    name = "radii" if which == "eps" else which
    assert self_check.disagreement(run, reference.run, HOST) == (
        f"gives other {name} than engine 'reference' on an example"
    )


#: link_lowest only saves steps of components.
NAMES = sorted({path.stem for path in kernels.folder().glob("*.cu")} - {"link_lowest"})
#: In every run, and on the last example alone.
QUICK = ("channel_statistics", "near_pairs", "filter_gradients")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name not in QUICK)) for name in NAMES])
def test_a_kernel_that_does_nothing_is_found(name, monkeypatch):
    if name in QUICK:
        monkeypatch.setattr(self_check, "EXAMPLES", self_check.EXAMPLES[-1:])

    def run(*given):
        def without(called, *rest, **macros):
            if called != name:
                launch(called, *rest, **macros)

        return emulated(*given, without)

    assert self_check.disagreement(run, reference.run, HOST) is not None


@pytest.mark.parametrize("example", self_check.EXAMPLES, ids=["zero border", "two levels", "volumes"])
def test_every_example_shows_its_filter(monkeypatch, example):
    monkeypatch.setattr(self_check, "EXAMPLES", [example])

    def run(activations, gradients, config):
        return reference.run(activations, gradients, replace(config, sigma=1.01 * config.sigma))

    assert self_check.disagreement(run, reference.run, HOST) == (
        "gives other weights than engine 'reference' on an example"
    )


def test_what_fails_is_told_in_its_own_words_on_one_line():
    def run(*given):
        raise RuntimeError("nvrtc: error:\n  invalid value for --gpu-architecture (-arch)\n")

    assert self_check.disagreement(run, reference.run, HOST) == (
        "fails on an example: RuntimeError: nvrtc: error: invalid value for --gpu-architecture (-arch)"
    )


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError()], ids=str)
def test_a_lack_of_memory_says_nothing_of_the_kernels(error):
    def run(*given):
        raise error

    with pytest.raises(type(error)):
        self_check.disagreement(run, reference.run, HOST)


MODES = {"inference": torch.inference_mode, "a default device": lambda: torch.device("meta"), "fake": FakeTensorMode}


@pytest.mark.parametrize("mode", MODES)
def test_the_callers_torch_neither_matters_nor_changes(monkeypatch, mode):
    monkeypatch.setattr(self_check, "EXAMPLES", self_check.EXAMPLES[-1:])
    torch.manual_seed(3)
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with MODES[mode]():
            assert self_check.disagreement(emulated, reference.run, HOST) is None
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
