"""Images that fail, in every command: the same errors are an image's fault everywhere, and none is a dead device's."""

import json

import pytest
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from cfcam_gpu.cli import app
from cfcam_gpu.explain import attempts
from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.service.backend import Answer, InternalError, Question

from .albums import small
from .services import backend, encoded

DEAD = "CUDA error: an illegal memory access was encountered"


class Refusing(nn.Module):
    """Fails of an image that is white in its middle."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        if (x[:, :, 100:124, 100:124].amin(dim=(1, 2, 3)) > 2).any():
            raise self.error
        return x


def hungry():
    return nn.Sequential(Refusing(MemoryError()), small())


def picky():
    return nn.Sequential(Refusing(ValueError("too white")), small())


@pytest.fixture
def source(tmp_path):
    """Three photographs of two classes, the second of them white."""
    for name, colour in {"0/0.png": "red", "0/1.png": "white", "1/2.png": "blue"}.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), colour).save(path)
    return tmp_path / "source"


@pytest.fixture
def dead(monkeypatch):
    """A device of which the first failure shows that it is out of order."""

    def check(device):
        raise RuntimeError(DEAD)

    monkeypatch.setattr(attempts, "check", check)


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


def commands(source, out, model):
    """Each command that goes through images; what it writes is in `out`."""
    model = ("--model", f"{__name__}:{model}")
    methods = ("--methods", "gradcam", "--metrics", "drop")
    return {
        "explain": ("explain", source, *model, "--out", out),
        "bench": ("bench", "faithfulness", "--data", source, *model, *methods, "--out", out),
        "run": ("run", source, *model, "--workers", 0, "--out", out),
    }


def questions(source):
    return [Question(encoded(Image.open(path))) for path in sorted(source.rglob("*.png"))]


@pytest.mark.parametrize(("model", "said"), [("hungry", "MemoryError"), ("picky", "too white")])
@pytest.mark.parametrize("command", ["explain", "bench"])
def test_an_image_fails_alone_and_says_why(source, tmp_path, command, model, said):
    result = run(*commands(source, tmp_path / "out", model)[command])
    assert result.exit_code == 1
    failed = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert failed
    assert all("1.png" in line and line.endswith(said) for line in failed)
    if command == "explain":
        lines = (tmp_path / "out" / "explanations.jsonl").read_text().splitlines()
        assert [json.loads(line)["map"] for line in lines] == ["0.npy", "2.npy"]


@pytest.mark.parametrize(("model", "kind"), [("hungry", MemoryError), ("picky", InternalError)])
def test_a_question_fails_alone(source, model, kind):
    answering = backend(Settings(model=f"{__name__}:{model}"))
    first, second, third = answering.explain(questions(source))
    assert (type(first), type(second), type(third)) == (Answer, kind, Answer)
    answering.check()


@pytest.mark.parametrize("command", ["explain", "bench", "run"])
def test_a_device_that_is_out_of_order_ends_a_run(source, tmp_path, dead, command):
    result = run(*commands(source, tmp_path / "out", "picky")[command])
    assert result.exit_code == 1
    assert f"error: {DEAD}" in result.stderr
    assert "failed" not in result.stderr


def test_what_was_explained_before_has_its_line(source, tmp_path, dead):
    assert run(*commands(source, tmp_path / "out", "picky")["explain"], "--batch-size", 1).exit_code == 1
    (line,) = (tmp_path / "out" / "explanations.jsonl").read_text().splitlines()
    assert json.loads(line)["map"] == "0.npy"


def test_a_service_whose_device_is_out_of_order_says_so_and_asks_to_be_replaced(source, dead):
    answering = backend(Settings(model=f"{__name__}:picky"))
    answers = answering.explain(questions(source))
    assert [str(answer) for answer in answers] == [f"device cpu: {DEAD}"] * 3
    with pytest.raises(RuntimeError, match="illegal memory access"):
        answering.check()
