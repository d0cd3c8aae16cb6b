"""The graph in ONNX Runtime beside the same code run eagerly, and what stands in a graph for TensorRT."""

from functools import cache

import pytest
import torch
from onnx import TensorProto, numpy_helper

from cfcam_gpu import Config
from cfcam_gpu.deploy.method_graph import MethodGraph

from .graphs import errors, onnx, play, relu

# With others that write files of ONNX, or trace graphs: the first takes a process many seconds more.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("export")]

CASES = {
    "two levels": (Config.two_level(), (14, 14)),
    "paper": (Config.paper(), (7, 7)),
    "odd percentile": (Config(eps_percentile=61.8, importance="contribution", dead_threshold=None), (3, 4, 5)),
    "positive means": (Config(combine="positive", noise_floor=0.5, sigma=1.7, boundary="zero"), (30,)),
    "elementwise": (
        Config(combine="elementwise", eps_rule="neighbor_median", eps_neighbor=16, min_samples=0.2),
        (6, 5),
    ),
    "all dominant": (Config(dominant_percentile=0, gradient="own", sigma=0), (6, 5)),
}
#: What TensorRT lacks, and what makes it leave its graph or is in doubt there.
DOUBLE = TensorProto.DOUBLE
LACKING = {"Loop", "If", "Scan", "NonZero", "Unique", "Compress"}


def given(config, size, *, batch=3):
    """Of an image of random channels, one of few that are alive, one of equal channels."""
    activations, gradients = relu(0, batch, 60, *size)
    activations[1, 5:] = 0
    activations[2] = activations[2, torch.arange(60) % 7]
    if config.gate is None:
        return activations, gradients
    return activations, gradients, *relu(1, batch, 40, *(max(side // 2, 1) for side in size))


#: A percentile's many steps take longest to write out; test_eager.py has them in every run.
UNROLLED = [*(pytest.param(name, marks=pytest.mark.long) for name in ("two levels", "odd percentile")), "elementwise"]


@cache
def written(name, *, unrolled):
    config, size = CASES[name]
    return onnx(config, given(config, size), unrolled=unrolled, any_batch=any_batch(name, unrolled))


def any_batch(name, unrolled):
    """Each form of each case one way, and about half of them the other."""
    return unrolled == (name in ("paper", "odd percentile", "positive means"))


@pytest.mark.parametrize(
    ("name", "unrolled"),
    [
        ("elementwise", True),
        *(pytest.param(name, False, marks=pytest.mark.long) for name in CASES),
        *(pytest.param(name, True, marks=pytest.mark.long) for name in ("two levels", "odd percentile")),
    ],
)
def test_it_plays_what_was_written(name, unrolled):
    config, size = CASES[name]
    model = written(name, unrolled=unrolled)
    inputs = given(config, size, batch=5 if any_batch(name, unrolled) else 3)
    wanted, _ = MethodGraph(config, unrolled=False)(*inputs[:2], inputs[2:] or None)
    found, converged = play(model, *inputs)
    assert converged.all()
    assert (errors(found, wanted) <= 2e-6).all()
    spoilt = [value.clone() for value in inputs]
    spoilt[0][0, 0, ..., 0] = torch.nan
    spoilt[1][1, 59, ..., 0] = torch.inf
    found, _ = play(model, *spoilt)
    assert found[:2].isnan().all()
    assert (errors(found[2:], wanted[2:]) <= 2e-6).all()


@pytest.mark.parametrize("name", UNROLLED)
def test_unrolled_it_keeps_to_what_tensorrt_has(name):
    graph = written(name, unrolled=True).graph
    assert not LACKING & {node.op_type for node in graph.node}
    attributes = [(value.name, value.s) for node in graph.node for value in node.attribute]
    assert not [value for value in attributes if value[0] == "reduction" and value[1] != b"none"]
    casts = [node.attribute[0].i for node in graph.node if node.op_type == "Cast"]
    assert DOUBLE not in [*casts, *(tensor.data_type for tensor in graph.initializer)]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    ordered = [int(constants[node.input[1]][0]) for node in graph.node if node.op_type == "TopK"]
    assert ordered
    assert max(ordered) < 3840


@pytest.mark.long
def test_a_loop_is_one_where_it_is_not_unrolled():
    assert [node.op_type for node in written("two levels", unrolled=False).graph.node].count("Loop") == 1
