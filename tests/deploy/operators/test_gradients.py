"""Each operator that is covered: output and gradient of its graph, for another batch than it was traced with."""

import pytest
import torch

from cfcam_gpu.deploy import operators

from . import cases_of_tensors  # noqa: F401
from .cases import CASES, ESSENTIAL, LONG
from .tracing import Traced, drawn, expected

# As test_runtime.py in method_graph/.
pytestmark = pytest.mark.xdist_group("export")

# What differs by its last digits, over the largest value.
NEAR = 2e-6


#: The first variant of every twelfth operator, and the essential ones.
SHORT = {(name, next(iter(CASES[name]))) for name in list(CASES)[::12]} | set(ESSENTIAL)
PARAMETERS = [
    pytest.param(
        name, variant, marks=[pytest.mark.long] * ((name, variant) not in SHORT - LONG), id=f"{name}-{variant}"
    )
    for name, variants in CASES.items()
    for variant in variants
]


def _check(name, variant, **how):
    shape, module = CASES[name][variant]
    traced = Traced(module, *drawn(module, shape, 3), **how)
    inputs = drawn(module, shape, 5)
    with torch.no_grad():
        found = traced(*inputs)
    for one, other in zip(found, expected(module, *inputs), strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= NEAR * other.abs().max()
    return traced


@pytest.mark.parametrize(("name", "variant"), PARAMETERS)
def test_output_and_gradient_are_autograds(name, variant):
    traced = _check(name, variant)
    # All that is covered has an ONNX form, by the list of torch's exporter.
    assert operators.backward_missing(traced.graph.graph) == []


TENSORRTS = {
    "layer_norm": {"affine"},
    "max_pool": {"strided 2d", "ceil 2d", "side_by_side", "long signal"},
    "TransformerEncoderLayer": {"norm_first"},
}


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", TENSORRTS)
def test_tensorrts_forms_are_right(name, every):
    for variant in CASES[name] if every else TENSORRTS[name]:
        if (name, variant) not in LONG:
            _check(name, variant, tensorrt=True)
