"""What a model says without a component: against channels that are set to zero by hand, on networks of many kinds."""

import copy
import math
from itertools import chain

import pytest
import torch
from torch import nn

from cfcam_gpu import CFCAM, Config
from cfcam_gpu.results import ablation

from ..small import CLASSES, CONFIGS, LAYERS, Network, draw
from ..transformers_small import VisionTransformer
from ..transformers_small import images as patches

ONE = Config(contrast=0.5, dominant_percentile=50.0)


class AnyAxes(nn.Module):
    """Two convolutions of signals, images or volumes: the first ends the trunk, the second begins the head."""

    def __init__(self, axes, *, skip=False):
        super().__init__()
        torch.manual_seed(axes)
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        self.trunk = nn.Sequential(convolution(2, 10, 3), nn.ReLU())
        self.layer = nn.Sequential(convolution(10, 12, 1), nn.ReLU())
        self.after = convolution(22 if skip else 12, 6, 2)
        self.head = nn.Linear(6, CLASSES)
        self.skip = skip

    def forward(self, x):
        before = self.trunk(x)
        after = self.layer(before)
        joined = torch.cat([before, after], dim=1) if self.skip else after
        return self.head(self.after(joined).relu().flatten(2).mean(dim=2))


def by_hand(model, layer, images, channels):
    """The model's output where these channels of each image are zero at the layer."""

    def zeroed(module, args, output):
        output = output.clone()
        for b, gone in enumerate(channels):
            output[b, gone] = 0
        return output

    handle = model.get_submodule(layer).register_forward_hook(zeroed)
    try:
        with torch.no_grad():
            return model(images)
    finally:
        handle.remove()


def scored(logits, classes, contrast):
    """The class's logit minus a share of the log-sum-exp of the others, written out."""
    found = []
    for row, k in zip(logits.double().tolist(), classes.tolist()):
        others = [value for j, value in enumerate(row) if j != k]
        found.append(row[k] - contrast * math.log(sum(map(math.exp, others))))
    return found


def assert_as_by_hand(model, layer, images, result, found):
    classes, contrast = result.target, result.config.contrast
    numbers = torch.arange(len(images))
    for k in range(min(map(len, found))):
        parts = [of_image[k] for of_image in found]
        logits = by_hand(model, layer, images, [part.channels for part in parts])
        expected = logits.softmax(dim=1)[numbers, classes].tolist()
        assert [part.probability_without for part in parts] == pytest.approx(expected, rel=1e-5)
        assert [part.score_without for part in parts] == pytest.approx(scored(logits, classes, contrast), rel=1e-5)
        assert [part.probability for part in parts] == pytest.approx(
            result.logits.softmax(dim=1)[numbers, classes].tolist(), rel=1e-5
        )
        assert [part.score for part in parts] == pytest.approx(scored(result.logits, classes, contrast), rel=1e-5)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_signals_images_and_volumes(axes):
    model = AnyAxes(axes).eval()
    images = torch.randn(3, 2, *(9, 8, 7)[:axes], generator=torch.Generator().manual_seed(0))
    result = CFCAM(model, "layer", config=ONE)(images, [4, 0, 2])
    found = result.components(images, top=3, measured=True)
    # A score that loses nothing would be met by a measurement that takes nothing away.
    assert any(abs(part.score - part.score_without) > 1e-3 for of_image in found for part in of_image)
    assert_as_by_hand(model, "layer", images, result, found)


@pytest.mark.parametrize("preset", CONFIGS)
def test_at_the_finer_of_two_levels(preset):
    model, images = Network().eval(), draw(1)
    layers = LAYERS[preset]
    result = CFCAM(model, layers, config=CONFIGS[preset])(images)
    found = result.components(images, top=2, measured=True)
    assert_as_by_hand(model, layers[0] if preset == "two-level" else layers, images, result, found)


def test_tokens_but_those_of_patches_stay():
    model, images = VisionTransformer().eval(), patches()
    result = CFCAM(model, "blocks.1", config=Config(dominant_percentile=0.0))(images)
    found = result.components(images, top=2, measured=True)
    logits = result.logits
    for b, (first, *_) in enumerate(found):

        def zeroed(module, args, output, gone=first.channels):
            output = output.clone()
            output[:, 1:, gone] = 0
            return output

        handle = model.blocks[1].register_forward_hook(zeroed)
        with torch.no_grad():
            logits = model(images[b : b + 1])
        handle.remove()
        assert first.probability_without == pytest.approx(float(logits.softmax(1)[0, result.target[b]]), rel=1e-5)
        assert first.probability_without != pytest.approx(first.probability, rel=1e-4)


def test_what_comes_before_the_layer_runs_on_one_copy():
    model = AnyAxes(2).eval()
    images = torch.randn(2, 2, 9, 8)
    result = CFCAM(model, "layer", config=ONE)(images)
    result.components(images)
    sizes = {"trunk": [], "after": []}
    for name, of_name in sizes.items():
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, of_name=of_name: of_name.append(len(output))
        )
    found = result.components(images, top=3, measured=True)
    # Both images once more; two copies, to see what one takes; then all of each image.
    assert sizes["trunk"] == [2, 1, 1, 1]
    assert sizes["after"] == [2, 2, *(1 + len(parts) for parts in found)]


def test_a_connection_past_the_layer():
    """The trunk's one copy does not concatenate with the layer's many."""
    model = AnyAxes(2, skip=True).eval()
    images = torch.randn(2, 2, 9, 8, generator=torch.Generator().manual_seed(3))
    result = CFCAM(model, "layer", config=ONE)(images)
    assert_as_by_hand(model, "layer", images, result, result.components(images, top=2, measured=True))


def test_in_chunks(monkeypatch):
    model, images = Network().eval(), draw(2)
    result = CFCAM(model, "late", config=ONE)(images)
    whole = result.components(images, measured=True)
    monkeypatch.setattr(ablation, "DEFAULT_MEMORY", 1)
    sizes = []
    model.head.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    chunked = result.components(images, measured=True)
    assert sizes == [3, 2, *[1] * sum(1 + len(parts) for parts in whole)]
    for one, other in zip(chain(*whole), chain(*chunked), strict=True):
        assert other.score_without == pytest.approx(one.score_without, rel=1e-5)
        assert other.probability_without == pytest.approx(one.probability_without, rel=1e-5)


class TwoOutputs(Network):
    """A dict without logits; one of its parts comes from before the late layer."""

    def forward(self, images):
        return {"early": self.early(images), "scores": super().forward(images)}


def test_callables_of_logits_and_of_whole_outputs():
    model, images = Network().eval(), draw(3)
    scores = [lambda row: row[0] - row[1], lambda row: row[2] * 2, lambda row: row[3]]
    result = CFCAM(model, "late", config=ONE)(images, scores)
    found = result.components(images, top=1, measured=True)
    for k in (0, -1):
        rows = by_hand(model, "late", images, [parts[k].channels for parts in found])
        expected = [float(score(row)) for score, row in zip(scores, rows)]
        assert [parts[k].score_without for parts in found] == pytest.approx(expected, rel=1e-5)
    assert [parts[0].score for parts in found] == pytest.approx(
        [float(score(row)) for score, row in zip(scores, result.logits)], rel=1e-5
    )
    assert {(part.probability, part.probability_without) for parts in found for part in parts} == {(None, None)}

    other = TwoOutputs().eval()
    result = CFCAM(other, "late", config=ONE)(images, lambda part: part["scores"][1] + part["early"].mean())
    found = result.components(images, top=1, measured=True)
    output = by_hand(other, "late", images, [parts[0].channels for parts in found])
    expected = output["scores"][:, 1] + output["early"].mean(dim=(1, 2, 3))
    assert [parts[0].score_without for parts in found] == pytest.approx(expected.tolist(), rel=1e-5)


def test_a_single_logit_has_a_score_and_no_probability():
    model, images = Network().eval(), draw(4)
    model.head = nn.Linear(32, 1)
    found = CFCAM(model, "late")(images).components(images, top=1, measured=True)
    logits = by_hand(model, "late", images, [parts[0].channels for parts in found])
    assert [parts[0].score_without for parts in found] == pytest.approx(logits[:, 0].tolist(), rel=1e-5)
    assert found[0][0].describe()["probability_without"] is None


def test_half_precision():
    model, images = Network().eval().bfloat16(), draw(5).bfloat16()
    result = CFCAM(model, "late", config=ONE)(images)
    found = result.components(images, top=1, measured=True)
    logits = by_hand(model, "late", images, [parts[0].channels for parts in found])
    expected = logits.float().softmax(dim=1)[torch.arange(3), result.target]
    assert [parts[0].probability_without for parts in found] == pytest.approx(expected.tolist(), abs=0.02)


class OverTheBatch(Network):
    """Each image is told by what the others are not."""

    def forward(self, images):
        logits = super().forward(images)
        return logits - logits.mean(dim=0)


def test_a_model_that_looks_at_the_whole_batch_is_refused():
    model, images = OverTheBatch().eval(), draw(6)
    result = CFCAM(model, "late", config=ONE)(images, 0)
    result.components(images)
    with pytest.raises(ValueError, match=r"model: expected .* the same in any batch.*Leave measured out"):
        result.components(images, measured=True)


def test_nothing_of_the_model_changes():
    model, images = Network().eval(), draw(7)
    model.head.weight.requires_grad_(False)
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    CFCAM(model, "late", config=ONE)(images).components(images, measured=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == {"head.weight"}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks or module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.is_grad_enabled()


def test_what_is_not_measured_has_no_figures():
    model, images = Network().eval(), draw(8)
    result = CFCAM(model, "late", config=ONE)(images)
    part = result.components(images)[0][0]
    assert (part.probability, part.probability_without, part.score, part.score_without) == (None,) * 4
    assert list(part.describe()) == ["name", "share", "channels"]
    measured = result.components(images, measured=True)[0][0]
    assert list(measured.describe()) == [
        *part.describe(),
        "probability",
        "probability_without",
        "score",
        "score_without",
    ]
    assert torch.equal(measured.channels, part.channels)
    with pytest.raises(TypeError, match="measured: expected True or False; got int"):
        result.components(images, measured=1)
