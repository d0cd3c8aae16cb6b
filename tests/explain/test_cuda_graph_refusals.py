"""What a CUDA graph refuses, and what it says of what fails; without a GPU, as test_cuda_graph.py."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from cfcam_gpu import CFCAM, engines
from cfcam_gpu.explain.cuda_graph import fused_engine

from .. import recorder
from ..recorder import FUSED
from ..small import Network, draw


def fused_there(monkeypatch):
    monkeypatch.setattr(engines, "choose", lambda *given: FUSED)
    monkeypatch.setattr(engines, "disagreement", lambda device: None)


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
    monkeypatch.setattr(engines, "disagreement", lambda device: "gives other labels than engine 'reference'")
    refused = pytest.raises(RuntimeError, match="'fused' gives other labels than engine 'reference'; call the")
    with refused if engine == "auto" else nullcontext():
        fused_engine(model, torch.device("cuda"), engine)


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
