"""Classes by name: in a target, in what comes of it, and where the names are of other classes."""

import copy
import json
import logging
import pickle
from functools import partial

import numpy as np
import pytest
import torch

from cfcam_gpu import CAM, CFCAM, metrics, targets
from cfcam_gpu.explain.cuda_graph import GraphedCFCAM

from .. import recorder
from ..small import CLASSES, Network, assert_same, draw

NAMES = ("cat", "dog", "tiger cat", "crane", "flamingo")


def network(**attributes):
    model = Network().eval()
    vars(model).update(attributes)
    return model


def gradcam(model, **options):
    return CAM(model, "late", method="gradcam", **options)


@pytest.fixture(params=[CFCAM, gradcam], ids=["CFCAM", "CAM"])
def make(request):
    return request.param


@pytest.mark.parametrize(
    ("target", "indices", "classes"),
    [
        ("Flamingo", 4, ["flamingo"] * 3),
        (["dog", "cat", "tiger cat"], [1, 0, 2], ["dog", "cat", "tiger cat"]),
        (np.array(["dog", "cat", "dog"]), [1, 0, 1], ["dog", "cat", "dog"]),
        (np.array(["dog", 4, None], dtype=object), [1, 4, None], ["dog", "flamingo", None]),
        (("dog", 4, None), [1, 4, None], ["dog", "flamingo", None]),
        ([["dog", "cat"], ["crane", 1], [0, "1"]], [[1, 0], [3, 1], [0, 1]], [["dog", "cat"], ["crane", "dog"]]),
        ([2, 0, 1], [2, 0, 1], ["tiger cat", "cat", "dog"]),
        (torch.tensor([2, 0, 1]), [2, 0, 1], ["tiger cat", "cat", "dog"]),
    ],
    ids=str,
)
def test_a_target_by_name_is_that_class(make, target, indices, classes):
    images, model = draw(0), network()
    explain = make(model, class_names=list(NAMES))
    found, expected = explain(images, target), make(model)(images, indices)
    for name in ("raw_maps", "maps", "target", "logits"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert explain.class_names == found.class_names == NAMES
    assert (make(model).class_names, expected.class_names) == (None, None)
    for said, wanted in zip(found.classes, classes):
        assert said == (NAMES[int(found.logits[2].argmax())] if wanted is None else wanted)


def test_the_models_own_names_are_taken_where_none_are_given(make):
    explain = make(network(class_names=list(NAMES)))
    assert explain.class_names == NAMES
    assert explain(draw(0), "dog").classes == ["dog"] * 3
    assert make(explain.model, class_names=list("abcde")).class_names == tuple("abcde")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("flamigo", "no class is called 'flamigo'; nearest: flamingo"),
        (["dog", "cow", "cat"], "no class is called 'cow'"),
        ([["dog", "cow"]] * 3, "no class is called 'cow'"),
        ("5", r"class 5 is out of range for 5 classes \(0 to 4\)"),
        (["dog", "cat"], "expected one for each of the 3 images; got 2"),
        (["dog", sum, "cat"], "expected None, a class index or name"),
    ],
    ids=str,
)
def test_a_name_of_no_class_is_refused_before_anything_runs(make, target, message):
    model = network()
    model.register_forward_pre_hook(lambda *given: pytest.fail("it ran"))
    with pytest.raises((TypeError, ValueError), match=f"^target: {message}"):
        make(model, class_names=NAMES)(draw(0), target)


def test_a_name_that_two_classes_have_is_refused(make):
    explain = make(network(), class_names=["crane", "a", "crane", "b", "c"])
    with pytest.raises(ValueError, match=r"'crane' may be class 0 \('crane'\) or class 2 \('crane'\); give its index"):
        explain(draw(0), "crane")


def test_without_names_the_way_out_is_told(make):
    with pytest.raises(ValueError, match=r"target: expected a class index, .*; got 'dog'. Give them: class_names="):
        make(network())(draw(0), "dog")


@pytest.mark.parametrize("target", [None, 1, "a", lambda logits: logits[0]], ids=["none", "index", "name", "callable"])
def test_names_of_another_number_of_classes_are_refused(make, target):
    explain = make(network(), class_names=["a", "b"])
    with pytest.raises(ValueError, match="class_names: expected 5, one for each of the model's classes; got 2"):
        explain(draw(0), target)


def test_names_that_a_model_gets_later_are_taken(make):
    """As the error says that asks for them."""
    model = network()
    explain = make(model)
    with pytest.raises(ValueError, match=r"class_names=.*, or as model\.class_names"):
        explain(draw(0), "dog")
    vars(model)["class_names"] = list(NAMES)
    assert explain.class_names == NAMES
    assert explain(draw(0), "dog").target.tolist() == [1] * 3
    model.class_names[1] = "wolf"
    assert explain(draw(0), 1).classes == ["wolf"] * 3


def test_a_ready_target_has_no_names_of_other_classes(make):
    explain = make(network(class_names=["a", "b"]))
    assert explain(draw(0), targets.Contrast(1)).classes == ["Contrast(index=1)"] * 3


def test_the_models_own_names_of_other_classes_are_not_used(make, caplog):
    explain = make(network(names=dict(enumerate("abcdefg"))))
    assert explain.class_names == tuple("abcdefg")
    with caplog.at_level(logging.WARNING):
        results = [explain(draw(0), 1) for _ in range(2)]
    assert [result.class_names for result in results] == [None, None]
    assert results[0].classes == ["class 1"] * 3
    assert [record.message for record in caplog.records] == [
        "the model's own names are of 7 classes, and it has 5 logits: they are not used; class_names= gives others"
    ]
    with pytest.raises(
        ValueError, match=r"class_names: expected 5, .*; got 7. Where none are given they are the model's"
    ):
        explain(draw(0), "b")


def test_a_callable_is_called_what_it_is(make):
    explain = make(network(), class_names=NAMES)
    result = explain(draw(0), targets.Contrast(1))
    assert (result.target, result.classes) == (None, ["Contrast(index=dog)"] * 3)
    assert result.probability.isnan().tolist() == [True] * 3
    several = explain(draw(0), [[targets.Label(1), targets.Label(2, present=False)]] * 3)
    assert several.classes == [["Label(index=dog)", "Label(index=tiger cat, present=False)"]] * 3
    assert several.probability.shape == (3, 2)
    for again in (pickle.loads(pickle.dumps(several)), copy.deepcopy(several)):
        assert again.classes == several.classes
    assert several[1].classes == several.classes[:1]


def test_probabilities_are_those_of_the_explained_classes(make):
    result = make(network(), class_names=NAMES)(draw(0), [["dog", "cat"], ["cat", "dog"], ["dog", "crane"]])
    shares = result.logits.softmax(dim=1)
    torch.testing.assert_close(result.probability, shares.gather(1, torch.tensor([[1, 0], [0, 1], [1, 3]])))
    assert result.probability.dtype == torch.float32
    one = network()
    one.head = torch.nn.Linear(32, 1)
    assert make(one, class_names=["only"])(draw(0)).probability.isnan().all()


def test_results_say_names_everywhere(make, tmp_path):
    images = draw(0)
    result = make(network(), class_names=NAMES)(images, ["dog", "cat", "dog"])
    assert "late for dog, ...: maps (3, 12, 10)" in repr(result)
    assert "late for cat: maps (1, 12, 10)" in repr(result[1])
    line = json.loads(result.save(tmp_path / "own")[-1].read_text().splitlines()[1])
    assert (line["class"], {top["class"] for top in line["top"]}) == ("cat", set(NAMES))
    assert line["probability"] == pytest.approx(result.probability[1].item())
    given = result.save(tmp_path / "given", class_names=list("abcde"))[-1]
    assert json.loads(given.read_text().splitlines()[1])["class"] == "a"
    said = str(result.trust(images)).splitlines()
    assert [line.partition(":")[0] for line in said] == ["image 0, dog", "image 1, cat", "image 2, dog"]
    assert all(
        "the runner-up" not in line or any(name in line.partition("runner-up")[2] for name in NAMES) for line in said
    )
    for again in (pickle.loads(pickle.dumps(result)), copy.copy(result), result[:2]):
        assert again.class_names == NAMES
        assert again.classes == result.classes[: len(again)]


def test_an_explainer_is_pickled_and_copied_with_its_names(make):
    explain = make(network(), class_names=NAMES)
    for again in (pickle.loads(pickle.dumps(explain)), copy.deepcopy(explain)):
        assert again.class_names == NAMES
        assert torch.equal(again(draw(0), "dog").maps, explain(draw(0), 1).maps)


def test_a_graph_takes_names(monkeypatch):
    recorder.install(monkeypatch)
    images, model = draw(0), network()
    explain = CFCAM(model, "late", class_names=NAMES)
    request = targets.read(["dog"] * 3, 3, explain._class_names)
    plan = explain._laid_out(images, request)
    replay = GraphedCFCAM(model, plan, recorder.FUSED, images, request, explain._class_names, overlay=False)
    result = replay(images, ["cat", "crane", "dog"])
    assert_same(result, explain(images, [0, 3, 1]))
    assert result.classes == ["cat", "crane", "dog"]
    with pytest.raises(ValueError, match="no class is called 'cow'"):
        replay(images, "cow")
    vars(model)["class_names"] = list(NAMES)
    own = CFCAM(model, "late")
    replay = GraphedCFCAM(model, plan, recorder.FUSED, images, request, own._class_names, overlay=False)
    model.class_names.reverse()  # what the graph's results are called stays as it was
    assert replay(images, "dog").classes == ["dog"] * 3


@pytest.mark.parametrize(
    "metric", [metrics.confidence_change, partial(metrics.deletion, step=40)], ids=["drop", "deletion"]
)
def test_metrics_take_the_models_names(metric):
    images, maps, model = draw(0), torch.rand(3, 12, 10), network(class_names=NAMES)
    for found, expected in zip(metric(model, images, maps, "dog"), metric(model, images, maps, [1] * 3)):
        assert torch.equal(found, expected)
    with pytest.raises(ValueError, match=r"class_names: expected 5, .*; got 2"):
        metric(network(class_names=["dog", "cat"]), images, maps, "dog")


def test_there_are_as_many_names_as_classes():
    assert len(NAMES) == CLASSES
