"""Which engine "auto" is, and what it says of it."""

import logging
from types import SimpleNamespace

import pytest
import torch

from cfcam_gpu import Config, engines
from cfcam_gpu.engines import cpu, fused

CUDA = torch.device("cuda", 0)
SHAPE = (1, 1, 8, 7, 7)
NO_CUPY, NO_CUML = "CuPy is not installed; pip install it", "cuML is not installed; pip install it"


class Machine:
    """One with a GPU, and with those engines whose `missing` is None."""

    def __init__(self):
        self.missing, self.asked = {"cpu": None, "rapids": None, "fused": None}, []

    def load(self, name):
        def why_missing():
            self.asked.append(name)
            return self.missing[name]

        return SimpleNamespace(name=name, why_missing=why_missing, why_not=fused.why_not)


@pytest.fixture
def machine(monkeypatch):
    made, loaded = Machine(), {}
    monkeypatch.setattr(engines, "load", lambda name: loaded.setdefault(name, made.load(name)))
    monkeypatch.setattr(engines, "_available", {})
    monkeypatch.setattr(engines, "_missing", {})
    engines._tell.cache_clear()
    yield made
    engines._tell.cache_clear()


def test_auto_is_rapids_where_it_is_there(machine, caplog):
    with caplog.at_level(logging.INFO):
        assert engines.choose("auto", CUDA).name == "rapids"
        assert engines.resolve("auto", CUDA) == "rapids"
        assert engines.choose("auto", torch.device("cpu")).name == "cpu"
    assert not caplog.records
    assert engines.choose("fused", CUDA).name == "fused"


def test_auto_is_fused_without_cuml(machine, caplog):
    machine.missing["rapids"] = NO_CUML
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert engines.choose("auto", CUDA, config=Config(), shape=SHAPE).name == "fused"
            assert engines.resolve("auto", CUDA) == "fused"
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert record.getMessage() == f"engine: 'auto' is 'fused' here: 'rapids' is not available: {NO_CUML}"
    assert machine.asked == ["rapids", "fused"]  # a library that can't be imported is not tried at each call


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((1, 1, 5000, 7, 7), "takes at most 4096 channels; got 5000"),
        ((1, 1, 8, 70, 70), "takes maps of at most 4096 positions, 256 along an axis; got 70 x 70"),
        ((1, 1, 8, 300), "takes maps of at most 4096 positions, 256 along an axis; got 300"),
    ],
)
def test_auto_is_cpu_for_what_fused_does_not_cover(machine, caplog, shape, reason):
    machine.missing["rapids"] = NO_CUML
    for _ in range(2):
        assert engines.choose("auto", CUDA, config=Config(), shape=shape).name == "cpu"
        assert engines.resolve("auto", CUDA, config=Config(), shape=shape) == "cpu"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith(f"'rapids' is not available: {NO_CUML}; 'fused' {reason}")


def test_auto_is_cpu_where_there_is_no_cupy(machine, caplog):
    machine.missing |= {"rapids": NO_CUPY, "fused": NO_CUPY}
    for _ in range(2):
        assert engines.choose("auto", CUDA).name == "cpu"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "tensors on a CUDA device go to the host and back" in record.getMessage()
    assert NO_CUPY in record.getMessage()


def test_an_engine_that_is_named_is_looked_for_again_and_then_auto_has_it(machine):
    machine.missing["rapids"] = NO_CUML
    assert engines.choose("auto", CUDA).name == "fused"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"engine: 'rapids' is not available here: {NO_CUML}"):
            engines.choose("rapids", CUDA)
    assert machine.asked == ["rapids", "fused", "rapids", "rapids"]
    machine.missing["rapids"] = None
    assert engines.choose("rapids", CUDA).name == "rapids"
    assert engines.resolve("auto", CUDA) == "rapids"


class Elsewhere(torch.Tensor):
    """A tensor of the host that says it is on a GPU, until it is fetched."""

    @property
    def device(self):
        return CUDA

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_the_cpu_engine_answers_where_it_was_asked(monkeypatch):
    values = torch.rand(2, 6, 3, 3), torch.rand(2, 1, 6, 3, 3)
    expected, sent, to = cpu.run(*values, Config()), [], torch.Tensor.to

    def record(tensor, device):
        sent.append(device)
        return to(tensor, "cpu")

    monkeypatch.setattr(torch.Tensor, "to", record)
    found = cpu.run(*(value.as_subclass(Elsewhere) for value in values), Config())
    assert sent == [CUDA] * 4
    for ours, theirs in zip(found, expected):
        assert torch.equal(ours, theirs)
