"""The order of a loader: refused where it is another one each time, and what a row's index means."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from cfcam_gpu.pipelines.stream import batches_of, check_repeatable

from ..pipeline_jobs import images


class Own(SequentialSampler):
    """A sampler of one's own that says whether it shuffles."""

    def __init__(self, data, shuffle):
        super().__init__(data)
        self.shuffle = shuffle


DATA = TensorDataset(images(6))


class Drawn(Sampler):
    """A sampler of one's own that shuffles without saying so."""

    def __init__(self, draw):
        self.draw = draw

    def __iter__(self):
        return iter(self.draw())


DRAWS = {
    "torch": lambda: torch.randperm(6).tolist(),
    "numpy": lambda: np.random.permutation(6).tolist(),  # noqa: NPY002
    "python": lambda: random.sample(range(6), 6),
}


def loaders():
    distributed = {shuffle: DistributedSampler(DATA, 1, 0, shuffle=shuffle) for shuffle in (True, False)}
    shuffling = [
        RandomSampler(DATA),
        SubsetRandomSampler(range(4)),
        WeightedRandomSampler(torch.ones(6), 6),
        distributed[True],
        Own(DATA, True),
    ]
    shuffling += map(Drawn, DRAWS.values())
    same = Drawn(lambda: torch.randperm(6, generator=torch.Generator().manual_seed(1)).tolist())
    steady = [SequentialSampler(DATA), distributed[False], Own(DATA, False), [3, 1, 2], same]
    for samplers, refused in ((shuffling, True), (steady, False)):
        for sampler in samplers:
            name = type(sampler).__name__
            yield pytest.param(DataLoader(DATA, sampler=sampler), refused, id=f"{name}, {refused}")
            batched = DataLoader(DATA, batch_sampler=BatchSampler(sampler, 2, False))
            yield pytest.param(batched, refused, id=f"{name} in batches, {refused}")
            unbatched = DataLoader(DATA, batch_size=None, sampler=BatchSampler(sampler, 2, False))
            yield pytest.param(unbatched, refused, id=f"{name} unbatched, {refused}")
    yield pytest.param(DataLoader(DATA, shuffle=True), True, id="shuffle")
    yield pytest.param(DataLoader(Subset(DATA, [4, 2]), batch_size=2), False, id="Subset")


@pytest.mark.parametrize(("loader", "refused"), list(loaders()))
def test_loaders_that_shuffle_are_refused(loader, refused):
    if refused:
        with pytest.raises(ValueError, match=r"dataset: expected the same order every time.*which shuffles.*Subset"):
            check_repeatable(loader)
    else:
        check_repeatable(loader)
        assert sum(len(batch.images) for batch in batches_of(loader, 2)) > 1


def test_random_numbers_are_as_they_were_after_the_order_was_looked_at():
    def state():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002

    before = state()
    for draw in DRAWS.values():
        with pytest.raises(ValueError, match="shuffles"):
            check_repeatable(DataLoader(DATA, sampler=Drawn(draw)))
    assert state() == before


def test_a_sampler_that_can_be_gone_through_once_and_one_without_end_are_left():
    once = iter([3, 1, 2])
    check_repeatable(DataLoader(DATA, sampler=once))
    assert list(once) == [3, 1, 2]
    check_repeatable(DataLoader(DATA, sampler=Drawn(lambda: itertools.repeat(0))))


def test_what_can_not_be_gone_through_is_refused():
    with pytest.raises(TypeError, match="dataset: expected Photographs, a DataLoader or an iterable; got int"):
        check_repeatable(7)


def test_a_row_is_where_its_image_came():
    loader = DataLoader(DATA, sampler=[4, 0, 2], batch_size=2)
    found = list(batches_of(loader, 2))
    assert [batch.index for batch in found] == [0, 2]
    assert torch.equal(torch.cat([batch.images for batch in found]), images(6)[[4, 0, 2]])
