"""Models that move their images or their tokens: maps lie on the image, or the model is refused."""

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, pad

from cfcam_gpu import CAM, CFCAM
from cfcam_gpu.core import maps
from cfcam_gpu.hooks import layers

from .test_places import SIZE, Recurrent, Tokens, Turned, gradcam, images, net, same, stem

WHOLE = (0.0, 1.0)


def flip(x):
    return x.flip(-1)


MOVED = {
    "turned over": (flip, (WHOLE, (1.0, 0.0))),
    "a quarter round": (lambda x: x.rot90(1, (-2, -1)), (WHOLE, (1.0, 0.0))),
    "cut": (lambda x: x[..., 4:28, 8:40], ((-4 / 24, 28 / 24), (-8 / 32, 40 / 32))),
    "its right half": (lambda x: x[..., 24:], (WHOLE, (-1.0, 1.0))),
    "with its border repeated": (lambda x: pad(x, (16, 0, 8, 0), mode="reflect"), ((8 / 40, 1.0), (16 / 64, 1.0))),
    "masked": (lambda x: x * (torch.arange(x.shape[-1]) > 20), (WHOLE, WHOLE)),
    "enlarged and cut": (lambda x: interpolate(x, scale_factor=2)[..., 16:48, :], ((-0.5, 1.5), WHOLE)),
}


@pytest.mark.parametrize("how", MOVED)
def test_maps_lie_on_the_image_however_it_was_moved_before_the_first_convolution(how):
    move, inside = MOVED[how]
    model, given = net(lambda: Turned(move)), images(2, 3, *SIZE)
    found = CAM(model, "features")(given, 1).inside or (WHOLE, WHOLE)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(inside), rtol=0, atol=0.02)
    # All weights speak for what is bright: the map is where the bright spot is.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    spot = torch.zeros(1, 3, *SIZE)
    spot[..., 10:15, 28:33] = 1
    shown = CAM(model, "features")(spot, 1).maps[0]
    shown = shown * (shown > 0.5)
    for along, middle in ((0, 12), (1, 30)):
        of_axis = shown.sum(1 - along)
        assert abs(float((of_axis * torch.arange(len(of_axis))).sum() / of_axis.sum()) - middle) < 3


@pytest.mark.parametrize("move", [lambda x: x.roll(20, -1), lambda x: x[..., torch.randperm(48)], torch.fft.fft2])
def test_what_is_no_image_any_more_is_refused(move):
    model = net(lambda: Turned(lambda x: move(x).real))
    for layer in ("features", None):
        with pytest.raises(
            ValueError, match=r"what enters the model's first convolution, features\.0\.input, .*is not the"
        ):
            CAM(model, layer)(images(2, 3, *SIZE), 1)


def test_beyond_a_grid_there_is_nothing():
    raw = torch.ones(1, 1, 4)
    shown = maps.interpolate(raw, (8,), ((-0.5, 1.5),))
    assert torch.equal(shown, torch.tensor([[[0, 0, 1, 1, 1, 1, 0, 0.0]]]))
    raw = torch.rand(2, 3, 5, 7)
    torch.testing.assert_close(maps.interpolate(raw, (9, 8), (WHOLE, WHOLE)), maps.interpolate(raw, (9, 8)))
    torch.testing.assert_close(
        maps.interpolate(raw, (9, 8), (WHOLE, (1.0, 0.0))), maps.interpolate(raw.flip(-1), (9, 8))
    )


class Behind(Turned):
    """Moves what its first layers made."""

    def forward(self, x):
        found = self.features[2:](self.turn(self.features[:2](x)))
        return self.head(found.flatten(2).mean(2))


@pytest.mark.parametrize("move", [flip, lambda x: x.flip(-2)])
def test_what_is_turned_over_behind_the_first_convolution_is_refused(move):
    model = net(lambda: Behind(move))
    with pytest.raises(ValueError, match="what is at its positions does not follow the places in the image"):
        CAM(model, "features.3")(images(2, 3, *SIZE), 1)


def test_what_is_transposed_behind_the_first_convolution_lies_on_the_image():
    model, given = net(lambda: Behind(lambda x: x.mT)), images(2, 3, 48, 48)
    wanted = gradcam(model, model.features[3], given, lambda out: out[:, 1].sum()).mT
    same(CAM(model, "features.3")(given, 1).raw_maps, wanted)


ORDERS = {
    "turned over": lambda g: g.flip(1),
    "upside down": lambda g: g.flip(0),
    "back and forth": lambda g: torch.cat([row[None] if i % 2 == 0 else row.flip(0)[None] for i, row in enumerate(g)]),
    "even rows first": lambda g: torch.cat([g[::2], g[1::2]]),
    "windows": lambda g: g.unflatten(1, (2, 3)).transpose(0, 1),
    "moved by one": lambda g: g.roll(1, 1),
    "neighbours exchanged": lambda g: g.unflatten(1, (3, 2)).flip(2),
}


@pytest.mark.parametrize("order", ORDERS)
def test_tokens_in_orders_near_the_images_are_refused(order):
    places = ORDERS[order](torch.arange(24).reshape(4, 6)).flatten()
    model = net(lambda: Tokens(lambda patches, others: torch.cat([others, patches[:, places]], 1), 1))
    with pytest.raises(ValueError, match="they are in another order than that of the image"):
        CAM(model, "blocks.1")(images(2, 3, *SIZE), 1)


class TwoImages(Tokens):
    """Colour and depth: the patches of both in one row."""

    def forward(self, pictures):
        patches = [self.patch(half).flatten(2).mT for half in (pictures[:, :3], pictures[:, 3:])]
        return self.head(self.blocks(torch.cat(patches, 1)).mean(1))


def test_patches_of_two_images_in_one_row_are_refused():
    model = net(lambda: TwoImages(None, 1))
    with pytest.raises(ValueError, match="follow the places in the image, too: of several images or scales in one row"):
        CAM(model, "blocks.1")(images(2, 6, *SIZE), 1)


class Columns(nn.Module):
    """Reads the columns of its features one after another, as readers of text do."""

    def __init__(self):
        super().__init__()
        self.features, self.rnn = stem(), nn.GRU(12 * 8, 10, batch_first=True)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        return self.head(self.rnn(self.features(x).flatten(1, 2).mT)[0].mean(1))


def test_columns_are_no_patches():
    model, given = net(Columns), images(2, 3, 32, 64)  # 8 x 16 features, and 16 columns are 4 x 4, too
    assert CAM(model)(given, 1).layers[0].name == "features"
    with pytest.raises(ValueError, match="rnn gives 16 tokens"):
        CAM(model, "rnn")(given, 1)


@pytest.mark.parametrize("channels", [40, 64, 100])
def test_channels_are_no_positions_of_a_signal(channels):
    model = net(
        lambda: nn.Sequential(
            nn.Sequential(nn.Conv1d(3, channels, 5, padding=2), nn.ReLU(), nn.MaxPool1d(3)),
            nn.Dropout(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(channels, 4),
        )
    )
    result = CAM(model)(images(2, 3, 200), 1)
    assert (result.layers[0].name, result.raw_maps.shape) == ("1", (2, 66))


class FrameByFrame(Turned):
    """All images' first frames, then all second ones."""

    def forward(self, x):
        return super().forward(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (x.shape[1], x.shape[0])).sum(0)


def test_frames_that_are_folded_frame_by_frame():
    model, given = net(FrameByFrame), images(3, 4, 3, *SIZE)
    wanted = gradcam(
        model,
        model.features,
        given,
        lambda out: out[:, 1].sum(),
        lambda t: t.unflatten(0, (4, 3)).transpose(0, 1).movedim(2, 1),
    )
    same(CAM(model, "features")(given, 1).raw_maps, wanted)
    assert torch.equal(CFCAM(model)(given).maps[1:2], CFCAM(model)(given[1:2]).maps)


class ReAttends(nn.Module):
    """A convolution works on the attention matrices of all heads, as in DeepViT."""

    def __init__(self):
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 24, 4, 4), nn.LayerNorm(24)
        self.again, self.head = nn.Conv2d(2, 2, 1), nn.Linear(24, 4)

    def forward(self, x):
        tokens = self.patch(x).flatten(2).mT
        heads = self.norm(tokens).unflatten(2, (2, 12)).transpose(1, 2)
        weights = self.again((heads @ heads.mT).softmax(-1))
        return self.head((tokens + (weights @ heads).transpose(1, 2).flatten(2)).mean(1))


def test_an_attention_matrix_that_a_convolution_takes_is_no_grid():
    model = net(ReAttends)
    with pytest.raises(ValueError, match=r"again gives \(B, 2, 96, 96\)"):
        CAM(model, "again")(images(1, 3, *SIZE), 1)
    assert "again" not in [candidate.layer.name for candidate in layers.candidates(model, images(1, 3, *SIZE))]


def test_images_stay_within_their_values():
    """Which a model may take the logarithm of."""
    model = net(lambda: Tokens(lambda patches, others: torch.cat([others, patches], 1), 1))
    forward = model.forward

    def checked(x):
        assert x.min() >= 0.1
        assert x.max() <= 4
        return forward(x.log())

    model.forward = checked
    for given in (images(2, 3, *SIZE).abs().clamp(0.1, 4), torch.full((2, 3, *SIZE), 0.5)):
        assert CAM(model, "blocks.1")(given, 1).raw_maps.shape == (2, 4, 6)


def test_a_recurrent_layer_alone():
    """Of signals (B, C, L), and of (B, L, C), whose axes no convolution tells."""
    model = net(lambda: Recurrent(nn.LSTM, 8))
    model.features, model.rnn = nn.Identity(), nn.LSTM(8, 8, batch_first=True, bidirectional=True)
    assert CAM(model, "rnn")(images(2, 8, 20), 1).raw_maps.shape == (2, 20)
    model.forward = lambda x: model.head(model.rnn(x)[0].mean(1))
    with pytest.raises(
        ValueError, match=r"rnn gives \(B, 20, 16\), and which of its axes are the image's can't be told"
    ):
        CAM(model, "rnn")(images(2, 20, 8), 1)
