"""A package of AOTInductor's: what is changed for it computes the same."""

import pytest
import torch
from torch import nn

from cfcam_gpu import Config
from cfcam_gpu.deploy.aoti_file import Package, _take_biases_apart
from cfcam_gpu.deploy.method_graph import MethodGraph
from cfcam_gpu.deploy.onnx_file import exported

from .method_graph.graphs import errors, relu

CONFIG = Config.two_level()


def given(seed, batch):
    """Activations and gradients of two layers; those of the finer one as convolutions of the compiler lay them out."""
    fine = (each.contiguous(memory_format=torch.channels_last) for each in relu(seed, batch, 60, 8, 8))
    return *fine, *relu(seed + 1, batch, 40, 4, 4)


class Fused(nn.Module):
    def forward(self, activations, gradients, coarse_activations, coarse_gradients):
        coarse = coarse_activations, coarse_gradients
        return MethodGraph(CONFIG, unrolled=False, fused=True)(activations, gradients, coarse)


def test_biases_are_added_behind_convolutions_of_single_positions():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ConvTranspose2d(4, 4, 1, groups=2), nn.Conv2d(4, 5, 1)
    )
    images = torch.randn(2, 3, 9, 9)
    program = exported(model.eval(), [images], any_batch=True).run_decompositions()
    _take_biases_apart(program.graph_module)
    nodes = program.graph.find_nodes(op="call_function", target=torch.ops.aten.convolution.default)
    assert [node.args[2] is None for node in nodes] == [True, False, True, True]
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), model(images))


def test_fused_it_is_the_same():
    inputs = given(0, 4)
    found, converged = Fused()(*inputs)
    wanted, _ = MethodGraph(CONFIG, unrolled=False)(*inputs[:2], inputs[2:])
    assert converged.all()
    assert (errors(found, wanted) <= 1e-6).all()


@pytest.mark.long
def test_compiled_it_is_the_same_for_any_batch(tmp_path):
    path = tmp_path / "some.pt2"
    path.write_bytes(Package.of(Fused(), given(0, 3), any_batch=True).data)
    compiled = torch._inductor.aoti_load_package(str(path))
    for batch in (1, 5):
        inputs = given(2, batch)
        wanted, _ = MethodGraph(CONFIG, unrolled=False)(*inputs[:2], inputs[2:])
        found, converged = compiled(*inputs)
        assert converged.all()
        assert (errors(found, wanted) <= 2e-6).all()
    spoilt = [value.clone() for value in inputs]
    spoilt[0][0, 0, 3, 3] = torch.nan
    spoilt[1][1, 59, 0, 0] = torch.inf
    found, _ = compiled(*spoilt)
    assert found[:2].isnan().all()
    assert (errors(found[2:], wanted[2:]) <= 2e-6).all()
