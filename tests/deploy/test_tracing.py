"""What tracing keeps of a model, and what it says of one that no graph can hold."""

import pytest
import torch
from torch import nn

from cfcam_gpu import CFCAM, Config
from cfcam_gpu.deploy import plan

from .exports import images, network

# As test_runtime.py in method_graph/.
pytestmark = pytest.mark.xdist_group("export")

PAPER = Config.paper()


class Net(nn.Module):
    """A network whose forward does something more between the features and the head."""

    def __init__(self, more):
        super().__init__()
        net = network()
        self.features, self.head, self.more = net[:8], net[10], more

    def forward(self, x):
        return self.more(self, x)


def traced(more, *, batch=None, layer="features.7"):
    explain = CFCAM(Net(more), layer, config=PAPER)
    return explain, plan.Plan.of(explain, images(3), batch, "predicted", None, "onnxruntime").graph()


def pooled(self, x):
    return self.head(self.features(x).mean((2, 3)))


def _doubled(self, x):
    bright = torch.relu(x.abs().amax((1, 2, 3)) - 5)[:, None].repeat(1, 40)
    bright[:, :20] *= 2
    return self.head(self.features(x).mean((2, 3)) * (1 + bright))


def _shifted(self, x):
    features = self.features(x).clone()
    features[:, :, 1:] = features[:, :, :-1].clone()
    return self.head(features.mean((2, 3)))


def _copied(self, x):
    logits = pooled(self, x)
    logits[:, :3].copy_(logits[:, 3:] * 2)
    return logits


def _subtracted(self, x):
    logits = pooled(self, x)
    logits[:, 2] -= 3.0
    return logits


def _through_slices(self, x):
    features = self.features(x).clone()
    features[:, 5:20] += features[:, 3:18] * 0.5
    return self.head(features.mean((2, 3)))


@pytest.mark.parametrize("more", [_doubled, _shifted, _copied, _subtracted, _through_slices])
def test_what_is_written_in_place_is_what_it_was(more):
    explain, graph = traced(more)
    given = images(4, seed=2) * 4  # other images than those of the export
    expected = explain(given)
    maps, _, logits, target, *_ = graph(given)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(target, expected.target)
    torch.testing.assert_close(maps, expected.maps, rtol=0, atol=1e-5)


class _Squares(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def _large_batch(self, x):
    features = self.features(x)
    return self.head((features.flip(1) if x.shape[0] > 8 else features).mean((2, 3)))


def _decides(self, x):
    features = self.features(x)
    return self.head((features * 2 if float(features.mean()) > 0 else features).mean((2, 3)))


def _by_numpy(self, x):
    features = self.features(x)
    return self.head(features.mean((2, 3)) + torch.from_numpy(features.detach().numpy()).mean((2, 3)))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            _large_batch,
            r"model: _large_batch \(test_tracing.py, line \d+\) decides by the batch's size, B <= 8, .*batch=N",
        ),
        (_decides, r"model: the model \(Net, test_tracing.py, line \d+\) .*decides by the values of a tensor"),
        (lambda self, x: self.head(_Squares.apply(self.features(x)).mean((2, 3))), "does what no graph can hold"),
        (_by_numpy, r"model: the model \(Net, .*does what no graph can hold"),
    ],
)
def test_what_no_graph_can_hold_is_told_with_its_line(more, message):
    with pytest.raises(ValueError, match=message) as told:
        traced(more)
    assert "\n" not in str(told.value)
    assert "TORCH_LOGS" not in str(told.value)


def test_with_a_fixed_batch_a_model_may_look_at_its_size():
    explain, graph = traced(_large_batch, batch=9)
    given = images(9, seed=2)
    torch.testing.assert_close(graph(given)[0], explain(given).maps, rtol=0, atol=1e-5)


def test_a_model_of_closures_is_told():
    model = Net(None)
    model.more = lambda self, x: model.head(model.features(x).mean((2, 3)))
    explain = CFCAM(model, "features.7", config=PAPER)
    with pytest.raises(ValueError, match=r"model: a copy of it does not come to features\.7"):
        plan.Plan.of(explain, images(3), None, "predicted", None, "onnxruntime").graph()
