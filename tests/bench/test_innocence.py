"""Networks trained to look innocent: that what they are trained against is the library's map."""

import pytest
import torch

from bench import innocence, shapes
from cfcam_gpu import CAM, CFCAM


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return shapes.cnn(innocence.MARKS).eval()


def test_marks_are_where_nothing_else_is():
    pictures = innocence.draw(24, seed=3)
    plain = shapes.draw(24, seed=3)
    assert torch.equal((pictures.images != pictures.without_mark).any(dim=1), pictures.marks)
    assert torch.equal((pictures.images != pictures.without_object).any(dim=1), pictures.objects)
    assert not (pictures.marks & (plain.masks[:, 0] | plain.distractors)).any()
    assert (pictures.marks.sum(dim=(1, 2)) == innocence.SIZE**2).all()


def test_what_is_differentiated_is_the_librarys_map(network):
    pictures = innocence.draw(4, seed=1)
    explainers = {"gradcam": CAM(network, innocence.LAYERS[1]), "cfcam": CFCAM(network)}
    for name, explainer in explainers.items():
        expected = explainer(pictures.images, pictures.kinds).maps
        maps, parts = innocence.ATTACKS[name](network, pictures.images, pictures.kinds)
        torch.testing.assert_close(maps, expected, atol=1e-5, rtol=0)
        far = maps.mean() + sum(innocence.placed(part, pictures.objects) for part in parts)
        gradient = torch.autograd.grad(far, network[0].weight)[0]
        assert gradient.isfinite().all()
        assert gradient.any()
    assert tuple(layer.name for layer in explainers["cfcam"].layers) == innocence.LAYERS


def test_placed_is_least_where_the_evidence_is_in_the_object():
    objects = innocence.draw(4, seed=1).objects
    inside = torch.nn.functional.adaptive_avg_pool2d(objects[:, None].float(), 8)[:, 0]
    assert innocence.placed(inside, objects) < innocence.placed(torch.rand(4, 8, 8), objects)
    assert innocence.placed(torch.rand(4, 8, 8), objects) < innocence.placed(-inside, objects)


def test_the_honest_network_stays_as_it_is(network, monkeypatch):
    monkeypatch.setattr(innocence, "BATCH", 4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    other = innocence.fooled(network, "cfcam", steps=2)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not torch.equal(other[0].weight, network[0].weight)
    assert torch.equal(other[1].running_mean, network[1].running_mean)
