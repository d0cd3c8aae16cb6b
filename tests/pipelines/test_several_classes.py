"""Batches with several classes of each image: what is found of each class is what a batch of it alone gives."""

import math

import pytest
import torch
from torch import nn

from cfcam_gpu import CFCAM
from cfcam_gpu.pipelines.batches import BatchExplainer

from ..albums import small
from ..pipeline_jobs import images
from .test_batches import EXPLAINERS


@pytest.mark.parametrize("name", EXPLAINERS)
def test_several_classes_are_those_of_one_each(name):
    explainer, x = EXPLAINERS[name](), images(4)
    x[2] = math.nan
    explain = BatchExplainer(explainer, dtype=torch.float32)
    found = explain(x, [[0, 2], [1, 0], [1, 1], [2, 1]])
    assert found.maps.shape[:2] == (4, 2)
    for number, targets in enumerate([[0, 1, 1, 2], [2, 0, 1, 1]]):
        of_class, alone = vars(found.of_class(number)), vars(explain(x, targets))
        assert of_class["errors"] == alone["errors"]
        assert [error is None for error in alone["errors"]] == [True, True, False, True]
        for key, value in alone.items():
            if isinstance(value, torch.Tensor):
                good = [0, 1, 3]
                torch.testing.assert_close(of_class[key][good], value[good], rtol=0, atol=1e-6, equal_nan=True)
                assert of_class[key].shape == value.shape
    assert found.of_class(0).maps[2].isnan().all()


def test_several_classes_of_a_batch_that_is_halved_or_bad(caplog):
    class Small(nn.Module):
        """Room for three images."""

        def __init__(self):
            super().__init__()
            self.network = small()

        def forward(self, x):
            if len(x) > 3:
                raise torch.cuda.OutOfMemoryError("full")
            return self.network(x)

    x, targets = images(5), [[0, 1]] * 5
    explainer = CFCAM(Small().eval(), "network.1")
    found = BatchExplainer(explainer, dtype=torch.float32)(x, targets)
    whole = BatchExplainer(CFCAM(small().eval(), "1"), dtype=torch.float32)(x, targets)
    torch.testing.assert_close(found.maps, whole.maps)
    assert "going on with" in caplog.text
    bad = BatchExplainer(explainer, dtype=torch.float32)(x * math.nan, targets)
    assert bad.maps.shape == whole.maps.shape
    assert bad.maps.isnan().all()
    assert all(bad.errors)
    assert {name for name, value in vars(bad).items() if value is None} == {"overlays", "components"}


def test_components_of_several_classes_are_refused():
    explain = BatchExplainer(CFCAM(small().eval(), "1"), components=2)
    with pytest.raises(ValueError, match="targets: expected one class of each image"):
        explain(images(2), [[0, 1]] * 2)
