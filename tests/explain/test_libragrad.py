"""LibraGrad as an option of the explainers."""

import pytest
import torch

import cfcam_gpu
from cfcam_gpu.hooks.capture import capture
from cfcam_gpu.methods import METHODS
from cfcam_gpu.pipelines import explainers
from cfcam_gpu.targets.request import Request
from tests.transformers_small import VisionTransformer, images

LAYER = "blocks.1"


def test_an_explainer_with_it_looks_at_its_gradients():
    model, inputs = VisionTransformer(), images()
    explain = cfcam_gpu.CAM(model, LAYER, method="hirescam", libragrad=True)
    found = explain(inputs, [1, 2])
    captured = capture(model, explain.layers[0], inputs, Request(indices=torch.tensor([1, 2])), libragrad=True)
    expected = (captured.activations * captured.gradients[:, 0]).sum(dim=1).relu()
    torch.testing.assert_close(found.raw_maps, expected)
    plain = cfcam_gpu.CAM(model, LAYER, method="hirescam")(inputs, [1, 2])
    assert torch.equal(found.logits, plain.logits)
    assert not torch.allclose(found.raw_maps, plain.raw_maps)


@pytest.mark.parametrize("method", ["cfcam", "gradcam", "smoothgradcam++", "refinecam"])
def test_every_kind_of_method_of_gradients_takes_it(method):
    model, inputs = VisionTransformer(), images()
    layer = ["blocks.1", "blocks.2"] if method == "refinecam" else LAYER
    found, plain = (
        cfcam_gpu.CAM(model, layer, method=method, libragrad=libragrad)(inputs, 1) for libragrad in (True, False)
    )
    assert torch.equal(found.logits, plain.logits)
    assert not torch.equal(found.raw_maps, plain.raw_maps)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.libragrad])
def test_the_others_refuse_it(method):
    with pytest.raises(ValueError, match=f"libragrad: expected None or False, as {method.replace('+', '.')} takes"):
        cfcam_gpu.CAM(VisionTransformer(), LAYER, method=method, libragrad=True)
    assert cfcam_gpu.CAM(VisionTransformer(), LAYER, method=method).libragrad is False


def test_what_is_neither_true_nor_false_is_refused():
    for explainer in (cfcam_gpu.CFCAM, cfcam_gpu.CAM):
        with pytest.raises(TypeError, match="libragrad: expected True, False or None; got 'yes'"):
            explainer(VisionTransformer(), LAYER, libragrad="yes")


def test_components_are_of_the_same_gradients():
    """Those of each image add up to its map."""
    inputs = images()
    explanation = cfcam_gpu.CFCAM(VisionTransformer(), LAYER, libragrad=True)(inputs)
    for components, raw_map in zip(explanation.components(inputs), explanation.raw_maps):
        torch.testing.assert_close(sum(component.raw_map for component in components), raw_map)


def test_a_pipeline_knows_that_its_results_depend_on_it():
    model, inputs = VisionTransformer(), images()
    said = []
    for explain in (
        *(cfcam_gpu.CAM(model, LAYER, libragrad=libragrad) for libragrad in (None, True)),
        *(cfcam_gpu.CFCAM(model, layer) for layer in (LAYER, None)),  # by default, as the model is one of tokens
        cfcam_gpu.CAM(model, method="cfcam", libragrad=False),
    ):
        said.append(explainers.facts(explain, explain(inputs), torch.device("cpu")).pop("libragrad"))
    assert said == [False, True, True, True, False]
