"""Targets: what is explained, checked before anything runs."""

import numpy as np
import pytest
import torch

from cfcam_gpu import targets

LOGITS = torch.tensor([[0.0, 3, 1], [2, 1, 0]], requires_grad=True)


@pytest.mark.parametrize(
    ("target", "indices", "scores"),
    [
        (None, [1, 0], [[3, 2]]),
        (2, [2, 2], [[1, 0]]),
        ([0, 1], [0, 1], [[0, 1]]),
        ((0, 1), [0, 1], [[0, 1]]),
        (torch.tensor(1), [1, 1], [[3, 1]]),
        (torch.tensor([2, 0], dtype=torch.int32), [2, 0], [[1, 2]]),
        (np.array([2, 0]), [2, 0], [[1, 2]]),
        (np.int64(2), [2, 2], [[1, 0]]),
        ([None, 2], [1, 2], [[3, 0]]),
        ((0, None), [0, 0], [[0, 2]]),
        ([None, None], [1, 0], [[3, 2]]),
        ([[0, 1], [2, 0]], [[0, 1], [2, 0]], [[0, 0], [3, 2]]),
        (torch.tensor([[1], [1]]), [[1], [1]], [[3, 1]]),
    ],
)
def test_class_indices(target, indices, scores):
    request = targets.read(target, 2)
    found, given = targets.resolve(request, LOGITS)
    assert found.tolist() == indices
    assert [score.tolist() for score in given] == scores
    assert request.several == (np.ndim(indices) == 2)


def test_whole_contrast_is_the_log_odds_of_a_class_against_its_rivals():
    _, scores = targets.resolve(targets.read([[0, 1], [2, 0]], 2), LOGITS, contrast=1.0)
    odds = LOGITS.softmax(1) / (1 - LOGITS.softmax(1))
    torch.testing.assert_close(torch.stack(scores, 1), odds.log()[[[0], [1]], [[0, 1], [2, 0]]])
    single = torch.tensor([[3.0], [1.0]], requires_grad=True)
    assert targets.resolve(targets.read(0, 2), single, contrast=1.0)[1][0].tolist() == [3, 1]
    _, scores = targets.resolve(targets.read(lambda row: row[1], 2), LOGITS, contrast=1.0)
    assert scores[0].tolist() == [3, 1]


def test_contrast_takes_off_its_share_of_the_rivals():
    request = targets.read([0, 2], 2)
    (none,), (half,), (whole,) = (targets.resolve(request, LOGITS, contrast=share)[1] for share in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, (none + whole) / 2)
    assert (none - whole).abs().min() > 0.1
    (score,) = targets.resolve(request, LOGITS.half(), contrast=0.5)[1]
    assert score.dtype == torch.float32
    torch.testing.assert_close(score, half)


def test_callables_get_one_images_logits():
    for target in (lambda row: row[1] - row[0], [lambda row: row[1:2] - row[0]] * 2):
        indices, scores = targets.resolve(targets.read(target, 2), LOGITS)
        assert indices is None
        assert [score.tolist() for score in scores] == [[3, -1]]


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ([1], ValueError, "target: expected one for each of the 2 images; got 1"),
        ([], ValueError, "target: expected one for each of the 2 images; got an empty list"),
        ([1, 2, 0], ValueError, "one for each of the 2 images; got 3"),
        ([[sum, sum], [sum]], ValueError, "target: expected as many callables for each image; got 1 and 2"),
        ([lambda row: row[0]], ValueError, "one for each of the 2 images; got 1"),
        (torch.zeros(2, 2, 2, dtype=torch.int64), ValueError, r"expected \(B,\) or \(B, T\) class indices; got shape"),
        ([[], []], (ValueError, TypeError), "target: expected"),
        ([0.5, 1.0], TypeError, "integer dtype; got torch.float32"),
        (torch.tensor([True, False]), TypeError, "integer dtype; got torch.bool"),
        (True, TypeError, "integer dtype; got torch.bool"),
        ("cat", ValueError, "target: expected a class index, as the model has no names of its classes; got 'cat'"),
        ([[1, 2], [3]], TypeError, "target: expected None"),
        ([None, [1, 2]], TypeError, "target: expected None"),
        ([None, "cat"], ValueError, "got 'cat'. Give them: class_names="),
        ([None, 0.5], TypeError, "integer dtype; got torch.float32"),
        ([None], ValueError, "one for each of the 2 images; got 1"),
    ],
)
def test_a_wrong_target_is_refused_before_anything_runs(target, error, message):
    with pytest.raises(error, match=message):
        targets.read(target, 2)


@pytest.mark.parametrize("target", [3, [0, 3], [[0, 1], [1, -1]]])
def test_a_class_out_of_range_is_refused(target):
    with pytest.raises(ValueError, match=r"target: class (3|-1) is out of range for 3 classes \(0 to 2\)"):
        targets.resolve(targets.read(target, 2), LOGITS)


def test_classes_need_a_row_of_logits_for_each_image():
    segmentation = torch.zeros(2, 3, 4, 4, requires_grad=True)
    with pytest.raises(ValueError, match=r"need logits \(B, K\); this model's are \(2, 3, 4, 4\).*Segment"):
        targets.resolve(targets.read(1, 2), segmentation)
    _, scores = targets.resolve(targets.read(lambda sample: sample[1].sum(), 2), segmentation)
    assert scores[0].shape == (2,)


@pytest.mark.parametrize(
    ("score", "error", "message"),
    [
        (lambda row: row, TypeError, r"must return a scalar tensor; got shape \(3,\) for image 0"),
        (lambda row: 1.0, TypeError, "must return a scalar tensor; got float for image 0"),
        (lambda row: row[0].detach(), ValueError, "for image 0 does not depend on the model's output"),
    ],
)
def test_a_callable_without_a_scalar_is_refused(score, error, message):
    with pytest.raises(error, match=message):
        targets.resolve(targets.read(score, 2), LOGITS)


def test_what_the_caller_does_to_a_tensor_later_changes_nothing():
    chosen = torch.tensor([1, 2])
    request = targets.read(chosen, 2)
    chosen[:] = 0
    assert request.indices.tolist() == [1, 2]
