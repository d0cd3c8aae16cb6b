"""CAM with the methods of many layers."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from cfcam_gpu import CAM, Explanation
from cfcam_gpu.hooks import Layout, find

from ..cams import Densely, Net, batch, made
from ..threads import in_threads
from ..transformers import transformer

NAMES = ["refinecam", "winsorcam"]
BLOCKS = ["blocks.0.norm1", "blocks.1.norm1"]


@pytest.fixture
def net():
    return made(Net())


@pytest.fixture
def images():
    return batch()


@pytest.mark.parametrize(("name", "layers"), [("refinecam", ["act", "act2"]), ("winsorcam", ["first", "second"])])
def test_where_none_are_named_they_are_the_methods_own(name, layers, net, images, caplog):
    caplog.set_level("INFO", logger="cfcam_gpu")
    explain = CAM(net, method=name)
    assert explain.layers is None
    found = explain(images, [1, 3])
    assert [layer.name for layer in explain.layers] == [layer.name for layer in found.layers] == layers
    assert f"target layers: {', '.join(layers)}" in caplog.text
    assert torch.equal(found.raw_maps, CAM(net, layers, method=name)(images, [1, 3]).raw_maps)
    torch.testing.assert_close(
        CAM(net, layers[::-1], method=name)(images, [1, 3]).raw_maps, found.raw_maps, msg="in any order"
    )


@pytest.mark.parametrize("name", NAMES)
def test_several_targets_are_each_as_alone(name, net, images):
    explain = CAM(net, ["act", "act2"], method=name)
    together = explain(images, [[0, 3], [2, 1]])
    assert together.raw_maps.shape == together.maps.shape == (2, 2, 8, 6)
    for t, target in enumerate(([0, 2], [3, 1])):
        torch.testing.assert_close(together.raw_maps[:, t], explain(images, target).raw_maps)
    predicted = net(images).argmax(dim=1)
    assert torch.equal(explain(images).raw_maps, explain(images, predicted).raw_maps)
    called = explain(images, [lambda logits, k=int(k): logits[k] for k in predicted])
    torch.testing.assert_close(called.raw_maps, explain(images).raw_maps)


@pytest.mark.parametrize("name", NAMES)
def test_a_result_is_an_explanation_and_the_model_comes_out_as_it_went_in(name, images, tmp_path):
    net = made(Densely())
    before = copy.deepcopy(net.state_dict())
    result = CAM(net, method=name, augment="flip", smooth=1)(images, 1)
    assert isinstance(result, Explanation)
    assert result.method == name
    assert result.labels is result.weights is result.eps is result.config is None
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    result.save(tmp_path, images=images)
    line = json.loads((tmp_path / "explanations.jsonl").read_text().splitlines()[1])
    assert (line["method"], line["layers"]) == (name, [layer.name for layer in result.layers])
    assert np.array_equal(np.load(tmp_path / line["map"]), result.maps[1].numpy())


def test_layers_that_cover_other_parts_of_the_image_meet_at_its_size(net, images):
    """The second one's map has a margin around the image."""
    layout = Layout("channels first", (4, 3), size=(3, 8, 6), inside=((0.25, 0.75), (0.0, 1.0)))
    second = replace(find(net, "act2"), layout=layout)
    found = CAM(net, ["act", second], method="refinecam")(images, 1)
    assert found.raw_maps.shape == (2, 8, 6)

    def stretched(maps):
        maps = maps - maps.amin(dim=(1, 2), keepdim=True)
        return maps / maps.amax(dim=(1, 2), keepdim=True)

    first, margined = (CAM(net, layer, method="gradcam++")(images, 1).raw_maps for layer in ("act", second))
    with_margin = functional.interpolate(stretched(margined)[:, None], (16, 6), mode="bilinear")[:, 0]
    torch.testing.assert_close(found.raw_maps, stretched(first) * stretched(with_margin[:, 4:12]))


def test_bad_input_is_refused(net, images):
    with pytest.raises(ValueError, match=r"target_layer: winsorcam makes one map of several .* or None; got act2"):
        CAM(net, "act2", method="winsorcam")
    with pytest.raises(ValueError, match="target_layer: expected different layers; got act twice"):
        CAM(net, ["act", "act2", net.act], method="refinecam")
    with pytest.raises(ValueError, match="fuse: refinecam makes one map of all its layers by itself"):
        CAM(net, ["act", "act2"], method="refinecam", fuse="max")
    images[1, 0, 0, 0] = torch.nan
    for name in NAMES:
        with pytest.raises(ValueError, match="image 1 has NaN"):
            CAM(net, ["act", "act2"], method=name)(images, 0)


@pytest.mark.parametrize(
    ("name", "layers"), [("legrad", None), ("winsorcam", BLOCKS), ("hirescam", BLOCKS[1]), ("cfcam", BLOCKS)]
)
def test_another_threads_images_of_another_size_change_no_map(name, layers):
    """Theirs are explained while the model is at work on ours: tokens have another grid there."""
    model = transformer()
    wide, high = torch.randn(2, 1, 3, 16, 48, generator=torch.Generator().manual_seed(0))
    high = high.reshape(1, 3, 48, 16)
    explain = CAM(model, layers, method=name)
    expected = [explain(images, 0).raw_maps for images in (wide, high)]
    assert expected[0].shape == (1, 4, 12)
    met = []

    def meanwhile(module, given):
        if given[0].shape == wide.shape and not met:
            met.append(None)
            met.extend(in_threads(lambda _: explain(high, 0).raw_maps, 1))

    handle = model.register_forward_pre_hook(meanwhile)
    found = explain(wide, 0).raw_maps
    handle.remove()
    assert torch.equal(found, expected[0])
    assert torch.equal(met[1], expected[1])
