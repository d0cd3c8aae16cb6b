"""Each operator that is covered, played by ONNX Runtime, many in one file, for another batch than the trace's."""

import contextlib
import io

import pytest
import torch
from torch import nn

from cfcam_gpu.deploy.onnx_file import OPSET, quiet

from . import cases_of_tensors  # noqa: F401
from .cases import CASES, ESSENTIAL, LONG
from .tracing import Traced, drawn, expected

# As test_runtime.py in method_graph/.
pytestmark = pytest.mark.xdist_group("export")

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

NEAR = 5e-6
#: In every run: what is written out by our own code in a way of its own each, and takes little time.
SHORT = [
    ("conv", "strided 2d"),
    ("max_pool", "side_by_side"),
    ("interpolate", "bilinear 2d to {'scale_factor': 1.7}"),
    ("layer_norm", "affine"),
    ("ReLU6", "bounds"),
    ("scaled_dot_product_attention", "nothing_allowed"),
]
REST = [place for place in ESSENTIAL if place not in SHORT]
NAMES = list(CASES)
PARTS = [NAMES[i : i + 12] for i in range(0, len(NAMES), 12)]


class Together(nn.Module):
    """Graphs side by side: all their inputs, images and cotangents, to all their outputs."""

    def __init__(self, traced):
        super().__init__()
        self.traced = nn.ModuleList(traced)

    def forward(self, inputs):
        return [each for i, one in enumerate(self.traced) for each in one(inputs[2 * i], inputs[2 * i + 1])]


def _play(which):
    modules = [CASES[name][variant] for name, variant in which]
    traced = Together([Traced(module, *drawn(module, shape, 3)) for shape, module in modules])
    example = [each for shape, module in modules for each in drawn(module, shape, 3)]
    batch = torch.export.Dim("batch", min=1, max=1000)
    sizes = ([{0: batch}] * len(example),)
    with quiet(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        program = torch.export.export(traced, (example,), dynamic_shapes=sizes, strict=False)
        converted = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(converted.model_proto.SerializeToString(), options, ["CPUExecutionProvider"])
    inputs = [drawn(module, shape, 5) for shape, module in modules]
    flat = [each.numpy() for pair in inputs for each in pair]
    found = session.run(None, {each.name: value for each, value in zip(session.get_inputs(), flat, strict=True)})
    wrong = []
    for i, (place, (_, module), pair) in enumerate(zip(which, modules, inputs, strict=True)):
        for one, other in zip(found[2 * i : 2 * i + 2], expected(module, *pair), strict=True):
            if not (torch.from_numpy(one) - other).abs().max() <= NEAR * other.abs().max():
                wrong.append(place)
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    "which", [SHORT, *(pytest.param(REST[i::3], marks=pytest.mark.long) for i in range(3))], ids=["short", *range(3)]
)
def test_essential_operators_in_onnx_runtime(which):
    _play(which)


@pytest.mark.long
@pytest.mark.parametrize("names", PARTS, ids=lambda names: f"{names[0]} to {names[-1]}")
def test_all_operators_in_onnx_runtime(names):
    _play([(name, variant) for name in names for variant in CASES[name] if (name, variant) not in LONG])
