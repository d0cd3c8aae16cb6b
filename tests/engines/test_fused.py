"""The fused engine around its kernels: what it refuses, how it finds and launches them, what memory it takes."""

import re
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.kernel_calls import allocate_apart
from cfcam_gpu import CFCAM, Config, cluster_filter_cam, engines
from cfcam_gpu.engines import dlpack, fused, kernels

from ..networks import lite0

NAMES = sorted(path.stem for path in kernels.folder().glob("*.cu"))


# What it refuses


@pytest.mark.parametrize(
    ("config", "shape", "reason"),
    [
        (Config(), (4097, 7, 7), "takes at most 4096 channels; got 4097"),
        (Config(), (2, 257, 7), "takes maps of at most 4096 positions, 256 along an axis; got 257 x 7"),
        (Config(), (2, 17, 17, 17), "takes maps of at most 4096 positions, 256 along an axis; got 17 x 17 x 17"),
        (Config(), (2, 257), "takes maps of at most 4096 positions, 256 along an axis; got 257"),
        (
            Config(eps_rule="neighbor_median", eps_neighbor=17),
            (2, 7, 7),
            "takes an eps_neighbor of at most 16; got 17",
        ),
        (Config(eps_neighbor=17), (4096, 64, 64), None),
        (Config(), (8, 16, 256), None),
        (Config.two_level(), (8, 16, 16, 16), None),
        (Config.paper(), (2048, 7, 7), None),
        (Config.two_level(), (672, 14, 14), None),
    ],
)
def test_what_is_not_covered_is_named_before_anything_runs(config, shape, reason):
    assert fused.why_not(config, (1, 1, *shape)) == reason
    if reason is not None:
        activations = torch.zeros(shape)[None]
        with pytest.raises(ValueError, match=re.escape(f"engine: 'fused' {reason}; use engine='rapids' or 'cpu'")):
            fused.compute(activations, activations[:, None], config, launch=None)


def test_more_targets_than_a_grid_has_rows_are_refused():
    activations, gradients = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1).expand(1, 65536, 1, 1, 1)
    assert fused.why_not(Config(), (1, 65535, 1, 1, 1)) is None
    with pytest.raises(ValueError, match="engine: 'fused' takes at most 65535 targets; got 65536; use"):
        fused.compute(activations, gradients, Config(), launch=None)


def test_tensors_of_the_host_are_refused():
    values = torch.rand(3, 2, 2)
    with pytest.raises(ValueError, match="engine: 'fused' works on CUDA tensors; got tensors on 'cpu'"):
        cluster_filter_cam(values, values, engine="fused")
    with pytest.raises(ValueError, match="engine: 'fused' works on CUDA tensors"):
        CFCAM(lite0(), engine="fused")(torch.zeros(1, 3, 224, 224))


def test_it_is_missing_without_cupy_and_needs_no_cuml(monkeypatch):
    assert "fused" in engines.ENGINES
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "cuml", None)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert fused.why_missing() == "CuPy is not installed; pip install 'cfcam-gpu[cuda12]'"
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    assert fused.why_missing() is None
    monkeypatch.setattr(kernels, "folder", lambda: kernels.Path("absent"))
    assert fused.why_missing() == "its kernels are not in absent; install cfcam-gpu again"


def test_its_kernels_are_known_by_their_files(tmp_path, monkeypatch):
    """Neither by a project's file beside the package nor by another package's folder of their name."""
    package = tmp_path / "cfcam_gpu"
    monkeypatch.setattr(kernels, "__file__", str(package / "engines" / "kernels.py"))
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "kernels").mkdir()
    assert kernels.folder() == package / "kernels"  # where they should be
    (tmp_path / "kernels" / "common.cuh").touch()
    assert kernels.folder() == tmp_path / "kernels"  # a checkout
    (package / "kernels").mkdir(parents=True)
    (package / "kernels" / "common.cuh").touch()
    assert kernels.folder() == package / "kernels"


# Sources


@pytest.mark.parametrize("name", NAMES)
def test_a_source_is_in_one_piece_and_names_its_files(name):
    text = kernels.source(name)
    assert not re.search("^#include", text, re.MULTILINE)
    assert text.count('extern "C" __global__ __launch_bounds__') == 1
    assert re.search(rf"\) void {name}\(", text)
    header = (kernels.folder() / "common.cuh").read_text()
    lines = text.splitlines()
    assert lines[0] == f'#line 1 "{name}.cu"'
    start = lines.index('#line 1 "common.cuh"')
    assert lines[start + 1 : start + 1 + header.count("\n")][5:] == header.splitlines()[5:]
    (back,) = (i for i, line in enumerate(lines) if i > start and line.startswith("#line"))
    number = int(lines[back].split()[1])
    assert lines[back + 1 :] == (kernels.folder() / f"{name}.cu").read_text().splitlines()[number - 1 :]


def test_only_macros_with_a_default_in_the_kernel_are_defined():
    macros = {"INPUT": "double", "NEIGHBOR": 5}
    assert kernels.definitions("neighbor_distances", macros) == ("-DNEIGHBOR=5",)
    assert kernels.definitions("gather_points", macros) == ("-DINPUT=double",)
    assert kernels.definitions("components", macros) == ()


def test_constants_of_the_sequence_are_those_of_the_header():
    header = (kernels.folder() / "common.cuh").read_text()
    found = {
        name: int(value)
        for name, value in re.findall(r"^#define (TILE|COARSE_BINS|FINE_BINS) +(\d+)", header, re.MULTILINE)
    }
    assert found == {"TILE": fused._TILE, "COARSE_BINS": fused._COARSE_BINS, "FINE_BINS": fused._FINE_BINS}


# Launches


class LikeCuPy:
    """CuPy's RawModule, that keeps what it is given."""

    def __init__(self):
        self.modules, self.launches = [], []

    def RawModule(self, *, code, options):
        self.modules.append((code, options))
        return SimpleNamespace(get_function=lambda name: lambda *call: self.launches.append((name, *call)))


@pytest.fixture
def cupy(monkeypatch):
    fake, inside = LikeCuPy(), []

    @contextmanager
    def on_torch(device):
        inside.append(device)
        yield fake

    monkeypatch.setattr(dlpack, "cupy_on_torch", on_torch)
    yield fake
    for cached in (kernels._kernel, kernels._compiled):
        cached.cache_clear()
    assert all(isinstance(device, torch.device) for device in inside)


def test_kernels_are_compiled_once_and_launched_with_pointers_ints_and_doubles(cupy):
    activations, gradients = torch.rand(2, 5, 3, 3), torch.rand(2, 1, 5, 3, 3)
    result = fused.run(activations, gradients, Config())
    names = [name for name, *_ in cupy.launches]
    assert names[:3] == ["filter_matrix", "channel_statistics", "split_channels"]
    assert names[-1] == "pooled_maps"
    assert len(cupy.modules) == len(set(names))
    assert all("--fmad=false" in options for _, options in cupy.modules)
    for _, grid, block, arguments in cupy.launches:
        assert grid[1] in (1, 2)
        assert block[0] * block[1] % 32 == 0
        assert {type(value) for value in arguments} <= {np.uint64, np.int32, np.float64}
    maps = cupy.launches[-1]
    assert maps[3][-1] == result.raw_maps.data_ptr()
    assert (result.raw_maps.shape, result.labels.shape) == ((2, 1, 3, 3), (2, 1, 5))
    fused.run(activations, gradients, Config())
    assert len(cupy.modules) == len(set(names))
    fused.run(activations.double(), gradients, Config())
    again = [code for code, options in cupy.modules if "-DINPUT=double" in options]
    assert len(again) == 3
    assert all("INPUT" in code for code in again)


def test_a_kernel_is_found_once_and_shared_by_macros_that_it_does_not_know(cupy, monkeypatch):
    found = []
    formats = kernels.definitions
    monkeypatch.setattr(kernels, "definitions", lambda name, macros: found.append(name) or formats(name, macros))
    with kernels.on_gpu(torch.device("cuda", 0)) as launch:
        for kind in ("float", "float", "double", "double"):
            launch("components", (1, 1), (32, 1), INPUT=kind)
    assert found == ["components"] * 2
    assert (len(cupy.modules), len(cupy.launches)) == (1, 4)


@pytest.mark.parametrize("allocate", [fused.allocate, allocate_apart])
def test_memory_is_as_large_as_asked_for_and_zero_where_asked_for(allocate):
    sizes = {"a": 256, "b": 512, "c": 256}
    found = allocate(sizes, 768, torch.device("cpu"))
    ends = []
    for name, size in sizes.items():
        block, start = found[name].owner, found[name].address - found[name].owner.data_ptr()
        assert 0 <= start <= block.nbytes - size
        assert name == "c" or not bool(block[start : start + size].any())
        ends.append((found[name].address, found[name].address + size))
    assert all(end <= start for (_, end), (start, _) in zip(sorted(ends), sorted(ends)[1:]))


@pytest.mark.parametrize("config", [Config(), Config.paper(), Config.two_level(), Config(importance="contribution")])
def test_a_chunk_stays_within_its_memory(monkeypatch, config):
    """No two chunks overlap: what one asks for returns before the next begins."""
    asked, totals = [], []
    empty, init, explain = torch.empty, fused._Chunk.__init__, fused._Chunk.explain

    def counting(*args, **options):
        found = empty(*args, **options)
        asked.append(found.nbytes)
        return found

    def made(self, *given):
        asked.clear()
        init(self, *given)

    def counted(self, *given):
        explain(self, *given)
        totals.append(sum(asked))

    monkeypatch.setattr(torch, "empty", counting)
    monkeypatch.setattr(fused._Chunk, "__init__", made)
    monkeypatch.setattr(fused._Chunk, "explain", counted)
    images, shape = 40, (600, 7, 7)
    fused.compute(
        torch.zeros(1, *shape).expand(images, *shape),
        torch.zeros(1, 1, *shape).expand(images, 2, *shape),
        config,
        launch=lambda *args, **macros: None,
        memory=1 << 25,
    )
    assert len(totals) > 1
    assert (1 << 23) < max(totals) < 1.05 * (1 << 25)
