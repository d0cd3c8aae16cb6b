"""Pairs that stand for products: every two values of two factors are together somewhere, in few rows."""

from itertools import combinations, product

import pytest
import torch

from cfcam_gpu.engines import reference

from .cases import CASES, COMBINATIONS, OPTIONS, draw
from .pairwise import pairwise

SIZES = [(4, 3), (2, 2, 2), (5, 6, 5), (1, 3, 1, 2), (13, 6, 6, 5, 4, 3, 3, 2, 2, 2)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_pair_is_there_in_few_rows(sizes):
    factors = {f"factor {i}": range(size) for i, size in enumerate(sizes)}
    rows = pairwise(**factors)
    assert all(list(row) == list(factors) for row in rows)
    for one, other in combinations(factors, 2):
        assert {(row[one], row[other]) for row in rows} == set(product(factors[one], factors[other]))
    largest, second = sorted(sizes)[-1], sorted(sizes)[-2]
    assert largest * second <= len(rows) <= 1.3 * largest * second + 1
    assert rows == pairwise(**factors)


def test_two_factors_have_their_product_and_equal_values_are_told_apart():
    assert pairwise(a=[0, 1], b=[0, False]) == [
        {"a": 0, "b": 0},
        {"a": 0, "b": False},
        {"a": 1, "b": 0},
        {"a": 1, "b": False},
    ]


def test_values_that_do_not_go_together_are_in_no_row():
    factors = {"a": range(4), "b": range(3), "c": range(2)}
    rows = pairwise(**factors, go=lambda values: not values.items() >= {"a": 2, "c": 1}.items())
    assert {(row["a"], row["c"]) for row in rows} == set(product(range(4), range(2))) - {(2, 1)}
    assert {(row["a"], row["b"]) for row in rows} == set(product(range(4), range(3)))


def test_every_option_meets_every_case_and_every_other_option():
    rows = list(COMBINATIONS.values())
    assert {name for name, _ in rows} == set(CASES)
    for values in OPTIONS.values():
        for case, value in product(CASES, values):
            assert any(found == case and has(config, value) for found, config in rows), (case, value)
    for ours, theirs in combinations(OPTIONS.values(), 2):
        for one, other in product(ours, theirs):
            both = {**one, **other}
            if both.get("sigma") != 0 or "noise_floor" not in both:  # with no filter nothing tells what is noise
                assert any(has(config, both) for _, config in rows), both


def has(config, options):
    return options.items() <= vars(config).items()


def test_what_is_compared_has_clusters_with_every_setting():
    """But for two that leave none: where everything is dominant, or no channel has neighbours enough."""
    labels = [
        (config, reference.run(*(torch.from_numpy(array)[None] for array in batch(case)), config).labels)
        for case, config in COMBINATIONS.values()
    ]
    for values in OPTIONS.values():
        for value in values:
            most = max(int(found.max()) for config, found in labels if has(config, value))
            assert (most >= 0) == (value not in ({"dominant_percentile": 0}, {"min_samples": 10**12})), value
    assert sum(int(found.max()) >= 1 for _, found in labels) > 20, "more than one cluster"


def batch(case):
    activations, gradients = draw(case)
    return activations, gradients[None]
