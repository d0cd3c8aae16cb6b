"""The fused engine on a GPU, against the CPU engine and rapids; its streams, memory, copies and threads."""

import pytest
import torch

from bench.parity import MAP_TOLERANCE, compare
from bench.trace import copies_to_host
from cfcam_gpu import CFCAM, Config
from cfcam_gpu.engines import cpu

from ..cases import CASES, CONFIGS, draw
from ..small import CONFIGS as PRESETS
from ..small import LAYERS, Network
from ..small import draw as images
from ..threads import on_streams

pytestmark = pytest.mark.gpu


@pytest.fixture
def layer(fused):
    """Activations (3, 200, 9, 7) with dead channels and gradients of two targets, on the GPU."""
    return random(0, 3, 2, 200, 9, 7)


def random(seed, batch, several, channels, height, width):
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(batch, channels, height, width, generator=generator).relu()
    activations *= torch.rand(batch, channels, 1, 1, generator=generator) > 0.3
    return activations.cuda(), torch.randn(batch, several, channels, height, width, generator=generator).cuda()


def assert_equal(found, expected):
    for name, ours, theirs in zip(found._fields, found, expected):
        assert torch.equal(ours, theirs), name


def assert_right(activations, gradients, config, found):
    report = compare(activations, gradients[:, 0], config, found)
    assert report["passed"], report
    assert report["labels_equal"] == len(activations), report


# What it computes


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("case", CASES)
def test_labels_eps_and_map_are_the_cpu_engines(fused, case, config):
    if fused.why_not(CONFIGS[config], (1, 1, 1)):
        assert config == "far neighbor"
        return
    activations, gradients = (torch.from_numpy(array)[None].cuda() for array in draw(case))
    found = fused.run(activations, gradients[:, None], CONFIGS[config])
    assert_right(activations, gradients[:, None], CONFIGS[config], found)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("config", PRESETS)
def test_random_activations_of_random_shapes(fused, seed, config):
    generator = torch.Generator().manual_seed(seed)
    shape = (int(torch.randint(1, high, (), generator=generator)) for high in (600, 15, 15))
    given = random(seed, 2, 1, *shape)
    assert_right(*given, PRESETS[config], fused.run(*given, PRESETS[config]))


@pytest.mark.parametrize("shape", [(4096, 2, 2), (7, 64, 64), (1, 1, 1), (2048, 7, 7)])
@pytest.mark.parametrize("config", PRESETS)
def test_the_largest_shapes_and_the_smallest(fused, shape, config):
    given = random(1, 1, 1, *shape)
    assert_right(*given, PRESETS[config], fused.run(*given, PRESETS[config]))


@pytest.mark.parametrize("config", PRESETS)
def test_rapids_gives_the_same(layer, fused, engine, config):
    found, expected = fused.run(*layer, PRESETS[config]), engine.run(*layer, PRESETS[config])
    assert torch.equal(found.labels, expected.labels)
    scale = expected.raw_maps.max()
    assert bool(((found.raw_maps - expected.raw_maps).abs() <= MAP_TOLERANCE * scale).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dtypes_layouts_and_targets(layer, fused, dtype, memory_format):
    activations, gradients = layer[0].to(dtype).contiguous(memory_format=memory_format), layer[1].to(dtype)
    found = fused.run(activations, gradients, Config())
    expected = cpu.run(activations, gradients, Config())
    for name, ours, theirs in zip(found._fields, found, expected):
        assert (ours.dtype, ours.shape, ours.device) == (theirs.dtype, theirs.shape, theirs.device), name
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


# The same bytes


@pytest.mark.parametrize("config", PRESETS)
def test_the_same_input_gives_the_same_bytes(layer, fused, config):
    first = fused.run(*layer, PRESETS[config])
    for _ in range(10):
        assert_equal(fused.run(*layer, PRESETS[config]), first)


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


@pytest.mark.parametrize("config", PRESETS)
def test_on_a_side_stream(layer, fused, config):
    expected = fused.run(*layer, PRESETS[config])
    late = [torch.zeros_like(tensor) for tensor in layer]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # whoever does not wait for this stream reads zeros
        for tensor, values in zip(late, layer):
            tensor.copy_(values)
        found = fused.run(*late, PRESETS[config])
    stream.synchronize()
    assert_equal(found, expected)


def test_threads_with_streams_of_their_own(layer, fused):
    configs = [*PRESETS.values(), CONFIGS["most of them"]]
    expected = [fused.run(*layer, config) for config in configs]
    torch.cuda.synchronize()
    found = on_streams(lambda index: [fused.run(*layer, configs[index]) for _ in range(5)], len(configs))
    for index, result in enumerate(expected):
        for again in found[index]:
            assert_equal(again, result)


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
