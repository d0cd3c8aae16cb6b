"""What explainers, layers, configurations and components print: one line each, that says what they are."""

import pytest
import torch

from cfcam_gpu import CAM, CFCAM, Config, hooks

from ..networks import two_scales


@pytest.fixture(scope="module")
def model():
    return two_scales().eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_an_explainer_says_of_what_and_where(model, images):
    explain = CFCAM(model, engine="cpu")
    assert repr(explain) == "<CFCAM of Sequential at layers chosen at the first call, engine cpu>"
    explain(images)
    assert repr(explain) == "<CFCAM of Sequential at 2, 4, engine cpu>"
    explain = CAM(model, method="layercam")
    assert repr(explain) == "<CAM by layercam of Sequential at layers chosen at the first call>"
    explain(images)
    assert repr(explain) == "<CAM by layercam of Sequential at 4>"


def test_many_layers_are_counted(images):
    layers = [torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(8)]
    model = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    explain = CAM(model, method="winsorcam")
    result = explain(images)
    for text in (repr(explain), repr(result), result._repr_html_()):
        assert "0, ..., 7 (8 layers)" in text
        assert "3, 4" not in text


def test_a_layer_says_what_and_where_it_is_and_why(model, images):
    assert repr(hooks.find(model, "4")) == "<TargetLayer 4: ReLU; as asked>"
    explain = CFCAM(model)
    result = explain(images)
    fine, coarse = explain.layers
    assert repr(coarse) == f"<TargetLayer 4: ReLU, channels first; {coarse.reason}>"
    assert "\n" not in repr(fine) + repr(hooks.candidates(model, images))
    assert "ReLU" not in repr(result.to("meta").layers[0])  # it is without its module


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (Config(), "Config()"),
        (Config.paper(), "Config.paper()"),
        (Config.two_level(), "Config.two_level('balanced')"),
        (Config.gated("tight"), "Config.gated('tight')"),
        (Config(sigma=2, distance="unit_norm"), "Config(distance='unit_norm', sigma=2)"),
        (Config(dead_threshold=None), "Config(dead_threshold=None)"),
    ],
)
def test_a_configuration_prints_what_makes_it_again(config, text):
    assert repr(config) == text
    assert eval(text) == config


def test_a_component_says_how_much_it_is(model, images):
    result = CFCAM(model, ["2", "4"])(images, 0)
    first = result.components(images)[0][0]
    assert repr(first) == f"<Component group 1: {first.share:.0%} of the evidence, {len(first.channels)} channels>"
    first = result.components(images, measured=True)[0][0]
    told = f"probability {first.probability:.3f}, without them {first.probability_without:.3f}>"
    assert repr(first).endswith(f"; {told}")
    scored = CFCAM(model, ["2", "4"])(images, lambda logits: logits[0]).components(images, measured=True)[0][0]
    assert repr(scored).endswith(f"; score {scored.score:.3f}, without them {scored.score_without:.3f}>")
