"""Ready targets: each against its own definition, its errors by name, and gradients in a whole explanation."""

import copy
import pickle
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import cfcam_gpu
from cfcam_gpu import targets
from cfcam_gpu.targets import outputs

from ..explain.test_no_host import OnDevice

LOGITS = torch.tensor([1.0, -2.0, 0.5, 3.0])
P = LOGITS.softmax(0)


def segmentation():
    maps = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(8, 12, dtype=torch.bool)
    mask[2:6, 4:8] = True
    return maps, mask


@pytest.mark.parametrize(
    ("target", "sample", "expected"),
    [
        (targets.Probability(2), LOGITS, P[2]),
        (targets.Contrast(3, 0), LOGITS, torch.tensor(2.0)),
        (targets.Contrast(3, [0, 2]), LOGITS, 3 - LOGITS[[0, 2]].logsumexp(0)),
        (targets.Contrast(0), LOGITS, (P[0] / (1 - P[0])).log()),
        (targets.Binary(), LOGITS[1:2], LOGITS[1]),
        (targets.Binary(positive=False), LOGITS[1], -LOGITS[1]),
        (targets.Label(1), LOGITS, LOGITS[1]),
        (targets.Label(1, present=False), LOGITS, -LOGITS[1]),
        (targets.Value(), LOGITS[3], LOGITS[3]),
        (targets.Value(2, larger=False), LOGITS, -LOGITS[2]),
        (targets.Toward(5.0, 3), LOGITS, torch.tensor(-2.0)),
        (targets.Toward(-5), LOGITS[1], torch.tensor(-3.0)),
        (targets.Similarity([1, 0, 0, 1]), LOGITS, (LOGITS[0] + LOGITS[3]) / (LOGITS.norm() * 2**0.5)),
        (targets.ImageText(LOGITS[None] * 2, scale=10), LOGITS, torch.tensor(10.0)),
    ],
    ids=lambda value: type(value).__name__ if callable(value) else "",
)
def test_definitions(target, sample, expected):
    for dtype in (torch.float32, torch.float16):
        found = target(sample.to(dtype))
        assert found.dtype == torch.float32
        assert found.shape == ()
        torch.testing.assert_close(found, expected, atol=3e-3 if dtype is torch.float16 else 1e-6, rtol=1e-3)


def test_segment():
    maps, mask = segmentation()
    small = mask[::2, ::2]  # the mask's edges lie between pixels of the logits
    for given in (mask, mask.numpy(), mask.int() * 7, small):
        torch.testing.assert_close(targets.Segment(1, given)(maps), maps[1][small].mean())
    odd = torch.zeros(8, 12)
    odd[1:4, 3:7] = 1  # over halves and quarters of the logits' pixels
    share = odd.reshape(4, 2, 6, 2).mean(dim=(1, 3))
    torch.testing.assert_close(targets.Segment(1, odd)(maps), (share * maps[1]).sum() / share.sum())
    own = maps[2][maps.argmax(0) == 2].mean()
    torch.testing.assert_close(targets.Segment(2)(maps), own)
    torch.testing.assert_close(targets.Segment(0)(maps[:1]), maps[0][maps[0] > 0].mean())
    nowhere = targets.Segment(0)(maps - torch.tensor([9.0, 0, 0])[:, None, None])
    assert nowhere == 0
    volume = maps.reshape(3, 2, 2, 6)
    torch.testing.assert_close(targets.Segment(1, torch.ones(2, 2, 6))(volume), volume[1].mean())


def test_what_was_made_in_inference_mode_is_taken():
    with torch.inference_mode():
        made = [
            targets.Similarity(torch.ones(4)),
            targets.ImageText(torch.ones(2, 4)),
            targets.Segment(0, torch.eye(2)),
        ]
    for target, sample in zip(made, (LOGITS, LOGITS, LOGITS.reshape(1, 2, 2))):
        sample = sample.clone().requires_grad_()
        target(sample).backward()
        assert sample.grad is not None


def detections(boxes, labels, scores):
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels), "scores": torch.tensor(scores)}


def test_detection_is_the_best_product_of_score_and_overlap_of_its_class():
    found = detections(
        [[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 10], [5, 5, 15, 15]], [1, 1, 2, 1], [0.5, 0.9, 0.99, 1.0]
    )
    box = np.array([0, 0, 10, 10])
    torch.testing.assert_close(targets.Detection(box, 1)(found), torch.tensor(0.9 * 0.8))
    torch.testing.assert_close(targets.Detection(box, 1, iou=0.9)(found), torch.tensor(0.5))
    torch.testing.assert_close(targets.Detection([100, 0, 110, 10], 1, iou=0.0)(found), torch.tensor(0.0))
    assert targets.Detection(box, 7)(found) == 0
    nothing = detections([], [], [])
    nothing["scores"].requires_grad_()
    score = targets.Detection(box, 1)(nothing)
    assert score == 0
    assert score.requires_grad


def test_no_score_is_read_by_the_host_or_copied_from_it():
    logits = torch.empty(5, device="meta", requires_grad=True)
    pixels = torch.empty(5, 6, 7, device="meta", requires_grad=True)
    found = {"boxes": torch.empty(9, 4), "labels": torch.empty(9, dtype=torch.int64), "scores": torch.empty(9)}
    found = {key: value.to("meta") for key, value in found.items()}
    found["scores"].requires_grad_()
    cases = [
        (targets.Probability(1), logits),
        (targets.Contrast(1), logits),
        (targets.Contrast(1, [0, 2]), logits),
        (targets.Binary(False), logits[:1]),
        (targets.Label(2, present=False), logits),
        (targets.Value(1), logits),
        (targets.Toward(2.0), logits[0]),
        (targets.Segment(1), pixels),
        (targets.Segment(0), pixels[:1]),
        (targets.Segment(1, torch.ones(12, 14)), pixels),
        (targets.Detection([0, 0, 1, 1], 2), found),
        (targets.Similarity(torch.ones(5)), logits),
        (targets.ImageText(torch.ones(3, 5)), logits),
        (targets.ImageText(torch.ones(1, 5)), logits),
    ]
    for target, sample in cases:
        for name, value in vars(target).items():
            if isinstance(value, torch.Tensor):  # given on the device
                object.__setattr__(target, name, value.to("meta"))
        with OnDevice():
            assert target(sample).requires_grad


def test_image_text_is_the_log_odds_of_one_text_in_the_zero_shot_classifier():
    texts = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    cosines = torch.nn.functional.normalize(texts, dim=1) @ (LOGITS / LOGITS.norm())
    p = (20 * cosines).softmax(0)
    torch.testing.assert_close(targets.ImageText(texts, 1, scale=20)(LOGITS), (p[1] / (1 - p[1])).log())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: targets.Probability(-1), ValueError, "index: expected at least 0; got -1"),
        (lambda: targets.Label(1.0), TypeError, "index: expected an int; got float"),
        (lambda: targets.Contrast(1, [0, 1]), ValueError, "against: expected classes other than 1"),
        (lambda: targets.Contrast(1, []), ValueError, "against: expected classes other than 1, at least one"),
        (lambda: targets.Contrast(1, "cat"), TypeError, r"against: .* got str. Of a class's name .*index\('cat'\)"),
        (lambda: targets.Toward("high"), TypeError, "value: expected a number; got str"),
        (lambda: targets.Segment(1, torch.zeros(3, 3)), ValueError, r"mask: expected \(H, W\) with at least one pixel"),
        (lambda: targets.Segment(1, "mask"), TypeError, "mask: expected a tensor or array; got str"),
        (lambda: targets.Detection([0, 0, 0, 5], 1), ValueError, "box: expected x1, y1, x2, y2 with x1 < x2"),
        (lambda: targets.Detection([0, 0, 5, 5], 1, iou=50), ValueError, r"iou: expected a number in \[0, 1\]; got 50"),
        (lambda: targets.Similarity(torch.zeros(1, 3)), ValueError, r"reference: expected shape \(D,\); got \(1, 3\)"),
        (lambda: targets.ImageText(torch.ones(3)), ValueError, r"texts: expected shape \(N, D\); got \(3,\)"),
        (lambda: targets.ImageText(torch.ones(2, 3), 2), ValueError, "index: expected one of the 2 texts; got 2"),
        (lambda: targets.WholeOutput(3), TypeError, "score: expected a callable; got int"),
        (
            lambda: targets.Probability(4)(LOGITS),
            ValueError,
            r"Probability: 4 is out of range for 4 classes \(0 to 3\)",
        ),
        (lambda: targets.Contrast(0, 9)(LOGITS), ValueError, "Contrast: 9 is out of range for 4 classes"),
        (lambda: targets.Contrast(0)(LOGITS[:1]), ValueError, "Contrast expected at least two classes"),
        (
            lambda: targets.Label(0)(LOGITS[None]),
            TypeError,
            r"Label expected logits \(K,\) of one image; got shape \(1, 4",
        ),
        (lambda: targets.Label(0)(LOGITS[0]), TypeError, r"Label expected logits \(K,\) of one image; got shape \(\)"),
        (lambda: targets.Binary()(LOGITS), TypeError, r"Binary expected one logit, \(\) or \(1,\).*got shape \(4,\)"),
        (lambda: targets.Segment(0)(LOGITS), TypeError, r"Segment expected logits \(K, h, w\) of one image; got shape"),
        (lambda: targets.Segment(0, torch.ones(1, 3, 3))(torch.ones(2, 3, 3)), ValueError, "mask: expected 2 axes"),
        (lambda: targets.Detection([0, 0, 5, 5], 1)({"boxes": LOGITS}), TypeError, "'labels'; got a dict with boxes"),
        (
            lambda: targets.Detection([0, 0, 5, 5], 1)({"boxes": LOGITS[None], "labels": LOGITS, "scores": LOGITS}),
            TypeError,
            r"boxes \(N, 4\), labels \(N,\) and scores \(N,\) of one image; got shapes \(1, 4\), \(4,\), \(4,\)",
        ),
        (
            lambda: targets.Detection([0, 0, 5, 5], 1)({"logits": LOGITS, "pred_boxes": LOGITS}),
            TypeError,
            r"boxes in the images' pixels, .*; got 'pred_boxes', which are relative .*post_process_object_detection",
        ),
        (lambda: targets.Detection([0, 0, 5, 5], 1)(LOGITS), TypeError, r"called 'boxes'; got shape \(4,\)"),
        (
            lambda: targets.Similarity([1.0, 2])(LOGITS),
            TypeError,
            r"Similarity expected an embedding \(2,\).*got shape",
        ),
        (lambda: targets.Similarity([1.0, 2])({"e": 1}), TypeError, r"or key='...' to name it.*got a dict with e"),
    ],
)
def test_errors_name_what_was_expected_and_what_came(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_they_are_values_that_keep_what_they_were_given():
    assert targets.Contrast(1, 2) == targets.Contrast(1, (2,))
    assert len({targets.Probability(1), targets.Probability(1), targets.Label(1)}) == 2
    with pytest.raises(AttributeError):
        targets.Probability(1).index = 2
    reference = torch.ones(4)
    target = targets.Similarity(reference)
    reference[:] = -1
    for same in (target, copy.deepcopy(target), pickle.loads(pickle.dumps(target))):
        torch.testing.assert_close(same(torch.ones(4)), torch.tensor(1.0))


Named = namedtuple("Named", "features scale")


@dataclass
class Output:
    features: torch.Tensor
    loss: None = None


def test_an_images_part_of_an_output():
    rows = torch.arange(6.0).reshape(2, 3)
    other = torch.zeros(5)
    first, second = outputs.samples({"a": rows, "deep": (rows, [other]), "n": 3}, 2)
    assert torch.equal(second["a"], rows[1])
    assert torch.equal(first["deep"][0], rows[0])
    assert first["deep"][1][0] is other
    assert first["n"] == 3
    assert torch.equal(outputs.samples(Named(rows, 2), 2)[1].features, rows[1])
    part = outputs.samples(Output(rows), 2)[1]
    assert isinstance(part, Output)
    assert torch.equal(part.features, rows[1])
    listed = [{"boxes": rows}, {"boxes": other}]
    assert outputs.samples(listed, 2) == listed
    assert outputs.samples([rows, other], 2)[1] is other
    assert torch.equal(outputs.samples([rows, rows], 2)[1][0], rows[1])
    with pytest.raises(TypeError, match=r"model: expected an output with a part for each of the 2 images; got a dict"):
        outputs.samples({"a": other, "b": None}, 2)
    with pytest.raises(TypeError, match=r"got shape \(5,\)"):
        outputs.samples(other, 2)


class Net(nn.Module):
    """A convolution and whatever `answer` makes of it."""

    def __init__(self, answer):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.answer = answer

    def forward(self, images):
        return self.answer(torch.relu(self.conv(images)))


@pytest.fixture
def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def as_detector(maps):
    """One detection in the first image, two in the others."""
    boxes, labels = torch.tensor([[0.0, 0, 4, 4], [4, 4, 8, 8]]), torch.tensor([3, 5])
    scores = maps[:, :2].mean((2, 3)).sigmoid()
    return [
        {"boxes": boxes[: b + 1], "labels": labels[: b + 1], "scores": row[: b + 1]} for b, row in enumerate(scores)
    ]


def test_outputs_without_logits(images):
    explain = cfcam_gpu.CFCAM(Net(as_detector).eval(), "conv")
    target = targets.Detection([4, 4, 8, 8], 5)
    result = explain(images, target)
    assert result.logits is None
    assert result.empty.tolist() == [True, False]
    own = explain(images, lambda found: found["scores"][-1])  # what a callable gets where there are no logits
    assert own.empty.tolist() == [False, False]
    torch.testing.assert_close(result.maps[1], own.maps[1], atol=1e-5, rtol=0)
    with pytest.raises(TypeError, match=r"or called 'logits' or 'out'; got .*a callable as the target"):
        explain(images, 3)
    assert result.components(images, top=1)[1][0].share > 0


def test_the_whole_output_where_a_target_asks_for_it(images, tmp_path):
    def answer(maps):
        pooled = maps.mean((2, 3))
        return {"logits": pooled, "image_embeds": pooled[:, :4] - pooled[:, 4:]}

    explain = cfcam_gpu.CFCAM(Net(answer).eval(), "conv")
    reference = torch.ones(4)
    by_key = explain(images, targets.Similarity(reference, key="image_embeds"))
    whole = targets.WholeOutput(lambda out: torch.cosine_similarity(out["image_embeds"], reference, dim=0))
    torch.testing.assert_close(by_key.raw_maps, explain(images, whole).raw_maps)
    assert by_key.logits.shape == (2, 8)
    rows = explain(images, [[targets.Label(0), whole], [targets.Label(1), whole]])
    torch.testing.assert_close(rows.maps[:, 0], explain(images, [0, 1]).maps)
    torch.testing.assert_close(rows.maps[:, 1], by_key.maps)
    assert rows.target is None
    assert sorted(path.name for path in rows.save(tmp_path) if path.suffix == ".npy") == [
        "0000-0.npy", "0000-1.npy", "0001-0.npy", "0001-1.npy"
    ]  # fmt: skip


def test_methods_that_score_logits_again_refuse_by_name(images):
    with pytest.raises(TypeError, match="model: expected a tensor of logits"):
        cfcam_gpu.CAM(Net(as_detector).eval(), "conv", method="scorecam")(images, targets.Detection([0, 0, 4, 4], 3))
    net = Net(lambda maps: maps.mean((2, 3))).eval()
    with pytest.raises(TypeError, match="WholeOutput looks at the model's whole output; there are only logits here"):
        cfcam_gpu.CAM(net, "conv", method="ablationcam")(images, targets.WholeOutput(lambda out: out[0]))


def test_noise_on_the_pixels_of_a_model_without_logits(images):
    found = cfcam_gpu.CFCAM(Net(as_detector).eval(), "conv", smooth=2)(images, targets.Detection([0, 0, 4, 4], 3))
    assert found.logits is None
    assert not found.empty.any()


def test_a_target_that_names_pixels_is_not_for_turned_images(images):
    explain = cfcam_gpu.CFCAM(Net(as_detector).eval(), "conv", augment="flip")
    with pytest.raises(ValueError, match="augment: Detection names places in the image, which 'flip' may move"):
        explain(images, targets.Detection([0, 0, 4, 4], 3))
    explain = cfcam_gpu.CFCAM(Net(lambda maps: maps).eval(), "conv", augment="flip")
    with pytest.raises(ValueError, match="augment: Segment names places in the image, which 'flip' may move"):
        explain(images, [[targets.Segment(1), targets.Segment(1, torch.eye(8))]] * 2)
    assert explain(images, targets.Segment(1)).maps.shape == (2, 8, 8)


def test_a_segment_of_logits_with_more_axes_than_the_images_have_is_refused():
    """MONAI#8315: with deep supervision a network returns (B, heads, K, D, H, W), and the second head is no class."""

    def net(answer):
        return cfcam_gpu.CAM(Net(answer).eval(), "conv", method="gradcam")

    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    heads = net(lambda maps: torch.stack([maps, maps * 2], dim=1))
    for target in (
        targets.Segment(1),
        targets.Segment(1, torch.eye(8)),
        [[targets.Segment(0), targets.Segment(1)]] * 2,
    ):
        with pytest.raises(
            TypeError,
            match=r"Segment expected logits \(K, ...\) of one image with the images' 2 spatial axes; got shape ",
        ):
            heads(images, target)
    for method in ("scorecam", "ablationcam"):
        with pytest.raises(TypeError, match=r"Segment expected logits .*; got shape \(2, 8, 8, 8\). Of several heads"):
            cfcam_gpu.CAM(heads.model, "conv", method=method)(images, targets.Segment(1))
    expected = net(lambda maps: maps)(images, targets.Segment(1))
    torch.testing.assert_close(heads(images, lambda logits: targets.Segment(1)(logits[0])).maps, expected.maps)
    # Of a video the frame in the middle, say, has an axis less.
    assert net(lambda maps: maps.mean(-1))(images, targets.Segment(1, torch.ones(8))).maps.shape == (2, 8, 8)


def test_detection_of_a_transformers_output_says_what_to_do(images):
    @dataclass
    class Found:
        logits: torch.Tensor
        pred_boxes: torch.Tensor

    def answer(maps):
        rows = maps.flatten(2).mT
        return Found(rows, rows[..., :4].sigmoid())

    explain = cfcam_gpu.CFCAM(Net(answer).eval(), "conv")
    with pytest.raises(TypeError, match=r"target: Detection expected boxes in the images' pixels.*WholeOutput"):
        explain(images, targets.Detection([0, 0, 4, 4], 3))
    own = targets.WholeOutput(lambda found: found.logits[:, 3].max() * found.pred_boxes[0, 0])
    assert explain(images, own).maps.shape == (2, 8, 8)


@pytest.mark.parametrize("method", ["eigencam", "randomcam"])
@pytest.mark.parametrize("smooth", [0, 2])
@pytest.mark.parametrize(
    "answer",
    [as_detector, lambda maps: maps, lambda maps: None, lambda maps: maps[0], lambda maps: {"boxes": maps}],
    ids=["detector", "segmentation", "nothing", "no batch", "dict"],
)
def test_methods_that_are_blind_to_the_class_need_no_logits(images, method, smooth, answer):
    found = cfcam_gpu.CAM(Net(answer).eval(), "conv", method=method, smooth=smooth, seed=3)(images)
    expected = cfcam_gpu.CAM(Net(lambda maps: maps.mean((2, 3))).eval(), "conv", method=method, smooth=smooth, seed=3)(
        images
    )
    assert found.target is None
    assert expected.target.shape == (2,)
    assert torch.equal(found.maps, expected.maps)
