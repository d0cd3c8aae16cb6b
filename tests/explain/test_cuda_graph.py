"""CUDA graphs without a GPU: a recorder in the place of torch's, the CPU engine in that of the fused one."""

from types import SimpleNamespace

import pytest
import torch

from cfcam_gpu.explain.cuda_graph import GraphedExplanation

from .. import recorder
from ..recorder import FUSED
from ..small import CONFIGS, Network, assert_same, draw
from ..threads import in_threads

# What is computed


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("target", [None, 4, [0, 4, 1], [[0, 1], [2, 3], [4, 0]]], ids=str)
def test_a_replay_gives_the_calls_bytes(graphed, config, target):
    replay, explain = graphed(target, config=config, overlay=True)
    for seed in (0, 1, 2):
        images = draw(seed)
        found, expected = replay(images), explain(images, target)
        assert isinstance(found, GraphedExplanation)
        assert_same(found, expected)
        assert bool(found.maps.any())
        assert torch.equal(found.overlays, expected.overlay(images))
        assert found.finite.tolist() == [True] * 3
        assert (found.layers, found.config, found.size) == (expected.layers, expected.config, expected.size)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("dims", [1, 3])
def test_a_replay_of_signals_and_of_volumes_gives_the_calls_bytes(graphed, config, dims):
    first, images, overlay = draw(0, dims=dims), draw(1, dims=dims), dims == 3
    replay, explain = graphed(config=config, overlay=overlay, images=first, using=Network(dims).eval())
    found, expected = replay(images), explain(images)
    assert_same(found, expected)
    if overlay:
        assert torch.equal(found.overlays, expected.overlay(images))
    images[1, 0] = torch.nan
    found = replay(images)
    assert found.finite.tolist() == [True, False, True]
    assert found.raw_maps.flatten(1).any(dim=1).tolist() == [True, False, True]


def test_callables_of_a_model_without_a_row_of_logits(graphed):
    """Where layouts are found before the capture, too, what is asked for is the callable."""
    model = Network().eval()
    model.head = torch.nn.Unflatten(1, (2, 16))
    replay, explain = graphed(lambda logits: logits[0, 1] - logits[1, 2], using=model)
    expected = explain(draw(1), lambda logits: logits[0, 1] - logits[1, 2])
    assert torch.equal(replay(draw(1)).maps, expected.maps)
    assert bool(expected.maps.any())


def test_classes_may_differ_by_replay_and_none_are_the_first_ones(graphed):
    replay, explain = graphed([0, 1, 2])
    images = draw(1)
    for target in ([4, 3, 2], torch.tensor([1, 1, 0]), 3):
        assert_same(replay(images, target), explain(images, target))
    assert_same(replay(images), explain(images, [0, 1, 2]))


def test_the_callers_tensor_of_classes_is_not_the_graphs(graphed):
    classes = torch.tensor([0, 1, 2])
    replay, explain = graphed(classes)
    replay(draw(1), [4, 4, 4])
    assert classes.tolist() == [0, 1, 2]
    classes.fill_(3)
    assert_same(replay(draw(1)), explain(draw(1), [0, 1, 2]))


def test_a_callable_is_held(graphed):
    replay, explain = graphed(lambda logits: logits[1] - logits[2])
    assert_same(replay(draw(1)), explain(draw(1), lambda logits: logits[1] - logits[2]), but=["target"])
    assert replay(draw(1)).target is None


def test_weights_changed_in_place_are_seen(graphed, model):
    replay, explain = graphed()
    before = replay(draw(1))
    with torch.no_grad():
        model.head.weight.mul_(-1)
    assert_same(replay(draw(1)), explain(draw(1)))
    assert not torch.equal(replay(draw(1)).logits, before.logits)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("config", CONFIGS)
def test_images_that_are_not_finite_get_zero_maps(graphed, config, bad):
    replay, explain = graphed(4, config=config, overlay=True)
    images = draw(1)
    images[1, 0, 5, 5] = bad
    found = replay(images)
    assert found.finite.tolist() == [True, False, True]
    assert found.empty[1]
    for maps in (found.raw_maps, found.maps):
        assert bool((maps[1] == 0).all())
    expected = explain(draw(1), 4)
    for b in (0, 2):
        torch.testing.assert_close(found.maps[b], expected.maps[b])
        assert bool(found.maps[b].any())


# Where it is written


def test_results_are_copies(graphed):
    replay, explain = graphed(overlay=True)
    first = replay(draw(1))
    replay(draw(2))
    assert_same(first, explain(draw(1)))
    addresses = {tensor.data_ptr() for tensor in replay.static.tensors().values()}
    assert addresses.isdisjoint(tensor.data_ptr() for tensor in first.tensors().values())


def test_out_is_written_and_returned(graphed):
    replay, explain = graphed([0, 1, 2], overlay=True)
    first = replay(draw(1))
    addresses = {name: tensor.data_ptr() for name, tensor in first.tensors().items()}
    assert first.empty.tolist() != explain(draw(2), [3, 3, 3]).empty.tolist()
    assert set(addresses) >= {"raw_maps", "target", "logits", "labels", "weights", "eps", "finite", "overlays", "maps"}
    assert replay(draw(2), [3, 3, 3], out=first) is first
    assert {name: tensor.data_ptr() for name, tensor in first.tensors().items()} == addresses
    assert_same(first, explain(draw(2), [3, 3, 3]))
    assert replay(draw(3), out=replay.static) is replay.static
    assert_same(replay.static, explain(draw(3), [0, 1, 2]))


def test_the_static_images_can_be_filled_directly(graphed):
    replay, explain = graphed()
    replay.images.copy_(draw(4))
    assert_same(replay(replay.images), explain(draw(4)))


def test_memory_layout_and_inference_mode(graphed, model):
    with torch.inference_mode():
        replay, explain = graphed(0, images=draw(0).contiguous(memory_format=torch.channels_last), using=model)
        assert replay.images.is_contiguous(memory_format=torch.channels_last)
        found = replay(draw(1))
    assert not found.maps.is_inference()
    torch.testing.assert_close(found.maps, explain(draw(1), 0).maps)


# What is left as it was


def test_the_model_is_untouched(graphed, model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    replay, _ = graphed([0, 1, 2])
    replay(draw(1))
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled()


def test_the_callers_tensors_are_untouched(graphed):
    images = draw(0).requires_grad_()
    replay, _ = graphed()
    kept = images.detach().clone()
    found = replay(images)
    assert torch.equal(images, kept)
    assert not found.maps.requires_grad


def test_replays_take_turns(graphed):
    """Without the lock one thread's images would be explained in another's result."""
    replay, explain = graphed()
    expected = [explain(draw(seed)) for seed in range(4)]
    for seed, results in enumerate(in_threads(lambda seed: [replay(draw(seed)) for _ in range(5)], 4)):
        for result in results:
            assert_same(result, expected[seed])


def test_a_replay_waits_on_the_device_for_the_one_before(graphed):
    replay, _ = graphed()
    before = recorder.CURRENT.waited
    replay(draw(1))
    assert recorder.CURRENT.waited == before + 1


def test_another_streams_replay_keeps_what_it_reads(graphed, monkeypatch):
    replay, _ = graphed([0, 1, 2])
    kept = []
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: kept.append((tensor.shape, stream)))
    replay(draw(1))
    assert kept == []
    other = recorder.Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: other)
    replay(draw(1))
    assert kept == [(draw(1).shape, other), ((3,), other), ((3,), other)]


def test_autocasts_cache_is_off(graphed, monkeypatch):
    """It frees the casts of the weights when the caller's block ends; the graph would read freed memory."""
    seen = []
    run = FUSED.run_checked

    def spying(*arguments):
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()))
        return run(*arguments)

    engine = SimpleNamespace(**{**vars(FUSED), "run_checked": spying})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        replay, _ = graphed(0, engine=engine)
        assert torch.is_autocast_cache_enabled()
    assert set(seen) == {(True, False)}
    assert replay(draw(1)).logits.dtype == torch.bfloat16
    seen.clear()
    graphed(0, engine=engine)
    assert set(seen) == {(False, False)}
