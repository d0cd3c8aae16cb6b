"""A model repository: its configuration is one by Triton's own definition, and fits the graph beside it."""

import json
import shlex

import onnx
import pytest

from cfcam_gpu.deploy import loading, triton

from ..needs import module
from . import files

text_format = module("google.protobuf.text_format", "PEERS")
model_config = module("tritonclient.grpc.model_config_pb2", "PEERS")

TYPES = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.BOOL: "TYPE_BOOL",
}
KINDS = [
    {},
    {"target": "input"},
    {"target": "input", "classes": 3},
    {"batch": 4},
    {"target": "input", "batch": 4},
    {"target": "input", "classes": 2, "batch": 4},
]


def parsed(folder):
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), model_config.ModelConfig())


def shape(value):
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_the_configuration_fits_the_graph(tmp_path, fields):
    file = files.write(tmp_path / "some.onnx", **fields)
    folder = triton.write(file, tmp_path / "models", max_batch_size=16)
    assert folder == tmp_path / "models" / "some"
    assert (folder / "1" / "model.onnx").read_bytes() == file.read_bytes()
    found, graph = parsed(folder), onnx.load(file).graph
    assert (found.name, found.backend) == ("some", "onnxruntime")
    assert found.max_batch_size == (0 if "batch" in fields else 16)
    assert found.HasField("dynamic_batching") == ("batch" not in fields)
    for told, there in ((found.input, graph.input), (found.output, graph.output)):
        assert [each.name for each in told] == [each.name for each in there]
        for each, value in zip(told, there):
            kind = model_config.DataType.Name(each.data_type)
            assert kind == TYPES[value.type.tensor_type.elem_type]
            batched = ["B"] if found.max_batch_size else []
            assert batched + list(each.reshape.shape if each.HasField("reshape") else each.dims) == shape(value)
            assert len(each.dims) >= 1
            assert not each.HasField("reshape") or list(each.dims) == [1]
    assert {warmup.batch_size for warmup in found.model_warmup} == ({1} if "batch" in fields else {1, 16})
    for warmup in found.model_warmup:
        assert set(warmup.inputs) == {each.name for each in found.input}
        for each in found.input:
            assert list(warmup.inputs[each.name].dims) == list(each.dims)
            assert warmup.inputs[each.name].data_type == each.data_type


def test_what_the_file_says_is_in_the_configuration(tmp_path):
    names = ('tabby "cat"', "zwei\nLinien", "ä", "", "e")
    file = files.write(tmp_path / "some.onnx", class_names=names, model='a "model"\\ of mine')
    folder = triton.write(file, tmp_path / "models", name="lite-0.1")
    found = parsed(folder)
    said = {key: value.string_value for key, value in found.parameters.items()}
    assert json.loads(said["cfcam.model"]) == 'a "model"\\ of mine'
    assert json.loads(said["cfcam.config"])["gate"] == 0.07
    assert said["cfcam.graph_sha256"] == f'"{loading.describe(file).graph_sha256}"'
    assert "cfcam.class_names" not in said
    (labelled,) = (output for output in found.output if output.label_filename)
    assert labelled.name == "logits"
    lines = (folder / labelled.label_filename).read_text(encoding="utf-8").splitlines()
    assert lines == ['tabby "cat"', "zwei Linien", "ä", "-", "e"]
    assert not parsed(triton.write(files.write(file, class_names=None), tmp_path / "models")).output[2].label_filename


@pytest.mark.parametrize(("runtime", "accelerator"), [("onnxruntime", "cuda"), ("tensorrt", "tensorrt")])
def test_on_a_gpu_distances_are_not_rounded(tmp_path, runtime, accelerator):
    file = files.write(tmp_path / "some.onnx", runtime=runtime)
    found = parsed(triton.write(file, tmp_path / "models"))
    (given,) = found.optimization.execution_accelerators.gpu_execution_accelerator
    assert given.name == accelerator
    assert dict(given.parameters) == ({"use_tf32": "0"} if accelerator == "cuda" else {})


def test_a_model_that_is_there_stays_unless_overwrite(tmp_path):
    file = files.write(tmp_path / "some.onnx")
    folder = triton.write(file, tmp_path / "models")
    with pytest.raises(NotADirectoryError, match="is a file"):
        triton.write(file, file)
    (folder / "2").mkdir()
    (folder / "2" / "model.onnx").write_text("mine")
    (folder / "config.pbtxt").write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        triton.write(file, tmp_path / "models")
    assert (folder / "config.pbtxt").read_text() == "mine"
    triton.write(file, tmp_path / "models", overwrite=True)
    assert parsed(folder).name == "some"
    assert (folder / "2" / "model.onnx").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"name": "a/b"}, ValueError, "name: expected letters"),
        ({"name": ".."}, ValueError, "name: expected letters"),
        ({"name": ""}, ValueError, "name: expected letters"),
        ({"max_batch_size": 0}, ValueError, "max_batch_size: expected at least 1"),
        ({"max_batch_size": 2.0}, TypeError, "max_batch_size: expected an int"),
    ],
)
def test_what_can_not_be_meant_is_refused(tmp_path, options, kind, message):
    file = files.write(tmp_path / "some.onnx")
    with pytest.raises(kind, match=message):
        triton.write(file, tmp_path / "models", **options)
    assert not (tmp_path / "models").exists()


def test_files_that_triton_can_not_play_are_refused(tmp_path):
    (tmp_path / "some.pt2").touch()
    (tmp_path / "none.onnx").write_text("none")
    for name, message in (("some.pt2", "expected a file .onnx"), ("none.onnx", "onnx can't read")):
        with pytest.raises(ValueError, match=message):
            triton.write(tmp_path / name, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_the_command_for_tensorrt(tmp_path):
    file = files.write(tmp_path / "some.onnx", runtime="tensorrt", target="input", classes=3)
    assert triton.trtexec(file, max_batch_size=16) == (
        f"trtexec --onnx={file} --saveEngine={tmp_path}/some.plan --stronglyTyped --noTF32 "
        "--minShapes=images:1x3x32x32,target:1x3 --optShapes=images:16x3x32x32,target:16x3 "
        "--maxShapes=images:16x3x32x32,target:16x3"
    )
    assert "Shapes" not in triton.trtexec(files.write(file, runtime="tensorrt", batch=4))
    with pytest.raises(ValueError, match=r"exported for onnxruntime.*--runtime tensorrt"):
        triton.trtexec(files.write(file))
    with pytest.raises(ValueError, match="max_batch_size: expected at least 1; got -3"):
        triton.trtexec(file, max_batch_size=-3)


def test_the_command_is_one_for_any_name_of_a_file(tmp_path):
    file = files.write(tmp_path / "two words;x.onnx", runtime="tensorrt", batch=4)
    assert shlex.split(triton.trtexec(file))[1] == f"--onnx={file}"
