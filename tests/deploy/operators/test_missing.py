"""What can't be exported is named with its modules; docs/operators.md lists what is covered and what is refused."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cfcam_gpu.deploy import operators

from . import cases_of_tensors  # noqa: F401
from .cases import CASES, IMAGE, Of
from .tracing import Traced, drawn

PAGE = Path(__file__).parents[3] / "docs" / "operators.md"
MASK = torch.tensor([True, False, True, True])

#: What docs/operators.md calls refused, to a function, and the operator that is named.
REFUSED = {
    "median": (lambda x: x.median(-1)[0], "aten.median.dim"),
    "kthvalue": (lambda x: x.kthvalue(2, 1)[0], "aten.kthvalue.default"),
    "cummax": (lambda x: x.cummax(1)[0], "aten.cummax.default"),
    "cumprod": (lambda x: x.cumprod(1), "aten.cumprod.default"),
    "prod": (lambda x: x.prod(1), "aten.prod.dim_int"),
    "hypot": (lambda x: torch.hypot(x, x.flip(-1) + 2), "aten.hypot.default"),
    "diagonal": (lambda x: torch.diagonal(x, dim1=2, dim2=3), "aten.diagonal_scatter.default"),
    "boolean mask": (lambda x: x[:, MASK], "aten.index_put.default"),
    "fractional_max_pool2d": (
        lambda x: F.fractional_max_pool2d(x, 2, 4),
        "aten.fractional_max_pool2d.default",
    ),
    "fft": (lambda x: torch.fft.rfft2(x).abs(), "aten._fft_r2c.default"),
    "svdvals": (lambda x: torch.linalg.svdvals(x), "aten._linalg_svd.default"),
    "inv": (lambda x: torch.linalg.inv(x[:, :, :4, :4] + 9 * torch.eye(4)), "aten.linalg_inv_ex.default"),
    "weights from images": (
        lambda x: F.conv2d(x, x.mean(0, keepdim=True)[:, :, :3, :3]),
        "aten.convolution_backward.default",
    ),
    "output_padding": (
        lambda x: F.conv_transpose2d(x, torch.ones(4, 2, 3, 3), output_padding=2, dilation=3, stride=2),
        "aten.convolution.default",
    ),
    "random numbers": (lambda x: F.gumbel_softmax(x), "aten.exponential.default"),
}


class Head(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.conv, self.odd = nn.Conv2d(4, 4, 3, padding=1), Of(function)

    def forward(self, x):
        return self.odd(self.conv(x))


#: One that is missing, and those that are missing in part.
SHORT = {"median", "boolean mask", "fft", "weights from images", "output_padding", "random numbers"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name not in SHORT)) for name in REFUSED]
)
def test_what_is_refused_is_named(name):
    function, operator = REFUSED[name]
    module = Head(function).eval()
    inputs = drawn(module, IMAGE, 3)
    graph = Traced(module, *inputs, simplified=False).graph
    assert operator in operators.backward_missing(graph.graph)
    with pytest.raises(ValueError, match=re.escape(operator)) as refused:
        operators.check(graph, module, inputs[0], tensorrt=False)
    assert "odd (Of)" in str(refused.value)
    assert "conv (Conv2d)" not in str(refused.value)


def test_tensorrt_lacks_more():
    module = Of(lambda x: x.flatten(1).topk(4000, 1)[0]).eval()
    inputs = drawn(module, (4, 40, 40), 2)
    graph = Traced(module, *inputs).graph
    assert operators.backward_missing(graph.graph) == []
    assert operators.backward_missing(graph.graph, tensorrt=True) == ["aten.topk.default"]
    with pytest.raises(ValueError, match=r"operators that TensorRT has; got aten\.topk\.default in Of"):
        operators.check(graph, module, inputs[0], tensorrt=True)


def test_a_graph_of_covered_operators_passes():
    module = Head(torch.relu)
    inputs = drawn(module, IMAGE, 3)
    operators.check(Traced(module, *inputs).graph, module, inputs[0], tensorrt=True)


def _rows(heading):
    page = PAGE.read_text()
    section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[2] for line in section.splitlines() if line.startswith("|")][2:]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_the_page_lists_what_is_tested():
    assert _rows("Covered") == set(CASES)


def test_the_page_lists_what_is_refused():
    assert _rows("Refused") == set(REFUSED)
