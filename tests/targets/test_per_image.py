"""A list in a model's output that is as long as the batch: whether it has one entry for each image."""

import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

from cfcam_gpu import CAM, targets
from cfcam_gpu.hooks import layers
from cfcam_gpu.hooks.capture import capture
from cfcam_gpu.hooks.layouts import Layout


class Net(nn.Module):
    """A convolution, and what `answer` makes of it; counts its forwards, and which batches they had."""

    def __init__(self, answer):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.answer, self.batches = nn.Conv2d(3, 6, 4, 4), answer, []

    def forward(self, images):
        self.batches.append(len(images))
        return self.answer(torch.relu(self.conv(images)))


def boxes(maps, counts):
    """Boxes (n, 6) of each image, behind a non-maximum suppression."""
    rows = maps.flatten(2).mT.sigmoid()
    return [one[one[:, 4].topk(n).indices] for one, n in zip(rows, counts)]


def batch(size):
    return torch.rand(size, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def gradients(model, images, target):
    """At a layer of known layout, for which no forward is needed."""
    layer = replace(layers.find(model, "conv"), layout=Layout("channels first", (4, 4)))
    return capture(model, layer, images, targets.read(target, len(images)))


def plain(answer, images, score):
    """By ordinary autograd: of `score` of the model's output."""
    model = Net(answer)
    activations = model.conv(images).detach().requires_grad_()
    return torch.autograd.grad(score(answer(torch.relu(activations))), activations)[0]


def confidence(rows):
    assert rows.shape[1:] == (6,)
    return rows[:, 4].max() + rows[-1, 5]


@pytest.mark.parametrize("counts", [(1,), (2,), (2, 2), (3, 2), (3, 3, 3), (1, 2, 3), (2, 5)], ids=str)
def test_boxes_of_as_many_objects_as_there_are_images(counts):
    def answer(maps):
        return boxes(maps, counts if len(maps) == len(counts) else (4,) * len(maps))

    model, images = Net(answer).eval(), batch(len(counts))
    found = gradients(model, images, confidence)
    assert found.logits is None
    expected = plain(answer, images, lambda output: sum(confidence(rows) for rows in output))
    torch.testing.assert_close(found.gradients[:, 0], expected)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_list_of_logits_and_other_results(size, length):
    def answer(maps):
        pooled = maps.mean((2, 3))
        return [pooled, pooled.square().mean(), pooled * 2][:length]

    model, images = Net(answer).eval(), batch(size)
    expected = plain(answer, images, lambda output: output[0][:, 2].sum())
    for target in ([2] * size, lambda logits: logits[2], targets.WholeOutput(lambda output: output[0][2])):
        found = gradients(model, images, target)
        assert found.logits.shape == (size, 6)
        torch.testing.assert_close(found.gradients[:, 0], expected)
    assert gradients(model, images, None).indices.shape == (size,)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_auxiliary_outputs_of_as_many_layers_as_there_are_images(size):
    """As of DETR: a list of dicts, each of which has batches."""

    def answer(maps):
        rows = maps.flatten(2).mT
        return {"logits": rows, "aux_outputs": [{"logits": rows * k, "scale": k} for k in (1.0, 2.0)]}

    def score(output):
        assert [part["logits"].shape for part in output["aux_outputs"]] == [(16, 6)] * 2
        return output["aux_outputs"][1]["logits"][3, 2]

    model, images = Net(answer).eval(), batch(size)
    expected = plain(answer, images, lambda output: output["logits"][:, 3, 2].sum() * 2)
    for _ in range(2):
        torch.testing.assert_close(gradients(model, images, targets.WholeOutput(score)).gradients[:, 0], expected)
    assert len(model.batches) == (3 if size == 2 else 2)


def test_detections_within_a_dict_of_a_batch():
    def answer(maps):
        return {"embedding": maps.mean((2, 3)), "found": boxes(maps, (2,) * len(maps))}

    def score(output):
        return confidence(output["found"]) * output["embedding"].sum()

    model, images = Net(answer).eval(), batch(2)
    expected = plain(
        answer,
        images,
        lambda output: sum(confidence(output["found"][b]) * output["embedding"][b].sum() for b in range(2)),
    )
    torch.testing.assert_close(gradients(model, images, score).gradients[:, 0], expected)


def test_a_model_is_asked_once():
    model = Net(lambda maps: boxes(maps, (2, 3)[: len(maps)])).eval()
    gradients(model, batch(2), confidence)
    assert model.batches == [2, 1]
    for size in (2, 1):
        gradients(model, batch(size), confidence)
    gradients(model, batch(2), [confidence] * 2)
    assert model.batches == [2, 1, 2, 1, 2]
    one = Net(lambda maps: boxes(maps, (2, 3)[: len(maps)])).eval()
    gradients(one, batch(1), confidence)
    assert one.batches == [1, 2]


def test_a_list_of_another_length_and_class_indices_of_other_outputs_ask_nothing():
    model = Net(lambda maps: {"out": maps.mean((2, 3)), "levels": [maps, maps * 2]}).eval()
    gradients(model, batch(3), targets.WholeOutput(lambda output: output["levels"][1].sum()))
    gradients(model, batch(2), [0, 1])
    gradients(model, batch(2), targets.Label(1))
    assert model.batches == [3, 2, 2]


def test_what_is_known_is_of_the_mode_and_of_what_the_list_has():
    """A model that returns boxes in eval mode and two tensors like them in training mode, or others at another time."""
    model = Net(None).eval()

    def answer(maps):
        return [maps.flatten(2).mT] * 2 if model.training else boxes(maps, (2, 2)[: len(maps)])

    def of_levels(output):
        assert [tuple(level.shape) for level in output] == [(16, 6)] * 2
        return output[1].sum()

    model.answer = answer
    gradients(model, batch(2), confidence)
    gradients(model.train(), batch(2), targets.WholeOutput(of_levels))
    gradients(model.eval(), batch(2), confidence)
    model.answer = lambda maps: [maps, maps]
    gradients(model, batch(2), targets.WholeOutput(lambda output: output[1][0, 0, 0]))


def test_class_indices_of_boxes_are_refused():
    for size in (1, 2):
        model = Net(lambda maps: boxes(maps, (2, 2)[: len(maps)])).eval()
        with pytest.raises(TypeError, match=r"model: expected a tensor of logits.*; got a list with an entry for each"):
            gradients(model, batch(size), 1)


def test_a_model_of_one_batch_size_is_judged_by_what_the_list_has():
    def answer(maps):
        if len(maps) != 2:
            raise ValueError("two images")
        return boxes(maps, (2, 5))

    found = gradients(Net(answer).eval(), batch(2), confidence)
    torch.testing.assert_close(
        found.gradients[:, 0], plain(answer, batch(2), lambda output: sum(confidence(rows) for rows in output))
    )


def test_nothing_of_the_model_changes_where_it_is_asked():
    model = Net(lambda maps: boxes(model.norm(maps), (2, 2)[: len(maps)]))
    model.norm = nn.BatchNorm2d(6)
    gradients(model.train(), batch(2), confidence)
    assert model.batches == [2, 1]
    assert not model.norm.running_mean.any()
    assert model.norm.num_batches_tracked == 0
    assert model.training
    assert not model.conv._forward_hooks


def test_in_several_threads():
    model = Net(lambda maps: boxes(maps, (2, 2)[: len(maps)])).eval()
    expected = gradients(Net(lambda maps: boxes(maps, (2, 2))).eval(), batch(2), confidence).gradients
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(gradients(model, batch(2), confidence).gradients))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for one in found:
        torch.testing.assert_close(one, expected)


@pytest.mark.parametrize("method", ["scorecam", "ablationcam"])
def test_methods_that_score_logits_again_refuse_boxes(method):
    model = Net(lambda maps: boxes(maps, (2, 2)[: len(maps)])).eval()
    for target in (None, confidence):
        with pytest.raises(TypeError, match="model: expected a tensor of logits, which this method scores again"):
            CAM(model, "conv", method=method)(batch(2), target)
