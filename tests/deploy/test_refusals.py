"""What can't be exported is told before any work: the argument, what was expected, what came, and the way out."""

import importlib.util

import pytest
import torch
from torch import nn

from cfcam_gpu import CAM, CFCAM, Config, deploy, targets
from cfcam_gpu.deploy import refusals

from .exports import images, network

MODEL = network()


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch):
    def fails(*args, **options):
        raise AssertionError("the model ran")

    monkeypatch.setattr(nn.Conv2d, "forward", fails)


@pytest.mark.parametrize(
    ("explainer", "options", "kind", "message"),
    [
        (MODEL, {"batch": 0}, ValueError, "batch: expected 'any' or a number of images from 1 to 1,024; got 0"),
        (MODEL, {"batch": 10**9}, ValueError, "batch: expected 'any' or a number of images from 1 to 1,024; got 1000"),
        (MODEL, {"batch": True}, ValueError, "batch: expected"),
        (MODEL, {"batch": "2"}, ValueError, "batch: expected"),
        (MODEL, {"target": 3}, ValueError, "target: expected 'predicted', 'input' or .*; got 3"),
        (MODEL, {"target": lambda logits: logits.sum()}, TypeError, "target: .*a callable"),
        (MODEL, {"target": targets.Segment(1, torch.ones(4, 4))}, ValueError, "target: a mask is of one image"),
        (MODEL, {"classes": 3}, ValueError, "classes: expected None where the classes are no input"),
        (MODEL, {"target": "input", "classes": 0}, ValueError, "classes: expected 1 to"),
        (MODEL, {"target": "input", "classes": 1000}, ValueError, "classes: expected 1 to"),
        (MODEL, {"runtime": "openvino"}, ValueError, "runtime: expected onnxruntime, tensorrt, aoti; got 'openvino'"),
        (MODEL, {"runtime": "aoti"}, ValueError, r"path: expected a file .pt2 for the runtime aoti; got 'model.onnx'"),
        (MODEL, {"preparation": {"mean": torch.ones(3)}}, TypeError, "preparation: expected a mapping"),
        (MODEL, {"name": 3}, TypeError, "name: expected a string; got int"),
        (nn.ReLU, {}, TypeError, "explainer: expected a CFCAM"),
        (CFCAM(MODEL), {"config": Config()}, ValueError, "config: expected None where an explainer is given"),
        (CFCAM(MODEL, augment="flip"), {}, ValueError, "explainer: a file holds one look"),
        (CFCAM(MODEL, smooth=4), {}, ValueError, "explainer: a file holds one look"),
        (CAM(MODEL, "4"), {}, ValueError, "explainer: only CF-CAM can be exported; got gradcam"),
        (CAM(MODEL, ["3", "4"], method="cfcam-paper"), {}, ValueError, "explainer: a file holds one map.*2 fused"),
    ],
)
def test_arguments(tmp_path, explainer, options, kind, message):
    with pytest.raises(kind, match=message):
        deploy.export(explainer, tmp_path / "model.onnx", images(2), **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model", "model.pt", "model.onnx.gz"])
def test_files_of_other_kinds(tmp_path, name):
    with pytest.raises(ValueError, match=r"path: expected a file \.onnx, or \.pt2"):
        deploy.export(MODEL, tmp_path / name, images(2))


def test_places(tmp_path):
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(FileExistsError, match="is there already"):
        deploy.export(MODEL, tmp_path / "model.onnx", images(2))
    assert (tmp_path / "model.onnx").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match=r"the folder .* is not there"):
        deploy.export(MODEL, tmp_path / "no" / "model.onnx", images(2))
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(IsADirectoryError):
        deploy.export(MODEL, tmp_path / "folder.onnx", images(2))


def test_images(tmp_path):
    with pytest.raises(ValueError, match="images: expected shape"):
        deploy.export(MODEL, tmp_path / "model.onnx", images(2)[0])
    with pytest.raises(TypeError, match="images: expected a torch tensor"):
        deploy.export(MODEL, tmp_path / "model.onnx", images(2).numpy())


@pytest.mark.parametrize(("name", "module"), [("1", "BatchNorm2d"), ("10", "Dropout")])
def test_a_model_in_training_mode(tmp_path, name, module):
    model = nn.Sequential(*network()[:10], nn.Dropout(0.2), network()[-1])
    model.get_submodule(name).train()
    with pytest.raises(ValueError, match=rf"model: {name} \({module}\) is in training mode.*model\.eval\(\)"):
        deploy.export(model, tmp_path / "model.onnx", images(2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_that_the_runtime_lacks(tmp_path, dtype):
    with pytest.raises(ValueError, match=rf"images: expected float32 or float16, .* no {dtype} convolutions"):
        deploy.export(network().to(dtype), tmp_path / "model.onnx", images(2).to(dtype))


def test_weights_that_are_not_dense(tmp_path):
    model = network()
    model.register_buffer("table", torch.eye(3).to_sparse())
    with pytest.raises(ValueError, match="model: expected dense weights"):
        deploy.export(model, tmp_path / "model.onnx", images(2))


def test_backward_hooks_are_named(tmp_path):
    model = network()
    model[4].register_full_backward_hook(lambda module, before, after: None)
    with pytest.raises(ValueError, match="model: 4 has a backward hook"):
        deploy.export(model, tmp_path / "model.onnx", images(2))


def test_autocast(tmp_path):
    with torch.autocast("cpu"), pytest.raises(ValueError, match="export: expected no autocast"):
        deploy.export(MODEL, tmp_path / "model.onnx", images(2))


def test_a_model_beyond_a_file(monkeypatch):
    monkeypatch.setattr(refusals, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"model: its weights take .* GiB, and an ONNX file holds 2; export a \.pt2"):
        refusals.check_model(MODEL, images(1), "onnxruntime")
    refusals.check_model(MODEL, images(1), "aoti")


def test_missing_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"onnx and onnxscript; pip install 'cfcam-gpu\[onnx\]'"):
        deploy.export(MODEL, tmp_path / "model.onnx", images(2))


def own_names(count):
    model = network()
    model.class_names = [f"own {k}" for k in range(count)]
    return model


@pytest.mark.parametrize(
    ("given", "explain", "expected"),
    [
        (None, CFCAM(MODEL), None),
        (list("abcdef"), CFCAM(MODEL), tuple("abcdef")),
        (None, CFCAM(MODEL, class_names=list("abcdef")), tuple("abcdef")),
        (list("ABCDEF"), CFCAM(own_names(6), class_names=list("abcdef")), tuple("ABCDEF")),
        (None, CFCAM(own_names(6)), tuple(f"own {k}" for k in range(6))),
        (None, CFCAM(own_names(7)), None),
    ],
)
def test_a_file_has_the_names_that_are_given_or_the_explainers(given, explain, expected):
    assert refusals.class_names(given, explain, 6) == expected


@pytest.mark.parametrize(("given", "of_explainer"), [(["a"], None), (None, ["a"])])
def test_names_of_another_number_of_classes(given, of_explainer):
    with pytest.raises(ValueError, match="class_names: expected one for each of the 6 logits; got 1"):
        refusals.class_names(given, CFCAM(MODEL, class_names=of_explainer), 6)


def test_the_explainer_of_cf_cam_within_another_has_its_names():
    explain = CAM(MODEL, "4", method="cfcam-paper", class_names=list("abcdef"))
    assert refusals.explainer_of(explain, None, None).class_names == tuple("abcdef")
