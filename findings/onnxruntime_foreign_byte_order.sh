#!/usr/bin/env bash
# ONNX Runtime reads the bytes of a NumPy array of the other byte order as if they were the machine's own: the model
# sees 4.6e-41 where the array has 1, and nothing is said. So do functions of OpenCV, and OpenVINO's Tensor of a
# contiguous array; what is given to its compiled model as an array is right.
#
# Guess before it was run: as it is, of ONNX Runtime and OpenCV; of OpenVINO that the compiled model is wrong, too.
#
# Expected: the numbers that the array has, whose dtype says how they are stored
# (https://numpy.org/doc/stable/user/byteswapping.html), or an error, as torch and DLPack raise.
#
# Seen: `session.run`, OrtValue.ortvalue_from_numpy and an IO binding give the bytes the wrong way round. Of noise the
# answer is as good a vector of numbers as any.
#
# It hurts whoever feeds volumes as they come from the file: FreeSurfer's MGH and MGZ are always big-endian, and
# nibabel's `np.asarray(image.dataobj)` of them is, as it may be of old Analyze and NIfTI files, and as FITS and what
# was saved from such an array by numpy.save are; `get_fdata()` is in the machine's order. An explanation of that
# model's answer is one of noise. A fault of this kind was reported to XGBoost (dmlc/xgboost#12433), and to ONNX Runtime
# of its Java interface (microsoft/onnxruntime#26408).
#
# cfcam_gpu puts arrays into the machine's order (cfcam_gpu/engines/dlpack.py), and gives ONNX Runtime torch's memory.
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1 nibabel==5.4.2
pip install opencv-python-headless==5.0.0.93

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings

import cv2
import nibabel
import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from onnx import helper

print("onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__, "opencv", cv2.__version__)
shape = (4, 5, 6)
there = np.arange(1, 121, dtype=np.float32).reshape(shape)
nibabel.save(nibabel.MGHImage(there, np.eye(4)), "volume.mgz")
volume = np.asarray(nibabel.load("volume.mgz").dataobj)
equal = bool((volume == there).all())
print("nibabel", nibabel.__version__, "gives", volume.dtype.str, "of an .mgz, equal to what was saved:", equal)
in_a_row = np.ascontiguousarray(volume)

tensors = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy"]
graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", tensors[:1], tensors[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
session = onnxruntime.InferenceSession(model)
compiled = openvino.compile_model(openvino.Core().read_model(model), "CPU")


def bound():
    binding = session.io_binding()
    binding.bind_cpu_input("x", volume)
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()[0]


ways = {
    "onnxruntime, session.run": lambda: session.run(None, {"x": volume})[0],
    "onnxruntime, OrtValue": lambda: onnxruntime.OrtValue.ortvalue_from_numpy(volume).numpy(),
    "onnxruntime, IO binding": bound,
    "openvino, Tensor of one without gaps": lambda: compiled({"x": openvino.Tensor(in_a_row)})[0],
    "opencv, a slice resized to its own size": lambda: cv2.resize(volume[0], shape[:0:-1]),
    "opencv, a slice blurred by one pixel": lambda: cv2.blur(volume[0], (1, 1)),
    "openvino, the array itself": lambda: compiled({"x": in_a_row})[0],
    "torch.from_numpy": lambda: torch.from_numpy(volume),
    "torch.from_dlpack": lambda: torch.from_dlpack(volume),
}
seen = {}
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for name, way in ways.items():
        try:
            values = np.asarray(way())
            seen[name] = "right" if np.array_equal(values, there.reshape(-1, *values.shape)[0]) else "wrong"
            first = f"{values.flat[0]:.2g}, {values.flat[1]:.2g}, ..."
        except Exception as error:
            seen[name], first = type(error).__name__, ""
        print(f"{name}: expected 1, 2, ... or an error; seen {first or seen[name]}")
print("warnings:", len(told))
own = np.array_equal(session.run(None, {"x": volume.astype(np.float32)})[0], there)
print("in the machine's own order, session.run gives the numbers:", own)
expected = ["wrong"] * 6 + ["right", "ValueError", "BufferError"]
as_described = equal and list(seen.values()) == expected and own and not told
sys.exit(None if as_described else "this has changed")
PYTHON
