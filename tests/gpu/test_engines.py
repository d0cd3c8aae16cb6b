"""What both GPU engines do, against the CPU engine: results, streams, threads."""

import pytest
import torch

from cfcam_gpu import Config, engines
from cfcam_gpu.engines import reference, self_check

from ..cases import COMBINATIONS, CONFIGS, draw
from ..pairwise import in_pairs
from ..small import CONFIGS as PRESETS
from ..threads import on_streams
from .layers import assert_equal, assert_right, random

pytestmark = pytest.mark.gpu


ENGINES = ("rapids", "fused")


def test_auto_is_fused_because_it_agrees_on_its_examples(fused, device, caplog):
    assert self_check.disagreement(fused.run, reference.run, device) is None
    assert engines.choose("auto", device) is fused
    assert not caplog.records


@pytest.fixture(params=ENGINES)
def either(request):
    return request.getfixturevalue({"rapids": "engine", "fused": "fused"}[request.param])


@pytest.mark.parametrize(("case", "config"), COMBINATIONS.values(), ids=COMBINATIONS)
def test_labels_eps_and_map_are_the_cpu_engines(either, case, config):
    activations, gradients = (torch.from_numpy(array)[None].cuda() for array in draw(case))
    if either.__name__.endswith("fused") and config == CONFIGS["far neighbor"]:
        with pytest.raises(ValueError, match="takes an eps_neighbor of at most"):
            either.run(activations, gradients[:, None], config)
    else:
        assert_right(either, activations, gradients[:, None], config)


@in_pairs(seed=range(20), config=PRESETS, either=ENGINES, indirect=["either"])
def test_random_activations_of_random_shapes(either, seed, config):
    generator = torch.Generator().manual_seed(seed)
    shape = (int(torch.randint(1, high, (), generator=generator)) for high in (600, 15, 15))
    assert_right(either, *random(seed, 2, 1, *shape), PRESETS[config])


@in_pairs(
    dtype=[torch.float16, torch.bfloat16, torch.float32, torch.float64],
    memory_format=[torch.contiguous_format, torch.channels_last],
    either=ENGINES,
    indirect=["either"],
)
def test_dtypes_layouts_and_targets(layer, either, dtype, memory_format):
    activations, gradients = layer[0].to(dtype).contiguous(memory_format=memory_format), layer[1].to(dtype)
    found = either.run(activations, gradients, Config())
    expected = reference.run(activations, gradients, Config())
    for name, ours, theirs in zip(found._fields, found, expected):
        assert (ours.dtype, ours.shape, ours.device) == (theirs.dtype, theirs.shape, theirs.device), name
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("config", PRESETS)
def test_the_same_input_gives_the_same_bytes(layer, either, config):
    first = either.run(*layer, PRESETS[config])
    for _ in range(10):
        assert_equal(either.run(*layer, PRESETS[config]), first)


@pytest.mark.parametrize("config", PRESETS)
def test_on_a_side_stream(layer, either, config):
    expected = either.run(*layer, PRESETS[config])
    late = [torch.zeros_like(tensor) for tensor in layer]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # whoever does not wait for this stream reads zeros
        for tensor, values in zip(late, layer):
            tensor.copy_(values)
        found = either.run(*late, PRESETS[config])
    stream.synchronize()
    assert_equal(found, expected)


def test_threads_with_streams_of_their_own(layer, either):
    configs = [*PRESETS.values(), CONFIGS["most of them"]]
    expected = [either.run(*layer, config) for config in configs]
    torch.cuda.synchronize()
    found = on_streams(lambda index: [either.run(*layer, configs[index]) for _ in range(5)], len(configs))
    for index, result in enumerate(expected):
        for again in found[index]:
            assert_equal(again, result)
