"""Some of the images of an explanation, one after the other, and an explanation elsewhere."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch

from cfcam_gpu import CAM, CFCAM
from cfcam_gpu.explain.cuda_graph import GraphedExplanation

from ..networks import two_scales

COUNT = 4


def drawn(seed=0):
    return torch.rand(COUNT, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return two_scales().eval()


@pytest.fixture(scope="module")
def images():
    return drawn()


@pytest.fixture(scope="module", params=["one", "several", "callables"])
def result(model, images, request):
    scores = [lambda logits, k=k: logits[k] for k in range(COUNT)]
    target = {"one": [0, 1, 2, 3], "several": [[0, 1], [1, 2], [2, 3], [3, 0]], "callables": scores}[request.param]
    return CFCAM(model, ["2", "4"])(images, target)


def rows_of(result):
    """Everything that has a row for each image."""
    found = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    found = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    return found | {"maps": result.maps, "empty": result.empty, "probability": result.probability}


def check(part, result, rows):
    assert len(part) == len(rows)
    assert part.several == result.several
    assert part.classes == [result.classes[row] for row in rows]
    if part.origin.scores is not None:
        assert part.origin.scores == tuple(result.origin.scores[row] for row in rows)
    for name, value in rows_of(part).items():
        torch.testing.assert_close(value, rows_of(result)[name][rows], rtol=0, atol=0, equal_nan=True)


INDICES = {
    "an int": (1, [1]),
    "from the end": (-1, [3]),
    "NumPy's int": (np.int64(2), [2]),
    "a tensor of one": (torch.tensor(2), [2]),
    "a slice": (slice(1, 3), [1, 2]),
    "a slice with steps": (slice(None, None, -2), [3, 1]),
    "a slice of none": (slice(9, None), []),
    "a list": ([2, 0, -1], [2, 0, 3]),
    "a list of none": ([], []),
    "a list of bools": ([True, False, False, True], [0, 3]),
    "an array": (np.array([3, 3]), [3, 3]),
    "a tensor": (torch.tensor([0, 2]), [0, 2]),
    "a mask": (torch.tensor([False, True, True, False]), [1, 2]),
    "a mask of none": (torch.zeros(4, dtype=torch.bool), []),
}


@pytest.mark.parametrize("index", INDICES)
def test_a_part_has_the_rows_of_its_images(result, index):
    given, rows = INDICES[index]
    check(result[given], result, rows)


@pytest.mark.parametrize("index", [1, slice(0, 2), [0, 1]], ids=str)
def test_a_part_has_memory_of_its_own(model, images, index):
    result = CFCAM(model)(images)
    assert "maps" not in vars(result[index])  # they are made where they are asked for
    before = result.raw_maps.clone(), result.maps.clone()
    part = result[index]
    part.raw_maps.zero_()
    part.maps.zero_()
    assert torch.equal(result.raw_maps, before[0])
    assert torch.equal(result.maps, before[1])


def test_iteration_gives_each_image_and_ends(result):
    for parts in (list(result), [*iter(result)], [result[b] for b in range(len(result))]):
        assert len(parts) == COUNT
        for b, part in enumerate(parts):
            check(part, result, [b])
    with pytest.raises(IndexError):
        result[COUNT]


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (4, IndexError, "index: expected -4 to 3, as there are 4 images; got 4"),
        (-5, IndexError, "got -5"),
        ([0, 4], IndexError, "got 4"),
        ([True, False], IndexError, "index: expected 4 bools, one for each image; got 2"),
        (torch.tensor([[0]]), TypeError, r"index: expected ints or bools; got torch.int64 of shape \(1, 1\)"),
        ([0.5], TypeError, "got torch.float32"),
        (True, TypeError, "index: expected an int, a slice, or a list or 1-D tensor of ints or bools; got True"),
        (torch.tensor(True), TypeError, "index: expected an int"),
        ((0, 1), TypeError, r"got \(0, 1\). Tensors such as result.maps take any other index"),
        (1.0, TypeError, "got 1.0"),
        ("a", TypeError, "got 'a'"),
        (None, TypeError, "got None"),
    ],
)
def test_what_is_no_index_is_refused(result, index, error, message):
    with pytest.raises(error, match=message):
        result[index]


def test_a_part_is_asked_for_components_and_trust_with_its_images(model, images):
    result = CFCAM(model)(images)
    whole, (part,) = result.components(images), result[2].components(images[2:3])
    assert [one.share for one in part] == pytest.approx([one.share for one in whole[2]])
    np.testing.assert_allclose(result[2].trust(images[2:3]).noise, result.trust(images).noise[2:3], atol=1e-6)
    with pytest.raises(ValueError, match=r"images: expected those that were explained"):
        result[2].components(images[1:2])
    scores = [lambda logits, k=k: logits[k] for k in range(COUNT)]
    by_scores = CFCAM(model)(images, scores)
    assert by_scores[3].components(images[3:])[0][0].share == pytest.approx(by_scores.components(images)[3][0].share)


@pytest.mark.parametrize("ask", ["components", "trust", "overlay"])
def test_a_part_of_none_of_the_images_has_nothing_to_show(model, images, ask):
    """As ``result[~result.empty]`` may be."""
    part = CFCAM(model)(images)[[]]
    with pytest.raises(ValueError, match=r"images: expected at least one; th.* part of none"):
        getattr(part, ask)(images[:0])


def test_a_part_of_a_graphs_explanation_keeps_its_maps_and_flags(model, images):
    result = CFCAM(model)(images)
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    finite = torch.tensor([True, False, True, True])
    overlays = torch.randint(0, 255, (COUNT, 64, 64, 3), dtype=torch.uint8)
    graphed = GraphedExplanation(**fields, finite=finite, overlays=overlays)
    vars(graphed)["maps"] = maps = torch.rand(COUNT, 64, 64)  # as the graph wrote them
    vars(graphed)["empty"] = torch.tensor([False, True, False, False])  # as an exported file has it
    part = graphed[1:3]
    assert part.empty.tolist() == [True, False]
    assert type(part) is GraphedExplanation
    assert torch.equal(part.maps, maps[1:3])
    assert torch.equal(part.finite, finite[1:3])
    assert torch.equal(part.overlays, overlays[1:3])
    maps.zero_()  # the next replay
    assert part.maps.any()


def test_on_another_device_it_is_without_the_model(result):
    moved = result.to("meta")
    assert {value.device.type for name, value in rows_of(moved).items()} == {"meta"}
    assert moved.origin is None
    assert all(layer.module is None for layer in moved.layers)
    assert [layer.name for layer in moved.layers] == [layer.name for layer in result.layers]
    assert moved.raw_maps.shape == result.raw_maps.shape
    assert result.origin is not None
    assert result.cpu() is result.to(torch.device("cpu")) is result
    for device in (torch.float16, None, 1.0, True):
        with pytest.raises(TypeError, match=r"device: expected a torch\.device, a str or an int; got"):
            result.to(device)


def test_numpy_and_torch_take_it_for_its_maps(result):
    """It is a sequence of explanations, of which both would make arrays of arrays otherwise."""
    expected = result.maps.clone()
    for array in (np.asarray(result), np.array(result), torch.as_tensor(result), torch.tensor(result)):
        np.testing.assert_array_equal(array, expected)
        array[:] = 0
        assert torch.equal(result.maps, expected)
    assert np.asarray(result, dtype=np.float64).dtype == np.float64
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":  # which began to ask
        with pytest.raises(ValueError, match="copy: NumPy gets the maps as a copy"):
            np.asarray(result, copy=False)


def test_a_part_can_be_copied_and_pickled(result):
    part = result[:2]
    for other in (copy.copy(part), pickle.loads(pickle.dumps(part))):
        assert other.seen is None
        assert other.classes == part.classes
        assert torch.equal(other[1].maps, part.maps[1:])


def test_parts_of_other_methods_have_what_they_have(model, images):
    result = CAM(model, method="gradcam")(images)
    part = result[3]
    assert (part.labels, part.config, part.method) == (None, None, "gradcam")
    assert torch.equal(part.raw_maps, result.raw_maps[3:])
