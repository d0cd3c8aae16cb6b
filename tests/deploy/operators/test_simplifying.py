"""A traced graph with less to compute, and the same values."""

from collections import Counter

import torch
from torch import nn

from cfcam_gpu.deploy import operators

from .cases import IMAGE, Of
from .tracing import Traced, drawn, expected


def counted(traced):
    return Counter(str(node.target) for node in traced.graph.graph.nodes if node.op == "call_function")


def check(module, **how):
    module = module.eval()
    traced = Traced(module, *drawn(module, IMAGE, 3), **how)
    inputs = drawn(module, IMAGE, 5)
    with torch.no_grad():
        found = traced(*inputs)
    for one, other in zip(found, expected(module, *inputs), strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 2e-6 * other.abs().max()
    return counted(traced)


def test_what_is_there_twice_is_computed_once():
    # The gradient asks for the activation's output again.
    module = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU6(), nn.Conv2d(4, 4, 3))
    assert check(module, simplified=False)["aten.hardtanh.default"] == 2
    assert check(module)["aten.hardtanh.default"] == 1


def test_behind_a_global_pooling_a_gradient_is_one_value_a_channel():
    module = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert check(module, simplified=False)["aten.expand.default"] == 1
    assert check(module)["aten.expand.default"] == 0


def test_what_needs_each_position_keeps_its_copy():
    # The convolution's gradient is not elementwise.
    module = nn.Sequential(nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert check(module)["aten.expand.default"] == 1


def test_both_operands_of_one_value_keep_the_shape():
    check(
        Of(
            lambda x: (
                x.mean((2, 3), keepdim=True).expand(-1, -1, 9, 8) * x.amax((2, 3), keepdim=True).expand(-1, -1, 9, 8)
            )
        )
    )


def test_a_border_goes_into_its_convolution():
    module = nn.Sequential(nn.ZeroPad2d(2), nn.Conv2d(4, 4, 5))
    assert check(module)["aten.constant_pad_nd.default"] == 0


def test_what_is_written_in_place_is_known():
    graph = torch.fx.symbolic_trace(lambda x: x + 1)
    assert operators.is_functional(graph)
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(torch.ops.aten.relu_.default, (x,)))
    assert not operators.is_functional(torch.fx.GraphModule(nn.Module(), graph))
