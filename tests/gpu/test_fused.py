"""The fused engine on a GPU: its limits, its bytes, and that no host waits for it."""

import pytest
import torch

from bench.parity import MAP_TOLERANCE
from bench.trace import copies_to_host
from cfcam_gpu import CFCAM, Config

from ..small import CONFIGS as PRESETS
from ..small import LAYERS, Network
from ..small import draw as images
from .layers import assert_equal, assert_right, random

pytestmark = pytest.mark.gpu


# What it computes


SHAPES = [(4096, 2, 2), (7, 64, 64), (7, 16, 256), (1, 1, 1), (2048, 7, 7), (7, 16, 16, 16), (40, 5, 4, 3), (60, 157)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("config", PRESETS)
def test_the_largest_shapes_and_the_smallest(fused, shape, config):
    assert_right(fused, *random(1, 1, 1, *shape), PRESETS[config])


@pytest.mark.parametrize("config", PRESETS)
def test_rapids_gives_the_same(layer, fused, engine, config):
    found, expected = fused.run(*layer, PRESETS[config]), engine.run(*layer, PRESETS[config])
    assert torch.equal(found.labels, expected.labels)
    scale = expected.raw_maps.max()
    assert bool(((found.raw_maps - expected.raw_maps).abs() <= MAP_TOLERANCE * scale).all())


# The same bytes


@pytest.mark.parametrize("config", PRESETS)
def test_an_image_does_not_depend_on_its_batch(layer, fused, config):
    whole = fused.run(*layer, PRESETS[config])
    for b in range(len(layer[0])):
        alone = fused.run(layer[0][b : b + 1], layer[1][b : b + 1], PRESETS[config])
        assert_equal(alone, [value[b : b + 1] for value in whole])


@pytest.mark.parametrize("config", PRESETS)
def test_what_was_in_its_memory_does_not_matter(layer, fused, config):
    expected = fused.run(*layer, PRESETS[config])
    poison = [torch.full((size,), torch.nan, device="cuda") for size in [1 << n for n in range(7, 24)] * 3]
    del poison  # torch hands it out again
    assert_equal(fused.run(*layer, PRESETS[config]), expected)


# No host


@pytest.mark.parametrize("config", PRESETS)
def test_nothing_is_copied_to_the_host(layer, fused, config, record_property):
    fused.run(*layer, PRESETS[config])
    copies = copies_to_host(lambda: fused.run(*layer, PRESETS[config]))
    record_property("copies to the host", len(copies))
    assert copies == []


@pytest.mark.parametrize("config", PRESETS)
def test_of_a_whole_call_only_the_check_of_the_values_comes_to_the_host(fused, config, record_property):
    explain = CFCAM(Network().eval().cuda(), LAYERS[config], config=PRESETS[config], engine="fused")
    batch = images(0).cuda()
    explain(batch)
    copies = copies_to_host(lambda: explain(batch).maps)
    record_property("copies to the host, of bytes", str(copies))
    assert len(copies) == 1
    assert copies[0] <= 4 * len(batch)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("config", PRESETS)
def test_the_host_does_not_wait(layer, fused, config):
    fused.run(*layer, PRESETS[config])
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(2_000_000_000)  # about a second
        fused.run(*layer, PRESETS[config])
        done.record()
        assert not done.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()


# Memory


def test_memory_is_torchs_and_all_of_it_comes_back(layer, fused, cupy):
    fused.run(*layer, Config())
    pool = cupy.get_default_memory_pool()
    torch.cuda.synchronize()
    ours, torchs = pool.total_bytes(), torch.cuda.memory_allocated()
    found = fused.run(*layer, Config())
    assert pool.total_bytes() == ours
    del found
    assert torch.cuda.memory_allocated() == torchs


def test_the_users_allocator_is_theirs_again(layer, fused, cupy):
    mine, before = cupy.cuda.MemoryPool(), cupy.cuda.get_allocator()
    cupy.cuda.set_allocator(mine.malloc)
    try:
        fused.run(*layer, Config())
        assert cupy.cuda.get_allocator() == mine.malloc
    finally:
        cupy.cuda.set_allocator(before)
