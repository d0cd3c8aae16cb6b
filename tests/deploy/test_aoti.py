"""A package of AOTInductor's that is loaded: described without running its code, and explaining as it says."""

import json
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

from cfcam_gpu.deploy import loading
from cfcam_gpu.deploy.loading import load

from . import files


def package(path, metadata):
    """A package without code."""
    with zipfile.ZipFile(path, "w") as found:
        found.writestr("some/data/aotinductor/model/a.wrapper_metadata.json", json.dumps(metadata))
    return path


def said(**fields):
    return replace(files.description(runtime="aoti", opset=None, batch=2), **fields)


class Explained(nn.Module):
    """As the files of these tests in ONNX."""

    def forward(self, images):
        seen = images.mean(1).relu()
        logits = images.mean((2, 3)) @ torch.eye(3, 5)
        target = logits.argmax(1)
        raw = torch.nn.functional.avg_pool2d(seen[:, None], 8)[:, 0] * (target[:, None, None] + 1)
        top = seen.amax((1, 2), keepdim=True)
        maps = torch.where(top > 0, seen / top, seen - seen)
        return maps, raw, logits, target, raw.amax((1, 2)) <= 0, images.mean((1, 2, 3)) < 10


def test_a_package_is_described_without_its_code(tmp_path):
    path = package(tmp_path / "some.pt2", {"AOTI_DEVICE_KEY": "cpu", **said(model="ä").metadata()})
    assert loading.describe(path).metadata() == said(model="ä").metadata()


@pytest.mark.parametrize(
    ("device", "options", "kind", "message"),
    [
        ("cpu", {"threads": 2}, ValueError, "threads: expected None, as some.pt2 runs in torch's own"),
        ("cpu", {"device": "cuda"}, RuntimeError, "was compiled for cpu; got cuda"),
        ("cuda", {"device": "cpu"}, RuntimeError, "was compiled for cuda; got cpu"),
        ("cpu", {}, ValueError, r"can't load .*like the one that compiled it: beos m68k, None$"),
    ],
)
def test_a_package_that_can_not_run_here_is_refused(tmp_path, device, options, kind, message):
    machine = {"AOTI_DEVICE_KEY": device, "AOTI_PLATFORM": "beos", "AOTI_MACHINE": "m68k"}
    path = package(tmp_path / "some.pt2", {**machine, **said().metadata()})
    with pytest.raises(kind, match=message):
        load(path, **options)


def test_a_package_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="it has no metadata cfcam"):
        load(package(tmp_path / "some.pt2", {"AOTI_DEVICE_KEY": "cpu"}))
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as other:
        other.writestr("a", "b")
    with pytest.raises(ValueError, match="is no package of AOTInductor's"):
        load(tmp_path / "other.pt2")


#: Nothing for the C++ compiler but the package: no trial of vectors, no header beforehand, no optimisation.
QUICK = {
    "cpp.vec_isa_ok": False,
    "aot_inductor.compile_wrapper_opt_level": "O0",
    "aot_inductor.precompile_headers": False,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("default:`isinstance:FutureWarning")
def test_a_package_explains_images(tmp_path):
    given = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    given[1] = -1
    program = torch.export.export(Explained(), (given[:2],))
    configs = {"aot_inductor.metadata": said().metadata(), **QUICK}
    path = torch._inductor.aoti_compile_and_package(
        program, package_path=str(tmp_path / "some.pt2"), inductor_configs=configs
    )
    explain = load(path)
    assert (explain.device.type, explain.runtime) == ("cpu", f"aoti {torch.__version__}")
    wanted = Explained()(given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = explain(given)
    for field, value in zip(("maps", "raw_maps", "logits", "target", "empty"), wanted):
        torch.testing.assert_close(getattr(result, field), value)
    with ThreadPoolExecutor(4) as pool:
        for other in pool.map(lambda _: explain(given), range(16)):
            assert torch.equal(other.maps, result.maps)
