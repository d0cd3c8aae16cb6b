"""Calls timed in turn, and what others do to the machine meanwhile."""

import gc
import os
import time

import numpy as np
import pytest
import torch

from cfcam_gpu.latency import machine, memory, timing


def test_every_round_runs_each_once_in_changing_order():
    seen = []

    def call(name):
        return lambda images: seen.append((name, gc.isenabled()))

    times = timing.times_in_turn({name: call(name) for name in "abcd"}, torch.empty(0), 16).clock
    warm, timed = seen[:8], [name for name, _ in seen[8:]]
    assert sorted(name for name, _ in warm) == sorted(2 * "abcd")
    rounds = ["".join(timed[i : i + 4]) for i in range(0, 64, 4)]
    assert all(sorted(one) == list("abcd") for one in rounds)
    assert len(set(rounds)) > 4
    assert {name: len(values) for name, values in times.items()} == dict.fromkeys("abcd", 16)
    assert not any(collecting for _, collecting in seen[8:])
    assert gc.isenabled()


def test_collecting_that_was_off_stays_off():
    gc.disable()
    try:
        timing.times_in_turn({"a": lambda images: None}, torch.empty(0), 1)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_slow_call_is_in_the_first_rounds_only():
    cost = {"quick": 1.0, "slow": 100.0, "slowest": 1e9}
    calls = {name: (lambda images, name=name: name) for name in cost}
    clock = lambda call, images: cost[call(images)]  # noqa: E731
    times = timing.times_in_turn(calls, torch.empty(0), 10, clock=clock, budget_ms=500).clock
    assert {name: len(values) for name, values in times.items()} == {"quick": 10, "slow": 5, "slowest": 3}


def test_waiting_takes_no_processor_time():
    def works(images):
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass

    times = timing.times_in_turn({"waits": lambda images: time.sleep(0.02), "works": works}, torch.empty(0), 3)
    assert min(times.clock["waits"]) >= 20 > 10 > max(times.processor["waits"])
    assert min(times.processor["works"]) >= 20


def test_ratios_pair_the_rounds():
    found = {"forward": {"rounds": [1.0, 2.0, 4.0]}, "cfcam": {"rounds": [4.0, 2.0, 1.0]}}
    ratios = timing.ratios(found, ["forward", "absent"])
    assert set(ratios) == {"cfcam / forward"}
    assert ratios["cfcam / forward"] == {"median": 1.0, "quartiles": [0.625, 2.5], "rounds": [4.0, 1.0, 0.25]}


def test_tails_are_percentiles_of_all_rounds():
    found = timing.with_tails(list(range(101)))
    assert (found["median"], found["p95"], found["p99"], found["quartiles"]) == (50, 95, 99, [25, 75])


def test_the_first_call_is_that_of_each_new_one():
    made = []

    def make():
        made.append(0)

        def call(images):
            made[-1] += 1

        return call

    found = timing.first_calls(make, torch.empty(0), 3, lambda call, images: (call(images), 10.0 / made[-1])[1])
    assert made == [1, 3, 3, 3]
    assert found["first_ms"]["rounds"] == [10.0] * 3
    assert found["ratio"]["median"] == pytest.approx(3, abs=1e-3)


def test_other_processes_are_seen():
    before = machine.CoresTime(busy=10.0, own=4.0, passed=100.0)
    after = machine.CoresTime(busy=16.0, own=8.0, passed=120.0)
    assert machine.taken_by_others(before, after) == 0.1
    assert machine.taken_by_others(None, after) is None


def test_peak_memory_counts_what_malloc_had_kept():
    pins = []

    def call(images):
        blocks = [np.ones(8192) for _ in range(800)]  # 50 MiB, too small to be mapped on their own
        pins.append(np.ones(8192))  # above them in the heap, so that freeing them does not shrink it
        del blocks

    peak = memory.host_peak(call, torch.empty(2))
    if peak is None:
        pytest.skip("this kernel does not reset the peak of resident memory")
    assert 40 < peak < 60


def test_a_child_that_dies_is_an_error_and_not_a_wait():
    with pytest.raises(RuntimeError, match="terminated abruptly"):
        memory.in_child(os._exit, 3)
