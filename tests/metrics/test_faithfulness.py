"""Average Drop, Increase and Gain, insertion and deletion, ADCC: by hand, in plain loops, and beside the peers."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from cfcam_gpu import CAM
from cfcam_gpu.core.similarity import pearson
from cfcam_gpu.metrics import adcc, confidence_change, deletion, insertion, single_deletion
from cfcam_gpu.metrics.faithfulness import gaussian_blur


class Brightness(nn.Module):
    """Class 0 has the probability sigmoid(sum of the image), class 1 the rest; class 2 is never."""

    def forward(self, images):
        total = images.sum(dim=(1, 2, 3))
        return torch.stack([total + 3, torch.full_like(total, 3), torch.full_like(total, -torch.inf)], dim=1)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


@pytest.fixture
def model():
    return Brightness()


def test_confidence_change_by_hand(model):
    # Sums 2, -2, 1; what the maps leave of them: 0.5, -0.5, 1.
    images = torch.tensor([[2.0, 0.0], [-1.0, -1.0], [1.0, 0.0]]).reshape(3, 1, 1, 2)
    maps = torch.tensor([[0.25, 1.0], [0.5, 0.0], [1.0, 0.0]]).reshape(3, 1, 2)
    drop, increase, gain = confidence_change(model, images, maps, 0)
    expected = 100 * (sigmoid(2) - sigmoid(0.5)) / sigmoid(2)
    np.testing.assert_allclose(drop, [expected, 0, 0], rtol=1e-6)
    assert increase.tolist() == [0, 100, 0]
    expected = 100 * (sigmoid(-0.5) - sigmoid(-2)) / (1 - sigmoid(-2))
    np.testing.assert_allclose(gain, [0, expected, 0], rtol=1e-6)


def test_confidence_change_at_the_ends_of_probability(model):
    """A probability of 0 can't drop, one of 1 can't be gained on; neither is NaN."""
    images = torch.tensor([[1.0], [1e4]]).reshape(2, 1, 1, 1)
    never = confidence_change(model, images, torch.zeros(2, 1, 1), 2)
    assert [part.tolist() for part in never] == [[0, 0], [0, 0], [0, 0]]
    sure = confidence_change(model, images, torch.zeros(2, 1, 1), 0)
    assert sure.drop[1] == 50
    assert sure.gain.tolist() == [0, 0]


def test_predicted_classes_are_the_default(model):
    images = torch.tensor([[2.0], [-2.0]]).reshape(2, 1, 1, 1)
    maps = torch.full((2, 1, 1), 0.5)
    found = confidence_change(model, images, maps)
    for part, expected in zip(found, confidence_change(model, images, maps, [0, 1])):
        assert torch.equal(part, expected)


@pytest.mark.parametrize(
    "measure",
    [
        lambda *given: confidence_change(*given).drop,
        lambda *given: insertion(*given, baseline="zero", step=1).auc,
        lambda *given: single_deletion(*given, patches=2),
    ],
)
def test_none_in_a_list_is_the_predicted_class(model, measure):
    images = torch.tensor([[-4.0, 1.0, 0.5, -0.5], [-2.0, -0.1, 0.3, 0.1]]).reshape(2, 1, 2, 2)
    maps = torch.tensor([[0.9, 0.5, 0.7, 0.1], [0.2, 0.3, 0.9, 0.1]]).reshape(2, 2, 2)
    found = measure(model, images, maps, [None, 0])
    assert torch.equal(found, measure(model, images, maps, [1, 0]))
    assert not torch.equal(found, measure(model, images, maps, [0, 0]))


def curve_by_hand(image, baseline, order, step, *, insert):
    """Scores after 0, step, 2 step, ... pixels, one pixel at a time, and the area by trapezia."""
    pixels = image.numel()
    counts = [*range(0, pixels, step), pixels]
    scores = []
    for count in counts:
        changed = {int(p) for p in order[:count]}
        total = 0.0
        for p in range(pixels):
            total += float(image.flatten()[p] if (p in changed) == insert else baseline.flatten()[p])
        scores.append(sigmoid(total))
    area = sum((b - a) / pixels * (u + v) / 2 for a, b, u, v in zip(counts, counts[1:], scores, scores[1:]))
    return scores, area


@pytest.mark.parametrize("step", [1, 7, 20, 50, 100])
@pytest.mark.parametrize("baseline", ["blur", "zero"])
def test_insertion_and_deletion_in_plain_loops(model, step, baseline):
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(2, 1, 10, 10, generator=generator)
    maps = torch.rand(2, 10, 10, generator=generator)
    maps[1, 3:] = 0  # ties, which go in reading order
    replaced = gaussian_blur(images) if baseline == "blur" else torch.zeros_like(images)
    inserted = insertion(model, images, maps, 0, baseline=baseline, step=step)
    deleted = deletion(model, images, maps, 0, baseline=baseline, step=step)
    for b in range(2):
        order = sorted(range(100), key=lambda p: (-float(maps[b].flatten()[p]), p))
        for found, insert in ((inserted, True), (deleted, False)):
            scores, area = curve_by_hand(images[b], replaced[b], order, step, insert=insert)
            np.testing.assert_allclose(found.scores[b], scores, rtol=1e-4)
            np.testing.assert_allclose(found.auc[b], area, rtol=1e-4)
            assert found.fractions.tolist() == [c / 100 for c in (*range(0, 100, step), 100)]


def test_baselines_are_those_of_rise_by_default(model):
    generator = torch.Generator().manual_seed(3)
    images, maps = torch.randn(1, 3, 8, 8, generator=generator), torch.rand(1, 8, 8, generator=generator)
    for run, baseline in ((insertion, "blur"), (deletion, "zero")):
        assert torch.equal(
            run(model, images, maps, step=9).auc, run(model, images, maps, baseline=baseline, step=9).auc
        )


def test_gaussian_blur_is_scipys():
    images = torch.randn(2, 3, 13, 9, generator=torch.Generator().manual_seed(4))
    expected = ndimage.gaussian_filter(images.double().numpy(), (0, 0, 5, 5), mode="mirror", truncate=1.0)
    np.testing.assert_allclose(gaussian_blur(images), expected, atol=1e-6)


def test_an_image_smaller_than_the_blur_is_refused():
    assert gaussian_blur(torch.ones(1, 1, 6, 6)).shape == (1, 1, 6, 6)
    with pytest.raises(ValueError, match=r"images: a blur of 11 pixels needs at least 6 a side; got .*6, 5"):
        gaussian_blur(torch.ones(1, 1, 6, 5))


def test_adcc_by_hand(model):
    image = torch.tensor([[1.0, 0.0, 1.0, 0.0]]).reshape(1, 1, 1, 4)
    maps = torch.tensor([[1.0, 0.5, 0.0, 0.5]]).reshape(1, 1, 4)
    again = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).reshape(1, 1, 4)
    seen = []

    def explainer(images, classes):
        seen.append((images.flatten().tolist(), classes.tolist()))
        return again

    found = adcc(model, explainer, image, maps, 0)
    assert seen == [([1.0, 0.0, 0.0, 0.0], [0])]
    # Centred maps: (1/2, 0, -1/2, 0) and (1/2, 1/2, -1/2, -1/2).
    coherency = (0.5 / math.sqrt(0.5 * 1) + 1) / 2
    drop = (sigmoid(2) - sigmoid(1)) / sigmoid(2)
    np.testing.assert_allclose(found.coherency, [coherency], rtol=1e-6)
    np.testing.assert_allclose(found.complexity, [0.5], rtol=1e-6)
    np.testing.assert_allclose(found.drop, [drop], rtol=1e-6)
    np.testing.assert_allclose(found.adcc, [3 / (1 / coherency + 1 / 0.5 + 1 / (1 - drop))], rtol=1e-6)


def test_adcc_is_zero_where_one_of_its_terms_is(model):
    """A map of ones is as complex as can be: no NaN, no division by zero."""
    image, ones = torch.ones(1, 1, 1, 2), torch.ones(1, 1, 2)
    found = adcc(model, lambda images, classes: ones, image, ones, 0)
    assert (found.adcc.tolist(), found.complexity.tolist(), found.coherency.tolist()) == ([0], [1], [0.5])


def test_pearson_of_a_flat_map_is_zero():
    flat = torch.full((1, 7, 11), 0.1, dtype=torch.float64)
    other = torch.rand(1, 7, 11, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert (flat - flat.mean()).any(), "rounding makes it look as if it weren't flat"
    assert pearson(flat, other).tolist() == pearson(other, flat).tolist() == [0]
    np.testing.assert_allclose(pearson(other, other), [1])
    np.testing.assert_allclose(pearson(other, 1 - other), [-1])


def test_pearson_is_never_beyond_one():
    maps = torch.rand(500, 3, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    assert pearson(maps, 2 * maps).max() == 1
    assert pearson(maps, 1 - maps).min() == -1


@pytest.fixture
def net():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
        ).eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 12, 14, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def maps():
    return torch.rand(3, 12, 14, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("run", [confidence_change, insertion, deletion])
def test_memory_changes_the_chunks_and_not_the_numbers(run, net, images, maps):
    options = {} if run is confidence_change else {"step": 40}
    batches, steps = [], []
    net[0].register_forward_hook(lambda module, args, output: batches.append(len(output)))
    expected = run(net, images, maps, [0, 1, 2], **options)
    assert max(batches) > 3
    batches.clear()
    found = run(net, images, maps, [0, 1, 2], memory=1, progress=lambda *s: steps.append(s), **options)
    assert set(batches) == {1}
    for part, other in zip(found, expected):
        torch.testing.assert_close(part, other, rtol=1e-5, atol=1e-8)
    assert steps == [(n, steps[0][1]) for n in range(1, steps[0][1] + 1)]


def test_half_precision_is_taken(net, images, maps):
    expected = insertion(net, images, maps, 0, step=30)
    found = insertion(net.half(), images.half(), maps.half(), 0, step=30)
    torch.testing.assert_close(found.scores, expected.scores, atol=5e-3, rtol=0)


def test_the_model_is_not_changed(net, images, maps):
    before = [parameter.clone() for parameter in net.parameters()]
    insertion(net, images, maps, step=50)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, net.parameters()))
    assert not any(module._forward_hooks for module in net.modules())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": "cat"}, TypeError, "images: expected a floating torch tensor .* got str"),
        ({"images": torch.ones(3, 12, 14)}, ValueError, r"images: expected shape \(B, C, H, W\).* got \(3, 12, 14\)"),
        ({"maps": torch.rand(3, 6, 7)}, ValueError, r"maps: expected shape \(3, 12, 14\); got \(3, 6, 7\)"),
        ({"maps": torch.full((3, 12, 14), 2.0)}, ValueError, r"maps: expected values in \[0, 1\]; image 0"),
        ({"maps": torch.full((3, 12, 14), torch.nan)}, ValueError, r"maps: expected values in \[0, 1\]; image 0"),
        ({"target": [0, 1]}, ValueError, "target: expected one for each of the 3 images; got 2"),
        ({"target": [0, 1, 5]}, ValueError, "target: class 5 is out of range for 5 classes"),
        ({"target": [0, -1, 1]}, ValueError, "target: class -1 is out of range for 5 classes"),
        (
            {"images": torch.ones(3, 3, 12, 14, device="meta")},
            ValueError,
            "maps: expected device 'meta', as the images",
        ),
        ({"target": [[0], [1], [2]]}, ValueError, "target: expected None or one class index for each image"),
        ({"target": lambda logits: logits[0]}, ValueError, "target: expected None or one class index for each image"),
        ({"step": 0}, ValueError, "step: expected a number of pixels from 1 to 168; got 0"),
        ({"baseline": "mean"}, ValueError, "baseline: expected 'blur' or 'zero'; got 'mean'"),
        ({"memory": -1}, ValueError, "memory: expected a positive number of bytes; got -1"),
    ],
)
def test_bad_input_is_refused(net, images, maps, change, error, message):
    given = {"images": images, "maps": maps, "target": None, "step": 50} | change
    with pytest.raises(error, match=message):
        insertion(net, **given)


def test_a_model_that_gives_no_class_scores_is_refused(images, maps):
    with pytest.raises(ValueError, match=r"model: expected logits \(B, K\) with B = 2; got shape \(2, 3, 12, 14\)"):
        insertion(nn.Identity(), images[:1], maps[:1], 0, step=168)


@pytest.mark.filterwarnings("ignore")
def test_torchcam_agrees(net, images, peer):
    peers = peer("torchcam.metrics")
    from torchcam.methods import LayerCAM

    classes = [0, 1, 2]
    with LayerCAM(net, "1", input_shape=(3, 12, 14)) as extractor:
        softmax = nn.Softmax(dim=-1)
        change = peers.ClassificationMetric(extractor, softmax)
        curves = peers.DeletionInsertionMetric(extractor, softmax, steps=168)
        change.update(images, classes)
        curves.update(images, classes)
        # Its maps explain what the metric scores, the probability, not the logit.
        low = extractor(classes, softmax(net(images)), normalized=True)[0]
    maps = nn.functional.interpolate(low[:, None], (12, 14), mode="bilinear", align_corners=False)[:, 0]
    found = confidence_change(net, images, maps, classes)
    np.testing.assert_allclose(change.summary()["avg_drop"], found.drop.mean() / 100, atol=1e-5)
    assert change.summary()["conf_increase"] == found.increase.mean() / 100
    expected = curves.summary()
    zero = {"baseline": "zero", "step": 1}
    np.testing.assert_allclose(
        expected["deletion_auc"], deletion(net, images, maps, classes, **zero).auc.mean(), atol=1e-5
    )
    np.testing.assert_allclose(
        expected["insertion_auc"], insertion(net, images, maps, classes, **zero).auc.mean(), atol=1e-5
    )


@pytest.mark.filterwarnings("ignore")
def test_pytorch_grad_cam_agrees(net, images, peer):
    peers = peer("pytorch_grad_cam.metrics.cam_mult_image")
    from pytorch_grad_cam.metrics import arcc
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    classes = torch.tensor([0, 1, 2])
    maps = CAM(net, "1", method="layercam")(images, classes).maps
    softmax = [ClassifierOutputSoftmaxTarget(int(k)) for k in classes]
    found = confidence_change(net, images, maps, classes)
    before = net(images).softmax(dim=1).gather(1, classes[:, None])[:, 0].detach()
    # Its drop is not divided by the score, as Average Drop is.
    drops = peers.DropInConfidence()(images, maps.numpy(), softmax, net)
    np.testing.assert_allclose(drops / before.numpy(), found.drop / 100, atol=1e-5)
    increases = peers.IncreaseInConfidence()(images, maps.numpy(), softmax, net)
    np.testing.assert_array_equal(increases, found.increase / 100)

    again = CAM(net, "1", method="layercam")(images * maps[:, None], classes).maps
    parts = adcc(net, lambda x, y: CAM(net, "1", method="layercam")(x, y).maps, images, maps, classes)
    np.testing.assert_allclose(
        (arcc.batch_pearson_coherency(maps.numpy(), again.numpy()) + 1) / 2, parts.coherency, atol=1e-5
    )
    np.testing.assert_allclose(arcc.Complexity()(maps.numpy()), parts.complexity, atol=1e-5)
