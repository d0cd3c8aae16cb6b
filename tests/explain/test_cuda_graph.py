"""CUDA graphs without a GPU: a recorder in the place of torch's, the CPU engine in that of the fused one."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from cfcam_gpu import CFCAM, engines, targets
from cfcam_gpu.explain.cuda_graph import GraphedCFCAM, GraphedExplanation, fused_engine

from .. import recorder
from ..recorder import FUSED
from ..small import CONFIGS, LAYERS, Network, assert_same, draw
from ..threads import in_threads


@pytest.fixture
def model():
    return Network().eval()


@pytest.fixture
def graphed(monkeypatch, model):
    """Graphs on the host, with the explainer's own plan."""
    recorder.install(monkeypatch)

    def make(target=None, *, config="default", overlay=False, engine=FUSED, images=None, using=model):
        explain = CFCAM(using, LAYERS[config], config=CONFIGS[config])
        images = draw(0) if images is None else images
        request = targets.read(target, len(images))
        plan = explain._laid_out(images, request)
        return GraphedCFCAM(using, plan, engine, images, request, explain._class_names, overlay=overlay), explain

    return make


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


# Refusals


def fused_there(monkeypatch):
    monkeypatch.setattr(engines, "choose", lambda *given: FUSED)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_model_on_the_host_is_refused(model):
    with pytest.raises(ValueError, match="cuda_graph: needs a CUDA device; got cpu"):
        CFCAM(model, "late").cuda_graph(draw(0))


def test_images_and_target_are_refused_first(model):
    with pytest.raises(ValueError, match="target: a graph explains a class that is named"):
        CFCAM(model, "late").cuda_graph(draw(0), [None, 1, 2])
    with pytest.raises(TypeError, match="images: expected a torch tensor"):
        CFCAM(model, "late").cuda_graph([1])
    with pytest.raises(ValueError, match="one for each of the 3 images; got 2"):
        CFCAM(model, "late").cuda_graph(draw(0), [0, 1])
    with pytest.raises(ValueError, match="overlay: a signal's is drawn on the host"):
        CFCAM(Network(1).eval(), "late").cuda_graph(draw(0, dims=1), overlay=True)


@pytest.mark.parametrize("engine", ["cpu", "rapids"])
def test_other_engines_are_refused(model, engine):
    with pytest.raises(ValueError, match=f"needs engine='fused'; this explainer's is '{engine}'"):
        fused_engine(model, torch.device("cuda"), engine)


@pytest.mark.parametrize("engine", ["auto", "fused"])
def test_auto_is_fused(model, monkeypatch, engine):
    fused_there(monkeypatch)
    assert fused_engine(model, torch.device("cuda"), engine) is FUSED


def test_training_mode_is_refused_by_the_modules_name(model, monkeypatch):
    fused_there(monkeypatch)
    model.early[1].train()
    with pytest.raises(ValueError, match=r"early\.1 is in training mode"):
        fused_engine(model, torch.device("cuda"), "auto")
    with pytest.raises(ValueError, match="it is in training mode"):
        fused_engine(model.train(), torch.device("cuda"), "auto")


def test_what_fused_does_not_cover_is_refused_by_it(graphed):
    def refuses(activations, gradients, config):
        raise ValueError("engine: 'fused' takes at most 4096 channels; got 5000")

    with pytest.raises(ValueError, match="'fused' takes at most 4096 channels"):
        graphed(engine=SimpleNamespace(**{**vars(FUSED), "run_checked": refuses}))


def test_what_a_graph_cant_hold_is_said(graphed, monkeypatch):
    @contextmanager
    def broken(*arguments, **options):
        try:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        yield

    monkeypatch.setattr(torch.cuda, "graph", broken)
    with pytest.raises(RuntimeError, match=r"can't hold, such as reading a value .*stream is capturing more\)"):
        graphed()


def test_the_stream_is_the_callers_again_where_a_capture_fails(graphed, monkeypatch):
    """As torch has it: a graph's own block leaves the stream of the capture current where the capture can't end."""
    current = [recorder.CURRENT]

    @contextmanager
    def stream(one):
        before = current[-1]
        current.append(one)
        try:
            yield
        finally:
            current.append(before)

    @contextmanager
    def broken(*arguments, stream, **options):
        current.append(stream)
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        yield

    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "graph", broken)
    with pytest.raises(RuntimeError, match="can't hold"):
        graphed()
    assert recorder.SIDE in current
    assert current[-1] is recorder.CURRENT


def test_running_out_of_memory_is_not_blamed_on_the_model(graphed, monkeypatch):
    def full(*arguments, **options):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    @contextmanager
    def full_inside(*arguments, **options):
        try:
            full()
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        yield

    for graph_of in (full, full_inside):
        monkeypatch.setattr(torch.cuda, "graph", graph_of)
        with pytest.raises(torch.cuda.OutOfMemoryError, match=r"^CUDA out of memory"):
            graphed()


WRONG_IMAGES = {
    "shape": (draw(0, batch=2), r"made for \(3, 3, 12, 10\).*got \(2, 3, 12, 10\)"),
    "dtype": (draw(0).half(), "made for .*float32.*got .*float16"),
    "device": (draw(0).to("meta"), "made for .* on 'cpu'; got .*on 'meta'"),
}


@pytest.mark.parametrize("wrong", WRONG_IMAGES)
def test_other_images_are_refused(graphed, wrong):
    replay, _ = graphed()
    images, message = WRONG_IMAGES[wrong]
    with pytest.raises(ValueError, match=f"images: this graph was {message}"):
        replay(images)
    with pytest.raises(TypeError, match="images: expected a torch tensor; got list"):
        replay([1])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, r"class 5 is out of range for 5 classes"),
        ([0, -1, 0], r"class -1 is out of range"),
        ([0, 1], r"one for each of the 3 images; got 2"),
        ([[0], [1], [2]], r"made with class indices of shape \(3,\); got shape \(3, 1\)"),
        (lambda logits: logits[0], r"made with class indices of shape \(3,\); got other targets"),
        ([None, 1, 2], r"made with class indices of shape \(3,\); got other targets"),
    ],
)
def test_other_targets_are_refused(graphed, target, message):
    replay, _ = graphed(0)
    with pytest.raises(ValueError, match=message):
        replay(draw(1), target)


@pytest.mark.parametrize("graphed_with", [None, lambda logits: logits[0]])
def test_a_graph_without_classes_takes_none(graphed, graphed_with):
    replay, _ = graphed(graphed_with)
    with pytest.raises(ValueError, match="explains the predicted class, or callables"):
        replay(draw(1), 2)


def test_another_out_is_refused(graphed):
    replay, explain = graphed()
    with pytest.raises(TypeError, match="out: expected a result of this graph, or its `static`; got Explanation"):
        replay(draw(1), out=explain(draw(1)))
    other, _ = graphed(overlay=True)
    with pytest.raises(ValueError, match="out: expected a result of this graph; got one of another"):
        replay(draw(1), out=other(draw(1)))
