"""The automatic choice takes layers that the scores depend on, and of which the coarse one depends on the fine one."""

import pytest
import torch
from torch import nn

from cfcam_gpu import CAM, CFCAM, targets
from cfcam_gpu.hooks import layers

from ..transformers_small import Block
from .test_places import SIZE, Tokens, images, net, stem


class Auxiliary(nn.Module):
    """A second head, which runs last and is not what is explained."""

    def __init__(self, *, deep):
        super().__init__()
        self.features, self.classifier = stem(), nn.Conv2d(12, 4, 1)
        self.auxiliary = nn.Sequential(*[nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU()] * (3 if deep else 1), nn.Conv2d(8, 4, 1))

    def forward(self, x):
        middle = self.features[:2](x)
        return {"out": self.classifier(self.features[2:](middle)), "aux": self.auxiliary(middle)}


@pytest.mark.parametrize("deep", [False, True])
def test_a_head_beside_the_scores_is_passed_over(deep):
    model = net(lambda: Auxiliary(deep=deep))
    result = CFCAM(model)(images(2, 3, *SIZE), targets.Segment(1, torch.ones(8, 12)))
    assert all(layer.name.startswith("features") for layer in result.layers)
    auxiliary = targets.WholeOutput(lambda sample: sample["aux"][1].mean())
    assert "auxiliary" in CAM(model)(images(2, 3, *SIZE), auxiliary).layers[0].name


class Streams(nn.Module):
    """Colour and depth, fused behind both."""

    def __init__(self):
        super().__init__()
        self.colour = nn.Sequential(stem(), nn.Conv2d(12, 16, 3, 2, 1), nn.ReLU())
        self.depth = nn.Sequential(nn.Conv2d(1, 16, 8, 8), nn.ReLU())
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(torch.cat([self.colour(x[:, :3]).mean((2, 3)), self.depth(x[:, 3:]).mean((2, 3))], 1))


def test_a_coarse_layer_depends_on_the_fine_one_frozen_or_not():
    model, given, found = net(Streams), images(2, 4, *SIZE), []
    for frozen in (False, True):
        model.requires_grad_(not frozen)
        result = CFCAM(model)(given, 1)
        assert [layer.name for layer in result.layers] == ["depth"]
        found.append(result.maps)
        with pytest.raises(ValueError, match="the coarser one behind it; depth does not depend on colour"):
            CFCAM(model, ["colour.0", "depth"])(given, 1)
        assert CFCAM(model, ["colour.0", "colour"])(given, 1).maps.shape == (2, *SIZE)
    assert torch.equal(*found)


def test_what_a_norm_makes_of_a_positive_activation_is_passed_over():
    """Centred about zero, it gives empty maps: torchcrepe's network ends so."""
    model = net(
        lambda: nn.Sequential(stem(), nn.BatchNorm2d(12), nn.AvgPool2d((8, 12)), nn.Flatten(), nn.Linear(12, 4))
    )
    with torch.no_grad():
        before = model[0](images(8, 3, *SIZE))
        model[1].running_mean.copy_(before.mean((0, 2, 3)))
        model[1].running_var.copy_(before.var((0, 2, 3)))
    assert [layer.name for layer in layers.choose_two(model, images(1, 3, *SIZE))] == ["0.1", "0"]
    model[0].append(nn.Conv2d(12, 12, 1))  # signed before it, too
    assert layers.choose(model, images(1, 3, *SIZE)).name == "1"


@pytest.mark.parametrize(
    ("strides", "size", "grids"),
    [
        ((2, 2), (12, 16, 16), [(6, 8, 8), (3, 4, 4)]),
        ((4, 2), (12, 16, 16), [(3, 4, 4), (2, 2, 2)]),
        ((4, (3, 2, 2)), (12, 16, 16), [(3, 4, 4), (1, 2, 2)]),
        ((2, (1, 2, 2)), (12, 16, 16), [(6, 8, 8), (6, 4, 4)]),
    ],
)
def test_of_a_volume_each_axis_is_halved_or_kept(strides, size, grids):
    """DenseNet121 at 48 x 64 x 64 ends in 3 x 4 x 4 and 1 x 2 x 2."""
    model = net(
        lambda: nn.Sequential(
            nn.Conv3d(1, 8, 3, strides[0], 1),
            nn.ReLU(),
            nn.MaxPool3d(strides[1], ceil_mode=grids[1][0] == 2),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        )
    )
    result = CFCAM(model)(images(1, 1, *size), 1)
    assert [layer.layout.grid for layer in result.layers] == grids


class TokensByConvolution(nn.Module):
    """Tokens of clips whose patches are merged in space alone, as in a video Swin."""

    def __init__(self):
        super().__init__()
        self.patch, self.merge = nn.Conv3d(3, 24, (2, 4, 4), (2, 4, 4)), nn.Linear(96, 24)
        self.fine, self.coarse = (nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 24), nn.ReLU()) for _ in range(2))
        self.head = nn.Linear(24, 4)

    def forward(self, clips):
        maps = self.fine(self.patch(clips).movedim(1, -1))
        merged = self.merge(torch.cat([maps[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1))
        return self.head(self.coarse(merged).mean((1, 2, 3)))


def test_channels_last_volumes_that_keep_their_frames():
    result = CFCAM(net(TokensByConvolution))(images(1, 3, 8, 16, 16), 1)
    assert [(layer.name, layer.layout.grid) for layer in result.layers] == [("fine", (4, 4, 4)), ("coarse", (4, 2, 2))]


def test_a_callable_decides_which_layers_are_chosen():
    """The class token's score is blind to the patches behind the last block, and the patches' own is not."""
    model = net(lambda: Tokens(lambda patches, others: torch.cat([others, patches], 1), 1))
    tokens = model.head
    model.head = nn.Identity()
    model.forward = lambda x: tokens(
        model.blocks(torch.cat([model.cls_token.expand(len(x), -1, -1), model.patch(x).flatten(2).mT], 1))
    )
    of_class, of_patches = (lambda logits: logits[0, 1]), (lambda logits: logits[5, 1])
    assert CAM(model)(images(2, 3, *SIZE), of_class).layers[0].name == "blocks.2.norm1"
    assert CAM(model)(images(2, 3, *SIZE), of_patches).layers[0].name == "blocks"


def test_what_only_pads_or_enlarges_is_no_choice():
    """MONAI's EfficientNets pad by modules; AlexNet and VGG pool to 7 x 7, also from less."""
    model = net(
        lambda: nn.Sequential(
            stem(),
            nn.Sequential(nn.ConstantPad2d((1, 1, 1, 1), 0.0), nn.Conv2d(12, 12, 3, 2), nn.ReLU()),
            nn.Sequential(nn.AdaptiveAvgPool2d((7, 7))),
            nn.Flatten(),
            nn.Linear(12 * 49, 4),
        )
    )
    assert [layer.name for layer in layers.choose_two(model, images(1, 3, *SIZE))] == ["0", "1"]
    names = [candidate.layer.name for candidate in layers.candidates(model, images(1, 3, *SIZE))]
    assert not {"1.0", "1.1.input", "2", "2.0"} & {*names}


def test_a_layer_that_is_zero_everywhere_is_no_fine_layer():
    """Some residual branches begin with a last norm of zeros."""
    model = net(lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 2, 1)))
    model.append(nn.ReLU())
    model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)])
    nn.init.zeros_(model[2].weight)
    assert layers.choose_two(model, images(1, 3, *SIZE))[0].name == "1"


class Decoder(nn.Module):
    """Queries look at tokens by keys that have positions added, and by values."""

    def __init__(self):
        super().__init__()
        self.patch, self.encoder = nn.Conv2d(3, 24, 8, 8), nn.Sequential(Block(24), Block(24))
        self.queries, self.positions = nn.Parameter(torch.randn(1, 5, 24)), nn.Parameter(torch.randn(1, 24, 24))
        self.keys, self.values, self.head = nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 4)

    def forward(self, x):
        tokens = self.encoder(self.patch(x).flatten(2).mT)
        weights = (self.queries @ self.keys(tokens + self.positions).mT).softmax(-1)
        return self.head((weights @ self.values(tokens)).mean(1))


def test_what_only_keys_are_made_of_is_no_choice():
    """DETR: the map would be that of the keys, and not of what they are keys of."""
    assert CAM(net(Decoder))(images(2, 3, *SIZE), 1).layers[0].name == "encoder"
