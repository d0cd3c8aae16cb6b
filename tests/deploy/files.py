"""Exported files that are made in no time: a graph with the inputs, outputs and metadata of one, but of no model.

A map is what is positive of the image's mean over its channels, over its maximum; the raw map the same in cells of 8
pixels, times the explained class and one. The logits are sums of the channels' means. An image of a mean above 10 did
not converge.
"""

import hashlib
from dataclasses import replace

import onnx
import onnx.parser

from cfcam_gpu.core.config import Config
from cfcam_gpu.deploy.description import Check, DescribedLayer, Description
from cfcam_gpu.hooks.layouts import Layout

PREPARATION = {"size": 32, "resize": 36, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3}
_GRAPH = """
<ir_version: 10, opset_import: ["": 20]>
explanation (float[{B},3,32,32] images{target_in}) => (
  float[{B}{T},32,32] maps, float[{B}{T},4,4] raw_maps, float[{B},5] logits, int64[{B}{T}] {explained},
  bool[{B}{T}] empty, bool[{B}{T}] converged
)
<int64[1] one = {{1}}, int64[2] last = {{-2, -1}}, int64[2] places = {{2, 3}}, int64[3] all = {{1, 2, 3}},
 float[3,5] matrix = {{1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1, 1}}, float none = {{0}},
 float many = {{10}}>
{{
  grey = ReduceMean <keepdims = 1> (images, one)
  seen = Relu(grey)
  cells = AveragePool <kernel_shape = [8, 8], strides = [8, 8]> (seen)
  means = ReduceMean <keepdims = 0> (images, places)
  logits = MatMul(means, matrix)
  predicted = ArgMax <axis = 1, keepdims = {keep}> (logits)
  {choose}
  number = Cast <to = 1> ({explained})
  unit = Constant <value_float = 1.0> ()
  factor = Add(number, unit)
  {spread}
  wide = Unsqueeze(factor, last)
  raw_maps = Mul(small, wide)
  most = ReduceMax <keepdims = 1> (large, last)
  dead = LessOrEqual(most, none)
  over = Div(large, most)
  zeros = Sub(large, large)
  shown = Where(dead, zeros, over)
  nothing = Sub(wide, wide)
  maps = Add(shown, nothing)
  top = ReduceMax <keepdims = 0> (raw_maps, last)
  empty = LessOrEqual(top, none)
  mean = ReduceMean <keepdims = 0> (images, all)
  finished = Less(mean, many)
  {spread_finished}
}}
"""
#: What differs where the class is an input, and where there are several of each image.
_NAMED = """zero = Constant <value_int = 0> ()
  absent = Less(target, zero)
  explained = Where(absent, predicted, target)"""
_WIDE = """large = Identity(seen)
  small = Identity(cells)"""
_EACH = """column = Unsqueeze(finished, one)
  shape = Shape(explained)
  converged = Expand(column, shape)"""


def description(**fields):
    """What such a file says of itself."""
    layer = DescribedLayer("features.3", "the last of 4 x 4", Layout("channels first", (4, 4)), (8, 4, 4))
    given = Description(
        library="0.1", torch="2.13.0", runtime="onnxruntime", opset=20, model="small", trained=True, method="cfcam",
        config=Config.two_level(), layers=(layer,), images=(3, 32, 32), size=(32, 32), inside=None, batch=None,
        target="predicted", classes=None, logits=(5,), segment=None, class_names=tuple("abcde"),
        preparation=PREPARATION, weights_sha256="0" * 64, graph_sha256="", check=Check(False),
    )  # fmt: skip
    return replace(given, **fields)


def write(path, **fields):
    """Such a file, with what its description says otherwise than :func:`description`."""
    said = description(**fields)
    classes, named = said.classes, said.target == "input"
    several = f",{classes}" if classes else ""
    model = onnx.parser.parse_model(
        _GRAPH.format(
            B=said.batch or "B",
            T=several,
            target_in=f", int64[{said.batch or 'B'}{several}] target" if named else "",
            explained="explained" if named else "target",
            keep=int(bool(classes)),
            choose=_NAMED if named else "target = Identity(predicted)",
            spread=_WIDE if classes else "large = Squeeze(seen, one)\n small = Squeeze(cells, one)",
            spread_finished=_EACH if classes else "converged = Identity(finished)",
        )
    )
    onnx.checker.check_model(model)
    digest = hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()
    onnx.helper.set_model_props(model, replace(said, graph_sha256=digest).metadata())
    onnx.save(model, path)
    return path
