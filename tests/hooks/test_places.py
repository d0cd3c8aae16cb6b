"""Maps lie where the image is, whatever a model does to its axes, whatever tokens it adds, however it pads."""

import pytest
import torch
from torch import nn
from torch.nn.functional import pad

from cfcam_gpu import CAM, CFCAM
from cfcam_gpu.hooks import layers

from ..transformers_small import Block

SIZE = (32, 48)


def net(made):
    torch.manual_seed(0)
    return made().eval()


def images(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stem(given=3, kind=nn.Conv2d):
    return nn.Sequential(kind(given, 8, 3, 2, 1), nn.ReLU(), kind(8, 12, 3, 2, 1), nn.ReLU())


class Turned(nn.Module):
    """A network of images behind something that makes them of what it is given."""

    def __init__(self, turn=lambda x: x, given=3, kind=nn.Conv2d):
        super().__init__()
        self.turn = turn
        self.features, self.head = stem(given, kind), nn.Linear(12, 4)

    def forward(self, x):
        found = self.features(self.turn(x))
        return self.head(found.flatten(2).mean(2))


def gradcam(model, module, given, score, arrange=lambda tensor: tensor):
    """Grad-CAM (B, ...) by a plain hook; `arrange` makes (B, C, ...) of the module's tensor."""
    kept = []
    handle = module.register_forward_hook(lambda module, args, output: kept.append(output))
    total = score(model(given.clone().requires_grad_()))
    handle.remove()
    (gradient,) = torch.autograd.grad(total, kept[0])
    activation, gradient = arrange(kept[0].detach()), arrange(gradient)
    weights = gradient.mean(tuple(range(2, gradient.ndim)), keepdim=True)
    return (activation * weights).sum(1).relu()


def same(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    assert wanted.any()


# Axes


TURNS = {
    "channels last": (lambda x: x.movedim(-1, 1), (2, *SIZE, 3), lambda maps: maps),
    "channels last, normalised": (lambda x: (x.movedim(-1, 1) - 0.4) / 0.2, (2, *SIZE, 3), lambda maps: maps),
    "turned over": (lambda x: x.mT, (2, 3, *SIZE), lambda maps: maps.mT),
    "turned over, square": (lambda x: (x.mT - 0.4) / 0.2, (2, 3, 32, 32), lambda maps: maps.mT),
    "turned over and normalised": (lambda x: (x.mT - 0.4) / 0.2, (2, 3, *SIZE), lambda maps: maps.mT),
}


@pytest.mark.parametrize("turn", TURNS)
def test_what_turns_its_axes_before_the_first_convolution(turn):
    change, shape, back = TURNS[turn]
    model, given = net(lambda: Turned(change)), images(*shape)
    size = shape[1:3] if turn.startswith("channels") else shape[2:]
    wanted = back(gradcam(model, model.features, given, lambda out: out[:, 1].sum()))
    for explain in (CAM(model, "features"), CAM(model)):
        result = explain(given, 1)
        same(result.raw_maps, wanted)
        assert result.maps.shape == (2, *size)
        assert result.overlay(given).shape == (2, *size, 3)
    assert CFCAM(model)(given).maps.shape == (2, *size)


def test_clips_with_their_frames_first():
    model, given = net(lambda: Turned(lambda x: x.transpose(1, 2), kind=nn.Conv3d)), images(2, 8, 3, *SIZE)
    wanted = gradcam(model, model.features, given, lambda out: out[:, 1].sum())
    result = CAM(model, "features")(given, 1)
    same(result.raw_maps, wanted)
    assert result.maps.shape == (2, 8, *SIZE)
    assert result.overlay(given).shape == (2, 8, *SIZE, 3)
    assert CAM(model, "features", augment="flip")(given, 1).maps.shape == (2, 8, *SIZE)
    explain = CAM(model, "features")
    for frames in (8, 12, 8):
        assert explain(images(2, frames, 3, *SIZE), 1).maps.shape == (2, frames, *SIZE)
    behind = net(lambda: Turned(kind=nn.Conv3d))
    assert torch.equal(CAM(behind, "features")(given.transpose(1, 2).contiguous(), 1).maps, result.maps)


def test_channels_last_are_not_augmented_along_the_wrong_axes():
    model = net(lambda: Turned(lambda x: x.movedim(-1, 1)))
    with pytest.raises(ValueError, match=r"augment: expected images whose last axes are the maps'; .* axes \(1, 2\)"):
        CAM(model, "features", augment="flip")(images(2, *SIZE, 3), 1)


class Views(Turned):
    """Looks at each view, or frame, by itself, and adds up what it says of them."""

    def forward(self, x):
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2]).sum(1)


def test_views_through_one_backbone():
    model, given = net(Views), images(2, 5, 3, *SIZE)
    wanted = gradcam(
        model, model.features, given, lambda out: out[:, 1].sum(), lambda t: t.unflatten(0, (2, 5)).movedim(2, 1)
    )
    for explain in (CAM(model, "features"), CAM(model)):
        result = explain(given, 1)
        same(result.raw_maps, wanted)
        assert result.maps.shape == (2, 5, *SIZE)
    assert CFCAM(model)(given).maps.shape == (2, 5, *SIZE)
    assert CAM(model, "features")(given[:, :1], 1).maps.shape == (2, 1, *SIZE)
    ablated = CAM(model, "features", method="ablationcam")(given[:1], 1)
    assert ablated.raw_maps.shape == (1, 5, 8, 12)
    assert ablated.raw_maps.any()


# Tokens


class Tokens(nn.Module):
    """Patches of 8 x 8 and others among them, put there by `arrange(patches, others)`."""

    def __init__(self, arrange, others, name="cls_token", *, mean=True):
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 8, 8)
        self.arrange, self.name, self.mean = arrange, name, mean
        setattr(self, name, nn.Parameter(torch.randn(1, others, 24)))
        self.position = nn.Parameter(0.02 * torch.randn(1, 24 + others, 24))
        self.blocks = nn.Sequential(*[Block(24) for _ in range(3)])
        self.head = nn.Linear(24, 4)

    def forward(self, pictures):
        patches = self.patch(pictures).flatten(2).mT
        others = getattr(self, self.name).expand(len(pictures), -1, -1)
        tokens = self.blocks(self.arrange(patches, others) + self.position)
        return self.head(tokens.mean(1) if self.mean else tokens[:, 0])


ARRANGED = {
    "first": (lambda p, o: torch.cat([o, p], 1), 1, [0]),
    "last": (lambda p, o: torch.cat([p, o], 1), 1, [24]),
    "in the middle": (lambda p, o: torch.cat([p[:, :12], o, p[:, 12:]], 1), 1, [12]),
    "on both sides": (lambda p, o: torch.cat([o[:, :1], p, o[:, 1:]], 1), 6, [0, 25, 26, 27, 28, 29]),
    "apart": (lambda p, o: torch.cat([p[:, :6], o[:, :1], p[:, 6:18], o[:, 1:], p[:, 18:]], 1), 2, [6, 19]),
    "as many as patches": (lambda p, o: torch.cat([p, o], 1), 24, list(range(24, 48))),
}


@pytest.mark.parametrize("name", ["cls_token", "cls_token_0", "prompts"])
@pytest.mark.parametrize("place", ARRANGED)
def test_tokens_that_are_no_patches_are_found_wherever_they_are(place, name):
    arrange, others, extra = ARRANGED[place]
    model, given = net(lambda: Tokens(arrange, others, name)), images(2, 3, *SIZE)
    rest = [i for i in range(24 + others) if i not in extra]
    wanted = gradcam(
        model, model.blocks[1], given, lambda out: out[:, 1].sum(), lambda t: t[:, rest].mT.unflatten(2, (4, 6))
    )
    result = CAM(model, "blocks.1")(given, 1)
    same(result.raw_maps, wanted)
    layout = result.layers[0].layout
    assert layout.extra == (len(extra) if extra == list(range(len(extra))) else tuple(extra))
    assert CAM(model, "blocks.1", method="ablationcam")(given, 1).raw_maps.shape == (2, 4, 6)


def test_by_the_automatic_choice_a_token_in_the_middle_is_none_of_the_map():
    """The head reads the token in the middle alone, behind the last block."""
    arrange, others, _ = ARRANGED["in the middle"]
    model = net(lambda: Tokens(arrange, others, mean=False))
    model.forward = lambda x: model.head(
        model.blocks(arrange(model.patch(x).flatten(2).mT, model.cls_token.expand(len(x), -1, -1)))[:, 12]
    )
    result = CAM(model)(images(2, 3, *SIZE), 1)
    assert result.layers[0].name == "blocks.2.norm1"
    assert result.layers[0].layout.extra == (12,)
    with pytest.raises(ValueError, match=r"at blocks\.2 the gradient is zero at all patches.*beside those of the pat"):
        CAM(model, "blocks.2")(images(2, 3, *SIZE), 1)


def test_tokens_column_by_column():
    def columns(patches, others):
        return torch.cat([others, patches.unflatten(1, (4, 6)).transpose(1, 2).flatten(1, 2)], 1)

    model, given = net(lambda: Tokens(columns, 1)), images(2, 3, *SIZE)
    wanted = gradcam(
        model, model.blocks[1], given, lambda out: out[:, 1].sum(), lambda t: t[:, 1:].mT.unflatten(2, (6, 4)).mT
    )
    same(CAM(model, "blocks.1")(given, 1).raw_maps, wanted)


def test_tokens_in_another_order_are_refused():
    """Blocks of four by four patches one after another, as in Hiera."""

    def shuffled(patches, others):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
        return torch.cat([others, patches[:, order]], 1)

    model = net(lambda: Tokens(shuffled, 1))
    with pytest.raises(ValueError, match=r"gives 25 tokens .*they are in another order than that of the image"):
        CAM(model, "blocks.1")(images(2, 3, *SIZE), 1)


class Queries(nn.Module):
    """Latents that look at the patches: they have no places, though they are as many."""

    def __init__(self, count=24):
        super().__init__()
        self.patch, self.latents = nn.Conv2d(3, 24, 8, 8), nn.Parameter(torch.randn(1, count, 24))
        self.attend = nn.MultiheadAttention(24, 2, batch_first=True)
        self.blocks = nn.Sequential(*[Block(24) for _ in range(3)])
        self.head = nn.Linear(24, 4)

    def forward(self, pictures):
        patches = self.patch(pictures).flatten(2).mT
        latents = self.latents.expand(len(pictures), -1, -1)
        return self.head(self.blocks(latents + self.attend(latents, patches, patches)[0]).mean(1))


@pytest.mark.parametrize("count", [30, 36])
def test_latents_are_no_patches(count):
    model = net(lambda: Queries(count))
    with pytest.raises(ValueError, match="they are in another order than that of the image, or no patches"):
        CAM(model, "blocks.1")(images(2, 3, *SIZE), 1)
    with pytest.raises(ValueError, match="after its last activation of a known grid this model works on others"):
        CAM(model)(images(2, 3, *SIZE), 1)


class OfSignals(nn.Module):
    """Tokens of a signal, which have as many axes as its maps, and one of them is none of its steps."""

    def __init__(self):
        super().__init__()
        self.patch, self.cls_token = nn.Conv1d(3, 24, 8, 8), nn.Parameter(torch.randn(1, 1, 24))
        self.blocks, self.head = nn.Sequential(*[Block(24) for _ in range(3)]), nn.Linear(24, 4)

    def forward(self, signals):
        tokens = torch.cat([self.cls_token.expand(len(signals), -1, -1), self.patch(signals).mT], 1)
        return self.head(self.blocks(tokens)[:, 0])


def test_tokens_of_a_signal():
    model, given = net(OfSignals), images(2, 3, 128)
    wanted = gradcam(model, model.blocks[1], given, lambda out: out[:, 1].sum(), lambda t: t[:, 1:].mT)
    result = CAM(model, "blocks.1")(given, 1)
    same(result.raw_maps, wanted)
    assert str(result.layers[0].layout) == "tokens, 16 and 1 more"
    assert CAM(model)(given, 1).layers[0].name == "blocks.2.norm1"


# What only looks like a grid


class Pooled(nn.Module):
    """As exporters write a flattening: (B, C, 1, 1), then (B, 1, 1, C)."""

    def __init__(self):
        super().__init__()
        self.features, self.flatten, self.head = stem(), nn.Identity(), nn.Linear(12, 4)

    def forward(self, pictures):
        found = self.features(pictures).mean((2, 3), keepdim=True)
        return self.head(self.flatten(found.reshape(-1, 1, 1, 12)).flatten(1))


def test_a_reshape_behind_the_pooling_is_no_grid():
    model = net(Pooled)
    assert layers.choose(model, images(1, 3, *SIZE)).name == "features"
    with pytest.raises(ValueError, match=r"flatten gives \(B, 1, 1, 12\), and which of its axes are the image's can't"):
        CAM(model, "flatten")(images(2, 3, *SIZE), 1)


class Attends(nn.Module):
    """An attention matrix (B, heads, N, N) passes a module, and N x N is a grid of the model's, too."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 16, 8, 8), nn.Conv2d(16, 16, 2, 2)
        self.norm, self.drop, self.head = nn.LayerNorm(16), nn.Dropout(), nn.Linear(16, 4)

    def forward(self, pictures):
        tokens = self.coarse(self.fine(pictures).relu()).relu().flatten(2).mT
        heads = self.norm(tokens).unflatten(2, (2, 8)).transpose(1, 2)
        weights = self.drop((heads @ heads.mT).softmax(-1))
        return self.head((tokens + (weights @ heads).transpose(1, 2).flatten(2)).mean(1))


def test_an_attention_matrix_is_no_grid():
    model, given = net(Attends), images(1, 3, 32, 32)  # 4 x 4, then 2 x 2, so 4 tokens, of which 4 x 4 is the matrix
    assert "drop" not in [layer.name for layer in layers.choose_two(model, given)]
    assert "drop" not in [candidate.layer.name for candidate in layers.candidates(model, given)]
    with pytest.raises(ValueError, match=r"drop gives \(B, 2, 4, 4\), and which of its axes are the image's can't be"):
        CAM(model, "drop")(given, 1)


class Recurrent(nn.Module):
    def __init__(self, kind, hidden):
        super().__init__()
        self.features = stem(3, nn.Conv1d)
        self.rnn = kind(12, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, 4)

    def forward(self, signals):
        return self.head(self.rnn(self.features(signals).mT)[0].mean(1))


@pytest.mark.parametrize("hidden", [5, 8])  # 2 * 8 = 16 is the number of steps, too
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_hidden_units_are_no_time(kind, hidden):
    model, given = net(lambda: Recurrent(kind, hidden)), images(2, 3, 64)
    with torch.no_grad():
        steps = model.rnn(model.features(given).mT)[0]
    assert steps.shape == (2, 16, 2 * hidden)
    result = CAM(model, "rnn")(given, 1)
    assert result.raw_maps.shape == (2, 16)
    assert CFCAM(model)(given).raw_maps.shape[1:] in {(16,), (32,)}


# Padding


class Padded(Turned):
    def __init__(self, around, scale=1.0):
        super().__init__(self.change)
        self.around, self.scale = around, scale

    def change(self, x):
        if self.scale != 1:
            x = nn.functional.interpolate(x, scale_factor=self.scale, mode="bilinear")
        return pad(x, self.around)


def test_what_is_padded_for_a_convolution_by_a_module_before_it_is_no_border_of_the_image():
    """As in ports of Keras and in MONAI's EfficientNets; a border of patches is one."""
    outside = net(lambda: Turned(lambda x: pad(x, (1, 1, 1, 1))))
    outside.features[0].padding = (0, 0)
    inside = net(Turned)
    given = images(2, 3, *SIZE)
    result = CAM(outside, "features")(given, 1)
    assert result.inside is None
    assert torch.equal(result.maps, CAM(inside, "features")(given, 1).maps)
    patches = net(lambda: Turned(lambda x: pad(x, (0, 2, 0, 2))))
    patches.features[0] = nn.Conv2d(3, 8, 5, 5)
    assert CAM(patches, "features.1")(given, 1).inside == ((0, 32 / 34), (0, 48 / 50))


@pytest.mark.parametrize("around", [(0, 16, 0, 0), (8, 8, 16, 0), (0, 24, 0, 40)])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_only_the_part_of_the_grid_that_covers_the_image_is_stretched_to_it(around, scale):
    model, given = net(lambda: Padded(around, scale)), images(2, 3, *SIZE)
    left, right, top, bottom = around
    height, width = int(SIZE[0] * scale), int(SIZE[1] * scale)
    wanted = gradcam(model, model.features, given, lambda out: out[:, 1].sum())
    result = CAM(model, "features")(given, 1)
    same(result.raw_maps, wanted)
    whole = (top + height + bottom, left + width + right)
    assert result.inside == ((top / whole[0], (top + height) / whole[0]), (left / whole[1], (left + width) / whole[1]))
    if scale == 1:
        aligned = nn.functional.interpolate(wanted[:, None], whole, mode="bilinear")[:, 0]
        aligned = aligned[:, top : top + height, left : left + width]
        torch.testing.assert_close(result.maps, aligned / aligned.amax((1, 2), keepdim=True), rtol=1e-4, atol=1e-5)
    assert CAM(model, "features", augment="flip")(given, 1).maps.shape == (2, *SIZE)
    [component, *_] = CFCAM(model, "features")(given, 1).components(given)[0]
    assert component.map.shape == SIZE
