"""Explanations from a CUDA graph on a GPU: the eager path's bytes, and no host."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.models import resnet50
from bench.trace import copies_to_host
from cfcam_gpu import CFCAM, Config

from ..small import CLASSES, CONFIGS, LAYERS, Network, assert_same, draw
from ..threads import on_streams

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def deterministic():
    """Convolutions of the same bytes, so that two calls can be compared by them."""
    kept = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = kept


@pytest.fixture
def model(fused):
    return Network().eval().cuda()


@pytest.fixture
def explain(model):
    return CFCAM(model, "late", engine="fused")


def images(seed, **options):
    return draw(seed, **options).cuda()


def assert_all_same(found, expected):
    for name, tensor in expected.tensors().items():
        assert torch.equal(getattr(found, name), tensor), name


# The eager path's bytes


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("target", [None, 4, [0, 4, 1], [[0, 1], [2, 3], [4, 0]]], ids=str)
def test_a_replay_gives_the_calls_bytes(model, config, target):
    explain = CFCAM(model, LAYERS[config], config=CONFIGS[config], engine="fused")
    replay = explain.cuda_graph(images(0), target, overlay=True)
    for seed in (0, 1, 2):
        found, expected = replay(images(seed)), explain(images(seed), target)
        assert_same(found, expected)
        assert torch.equal(found.overlays, expected.overlay(images(seed)))
        assert bool(found.finite.all())


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("dims", [1, 3])
def test_a_replay_of_signals_and_of_volumes_gives_the_calls_bytes(fused, config, dims):
    explain = CFCAM(Network(dims).eval().cuda(), LAYERS[config], config=CONFIGS[config], engine="fused")
    replay = explain.cuda_graph(images(0, dims=dims), overlay=dims == 3)
    for seed in (0, 1, 2):
        found, expected = replay(images(seed, dims=dims)), explain(images(seed, dims=dims))
        assert_same(found, expected)
        if dims == 3:
            assert torch.equal(found.overlays, expected.overlay(images(seed, dims=dims)))


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("config", [None, Config.two_level()], ids=["one level", "two levels"])
def test_on_resnet50(fused, batch, config):
    network = resnet50().cuda().to(memory_format=torch.channels_last)
    explain = CFCAM(network, "layer4" if config is None else None, config=config, engine="fused")
    pictures = [torch.randn(batch, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last) for _ in range(2)]
    replay = explain.cuda_graph(pictures[0])
    for one in pictures:
        assert_same(replay(one), explain(one))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(model, explain, dtype):
    with torch.autocast("cuda", dtype=dtype):
        explain(images(0))  # leaves cast weights in the cache, which the block's end frees
        replay = explain.cuda_graph(images(0))
        expected = explain(images(1))
    torch.cuda.empty_cache()
    crowd = [torch.full((n,), torch.nan, device="cuda") for n in (64, 1024, 4096) for _ in range(50)]
    found = replay(images(1))
    assert found.logits.dtype == dtype
    assert_same(found, expected)
    del crowd


def test_other_classes_from_host_and_device(explain):
    replay = explain.cuda_graph(images(0), [0, 1, 2])
    for target in ([4, 3, 2], torch.tensor([1, 1, 0]), torch.tensor([2, 0, 4], device="cuda"), 3):
        assert_same(replay(images(1), target), explain(images(1), target))
    with pytest.raises(ValueError, match="class 5 is out of range"):
        replay(images(1), torch.tensor([0, 5, 0], device="cuda"))


def test_a_callable(explain):
    def margin(logits):
        return logits[1] - logits[2]

    replay = explain.cuda_graph(images(0), margin)
    assert torch.equal(replay(images(1)).maps, explain(images(1), margin).maps)


def test_not_finite(explain):
    replay = explain.cuda_graph(images(0), 4, overlay=True)
    batch = images(1)
    batch[1, 0, 5, 5] = torch.nan
    found = replay(batch)
    assert found.finite.tolist() == [True, False, True]
    assert not bool(found.maps[1].any())
    for b in (0, 2):
        assert torch.equal(found.maps[b], explain(images(1), 4).maps[b])
    assert bool(replay(images(1)).finite.all())


# Weights


def test_weights_changed_in_place_are_seen_and_replaced_ones_stay(model, explain):
    replay = explain.cuda_graph(images(0))
    with torch.no_grad():
        model.head.weight.mul_(-1)
    before = replay(images(1))
    assert_same(before, explain(images(1)))
    model.head = nn.Linear(32, CLASSES).cuda()
    model.late[0].weight.data = torch.zeros_like(model.late[0].weight)
    torch.cuda.empty_cache()
    crowd = [torch.full((n,), torch.nan, device="cuda") for n in (128, 1024, 8192) for _ in range(50)]
    assert_all_same(replay(images(1)), before)
    del crowd


def test_the_model_is_untouched(model, explain):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    explain.cuda_graph(images(0))(images(1))
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# Streams, threads, memory, host


def test_on_a_side_stream(explain):
    replay = explain.cuda_graph(images(0))
    expected, late = replay(images(1)), torch.zeros_like(images(1))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        late.copy_(images(1))
        found = replay(late)
    stream.synchronize()
    assert_all_same(found, expected)


def test_threads_with_streams_of_their_own_take_turns_on_the_device(explain):
    replay = explain.cuda_graph(images(0))
    expected = [replay(images(seed)) for seed in range(4)]
    batches = [images(seed) for seed in range(4)]
    torch.cuda.synchronize()
    for results, one in zip(on_streams(lambda seed: [replay(batches[seed]) for _ in range(10)], 4), expected):
        for result in results:
            assert_all_same(result, one)


def test_other_threads_may_work_while_one_captures(explain):
    stop = threading.Event()
    failed = []

    def work():
        kept = []  # so that each is allocated anew
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                while not stop.is_set() and len(kept) < 100:
                    kept.append(torch.empty(1 << 23, device="cuda").fill_(1.0))
                    time.sleep(0.01)
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        replays = [explain.cuda_graph(images(0)) for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    assert not failed
    for replay in replays:
        assert_same(replay(images(1)), explain(images(1)))


def test_a_replay_allocates_nothing_and_copies_nothing_to_the_host(explain, record_property):
    replay = explain.cuda_graph(images(0), [0, 1, 2], overlay=True)
    batch = images(1)
    replay(batch, [1, 2, 3], out=replay.static)
    copies = copies_to_host(lambda: replay(batch, [1, 2, 3]))
    record_property("copies to the host", len(copies))
    assert copies == []
    before = torch.cuda.memory_stats()["allocated_bytes.all.allocated"]
    replay(batch, out=replay.static)
    assert torch.cuda.memory_stats()["allocated_bytes.all.allocated"] == before


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_the_host_does_not_wait(explain):
    replay = explain.cuda_graph(images(0), [0, 1, 2])
    batch, done = images(1), torch.cuda.Event()
    replay(batch, [3, 3, 3])  # memory is allocated, kernels are loaded
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(2_000_000_000)  # about a second
        replay(batch, [3, 3, 3])
        done.record()
        assert not done.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()


def test_memory_of_a_dropped_graph_comes_back(explain):
    explain.cuda_graph(images(0))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    replay = explain.cuda_graph(images(0))
    assert torch.cuda.memory_allocated() > before
    del replay
    assert torch.cuda.memory_allocated() == before


# What no graph can hold


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = Network()

    def forward(self, batch):
        return self.network(batch) * (1.0 if batch.sum().item() > 0 else 2.0)


def graph_what_reads():
    explain = CFCAM(Reads().eval().cuda(), "network.late", engine="fused")
    with pytest.raises(RuntimeError, match="cuda_graph: the model or the target does what a CUDA graph can't hold"):
        explain.cuda_graph(images(0))
    print("refused", flush=True)


def test_a_model_that_reads_on_the_host_is_refused(fused):
    """In a process of its own: several releases of torch leave a device broken behind a capture that failed."""
    command = [sys.executable, "-c", f"from {__name__} import graph_what_reads; graph_what_reads()"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert "refused" in done.stdout.splitlines(), done.stderr


def test_what_fused_does_not_cover_is_refused(model):
    explain = CFCAM(model, "late", config=Config(eps_rule="neighbor_median", eps_neighbor=1000), engine="fused")
    with pytest.raises(ValueError, match="eps_neighbor"):
        explain.cuda_graph(images(0))
