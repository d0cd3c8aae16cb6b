#!/usr/bin/env bash
# Two tools of onnx drop what is written in a model's `metadata_props`, and say nothing. onnx.utils.extract_model, which
# cuts a part out of a model, drops the model's. onnx.version_converter.convert_version drops those of each node,
# though it keeps the node's name and doc_string, also where the version stays and nothing is to convert.
#
# Expected: a part of a model, and a model of another version, keep the notes that still hold, as the node's own in
# extract_model, the model's in convert_version, and both in shape_inference and compose.add_prefix, are kept.
#
# It hurts class activation maps from files: a model is cut after its target layer to have the activations, and the
# names of classes and the mean and deviation of the images, which are kept there, are gone. torch.onnx.export notes at
# each node the layer that it comes from; after a conversion no layer is found by its name.
#
# cfcam_gpu refuses to load a file without its own metadata (cfcam_gpu/deploy/description.py).
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 onnx==1.23.2

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings

import onnx
from onnx import TensorProto, compose, helper, shape_inference, utils, version_converter

print("onnx", onnx.__version__)
nodes = [helper.make_node("Relu", ["images"], ["activations"]), helper.make_node("Neg", ["activations"], ["logits"])]
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("images", "logits")]
graph = helper.make_graph(nodes, "model", ends[:1], ends[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
helper.set_model_props(model, {"classes": "cat,dog"})
for node, layer in zip(model.graph.node, ("layer4", "head")):
    node.metadata_props.add(key="layer", value=layer)
onnx.save(model, "model.onnx")


def notes(changed):
    """The model's, and the first node's."""
    return [{each.key: each.value for each in owner.metadata_props} for owner in (changed, changed.graph.node[0])]


with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    utils.extract_model("model.onnx", "part.onnx", ["images"], ["activations"])
    found = {
        "extract_model": notes(onnx.load("part.onnx")),
        "convert_version, the same": notes(version_converter.convert_version(model, 18)),
        "convert_version, a later": notes(version_converter.convert_version(model, 20)),
        "infer_shapes": notes(shape_inference.infer_shapes(model)),
        "add_prefix": notes(compose.add_prefix(model, "first_")),
    }
whole = [{"classes": "cat,dog"}, {"layer": "layer4"}]
print("expected of each: ", whole)
for name, kept in found.items():
    print(f"seen, {name}:", kept)
print("warnings:", len(told))
as_described = (
    found["extract_model"] == [{}, whole[1]]
    and found["convert_version, the same"] == found["convert_version, a later"] == [whole[0], {}]
    and found["infer_shapes"] == found["add_prefix"] == whole
)
sys.exit(None if as_described and not told else "this has changed")
PYTHON
