"""CUDA graphs without a GPU: what a capture dispatches is kept, and a replay does it again on the same tensors.

As on a GPU, nothing is run again that Python did: a value that was read on the host, or made from one, stays as it was.
`FUSED` is the CPU engine in the place of the fused one, as one operator, so that a replay runs it, too.
"""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cfcam_gpu.engines import EngineResult, cpu
from cfcam_gpu.engines.execution import are_finite

from .small import CONFIGS


class CUDAGraph:
    def __init__(self):
        self.calls = []

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, kept in self.calls:
            found = function(*args, **kwargs)
            for old, new in zip(tensors(kept), tensors(found)):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class _Recorder(TorchDispatchMode):
    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kept = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, kept))
        return kept


@contextmanager
def graph(cuda_graph, *, stream, capture_error_mode):
    assert stream is SIDE
    assert capture_error_mode == "thread_local"
    with _Recorder(cuda_graph.calls):
        yield


class Stream:
    """Counts what was waited for."""

    def __init__(self):
        self.waited = 0

    def wait_stream(self, other):
        self.waited += 1

    wait_event = wait_stream


SIDE, CURRENT = Stream(), Stream()


class Event:
    def record(self, stream=None):
        pass


def install(monkeypatch):
    """Put these in the place of torch's."""
    for name, value in {
        "CUDAGraph": CUDAGraph,
        "graph": graph,
        "Stream": lambda device: SIDE,
        "current_stream": lambda: CURRENT,
        "stream": lambda stream: nullcontext(),
        "device": lambda device: nullcontext(),
        "Event": Event,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)


@torch.library.custom_op("cfcam_test::engine", mutates_args=())
def _engine(
    activations: torch.Tensor, gradients: torch.Tensor, name: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return tuple(cpu.run(activations.nan_to_num(), gradients.nan_to_num(), CONFIGS[name]))


def _run_checked(activations, gradients, config):
    found = _engine(activations, gradients, next(name for name in CONFIGS if CONFIGS[name] == config))
    return EngineResult(*found), torch.stack([are_finite(activations), are_finite(gradients)], dim=1)


FUSED = SimpleNamespace(why_missing=lambda: None, run=lambda *given: _run_checked(*given)[0], run_checked=_run_checked)
