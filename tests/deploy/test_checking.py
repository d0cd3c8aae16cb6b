"""The check of a file against the library: what passes, what is near a tie, and what is refused."""

import pytest
import torch

from cfcam_gpu.deploy.checking import WORST, Played, compare, difference, in_batches
from cfcam_gpu.results import Explanation


def explanation(maps):
    return Explanation(
        raw_maps=maps,
        target=torch.zeros(len(maps), dtype=torch.int64),
        logits=torch.ones(len(maps), 2),
        labels=None,
        weights=None,
        eps=None,
        layers=(),
        config=None,
        size=tuple(maps.shape[1:]),
    )


@pytest.fixture
def maps():
    return torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))


def played(expected, **changes):
    fields = {
        "maps": expected.maps.clone(),
        "raw_maps": expected.raw_maps,
        "logits": expected.logits,
        "target": expected.target.clone(),
        "empty": expected.empty.clone(),
        "converged": torch.ones(len(expected), dtype=torch.bool),
    }
    return Played(**(fields | changes))


def check(file, expected, nudged=None):
    def not_asked(numbers):
        raise AssertionError(f"the library was asked again about {numbers}")

    return compare(file, expected, half=False, against="the library", nudged=nudged or not_asked)


def test_equal_maps_pass(maps):
    expected = explanation(maps)
    found = check(played(expected), expected)
    assert (found.checked, found.images, found.worst, found.ties) == (True, 4, 0, 0)
    assert found.correlation == pytest.approx(1)


@pytest.mark.parametrize("change", [2 * WORST, torch.nan])
def test_a_map_that_is_off_is_refused(maps, change):
    expected = explanation(maps)
    file = played(expected)
    file.maps[2, 3, 3] += change
    with pytest.raises(RuntimeError, match=r"maps are not the library.s.*Nothing was written"):
        check(file, expected, lambda numbers: iter([expected.maps[numbers]]))


def test_where_the_librarys_own_map_moves_as_far_rounding_decides(maps):
    expected = explanation(maps)
    file, moved = played(expected), expected.maps.clone()
    file.maps[2, 3, 3] -= 2 * WORST
    moved[2, 3, 3] -= 2 * WORST
    asked = []

    def nudged(numbers):
        asked.append(numbers)
        yield expected.maps[numbers]
        yield moved[numbers]

    found = check(file, expected, nudged)
    assert asked == [[2]]
    assert found.ties == 1
    assert "1 near a tie" in str(found)
    file.maps[1] = file.maps[1].flip(0)  # another image, of which the library is sure
    with pytest.raises(RuntimeError, match="1 near a tie"):
        check(file, expected, lambda numbers: iter([moved[numbers]]))


@pytest.mark.parametrize(
    ("field", "message"),
    [("target", "the explained class"), ("empty", "whether the map is empty"), ("converged", "clusters converged")],
)
def test_what_is_told_otherwise_is_refused(maps, field, message):
    expected = explanation(maps)
    file = played(expected)
    value = getattr(file, field)
    value[1] = ~value[1] if value.dtype == torch.bool else value[1] + 1
    with pytest.raises(RuntimeError, match=f"{message}.* of image 1"):
        check(file, expected)


def test_an_empty_map_must_be_empty(maps):
    maps[0] = 0
    expected = explanation(maps)
    found = check(played(expected), expected)
    assert (found.worst, found.empty) == (0, 1)
    assert "1 with empty maps" in str(found)
    file = played(expected)
    file.maps[0, 0, 0] = 0.5
    with pytest.raises(RuntimeError, match=r"worst 5\.0e-01"):
        check(file, expected, lambda numbers: iter([expected.maps[numbers]]))


def test_of_several_targets_the_worst_counts():
    one = torch.ones(2, 3, 4, 4)
    other = one.clone()
    other[1, 2, 0, 0] = 0.75
    assert difference(other, one, 2).tolist() == [0, 0.25]


def test_batches_are_filled_up():
    assert in_batches(range(5), 2) == [[0, 1], [2, 3], [4, 4]]
    assert in_batches(range(5), None) == [[0, 1, 2, 3, 4]]
