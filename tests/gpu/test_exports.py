"""Exported files beside a GPU: made of a model that is on it, asked with images that are, and the device that plays."""

import pytest
import torch

from cfcam_gpu import CFCAM, deploy

from ..deploy.exports import images, network
from ..needs import module
from .beside import close

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact")]


def assert_answers(explain, device, played_on, expected):
    """Images of either device get maps on their own, those of the library."""
    assert explain.device.type == played_on
    for place in (device, torch.device("cpu")):
        given = images(3).to(place)
        found = explain(given, [1, None, 3])
        close(found.maps, expected.maps, place, atol=1e-3)
        assert found.target.cpu().tolist() == expected.target.tolist()
        assert found.overlay(given).device == place
        assert found[0].classes == expected[0].classes


@pytest.fixture(scope="module")
def expected():
    return CFCAM(network())(images(3), [1, None, 3])


def test_a_package_of_a_model_on_the_device_is_one_for_the_host(device, expected, tmp_path):
    """It is compiled by the host's compiler, for the host."""
    explain = CFCAM(network().to(device))
    path = tmp_path / "small.pt2"
    described = deploy.export(explain, path, images(4).to(device), target="input", batch=3)
    assert described.check is not None
    assert next(explain.model.parameters()).device == device, "the model stays where it was"
    assert_answers(deploy.load(path), device, "cpu", expected)
    with pytest.raises(RuntimeError, match=r"device: .*small\.pt2 was compiled for cpu; got cuda"):
        deploy.load(path, device="cuda")


def test_a_file_of_onnx_runs_where_onnxruntime_can(device, expected, tmp_path):
    for name in ("onnx", "onnxscript", "onnx_ir"):
        module(name, "PEERS")
    runtime = module("onnxruntime", "PEERS")
    path = tmp_path / "small.onnx"
    deploy.export(CFCAM(network().to(device)), path, images(4).to(device), target="input")
    assert_answers(deploy.load(path, device="cpu"), device, "cpu", expected)
    there = "CUDAExecutionProvider" in runtime.get_available_providers()
    if there and device.type == "cuda":
        assert_answers(deploy.load(path, device="cuda"), device, "cuda", expected)
        assert deploy.load(path).device.type == "cuda"
    else:
        assert_answers(deploy.load(path), device, "cpu", expected)
        with pytest.raises(RuntimeError, match=r"device: .*onnxruntime.*CUDA provider"):
            deploy.load(path, device="cuda")
