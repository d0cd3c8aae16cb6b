"""The guard of buffers: what a forward does to them is gone after a call, and costs little where it does nothing."""

import copy
import threading

import pytest
import torch
from torch import nn

import cfcam_gpu
from cfcam_gpu.hooks import guard

from ..small import draw
from ..threads import in_threads


@pytest.fixture
def images():
    return draw(0)


class Writes(nn.Module):
    """A module that does to its buffers whatever a forward may do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("resized", torch.zeros(0))
        self.register_buffer("first", None)
        self.register_buffer("dropped", torch.ones(1))
        self.register_buffer("hidden", torch.ones(3), persistent=False)
        self.length = 2

    def forward(self, x):
        self.calls += 1
        self.replaced = torch.cat([self.replaced, torch.ones(1)])
        self.length += 1
        assert len(self.replaced) == self.length  # the two go together
        self.resized.resize_(4).fill_(1)
        self.first = torch.ones(1)
        if hasattr(self, "dropped"):
            del self.dropped
        self.register_buffer("added", torch.ones(1))
        self.register_buffer("hidden", torch.zeros(3))
        self.seen = True
        return x


def fake_quantised():
    from torch.ao.quantization import FakeQuantize, MovingAveragePerChannelMinMaxObserver

    return FakeQuantize(MovingAveragePerChannelMinMaxObserver, ch_axis=1).eval()


WRITERS = {
    "batch norm": lambda: nn.BatchNorm2d(3).train(),
    "scripted batch norm": lambda: torch.jit.script(nn.BatchNorm2d(3).train()),
    "fake quantisation": fake_quantised,
    "spectral norm": lambda: torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 1)).train(),
    "spectral norm of old": lambda: torch.nn.utils.spectral_norm(nn.Conv2d(3, 3, 1)).train(),
    "all that there is": lambda: Writes().eval(),
}


def buffers_of(model):
    """Of each buffer the tensor itself, how often autograd counts that it was written, its shape and its values."""
    return {
        (name, which): None if buffer is None else (id(buffer), buffer._version, tuple(buffer.shape), buffer.tolist())
        for name, module in model.named_modules()
        for which, buffer in module._buffers.items()
    }


@pytest.mark.filterwarnings("ignore:model:UserWarning", "ignore::FutureWarning:torch", "ignore::DeprecationWarning")
@pytest.mark.parametrize("raises", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize("kind", WRITERS)
def test_what_a_forward_does_to_buffers_is_undone(images, kind, raises):
    model = nn.Sequential(WRITERS[kind](), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before, saved = buffers_of(model), list(model.state_dict())
    assert before
    for _ in range(2):
        if raises:
            with pytest.raises(ZeroDivisionError):
                cfcam_gpu.CFCAM(model, "2")(images, lambda logits: 1 / 0)
        else:
            cfcam_gpu.CFCAM(model, "2")(images)
        assert buffers_of(model) == before
        assert list(model.state_dict()) == saved
    model(images)
    assert buffers_of(model) != before  # it is the call that undoes it


def test_what_a_module_notes_beside_its_buffers_goes_with_them(images):
    model = nn.Sequential(Writes(), nn.Conv2d(3, 4, 3)).eval()
    for _ in range(2):
        with guard.guarded(model):
            model(images)
            assert (model[0].length, model[0].seen) == (3, True)
        assert model[0].length == 2
        assert not hasattr(model[0], "seen")


def test_a_backward_that_the_caller_has_still_to_run(images):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.full((), 2.0))

        def forward(self, x):
            self.scale *= 1.5
            return x * self.scale

    model = nn.Sequential(Scaled(), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    output = model(images.requires_grad_())
    cfcam_gpu.CFCAM(model, "1")(images.detach())
    output.sum().backward()
    assert images.grad is not None


class Counts(nn.Module):
    """Adds a count to what goes through, and counts on, or not."""

    def __init__(self, count, counts):
        super().__init__()
        self.register_buffer("count", count)
        self.counts = counts

    def forward(self, x):
        if self.counts:
            self.count += 1
        return x + self.count


def test_one_tensor_in_two_modules_stays_one(images):
    count = torch.zeros(())
    model = nn.Sequential(Counts(count, True), Counts(count, False), nn.Conv2d(3, 4, 3)).eval()
    twin = copy.deepcopy(model)
    with guard.guarded(model):
        assert torch.equal(model(images), twin(images))
    assert count == 0


def test_buffers_are_there_again_where_there_is_no_memory_for_copies(monkeypatch):
    model = nn.Sequential(Writes(), Counts(torch.zeros(7), True)).eval()
    before, clone = buffers_of(model), torch.Tensor.clone

    def fails(tensor, *args):
        if tensor.shape == (7,):
            raise torch.OutOfMemoryError
        return clone(tensor, *args)

    monkeypatch.setattr(torch.Tensor, "clone", fails)
    with pytest.raises(torch.OutOfMemoryError), guard.guarded(model):
        pass
    assert buffers_of(model) == before
    assert not guard._copied._kept


@pytest.mark.parametrize("kind", ["batch norm", "all that there is"])
def test_calls_that_overlap_leave_buffers_as_they_were(images, kind):
    model = nn.Sequential(nn.Conv2d(3, 3, 3), WRITERS[kind]())
    before = buffers_of(model)
    step = threading.Barrier(2)

    def call(second):
        if second:
            step.wait()  # for the other's forward
        with guard.guarded(model):
            model(images)
            step.wait()
            step.wait()  # the second one's forward is done, or the first one's call
        if not second:
            step.wait()

    in_threads(call, 2)
    assert buffers_of(model) == before
    assert not guard._copied._kept
    assert not guard._copied._users


def test_layers_that_write_nothing_are_not_copied(peer):
    timm = peer("timm")
    network = nn.Sequential(nn.BatchNorm2d(3), nn.InstanceNorm2d(3, track_running_stats=True), nn.LayerNorm(3))
    network.append(timm.layers.BatchNormAct2d(3))
    network.append(timm.layers.FrozenBatchNormAct2d(3))
    network.append(peer("torchvision").ops.FrozenBatchNorm2d(3))
    assert guard.survey_of(network.eval()).writable == []
    network[0].register_buffer("count", torch.zeros(()))
    assert guard.survey_of(network).writable == [network[0]]
