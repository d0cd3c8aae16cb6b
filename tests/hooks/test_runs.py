"""What a model keeps while its layers are found, and models that run in unusual ways."""

import pytest
import torch
from torch import nn

from cfcam_gpu import CAM, CFCAM
from cfcam_gpu.explain import Bag
from cfcam_gpu.hooks import layers

from .test_places import ARRANGED, SIZE, Tokens, Turned, gradcam, images, net, same, stem


def test_a_forward_of_mixed_images_leaves_random_numbers_and_the_model_alone():
    model = net(lambda: Tokens(ARRANGED["first"][0], 1))
    model.blocks.insert(1, nn.Dropout(0.5))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    layers.laid_out(model, images(1, 3, *SIZE), [layers.find(model, "blocks.0")])
    assert torch.equal(torch.rand(3), expected), "dropout draws its own numbers in forwards of ours"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class FixedBatch(Turned):
    """As an exported program: it takes as many images as it was made with."""

    def forward(self, x):
        return super().forward(x.view(4, 3, *SIZE))


def test_a_model_of_one_batch_size_is_explained_at_that():
    model, given = net(FixedBatch), images(4, 3, *SIZE)
    wanted = gradcam(model, model.features, given, lambda out: out[:, 1].sum())
    same(CAM(model)(given, 1).raw_maps, wanted)
    same(CAM(model, "features")(given, 1).raw_maps, wanted)
    assert CFCAM(model)(given).maps.shape == (4, *SIZE)


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = stem(), nn.Linear(24, 4)

    def forward(self, x):
        found = [self.backbone(half).mean((2, 3)) for half in (x[:, :3], x[:, 3:])]
        return self.head(torch.cat(found, 1))


def test_one_of_several_runs_is_named():
    model, given = net(Siamese), images(2, 6, *SIZE)
    for run in (0, 1):
        kept = []
        handle = model.backbone.register_forward_hook(lambda module, args, output, kept=kept: kept.append(output))
        score = model(given.clone().requires_grad_())[:, 1].sum()
        handle.remove()
        (gradient,) = torch.autograd.grad(score, kept[run])
        wanted = (kept[run].detach() * gradient.mean((2, 3), keepdim=True)).sum(1).relu()
        for name in (f"backbone[{run}]", f"backbone.0[{run}].input"):
            result = CAM(model, name)(given, 1)
            assert result.layers[0].name == name
        same(CAM(model, f"backbone[{run}]")(given, 1).raw_maps, wanted)
    with pytest.raises(ValueError, match=r"backbone runs more than once .*'backbone\[0\]' is the first"):
        CAM(model, "backbone")(given, 1)
    with pytest.raises(ValueError, match=r"backbone\[2\] did not run 3 times"):
        CAM(model, "backbone[2]")(given, 1)


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 3, 2, 1), Keyed(), nn.Linear(12, 4)

    def forward(self, x):
        return self.head(self.block(scale=2.0, hidden=self.stem(x)).mean((2, 3)))


class Keyed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 12, 3, 2, 1)

    def forward(self, hidden, scale):
        return self.conv(hidden * scale).relu()


def test_what_enters_by_keyword():
    model, given = net(ByKeyword), images(2, 3, *SIZE)
    wanted = gradcam(model, model.stem, given, lambda out: out[:, 1].sum())
    for method in ("gradcam", "ablationcam"):
        found = CAM(model, "block.input", method=method)(given, 1)
        assert found.raw_maps.shape == wanted.shape
    same(CAM(model, "block.input")(given, 1).raw_maps, wanted)


# Programs, bags, towers


def exported():
    model = net(Turned)
    return model, torch.export.export(model, (images(4, 3, *SIZE),))


def test_a_program_of_one_batch_size_is_explained_where_its_layers_are_modules():
    model, program = exported()
    given = images(4, 3, *SIZE, seed=2)
    unflat = torch.export.unflatten(program)
    torch.testing.assert_close(CAM(unflat, "features")(given, 1).maps, CAM(model, "features")(given, 1).maps)
    assert [layer.name for layer in CFCAM(unflat)(given).layers] == [layer.name for layer in CFCAM(model)(given).layers]
    assert "turn" not in [candidate.layer.name for candidate in layers.candidates(unflat, given)]


@pytest.mark.parametrize("layer", [None, "features.0"])
def test_a_program_that_is_one_graph_says_so(layer):
    graph = exported()[1].module()
    with pytest.raises(ValueError, match=r"no layer runs as a module: .* give torch\.export\.unflatten\(program\)"):
        CAM(graph, layer)(images(4, 3, *SIZE), 1)


class Pools(Turned):
    """One answer for a bag of images."""

    def forward(self, x):
        return super().forward(x).amax(0, keepdim=True)


def test_a_bag_of_images_with_one_answer():
    model, given = net(Pools), images(5, 3, *SIZE)
    with pytest.raises(
        ValueError, match=r"each of the 5 images; got shape \(1, 4\); .*explain\.Bag\(model\) of images"
    ):
        CAM(model, "features")(given, 1)
    wanted = gradcam(model, model.features, given, lambda out: out[0, 1], lambda t: t.movedim(0, 1)[None])
    result = CAM(Bag(model), "model.features")(given[None], 1)
    same(result.raw_maps, wanted)
    assert result.maps.shape == (1, 5, *SIZE)
    assert CFCAM(Bag(model))(given[None]).maps.shape == (1, 5, *SIZE)
    with pytest.raises(ValueError, match=r"images: expected one bag, \(1, N, 3, H, W\); got \(2, 5, 3, 32, 48\)"):
        CAM(Bag(model), "model.features")(given.repeat(2, 1, 1, 1, 1), 1)
    assert not Bag(model).training


class ImagesAndTexts(nn.Module):
    def __init__(self):
        super().__init__()
        self.vision_model = Turned()

    def forward(self, images, texts=None):
        return self.vision_model(images) @ texts.T


@pytest.mark.parametrize("layer", [None, "vision_model.features"])
def test_a_model_of_images_and_texts_says_which_part_to_explain(layer):
    model = net(ImagesAndTexts)
    with pytest.raises(
        TypeError, match=r"takes no images alone .*explain_text.* give model\.vision_model.*targets\.ImageText"
    ):
        CFCAM(model, layer)(images(2, 3, *SIZE))
    assert CFCAM(model.vision_model)(images(2, 3, *SIZE)).maps.shape == (2, *SIZE)


def test_signals_for_a_model_that_makes_spectrograms_are_refused_with_a_way_out():
    with pytest.raises(ValueError, match=r"got \(2, 1, 400\); .*explain what comes behind that, of spectrograms"):
        CFCAM(net(Turned))(torch.randn(2, 1, 400))
