"""Hooks that answer the thread alone that put them there."""

import pytest
import torch
from torch import nn

from cfcam_gpu.hooks import own_thread

from ..threads import in_threads


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_hook_answers_its_own_thread_alone(place):
    layer, ones, calls = nn.Identity(), torch.ones(2), []

    def change(module, args, *output):
        calls.append(args)
        return 2 * args[0]

    with own_thread.hooked([getattr(own_thread, place)(layer, change)]):
        (elsewhere,) = in_threads(lambda _: layer(ones), 1)
        assert (elsewhere.tolist(), calls) == ([1, 1], [])
        assert layer(ones).tolist() == [2, 2]
        assert len(calls) == 1
    assert layer(ones).tolist() == [1, 1]


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_hook_that_returns_nothing_changes_nothing(place):
    layer, ones = nn.Identity(), torch.ones(2)
    with own_thread.hooked([getattr(own_thread, place)(layer, lambda *args: None)]):
        assert layer(ones) is ones


def test_hooks_are_gone_where_making_the_next_one_fails():
    layer = nn.Identity()

    def handles():
        yield own_thread.before(layer, lambda *args: None)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"), own_thread.hooked(handles()):
        pytest.fail("entered")
    assert not layer._forward_pre_hooks


def test_no_module_of_the_package_registers_a_hook_of_its_own():
    from ..test_structure import modules

    text = {name: path.read_text() for name, path in modules().items()}
    assert [name for name, source in text.items() if "register_forward" in source] == ["cfcam_gpu.hooks.own_thread"]
