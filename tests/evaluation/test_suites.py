"""What the suites of ``cfcam-gpu bench`` make of a metric's answer."""

from types import SimpleNamespace

import pytest
import torch

from cfcam_gpu.evaluation.suites import SUITES, Case

from ..networks import two_scales


@pytest.mark.parametrize("empty", [(), (1,), (0, 1)])
def test_an_empty_map_counts_as_one_that_knows_nothing_of_its_class(empty):
    model, image = two_scales().eval(), torch.rand(3, 32, 32)
    likeliest = model(image[None]).topk(2).indices[0].tolist()

    def maps(images, classes):
        place = likeliest.index(int(classes[0]))
        made = torch.zeros(len(images), 32, 32)
        if place not in empty:
            made[:, place] = 1
        return made

    candidate = SimpleNamespace(explainer=lambda model: maps)
    case = Case(model, candidate, SimpleNamespace(image=image), None, 0, 0, 1)
    (found,) = SUITES["sanity"]["class-sensitivity"].run(case)
    assert found.tolist() == [100.0 if empty else 0.0]
