"""The RAPIDS engine on a GPU: its arrays, memory, allocator and copies."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from bench.trace import copies_to_host
from cfcam_gpu import CFCAM, Config, cluster_filter_cam

from ..cases import CONFIGS
from .layers import assert_right, random

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("config", ["default", "zero boundary", "elementwise", "two-level"])
@pytest.mark.parametrize("size", [(70,), (3,), (6, 5, 7), (1, 4, 4)], ids=str)
def test_volumes_and_signals(engine, size, config):
    chosen = Config.two_level() if config == "two-level" else CONFIGS[config]
    assert_right(engine, *random(0, 2, 1, 120, *size), chosen)


@pytest.mark.parametrize("name", ["auto", "rapids", "fused"])
def test_arrays_of_volumes_and_signals(engine, fused, name):
    for size in ((20,), (4, 5, 6)):
        activations, gradients = random(0, 1, 1, 40, *size)
        spatial_dims = len(size)
        found = cluster_filter_cam(activations, gradients[:, 0], spatial_dims=spatial_dims, engine=name)
        expected = cluster_filter_cam(activations.cpu(), gradients[:, 0].cpu(), spatial_dims=spatial_dims)
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-6)


def test_on_cupys_side_stream_from_cupy_arrays(layer, engine, cupy):
    activations, gradients = (tensor.cpu().numpy() for tensor in (layer[0], layer[1][:, 0]))
    with cupy.cuda.Stream(non_blocking=True):
        maps = cluster_filter_cam(cupy.asarray(activations), cupy.asarray(gradients))
        found = cupy.asnumpy(maps)
    assert isinstance(maps, cupy.ndarray)
    assert maps.dtype == cupy.float32
    np.testing.assert_allclose(found, cluster_filter_cam(activations, gradients), rtol=1e-4, atol=1e-6)
    single = cluster_filter_cam(cupy.asarray(activations[0]), cupy.asarray(gradients[0]))
    np.testing.assert_array_equal(cupy.asnumpy(single), found[0])


def test_results_go_out_by_dlpack_in_memory_of_their_own(engine, cupy):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    result = CFCAM(model.eval().cuda(), "1")(torch.randn(2, 3, 20, 20, device="cuda"))
    assert result.maps.is_cuda
    for array in (torch.from_dlpack(result), cupy.from_dlpack(result), result.cupy()):
        found = torch.from_dlpack(array)
        assert found.device == result.maps.device
        assert torch.equal(found, result.maps)
        assert found.data_ptr() != result.maps.data_ptr(), "a result is not to be written to by accident"


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
