"""What an engine's result may differ by from the CPU engine's."""

import numpy as np
import torch

from bench.parity import compare
from cfcam_gpu import Config
from cfcam_gpu.core.cluster_filter import weigh
from cfcam_gpu.engines import reference


def test_a_label_may_differ_where_a_distance_is_within_rounding_of_eps():
    config = Config(dead_threshold=None, dominant_percentile=100, eps_percentile=0)
    gradients = torch.ones(1, 4, 1, 1, dtype=torch.float64)

    def report(third, labels):
        """Of an engine that finds these labels and what follows from them."""
        activations = torch.tensor([0.0, 1.0, third, 100.0], dtype=torch.float64).reshape(1, 4, 1, 1)
        found = reference.run(activations, gradients[:, None], config)
        assert found.labels.flatten().tolist() == [0, 0, -1, -2]
        arrays = activations[0].numpy(), gradients[0].numpy(), np.array(labels)
        maps = torch.from_numpy(weigh(*arrays, config, reference.PRIMITIVES).map).reshape(1, 1, 1, 1)
        found = found._replace(labels=torch.tensor(labels).reshape(1, 1, 4), raw_maps=maps)
        return compare(activations, gradients, config, found)

    for third, labels, key in [
        (2 + 1e-8, [0, 0, -1, -2], "labels_equal"),
        (2 + 1e-8, [0, 0, 0, -2], "labels_within_rounding"),
        (2 + 1e-6, [0, 0, 0, -2], "labels_wrong"),
        (2 + 1e-8, [0, 0, 1, -2], "labels_wrong"),
    ]:
        found = report(third, labels)
        assert found[key] == 1
        assert found["passed"] == (key != "labels_wrong")


def test_what_is_not_finite_never_passes():
    activations, gradients = torch.ones(1, 4, 2, 2), -torch.ones(1, 4, 2, 2)
    found = reference.run(activations, gradients[:, None], Config())
    assert compare(activations, gradients, Config(), found)["passed"]
    found.raw_maps[0, 0, 1, 1] = float("nan")  # where the right value is 0
    assert not compare(activations, gradients, Config(), found)["passed"]


def test_a_map_is_compared_for_the_labels_found():
    """Or else labels within rounding of the CPU's would excuse any map."""
    config = Config(dead_threshold=None, dominant_percentile=100, eps_percentile=0)
    activations = torch.tensor([0.0, 1.0, 2 + 1e-8, 100.0], dtype=torch.float64).reshape(1, 4, 1, 1)
    gradients = torch.tensor([1.0, 1.0, 50.0, 1.0], dtype=torch.float64).reshape(1, 4, 1, 1)
    found = reference.run(activations, gradients[:, None], config)
    found = found._replace(labels=torch.tensor([[[0, 0, 0, -2]]]))
    report = compare(activations, gradients, config, found)
    assert report["labels_within_rounding"] == 1
    assert not report["passed"]
