"""What runs the kernels on the CPU finds what it is there to find."""

import pytest
import torch

from cfcam_gpu.engines import kernels

from . import emulator

SOURCES = {
    "divergent": 'extern "C" __global__ void divergent(int *x) { if (threadIdx.x < 7) __syncthreads(); }',
    "shared": """extern "C" __global__ void shared(int *x) {
        __shared__ int kept;
        if (threadIdx.x > 0) return;
        x[blockIdx.x] = kept;
        kept = 5;
    }""",
    "order": """extern "C" __global__ void order(int *x) {
        __shared__ int seen[64];
        seen[threadIdx.x] = threadIdx.x;
        __syncthreads();
        const int other = seen[63 - threadIdx.x], near = __shfl_xor_sync(~0u, other, 1);
        const unsigned odd = __ballot_sync(~0u, other % 2);
        x[threadIdx.x] = near + (odd == 0x55555555u ? 1000 : 0);
    }""",
}


@pytest.fixture(autouse=True)
def sources(monkeypatch):
    monkeypatch.setattr(kernels, "source", SOURCES.__getitem__)
    monkeypatch.setattr(kernels, "definitions", lambda name, macros: ())


@pytest.mark.skipif(emulator.SANITIZER is not None, reason="threads would wait for ever")
def test_a_barrier_that_not_all_threads_reach():
    with pytest.raises(RuntimeError, match="divergent: a barrier that not all threads reach"):
        emulator.launch("divergent", (1, 1), (32, 1), torch.zeros(1, dtype=torch.int32))


def test_shared_memory_is_poisoned_before_each_block():
    found = torch.zeros(3, dtype=torch.int32)
    emulator.launch("shared", (3, 1), (32, 1), found)
    assert found.tolist() == [-1, -1, -1]


def test_barriers_shuffles_and_ballots():
    found = torch.zeros(64, dtype=torch.int32)
    emulator.launch("order", (1, 1), (64, 1), found)
    assert found.tolist() == [1000 + (63 - (i ^ 1)) for i in range(64)]


def test_the_wrong_number_of_arguments():
    with pytest.raises(AssertionError, match="shared takes 1 arguments; got 2"):
        emulator.launch("shared", (1, 1), (32, 1), torch.zeros(1, dtype=torch.int32), 3)
