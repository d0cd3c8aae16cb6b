"""The automatic choice of layers where a detector's head is little more than a place, or is read by a callable."""

import pytest
import torch

from cfcam_gpu import explain_detections

from .networks import OneConvolution


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def made(**options):
    torch.manual_seed(0)
    return OneConvolution(**options).eval()


@pytest.mark.parametrize("scales", [1, 2])
def test_a_map_is_no_single_cell_where_the_head_is_one_convolution(scales, images):
    """What a 1 x 1 convolution is given, and what it returns, has one position for each box."""
    for found in explain_detections(made(scales=scales), images, threshold=0.0, top=3):
        assert set(found.layers) == {("stem",)}
        assert not found.empty.all()


def test_a_head_that_decodes_in_place_is_explained_as_one_that_does_not(images):
    found = explain_detections(made(in_place=True), images, threshold=0.0, top=3)
    for one, other in zip(found, explain_detections(made(), images, threshold=0.0, top=3)):
        assert one.layers == other.layers
        torch.testing.assert_close(one.maps, other.maps)


def find_in(model, least=0.0):
    """Reads raw levels."""

    def find(levels):
        rows = torch.cat([model.decoded(level) for level in levels], dim=1)
        found = []
        for row in rows:
            scores, labels = (row[:, 4:5] * row[:, 5:]).max(dim=1)
            kept = scores >= least
            centre, half = row[kept, :2], row[kept, 2:4] / 2
            boxes = torch.cat([centre - half, centre + half], dim=1)
            found.append({"boxes": boxes, "labels": labels[kept], "scores": scores[kept]})
        return found

    return find


def test_a_callable_reads_raw_levels(images):
    model = made(raw=True)
    expected = explain_detections(made(), images, threshold=0.0, top=1)
    for one, other in zip(explain_detections(model, images, find=find_in(model), threshold=0.0, top=1), expected):
        torch.testing.assert_close(one.scores, other.scores)
        assert one.layers == other.layers
        torch.testing.assert_close(one.raw_maps, other.raw_maps, rtol=1e-4, atol=1e-7)


def test_a_callable_that_finds_nothing_has_no_layers_to_choose(images):
    model = made(raw=True)
    assert [len(one) for one in explain_detections(model, images, find=find_in(model, 2.0))] == [0, 0]
    everything = explain_detections(model, images, find=find_in(model), threshold=0.0, top=1)
    first, second = (float(one.scores) for one in everything)
    order = [0, 1] if first < second else [1, 0]  # the first has nothing
    find = find_in(model, (first + second) / 2)
    empty, found = explain_detections(made(raw=True), images[order], find=find, threshold=0.0, top=1)
    assert (len(empty), len(found)) == (0, 1)
    assert found.layers == (("stem",),)


def test_scores_without_gradients_are_refused(images):
    model = made(raw=True)
    find = find_in(model)
    with pytest.raises(ValueError, match=r"expected scores with their gradients.*find="):
        explain_detections(model, images, find=lambda levels: find([level.detach() for level in levels]), threshold=0.0)


def test_a_list_of_boxes_and_raw_levels_is_read(images):
    model = made()
    (plain, _) = explain_detections(model, images, threshold=0.0, top=2)
    whole = type(model).forward
    model.forward = lambda given: [whole(model, given), [given]]
    (listed, _) = explain_detections(model, images, threshold=0.0, top=2)
    torch.testing.assert_close(listed.maps, plain.maps)
    model.forward = lambda given: tuple(whole(model, given).split(40, dim=1))
    with pytest.raises(ValueError, match=r"a tuple of 2.*give find="):
        explain_detections(model, images, threshold=0.0)
