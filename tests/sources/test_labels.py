"""What a target of a table, a ``.cls`` or a data set means."""

import numpy as np
import pytest

from cfcam_gpu.sources.labels import Targets, target_of

NAMES = ["dog", "Cat", "none"]


@pytest.mark.parametrize("value", [1, 1.0, "1", " 1.0 ", np.int64(1), np.float32(1), "cat", "CAT", "01"])
def test_a_class_is_meant_by_index_or_name(value):
    assert target_of(value, NAMES) == 1


@pytest.mark.parametrize("value", [None, "", "  ", float("nan"), "NaN", "null", "NA", -1, "-1", -1.0, "-1.0", "None"])
def test_no_class_is_meant(value):
    assert target_of(value, ["dog", "Cat"]) is None
    assert target_of(value, None) is None


def test_a_class_may_be_called_as_if_there_were_none():
    assert target_of("None", NAMES) == 2


@pytest.mark.parametrize(
    ("value", "names", "message"),
    [
        (3, NAMES, "class 3 is out of range for 3 classes"),
        (-2, NAMES, "class -2 is out of range"),
        (-2, None, "expected a class index; got -2"),
        (1.5, NAMES, "expected a class index or name; got 1.5, which is no integer"),
        ("1.5", None, "got 1.5, which is no integer"),
        (float("inf"), NAMES, "got inf, which is no integer"),
        ("car", NAMES, "no class is called 'car'; nearest: Cat"),
        ("cat", None, "expected a class index, as no class names are given; got 'cat'"),
        (True, NAMES, "expected a class index or name; got True"),
    ],
)
def test_what_is_no_class_is_refused(value, names, message):
    with pytest.raises(ValueError, match=f"target: .*{message}"):
        target_of(value, names)
    with pytest.raises(ValueError, match=r"source: line 7 of a\.csv: target: "):
        Targets(names).of(value, "line 7 of a.csv")


def test_text_that_is_a_classes_name_and_anothers_index_is_refused():
    names = ["1", "10", "2"]  # digits in the order of a file system
    assert [target_of(value, names) for value in (1, 1.0, np.int64(2), "01", "1.0", "10")] == [1, 1, 2, 1, 1, 1]
    with pytest.raises(ValueError, match=r"'1' may be class 1 \('10'\) or class 0 \('1'\)"):
        target_of("1", names)


def test_a_data_sets_own_classes_are_found_by_name_where_the_model_has_others():
    targets = Targets(["cow", "cat", "dog"])
    assert [targets.of(value, "row 0", ["dog", "cat"]) for value in (0, 1, -1, None)] == [2, 1, None, None]
    assert targets.unlabelled == 1
    with pytest.raises(ValueError, match="row 1: target: no class is called 'hen'"):
        targets.of(2, "row 1", ["dog", "cat", "hen", "cow"])
    # As many classes: its order is the model's.
    assert Targets(["class 0", "class 1"]).of(1, "row 0", ["dog", "cat"]) == 1


@pytest.mark.parametrize(
    ("classes", "names", "expected"),
    [
        (["cat", "dog", "cow"], ["cow", "dog", "cat"], [2, 1, 0]),
        (["cat", "dog", "cow"], ["COW", "DOG", "CAT"], [2, 1, 0]),
        (["a", "A", "b"], ["A", "a", "b"], [1, 0, 2]),
        (["1", "0"], ["0", "1"], [1, 0]),
        (["tench, Tinca", "hen"], ["tench", "hen"], [0, 1]),
        (["0", "1"], ["zero", "one"], [0, 1]),
    ],
)
def test_as_many_classes_are_the_models_by_name_or_all_in_its_order(classes, names, expected):
    targets = Targets(names)
    assert [targets.of(value, "row 0", classes) for value in range(len(classes))] == expected


@pytest.mark.parametrize("classes", [["dog", "hen", "cow"], ["dog", "1"]])
def test_a_data_sets_class_that_the_model_has_not_is_refused(classes):
    targets = Targets(["cow", "dog", "cat"])
    assert targets.of(0, "row 0", classes) == 1
    with pytest.raises(ValueError, match=f"row 1: target: no class is called '{classes[1]}'"):
        targets.of(1, "row 1", classes)


def test_each_file_has_its_own_classes():
    targets = Targets(["cow", "cat", "dog"])
    assert [targets.of(0, "row 0", classes) for classes in (["dog", "cat"], ["cat", "dog"])] == [2, 1]
