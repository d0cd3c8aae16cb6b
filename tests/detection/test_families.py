"""Each family of detectors: its own boxes and scores, and gradients that are those of the whole model's graph."""

import pytest
import torch

from cfcam_gpu import explain_detections
from cfcam_gpu.detection import explaining, families
from cfcam_gpu.detection.candidates import Place
from cfcam_gpu.hooks import own_thread

from . import networks


@pytest.fixture
def torchvision_model(monkeypatch):
    return lambda kind: networks.of_torchvision(monkeypatch, kind)


def two_images():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=generator) for size in ((60, 90), (64, 64))]


def whole_gradients(model, images, forward, image, places):
    """Of each detection the gradients with respect to each level, by autograd through the whole head."""
    levels = {}

    def leaves(module, args, output):
        levels.update({name: level.detach().requires_grad_() for name, level in output.items()})
        return type(output)(levels)

    with own_thread.hooked([own_thread.after(model.backbone, leaves), *forward.hooks()]):
        model(images)
    candidates = forward.candidates(image, graph=True)
    scores = [candidates.score_of(*place) for place in places]
    grads = [torch.autograd.grad(one, list(levels.values()), retain_graph=True, allow_unused=True) for one in scores]
    return [[None if g is None else g[image] for g in of_one] for of_one in grads]


@pytest.mark.parametrize("kind", ["retinanet", "faster", "mask", pytest.param("keypoint", marks=pytest.mark.long)])
def test_gradients_in_a_window_are_those_of_the_whole_head(torchvision_model, kind):
    model, images = torchvision_model(kind), two_images()
    forward = families.forward_of(model, [tuple(image.shape[-2:]) for image in images], None, None)
    with torch.no_grad(), own_thread.hooked(forward.hooks()):
        model(images)
    for image in range(2):
        count = len(forward.candidates(image).scores)
        places = [Place(i, 1 + i % 2) for i in range(0, count, max(1, count // 9))]
        seen = forward.evidence(image, places)
        again = families.forward_of(model, [tuple(one.shape[-2:]) for one in images], None, None)
        for (one,), whole in zip(seen, whole_gradients(model, images, again, image, places)):
            found = [g for g in whole if g is not None and g.any()]
            assert len(found) == 1
            assert tuple(found[0].shape[-2:]) == one.grid
            (top, left), (height, width) = one.corner, one.gradients.shape[1:]
            expected = found[0][:, top : top + height, left : left + width]
            torch.testing.assert_close(one.gradients, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
            assert found[0].abs().sum() == pytest.approx(float(expected.abs().sum()), rel=1e-5)


def test_a_window_of_fcos_has_the_logit_of_the_whole_level(torchvision_model):
    """Its group norms take the mean and variance of the whole level."""
    model, images = torchvision_model("fcos"), two_images()
    forward = families.forward_of(model, [tuple(image.shape[-2:]) for image in images], None, None)
    with torch.no_grad(), own_thread.hooked(forward.hooks()):
        model(images)
    count = len(forward.candidates(0).scores)
    for candidate in range(0, count, count // 7):
        level, corner, leaf, score = forward.window(0, Place(candidate, 1))
        torch.testing.assert_close(score.detach(), forward.outputs["cls_logits"][0][candidate, 1], rtol=1e-4, atol=1e-5)
        assert leaf.shape[-1] < 12
        assert level in (0, 1)
        assert min(corner) >= 0


@pytest.mark.parametrize(
    "kind", ["retinanet", "fcos", pytest.param("ssd", marks=pytest.mark.long), "faster", "mask", "keypoint"]
)
def test_what_torchvision_finds_is_found(torchvision_model, kind):
    model, images = torchvision_model(kind), two_images()
    with torch.no_grad():
        own = model(images)
    result = explain_detections(model, images, threshold=0.06, top=5)
    for detections, expected, image in zip(result, own, images):
        count = min(5, int((expected["scores"] >= 0.06).sum()))
        assert len(detections) == count > 0
        torch.testing.assert_close(detections.boxes, expected["boxes"][:count], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(detections.scores, expected["scores"][:count])
        assert detections.labels.tolist() == expected["labels"][:count].tolist()
        assert detections.maps.shape == (count, *image.shape[-2:])
        assert detections.maps.max() == 1
        if kind == "mask":
            torch.testing.assert_close(detections.masks, expected["masks"][:count, 0], rtol=1e-4, atol=1e-4)


OTHERS = ["ConditionalDetr", "RTDetr", "DabDetr", "DeformableDetr"]
#: A token for each position, tokens beside patches, and boxes that begin at places of all scales; then the rest.
TRANSFORMERS = ["Detr", "Yolos", "DeformableDetr two", *(pytest.param(kind, marks=pytest.mark.long) for kind in OTHERS)]


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_what_transformers_post_processing_finds_is_found(kind):
    model = networks.of_transformers(kind)
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = model(images)
    result = explain_detections(model, images, threshold=0.0, top=3)
    logits = output.logits
    scores = logits.softmax(-1)[..., :-1].amax(-1) if logits.shape[-1] == 4 else logits.sigmoid().flatten(1)
    for b, detections in enumerate(result):
        torch.testing.assert_close(detections.scores, scores[b].topk(3).values, rtol=1e-4, atol=1e-5)
        assert set(detections.names) <= {"cat", "dog", "horse"}
        assert all(detections.layers)
        assert detections.maps.shape == (3, 96, 96)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_gradients_of_transformers_are_those_of_the_score(monkeypatch, kind):
    model = networks.of_transformers(kind)
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    kept, real = [], explaining.raw_maps
    monkeypatch.setattr(explaining, "raw_maps", lambda seen, *given: (kept.append(seen), real(seen, *given))[1])
    (found,) = explain_detections(model, images, threshold=0.0, top=2)
    for seen, label, score in zip(kept[0], found.labels.tolist(), found.scores.tolist()):
        for one in seen:
            passed = []
            module = model.get_submodule(one.layer)
            with own_thread.hooked(
                [own_thread.after(module, lambda _, args, output, keep=passed: keep.append(output))]
            ):
                logits = model(images.clone().requires_grad_()).logits[0]
            exclusive = logits.shape[-1] == 4
            scores = (logits.softmax(-1) if exclusive else logits.sigmoid())[:, label]
            row = logits[(scores - score).abs().argmin()]
            others = torch.cat([row[:label], row[label + 1 :]])
            explained = row[label] - others.logsumexp(0) if exclusive else row[label]
            layer = passed[0] if isinstance(passed[0], torch.Tensor) else passed[0][0]
            (expected,) = torch.autograd.grad(explained, layer)
            if expected.ndim == 3:  # tokens: the class's before, those of boxes after the patches
                patches = expected[0, 1 : 1 + one.grid[0] * one.grid[1]]
                expected = patches.mT.unflatten(1, one.grid)[None]
            assert one.gradients.any()
            torch.testing.assert_close(one.gradients, expected[0], rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


def test_tokens_of_boxes_are_no_positions():
    """Four of the seven would pass for the coarsest level's 2 x 2."""
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    (found,) = explain_detections(networks.of_transformers("DeformableDetr four"), images, threshold=0.0, top=1)
    assert found.layers == (tuple(f"model.input_proj.{level}" for level in range(4)),)


@pytest.mark.parametrize("form", ["v8", "v5"])
def test_what_yolo_returns_is_read_by_its_shape(form):
    torch.manual_seed(0)
    model = networks.Yolo(form).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        rows = model(images).mT if form == "v8" else model(images)
    rest = rows[..., 4:]
    scores = rest if form == "v8" else rest[..., :1] * rest[..., 1:]
    result = explain_detections(model, images, threshold=0.0, top=4)
    for b, detections in enumerate(result):
        best = int(scores[b].amax(dim=1).argmax())
        centre, size = rows[b, best, :2], rows[b, best, 2:4]
        torch.testing.assert_close(detections.boxes[0], torch.cat([centre - size / 2, centre + size / 2]))
        assert float(detections.scores[0]) == pytest.approx(float(scores[b].max()), rel=1e-5)
        # What the heads of both scales have in common: the neck's fine output, and the backbone's end.
        assert detections.layers[0] == ("neck", "deep")


def test_all_at_once_is_what_one_after_the_other_is():
    torch.manual_seed(0)
    model = networks.Yolo().eval()
    images = torch.rand(2, 3, 64, 96)
    together = explain_detections(model, images, threshold=0.0, top=4)
    for b, detections in enumerate(together):
        for i in range(len(detections)):
            label, box = int(detections.labels[i]), detections.boxes[i][None]
            (alone,) = explain_detections(model, images[b : b + 1], boxes=box, labels=label)
            torch.testing.assert_close(alone.raw_maps[0], detections.raw_maps[i], rtol=1e-3, atol=1e-8)


def test_a_map_is_of_its_own_box_alone():
    model = networks.Planted().eval()
    images = torch.rand(1, 3, 48, 64) + 0.2
    (found,) = explain_detections(model, images, target_layer="features")
    assert sorted(found.names) == ["left", "right"]
    for name, box_map in zip(found.names, found.maps):
        other = box_map[:, 34:] if name == "left" else box_map[:, :30]
        assert box_map.max() == 1
        assert other.max() == 0
    torch.testing.assert_close(found.share_in_box, torch.ones(2), atol=0.05, rtol=0)


def test_layers_are_found_once_and_anew_where_a_module_was_replaced():
    torch.manual_seed(0)
    model, images, forwards = networks.Yolo().eval(), torch.rand(1, 3, 64, 96), []
    model.register_forward_hook(lambda *call: forwards.append(1))
    explain_detections(model, images, threshold=0.0, top=2)
    assert len(forwards) > 1
    forwards.clear()
    explain_detections(model, images, threshold=0.0, top=2)
    assert len(forwards) == 1
    model.neck = torch.nn.Sequential(torch.nn.Conv2d(24, 16, 1), torch.nn.ReLU()).eval()
    (found,) = explain_detections(model, images, threshold=0.0, top=2)
    assert found.layers[0][0] == "neck"
    assert len(forwards) > 2
