"""Which class a name means, and which names a model has of its own."""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cfcam_gpu import targets
from cfcam_gpu.explain import Bag
from cfcam_gpu.targets.names import class_index, imagenet, names_of, text_of, with_indices

from ..needs import module

PETS = ("cat", "dog", "tiger cat")
IN1K = {"tag": "a1_in1k", "num_classes": 1000, "label_names": None}


def test_a_class_by_index_or_name():
    names = imagenet()
    assert class_index("967", names) == class_index("ESPRESSO", names) == 967
    assert class_index("cardigan", names) == 474
    with pytest.raises(ValueError, match=r"no class is called 'expresso'; nearest: espresso"):
        class_index("expresso", names)
    with pytest.raises(
        ValueError, match=r"no class is called 'corn'; expected one of cat, dog, tiger cat, or an index$"
    ):
        class_index("corn", PETS)
    with pytest.raises(ValueError, match=r"no class is called 'zzzz'$"):
        class_index("zzzz", names)
    # Names that have the word come alone: "crate" is nearer to it by its letters.
    with pytest.raises(ValueError, match=r"nearest: crane \(bird\), crane \(machine\)$"):
        class_index("crane", names)
    for index in ("1000", "-1"):
        with pytest.raises(ValueError, match=rf"class {index} is out of range for 1000 classes \(0 to 999\)"):
            class_index(index, names)


def test_names_that_differ_in_case_alone_are_told_apart():
    names = ["A", "a", "b"]
    assert [class_index(name, names) for name in ("A", "a", "b", "B")] == [0, 1, 2, 2]
    with pytest.raises(ValueError, match=r"'TABBY' may be class 0 \('Tabby'\) or class 1 \('tabby'\); give its index"):
        class_index("TABBY", ["Tabby", "tabby"])
    with pytest.raises(ValueError, match=r"'crane' may be class 0 \('crane'\) or class 2 \('crane'\); give its index"):
        class_index("crane", ["crane", "b", "crane"])


def test_a_number_that_is_another_classes_name_is_no_index_without_a_word():
    names = ["1", "10", "2", "x"]  # digits in the order of a file system
    with pytest.raises(
        ValueError, match=r"'1' may be class 1 \('10'\) or class 0 \('1'\); give the index as an int, or"
    ):
        class_index("1", names)
    assert [class_index(text, names) for text in ("01", "00", "10", "0", "3")] == [1, 0, 1, 0, 3]
    assert class_index("2", ["0", "1", "2"]) == 2


def made(base=nn.Module, *children, **attributes):
    model = base(*children)
    for name, value in attributes.items():
        object.__setattr__(model, name, value)
    return model


def configured(id2label):
    return SimpleNamespace(id2label=id2label)


class Raises(nn.Module):
    @property
    def names(self):
        raise RuntimeError("a property that nobody asked to be read")


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, None),
        ({"class_names": list(PETS)}, PETS),
        ({"classes": PETS}, PETS),
        ({"names": dict(enumerate(PETS))}, PETS),  # of ultralytics
        ({"names": {2: "c", 0: "a", 1: "b"}}, ("a", "b", "c")),
        ({"names": {0: "0", 1: "1"}}, None),  # its default
        ({"class_names": ["1", "0"]}, ("1", "0")),
        ({"config": configured(dict(enumerate(PETS)))}, PETS),
        ({"config": configured({"1": "b", "0": "a"})}, ("a", "b")),
        ({"config": configured({0: "a", 2: "c"})}, ("a", "class 1", "c")),
        ({"config": configured({0: "LABEL_0", 1: "LABEL_1"})}, None),
        ({"config": configured({0: "LABEL_1", 1: "LABEL_0"})}, ("LABEL_1", "LABEL_0")),
        ({"config": configured(None)}, None),
        ({"config": {"id2label": {0: "a"}}}, ("a",)),
        ({"config": configured({0: "a"}), "class_names": ["b"]}, ("b",)),
        ({"class_names": None, "classes": 3, "names": ["a"]}, ("a",)),
        ({"classes": [1, 2]}, None),
        ({"classes": "abc"}, None),
        ({"classes": []}, None),
        ({"names": {}}, None),
        ({"names": {"cat": 0, "dog": 1}}, None),
        ({"names": {-1: "other", 0: "a"}}, None),
        ({"names": {0: "a", 10**12: "b"}}, None),
        ({"names": {0: "a", "0": "b"}}, None),
        ({"names": lambda: PETS}, None),
        ({"pretrained_cfg": {"label_names": PETS}}, PETS),
        ({"pretrained_cfg": IN1K, "num_classes": 1000}, imagenet()),
        ({"pretrained_cfg": IN1K | {"tag": "augreg_in21k_ft_in1k"}, "num_classes": 1000}, imagenet()),
        ({"pretrained_cfg": IN1K, "num_classes": 10}, None),
        ({"pretrained_cfg": IN1K | {"tag": "in21k"}, "num_classes": 1000}, None),
        ({"pretrained_cfg": IN1K | {"tag": None}, "num_classes": 1000}, None),
        ({"pretrained_cfg": IN1K | {"num_classes": 21843}, "num_classes": 1000}, None),
    ],
)
def test_what_a_model_says_of_its_classes(attributes, expected):
    assert names_of(made(**attributes)) == expected


def test_a_property_that_raises_is_no_name():
    assert names_of(Raises()) is None


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.compile,
        Bag,
        nn.Sequential,
        lambda model: Bag(nn.Sequential(OrderedDict(net=model))),
    ],
    ids=["DataParallel", "compile", "Bag", "Sequential", "two"],
)
def test_a_wrapper_has_the_names_of_what_it_wraps(wrap):
    inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten())
    inner.class_names = PETS
    assert names_of(wrap(inner)) == PETS


def test_what_holds_more_than_the_model_has_not_its_names():
    inner = nn.Linear(3, 3)
    inner.class_names = PETS
    assert names_of(nn.Sequential(inner, nn.Linear(3, 3))) is None
    scaled = nn.Sequential(inner)
    scaled.scale = nn.Parameter(torch.ones(1))
    assert names_of(scaled) is None
    outer = nn.Sequential(inner)
    outer.class_names = ["a", "b", "c"]
    assert names_of(outer) == ("a", "b", "c")


def test_timms_own_models():
    timm = module("timm", "PEERS")
    make = partial(timm.create_model, "resnet10t", pretrained=False)
    assert names_of(make()) == imagenet()
    assert names_of(make(num_classes=10)) is None
    other = make()
    other.reset_classifier(5)
    assert names_of(other) is None
    assert names_of(timm.create_model("ghostnet_050")) is None  # "untrained"
    assert names_of(make(pretrained_cfg_overlay={"label_names": PETS, "num_classes": 3}, num_classes=3)) == PETS


def test_transformers_own_models():
    transformers = module("transformers", "PEERS")
    make = partial(transformers.ResNetConfig, embedding_size=4, hidden_sizes=[4], depths=[1])
    build = transformers.ResNetForImageClassification
    assert names_of(build(make(id2label=dict(enumerate(PETS))))) == PETS
    assert names_of(build(make(id2label={"0": "a", "1": "b"}))) == ("a", "b")
    assert names_of(build(make(num_labels=3))) is None


def test_torchvisions_own_models_know_no_names_but_their_weights_do():
    models = module("torchvision", "PEERS").models
    categories = models.ResNet18_Weights.DEFAULT.meta["categories"]
    model = models.resnet18()
    assert names_of(model) is None
    assert targets.ClassNames(categories, model).names == tuple(categories)


def test_names_in_a_target_are_replaced_and_nothing_else_is():
    names = ["cat", "dog"]
    rows = [["cat", 1], ["dog", "cat"]]
    assert with_indices("dog", names) == 1
    assert with_indices(["dog", None, 0], names) == [1, None, 0]
    assert with_indices(rows, names) == [[0, 1], [1, 0]]
    assert rows == [["cat", 1], ["dog", "cat"]]
    for target in (None, 5, torch.tensor([1]), [1, None], [sum], [[sum], [max]]):
        assert with_indices(target, None) is target
    with pytest.raises(ValueError, match=r"as the model has no names .*; got 'dog'. Give them: class_names=\[...\]"):
        with_indices([0, "dog"], None)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("cat", TypeError, "class_names: expected a sequence of str, one for each class; got 'cat'"),
        ({0: "cat"}, TypeError, "class_names: expected a sequence of str"),
        ({"cat"}, TypeError, "class_names: expected a sequence of str"),
        ([1, 2], TypeError, r"class_names: expected a sequence of str, one for each class; got \[1, 2\]"),
        (5, TypeError, "got 5"),
        ([], ValueError, "class_names: expected a name for each class; got none"),
    ],
)
def test_what_are_no_names_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        targets.ClassNames(given, nn.Identity())


def plain(logits):
    return logits[0]


@dataclass(frozen=True)
class Weighted:
    """A target of a user's own."""

    weights: tuple

    def __call__(self, logits):
        return sum(weight.sum() for weight in self.weights) * logits[0]


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (plain, "plain"),
        (partial(plain), "plain"),
        (lambda logits: logits[0], "<lambda>"),
        (nn.Identity(), "Identity"),
        (targets.Contrast(281), "Contrast(index=281)"),
        (targets.Contrast(281, 285), "Contrast(index=281, against=285)"),
        (targets.Contrast(1, [0, 2]), "Contrast(index=dog, against=cat, tiger cat)"),
        (targets.Label(0, present=False), "Label(index=cat, present=False)"),
        (targets.WholeOutput(targets.Probability(2)), "WholeOutput(score=Probability(index=tiger cat))"),
        (targets.Value(1), "Value(index=1)"),  # no class
        (Weighted((torch.ones(2), torch.ones(3))), "Weighted(weights=2 tensors)"),
        (targets.Binary(), "Binary()"),
        (targets.Segment(2, torch.ones(4, 6)), "Segment(index=tiger cat, mask=shape (4, 6))"),
        (targets.WholeOutput(plain), "WholeOutput(score=plain)"),
        (targets.Similarity(torch.ones(8)), "Similarity(reference=shape (8,))"),
    ],
)
def test_what_a_callable_is_called(score, text):
    assert text_of(score, PETS) == text
