"""Which engine "auto" is, and what it says of it."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
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
        self.wrong, self.checked = None, []

    def load(self, name):
        def why_missing():
            self.asked.append(name)
            return self.missing[name]

        return SimpleNamespace(name=name, why_missing=why_missing, why_not=fused.why_not, run=None)

    def disagreement(self, run, reference, device):
        self.checked.append(device)
        if isinstance(self.wrong, Exception):
            raise self.wrong
        return self.wrong


@pytest.fixture
def machine(monkeypatch):
    made, loaded = Machine(), {}
    monkeypatch.setattr(engines, "load", lambda name: loaded.setdefault(name, made.load(name)))
    monkeypatch.setattr(engines, "_available", {})
    monkeypatch.setattr(engines, "_missing", {})
    monkeypatch.setattr(engines, "_checked", {})
    monkeypatch.setattr(engines.self_check, "disagreement", made.disagreement)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(engines, "_told", set())
    return made


def test_auto_is_fused_where_it_covers_the_work_and_agrees(machine, caplog):
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert engines.choose("auto", CUDA, config=Config(), shape=SHAPE).name == "fused"
            assert engines.resolve("auto", CUDA) == "fused"
        assert engines.choose("auto", torch.device("cpu")).name == "cpu"
    assert not caplog.records
    assert machine.checked == [CUDA], "once for a device"
    assert machine.asked == ["fused", "cpu"], "cuML takes seconds to import"
    assert engines.choose("rapids", CUDA).name == "rapids"


def test_auto_is_rapids_where_fused_does_not_agree(machine, caplog):
    machine.wrong = "gives other labels than engine 'reference' on an example"
    for _ in range(3):
        assert engines.choose("auto", CUDA, config=Config(), shape=SHAPE).name == "rapids"
        assert engines.resolve("auto", CUDA) == "rapids"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        f"engine: 'auto' is 'rapids' here, which takes many times as long: 'fused' {machine.wrong}"
    )
    assert machine.checked == [CUDA]
    assert engines.choose("fused", CUDA).name == "fused", "who names it gets it"


def test_threads_that_come_first_together_wait_for_one_check(machine, monkeypatch):
    def slow(*given):
        time.sleep(0.05)
        return machine.disagreement(*given)

    monkeypatch.setattr(engines.self_check, "disagreement", slow)
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda device: engines.resolve("auto", device), [CUDA] * 4)) == {"fused"}
    assert machine.checked == [CUDA]


def test_each_gpu_is_checked_once_with_its_number_or_as_the_current_one(machine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for device in ("cuda", "cuda:1", "cuda:0", "cuda"):
        engines.resolve("auto", torch.device(device))
    assert machine.checked == [torch.device("cuda", 1), CUDA]


def test_what_lacks_memory_is_asked_again(machine):
    machine.wrong = torch.cuda.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.cuda.OutOfMemoryError):
        engines.resolve("auto", CUDA)
    machine.wrong = None
    assert engines.resolve("auto", CUDA) == "fused"
    assert len(machine.checked) == 2


def test_nothing_is_asked_while_a_graph_is_captured_and_that_is_not_kept(machine, monkeypatch):
    machine.wrong = "gives other labels than engine 'reference' on an example"
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert engines.resolve("auto", CUDA) == "fused"
    assert machine.checked == []
    assert engines.resolve("auto", CUDA) == "rapids"


def test_auto_is_rapids_for_what_fused_does_not_cover(machine, caplog):
    assert engines.choose("auto", CUDA, config=Config(), shape=(1, 1, 5000, 7, 7)).name == "rapids"
    assert "'fused' takes at most 4096 channels; got 5000" in caplog.text
    assert engines.choose("auto", CUDA, config=Config(), shape=SHAPE).name == "fused"


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((1, 1, 5000, 7, 7), "takes at most 4096 channels; got 5000"),
        ((1, 1, 8, 70, 70), "takes maps of at most 4096 positions, 256 along an axis; got 70 x 70"),
        ((1, 1, 8, 300), "takes maps of at most 4096 positions, 256 along an axis; got 300"),
    ],
)
def test_auto_is_cpu_without_cuml_for_what_fused_does_not_cover(machine, caplog, shape, reason):
    machine.missing["rapids"] = NO_CUML
    for longer in range(2):
        assert engines.choose("auto", CUDA, config=Config(), shape=shape).name == "cpu"
        other = (*shape[:-1], shape[-1] + longer)
        assert engines.resolve("auto", CUDA, config=Config(), shape=other) == "cpu"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith(f"'fused' {reason}; 'rapids' is not available: {NO_CUML}")


def test_auto_is_cpu_where_there_is_no_cupy(machine, caplog):
    machine.missing |= {"rapids": NO_CUPY, "fused": NO_CUPY}
    for _ in range(2):
        assert engines.choose("auto", CUDA).name == "cpu"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "tensors on a CUDA device go to the host and back" in record.getMessage()
    assert NO_CUPY in record.getMessage()


def test_an_engine_that_is_named_is_looked_for_again_and_then_auto_has_it(machine):
    machine.missing["fused"] = NO_CUPY
    assert engines.choose("auto", CUDA).name == "rapids"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"engine: 'fused' is not available here: {NO_CUPY}"):
            engines.choose("fused", CUDA)
        assert engines.choose("auto", CUDA).name == "rapids"
    assert machine.asked == ["fused", "rapids", "fused", "fused"], "auto does not look twice"
    machine.missing["fused"] = None
    assert engines.choose("fused", CUDA).name == "fused"
    assert engines.resolve("auto", CUDA) == "fused"


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
