"""CAM: one face for every method, with the results of CFCAM."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch

from cfcam_gpu import CAM, CFCAM, Config, Explanation, methods
from cfcam_gpu.methods import METHODS

from ..cams import Densely, Net, batch, made
from ..small import Network, assert_same, draw

#: Those of many layers have tests of their own, tests/explain/test_cam_layers.py.
NAMES = [name for name, method in METHODS.items() if method.layers == "one"]
RIVALS = [name for name in NAMES if not METHODS[name].cluster_filter]


@pytest.fixture
def net():
    return made(Net())


@pytest.fixture
def images():
    return batch()


def raw(model, layer, images, target, method, **options):
    return CAM(model, layer, method=method, **options)(images, target).raw_maps


def test_methods_are_the_fields():
    assert set(RIVALS) == {
        "gradcam", "gradcam++", "smoothgradcam++", "hirescam", "xgradcam", "layercam", "eigencam", "eigengradcam",
        "scorecam", "ablationcam", "finercam", "shapleycam", "randomcam", "reciprocam",
    }  # fmt: skip
    assert {name for name, method in METHODS.items() if method.layers == "all"} == {"refinecam", "winsorcam", "legrad"}
    for method in METHODS.values():
        ways = [method.from_gradients, method.from_model, method.from_layers]
        assert sum([method.cluster_filter, method.attention, *(way is not None for way in ways)]) == 1
        assert method.title
        assert method.paper
        assert method.cost


@pytest.mark.parametrize("name", NAMES)
def test_the_networks_of_these_tests_give_maps_that_say_something(name, images):
    for make in (Net, Densely):
        for layer in ("act", "act2"):
            assert (raw(made(make()), layer, images, [1, 3], name).amax(dim=(1, 2)) > 1e-5).all()


@pytest.mark.parametrize("name", NAMES)
def test_several_targets_are_each_as_alone(name, net, images):
    explain = CAM(net, "act2", method=name)
    together = explain(images, [[0, 3], [2, 1]])
    assert together.raw_maps.shape == (2, 2, 4, 3)
    assert together.maps.shape == (2, 2, 8, 6)
    for t, target in enumerate(([0, 2], [3, 1])):
        alone = explain(images, target)
        torch.testing.assert_close(together.raw_maps[:, t], alone.raw_maps)
        torch.testing.assert_close(together.maps[:, t], alone.maps)


@pytest.mark.parametrize("name", NAMES)
def test_targets_may_be_predicted_or_callable(name, net, images):
    explain = CAM(net, "act2", method=name)
    predicted = net(images).argmax(dim=1)
    expected = explain(images, predicted)
    found = explain(images)
    torch.testing.assert_close(found.raw_maps, expected.raw_maps)
    assert torch.equal(found.target, predicted)
    scores = [lambda logits, k=int(k): logits[k] for k in predicted]
    if name == "finercam":
        with pytest.raises(ValueError, match="target: finercam compares classes: expected class indices or None"):
            explain(images, scores)
        return
    if name == "shapleycam":  # of a class it explains this
        scores = [lambda logits, k=int(k): logits[k] + logits.log_softmax(0)[k] for k in predicted]
    if name == "reciprocam":
        scores = [lambda logits, k=int(k): logits.softmax(0)[k] for k in predicted]
    found = explain(images, scores)
    torch.testing.assert_close(found.raw_maps, expected.raw_maps)
    assert found.target is None


@pytest.mark.parametrize("options", [{}, {"smooth": 2, "augment": "flip"}], ids=["once", "several looks"])
@pytest.mark.parametrize("name", NAMES)
def test_predicted_and_given_classes_of_one_batch(name, options, net, images):
    """What is predicted is settled once: of a copy, a chunk of forwards or the mirror image it is not asked again."""
    given = int(net(images)[1].argmin())
    found = CAM(net, "act2", method=name, **options)(images, [None, given])
    expected = CAM(net, "act2", method=name, **options)(images, [int(net(images)[0].argmax()), given])
    assert torch.equal(found.target, expected.target)
    assert torch.equal(found.raw_maps, expected.raw_maps)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.gradients])
def test_methods_without_gradients_record_no_graph_and_take_any_layer(name, net, images):
    class Cut(Net):
        def tail(self, features):
            recorded.append(features.requires_grad)
            return super().tail(features).detach()

    recorded = []
    expected = raw(net, "act", images, [1, 3], name)
    torch.testing.assert_close(raw(made(Cut()), "act", images, [1, 3], name), expected)
    # The first forward, of one image, is that which finds the layer's layout.
    assert recorded[0]
    assert not any(recorded[1:])


@pytest.mark.parametrize("name", NAMES)
def test_the_model_comes_out_as_it_went_in(name, images):
    net = made(Densely())
    before, given = copy.deepcopy(net.state_dict()), images.clone()
    CAM(net, "act2.input", method=name, augment="flip", smooth=1)(images)
    assert torch.equal(images, given)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", NAMES)
def test_the_input_of_a_layer_is_what_the_layer_before_gives(name, net, images):
    expected = raw(net, "act", images, [1, 3], name)
    torch.testing.assert_close(raw(net, "second.input", images, [1, 3], name), expected)


@pytest.mark.parametrize("name", RIVALS)
def test_a_result_is_an_explanation_without_what_cf_cam_alone_has(name, net, images, tmp_path):
    explain = CAM(net, "act2", method=name)
    assert [layer.name for layer in explain.layers] == ["act2"]
    result = explain(images)
    assert isinstance(result, Explanation)
    assert result.method == name
    assert result.labels is result.weights is result.eps is result.config is None
    torch.testing.assert_close(result.logits, net(images).detach())
    assert bool((result.maps.amax(dim=(1, 2)) == 1).all())
    assert not result.empty.any()
    assert result.overlay(images).shape == (2, 8, 6, 3)
    with pytest.raises(ValueError, match=r"components: only one look by CF-CAM knows .* this explanation is another"):
        result.components(images)
    assert torch.equal(pickle.loads(pickle.dumps(result)).maps, result.maps)
    result.save(tmp_path, images=images)
    line = json.loads((tmp_path / "explanations.jsonl").read_text().splitlines()[1])
    assert (line["method"], line["layers"], line["target"]) == (name, ["act2"], int(result.target[1]))
    assert line["eps"] is line["clusters"] is line["channels"] is None
    assert np.array_equal(np.load(tmp_path / line["map"]), result.maps[1].numpy())


@pytest.mark.parametrize(
    ("name", "config", "layer"),
    [
        ("cfcam", None, None),
        ("cfcam", None, "late"),
        ("cfcam", None, ["early", "late"]),
        ("cfcam-one", Config(), None),
        ("cfcam-paper", Config.paper(), "late"),
    ],
)
def test_cf_cam_is_what_cfcam_gives(name, config, layer):
    model, images = Network().eval(), draw(0)
    explain = CAM(model, layer, method=name)
    assert (explain.layers is None) == (layer is None)
    found, expected = explain(images), CFCAM(model, layer, config=config)(images)
    assert explain.layers == found.layers == expected.layers
    assert_same(found, expected)
    assert (found.method, found.config) == (name, expected.config)
    assert len(found.components(images)) == 3


def test_a_layer_is_chosen_where_none_is_named(net, images, caplog):
    caplog.set_level("INFO", logger="cfcam_gpu")
    explain = CAM(net, method="layercam")
    assert explain.layers is None
    torch.testing.assert_close(explain(images, 0).raw_maps, raw(net, "act2", images, 0, "layercam"))
    assert [layer.name for layer in explain.layers] == ["act2"]
    assert "target layer: act2" in caplog.text


def test_bad_input_is_refused(net, images):
    with pytest.raises(ValueError, match=r"method: expected one of cfcam, .*gradcam, .*; got 'camcam'"):
        CAM(net, "act2", method="camcam")
    with pytest.raises(TypeError, match=r"images: expected a floating dtype; got torch.uint8"):
        CAM(net, "act2")(images.byte(), 0)
    with pytest.raises(ValueError, match="memory: expected a positive number of bytes; got 0"):
        CAM(net, "act2", method="scorecam", memory=0)
    with pytest.raises(ValueError, match="target_layer: expected a layer, several of them, or None; got none"):
        CAM(net, [])
    with pytest.raises(ValueError, match="engine: "):
        CAM(net, method="cfcam", engine="tpu")
    with pytest.raises(ValueError, match="target: class 4 is out of range for 4 classes"):
        CAM(net, "act2", smooth=1)(images, 4)
    images[1, 0, 0, 0] = torch.nan
    for name in RIVALS:
        with pytest.raises(ValueError, match="image 1 has NaN"):
            CAM(net, "act2", method=name)(images, 0)


def test_find_names_all_methods():
    with pytest.raises(ValueError, match=r"method: expected one of cfcam, .*; got None"):
        methods.find(None)
    assert methods.find("gradcam") is METHODS["gradcam"]
