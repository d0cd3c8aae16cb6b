"""The call of docs/deploying.md by Triton's own client, to a server of ours that keeps to the model's configuration."""

import re
from concurrent import futures

import numpy as np
import onnxruntime
import pytest

from cfcam_gpu.deploy import triton

from ..needs import module
from ..pages import ROOT
from . import files

grpc = module("grpc", "PEERS")
client = module("tritonclient.grpc", "PEERS")
utils = module("tritonclient.utils", "PEERS")
services = module("tritonclient.grpc.service_pb2_grpc", "PEERS")
messages = module("tritonclient.grpc.service_pb2", "PEERS")
model_config = module("tritonclient.grpc.model_config_pb2", "PEERS")
text_format = module("google.protobuf.text_format", "PEERS")

TYPES = {"TYPE_FP32": ("FP32", np.float32), "TYPE_INT64": ("INT64", np.int64), "TYPE_BOOL": ("BOOL", np.bool_)}


class Server(services.GRPCInferenceServiceServicer):
    """What Triton does with a call: shapes are checked and changed as the configuration has them, classes are named."""

    def __init__(self, folder):
        self.config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config.ModelConfig())
        self.labels = (folder / "labels.txt").read_text().splitlines()
        self.session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")

    def ModelInfer(self, request, context):
        assert request.model_name == self.config.name
        feed = {}
        for given, data in zip(request.inputs, request.raw_input_contents):
            (said,) = (one for one in self.config.input if one.name == given.name)
            kind, dtype = TYPES[model_config.DataType.Name(said.data_type)]
            assert (given.datatype, list(given.shape[1:])) == (kind, list(said.dims))
            shape = [given.shape[0], *(said.reshape.shape if said.HasField("reshape") else said.dims)]
            feed[given.name] = np.frombuffer(data, dtype).reshape(shape)
        found = dict(zip([one.name for one in self.session.get_outputs()], self.session.run(None, feed)))
        answer = messages.ModelInferResponse(model_name=request.model_name)
        for wanted in request.outputs:
            (said,) = (one for one in self.config.output if one.name == wanted.name)
            values, kind = found[wanted.name], TYPES[model_config.DataType.Name(said.data_type)][0]
            values = values.reshape(len(values), *said.dims)
            if count := wanted.parameters["classification"].int64_param:
                assert said.label_filename == "labels.txt"
                order = np.argsort(-values, axis=1)[:, :count]
                rows = [[f"{row[k]}:{k}:{self.labels[k]}".encode() for k in best] for row, best in zip(values, order)]
                values, kind = utils.serialize_byte_tensor(np.array(rows, object)), "BYTES"
                shape, data = (len(rows), count), values.item()
            else:
                shape, data = values.shape, values.tobytes()
            answer.outputs.add(name=wanted.name, datatype=kind, shape=shape)
            answer.raw_output_contents.append(data)
        return answer


@pytest.fixture
def address(tmp_path):
    folder = triton.write(files.write(tmp_path / "lite0.onnx"), tmp_path / "repository")
    server = grpc.server(futures.ThreadPoolExecutor(1))
    services.add_GRPCInferenceServiceServicer_to_server(Server(folder), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_the_call_of_the_documentation_is_answered(address, tmp_path):
    (code,) = re.findall(r"^```py\n(.*?)^```", (ROOT / "docs" / "deploying.md").read_text(), re.MULTILINE | re.DOTALL)
    images = np.random.default_rng(0).normal(0.1, 1, (3, 3, 32, 32)).astype(np.float32)
    names = {"images": images}
    exec(code.replace("127.0.0.1:8001", address), names)
    maps, _, logits, target, empty, _ = onnxruntime.InferenceSession(tmp_path / "lite0.onnx").run(
        None, {"images": images}
    )
    np.testing.assert_array_equal(names["maps"], maps)
    np.testing.assert_array_equal(names["target"], target)
    np.testing.assert_array_equal(names["found"].as_numpy("empty")[:, 0], empty)
    best = names["found"].as_numpy("logits")
    assert best.shape == (3, 5)
    score, index, label = best[0, 0].decode().split(":")
    assert (int(index), label) == (target[0], "abcde"[target[0]])
    assert float(score) == pytest.approx(logits[0].max())
