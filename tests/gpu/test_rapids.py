"""The RAPIDS engine on a GPU, against the CPU engine; its streams, memory, copies and threads."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from bench.parity import compare
from bench.trace import copies_to_host
from cfcam_gpu import CFCAM, Config, cluster_filter_cam
from cfcam_gpu.engines import cpu

from ..cases import CASES, CONFIGS, draw
from ..threads import on_streams

pytestmark = pytest.mark.gpu


@pytest.fixture
def layer(engine):
    """Activations (3, 200, 9, 7) with dead channels and gradients of two targets, on the GPU."""
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(3, 200, 9, 7, generator=generator).relu()
    activations *= torch.rand(3, 200, 1, 1, generator=generator) > 0.3
    return activations.cuda(), torch.randn(3, 2, 200, 9, 7, generator=generator).cuda()


def assert_equal(found, expected):
    for name, ours, theirs in zip(found._fields, found, expected):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("case", CASES)
def test_labels_eps_and_map_are_the_cpu_engines(engine, case, config):
    activations, gradients = (torch.from_numpy(array)[None].cuda() for array in draw(case))
    found = engine.run(activations, gradients[:, None], CONFIGS[config])
    report = compare(activations, gradients, CONFIGS[config], found)
    assert report["passed"], report


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("config", [Config(), Config.paper()], ids=["default", "paper"])
def test_random_activations_of_random_shapes(engine, seed, config):
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = (int(torch.randint(1, high, (), generator=generator)) for high in (600, 15, 15))
    activations = torch.randn(2, channels, height, width, generator=generator).relu()
    activations *= torch.rand(2, channels, 1, 1, generator=generator) > torch.rand((), generator=generator)
    gradients = torch.randn(2, channels, height, width, generator=generator)
    report = compare(activations, gradients, config, engine.run(activations.cuda(), gradients[:, None].cuda(), config))
    assert report["passed"], report


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dtypes_layouts_and_targets(layer, engine, dtype, memory_format):
    activations, gradients = layer[0].to(dtype).contiguous(memory_format=memory_format), layer[1].to(dtype)
    found = engine.run(activations, gradients, Config())
    expected = cpu.run(activations, gradients, Config())
    for name, ours, theirs in zip(found._fields, found, expected):
        assert (ours.dtype, ours.shape, ours.device) == (theirs.dtype, theirs.shape, theirs.device), name
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_same_input_gives_the_same_bytes(layer, engine):
    first = engine.run(*layer, Config.paper())
    for _ in range(3):
        assert_equal(engine.run(*layer, Config.paper()), first)


@pytest.mark.parametrize("config", [Config(), CONFIGS["most of them"]], ids=["default", "most"])
def test_on_a_side_stream(layer, engine, config):
    expected = engine.run(*layer, config)
    late = [torch.zeros_like(tensor) for tensor in layer]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # whoever does not wait for this stream reads zeros
        for tensor, values in zip(late, layer):
            tensor.copy_(values)
        found = engine.run(*late, config)
    stream.synchronize()
    assert_equal(found, expected)


def test_on_cupys_side_stream_from_cupy_arrays(layer, cupy):
    activations, gradients = (tensor.cpu().numpy() for tensor in (layer[0], layer[1][:, 0]))
    with cupy.cuda.Stream(non_blocking=True):
        maps = cluster_filter_cam(cupy.asarray(activations), cupy.asarray(gradients))
        found = cupy.asnumpy(maps)
    assert isinstance(maps, cupy.ndarray)
    assert maps.dtype == cupy.float32
    np.testing.assert_allclose(found, cluster_filter_cam(activations, gradients), rtol=1e-4, atol=1e-6)
    single = cluster_filter_cam(cupy.asarray(activations[0]), cupy.asarray(gradients[0]))
    np.testing.assert_array_equal(cupy.asnumpy(single), found[0])


def test_results_go_out_by_dlpack_without_a_copy(engine, cupy):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    result = CFCAM(model.eval().cuda(), "1")(torch.randn(2, 3, 20, 20, device="cuda"))
    assert result.maps.is_cuda
    pointer = result.maps.data_ptr()
    assert torch.from_dlpack(result).data_ptr() == pointer
    assert cupy.from_dlpack(result).data.ptr == pointer
    assert result.cupy().data.ptr == pointer


def test_memory_is_torchs_and_all_of_it_comes_back(layer, engine, cupy):
    engine.run(*layer, Config())
    pool = cupy.get_default_memory_pool()
    torch.cuda.synchronize()
    ours, torchs = pool.total_bytes(), torch.cuda.memory_allocated()
    handed_out = torch.cuda.memory_stats()["allocated_bytes.all.allocated"]
    found = engine.run(*layer, Config())
    distances = 8 * 100 * 99 // 2  # of the channels that cluster there are more than a hundred
    assert torch.cuda.memory_stats()["allocated_bytes.all.allocated"] - handed_out > len(layer[0]) * distances
    assert pool.total_bytes() == ours
    del found
    assert torch.cuda.memory_allocated() == torchs


def test_the_users_allocator_is_theirs_again_after_cuml_was_imported(engine):
    code = """
import cupy
import torch
mine = cupy.cuda.MemoryPool()
cupy.cuda.set_allocator(mine.malloc)
from cfcam_gpu import cluster_filter_cam
with cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc):
    cluster_filter_cam(torch.rand(20, 5, 5).cuda(), torch.rand(20, 5, 5).cuda())
    assert cupy.cuda.get_allocator() == cupy.get_default_memory_pool().malloc
assert cupy.cuda.get_allocator() == mine.malloc, cupy.cuda.get_allocator()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_map_and_nothing_larger_is_copied_to_the_host(layer, engine, record_property):
    engine.run(*layer, Config())
    copies = copies_to_host(lambda: engine.run(*layer, Config()))
    record_property("copies to the host, of bytes at most", f"{len(copies)}, {max(copies, default=0)}")
    assert copies, "counts do come to the host"
    assert max(copies) < 4 * layer[0][0, 0].numel()


def test_threads_with_streams_of_their_own(layer, engine):
    configs = [Config(), Config.paper(), CONFIGS["most of them"], CONFIGS["a fifth"]]
    expected = [engine.run(*layer, config) for config in configs]
    torch.cuda.synchronize()
    found = on_streams(lambda index: [engine.run(*layer, configs[index]) for _ in range(5)], len(configs))
    for index, result in enumerate(expected):
        for again in found[index]:
            assert_equal(again, result)
