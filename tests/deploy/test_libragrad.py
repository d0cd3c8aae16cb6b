"""Files of explainers with LibraGrad's gradients, which models of tokens have by default."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cfcam_gpu import CFCAM, Config, deploy
from cfcam_gpu.deploy import checking, plan
from tests.transformers import transformer
from tests.transformers_small import ChannelsLast

# As test_runtime.py in method_graph/.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("export")]

SIZE = 24
TOKENS = 37


def photographs(count, seed=0):
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


class Gated(nn.Module):
    """SwiGLU, as it is written in place, times a layer scale; its norm is one of groups, of the tokens."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.GroupNorm(1, TOKENS)
        self.gate, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.scale = nn.Parameter(torch.linspace(0.5, 1, width))

    def forward(self, tokens):
        normed = self.norm(tokens)
        gated = F.silu(self.gate(normed), inplace=True)
        gated *= self.value(normed)
        gated[:, :2] = gated[:, :2] * 2
        tokens += self.out(gated) * self.scale
        return tokens


def gated():
    model = transformer("fused")
    with torch.random.fork_rng([]):
        torch.manual_seed(3)  # of which no map is empty
        model.blocks.append(Gated(8))
    return model.eval()


@pytest.mark.parametrize(
    ("make", "classes"),
    [pytest.param(lambda: transformer("encoder"), 2, marks=pytest.mark.long), (gated, None)],
    ids=["encoder", "gated"],
)
def test_the_graph_of_a_model_of_tokens_has_the_default_of_the_library(make, classes):
    model, given = make(), photographs(5, seed=2)
    before = copy.deepcopy(model.state_dict())
    target = "predicted" if classes is None else "input"
    graph = plan.Plan.of(CFCAM(model), photographs(3), None, target, classes, "onnxruntime").graph()
    asked = None if classes is None else torch.tensor([[0, 1], [2, 0], [1, 2], [0, 2], [1, 0]])
    maps, raw_maps, logits, *_ = graph(given, *(() if asked is None else (asked,)))
    explain = CFCAM(model)
    expected, plain = explain(given, asked), CFCAM(model, libragrad=False)(given, asked)
    assert (explain.libragrad, expected.config) == (True, Config.gated())
    assert float(checking.difference(maps, expected.maps, 2).max()) < 1e-5
    assert float(checking.difference(raw_maps, expected.raw_maps, 2).max()) < 1e-5
    assert not plain.empty.all()
    assert float(checking.difference(maps, plain.maps, 2).min()) > 1e-3
    torch.testing.assert_close(logits, expected.logits)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_graph_of_two_levels():
    model, given = ChannelsLast(), photographs(4, seed=2)
    explain = CFCAM(model, libragrad=True)
    graph = plan.Plan.of(explain, photographs(3), 4, "predicted", None, "onnxruntime").graph()
    expected, plain = explain(given), CFCAM(model)(given)
    assert len(expected.layers) == 2
    found = graph(given)[0]
    assert float(checking.difference(found, expected.maps, 2).max()) < 1e-5
    assert float(checking.difference(found, plain.maps, 2).max()) > 1e-3


@pytest.mark.parametrize("batch", [2, pytest.param("any", marks=pytest.mark.long)])
def test_a_file_has_the_default_of_the_library_and_says_so(tmp_path, batch):
    # One block: to write a file takes seconds for each. The graphs of two are above.
    model, given, path = transformer("fused", depth=1), photographs(5, seed=2), tmp_path / "model.onnx"
    said = deploy.export(model, path, photographs(3), target="input", batch=batch)
    assert (said.libragrad, said.config) == (True, Config.gated())
    assert [layer.name for layer in said.layers] == [layer.name for layer in CFCAM(model)(given).layers]
    assert deploy.describe(path) == said
    loaded = deploy.load(path)
    assert loaded.libragrad
    expected = CFCAM(model)(given, [0, 1, 2, 0, 1])
    found = loaded(given, [0, 1, 2, 0, 1])
    # Rounding moves maps in which two channels are near a tie.
    assert float(checking.difference(found.maps, expected.maps, 2).max()) < 1e-4
