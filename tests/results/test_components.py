"""The parts of an explanation: what belongs to whom, on planted channels, real photographs and the command line."""

import json
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from cfcam_gpu import CFCAM, Config
from cfcam_gpu.cli import app
from cfcam_gpu.core.cluster_filter import channel_evidence, weigh
from cfcam_gpu.core.maps import upsample
from cfcam_gpu.engines.reference import PRIMITIVES
from cfcam_gpu.photographs import contact_sheet
from cfcam_gpu.results import components

from ..albums import album
from ..cases import CONFIGS, draw
from ..networks import lite0, photographs, two_scales

__all__ = ["album"]

LAST = "_avg_pooling.input"


class Linear(nn.Module):
    """Channels are fixed 1 x 1 mixtures of the image's colours; the score is their mean, weighted."""

    def __init__(self, mix, weights):
        super().__init__()
        self.mix = nn.Conv2d(3, len(mix), 1, bias=False)
        self.mix.weight.data = torch.tensor(mix)[:, :, None, None]
        self.relu = nn.ReLU()
        self.head = nn.Linear(len(mix), 1, bias=False)
        self.head.weight.data = torch.tensor([weights])

    def forward(self, x):
        return self.head(self.relu(self.mix(x)).mean(dim=(2, 3)))


def blobs():
    """(1, 3, 8, 8): red in one corner, green in the other, no blue."""
    image = torch.zeros(1, 3, 8, 8)
    image[0, 0, :2, :2] = 1.0
    image[0, 1, 6:, 6:] = 1.0
    return image


@pytest.fixture(scope="module")
def images():
    return photographs()[1][:3] * 2 - 1


@pytest.fixture(scope="module")
def explained(images):
    result = CFCAM(lite0())(images)
    return result, result.components(images)


def test_channels_that_see_two_blobs_are_two_components():
    mix = [[1.0, 0, 0], [0, 1.0, 0], [0, 2.0, 0], [3.0, 0, 0], [0, 0, 1.0], [2.0, 0, 0]]
    model = Linear(mix, [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]).eval()
    result = CFCAM(model, "relu", config=Config(dominant_percentile=0.0))(blobs())
    (found,) = result.components(blobs())
    # Weights are the head's over 64: red sees 1 + 3 at four positions, green 1 + 2; blue is dead, the last weighs 0.
    assert [component.name for component in found] == ["group 1", "group 2", "rest"]
    assert [component.channels.tolist() for component in found] == [[0, 3], [1, 2], [4, 5]]
    assert [component.labels.tolist() for component in found] == [[-2, -2], [-2, -2], [-3, -2]]
    assert [component.share for component in found] == pytest.approx([4 / 7, 3 / 7, 0.0], abs=1e-6)
    torch.testing.assert_close(found[0].raw_map, blobs()[0, 0] * 4 / 64)
    torch.testing.assert_close(found[1].raw_map, blobs()[0, 1] * 3 / 64)
    assert not found[2].raw_map.any()
    assert found[0].map.max() == found[1].map.max() == 1.0


def test_what_speaks_against_is_taken_off_in_proportion():
    # At the red corner 3 + 1 speak for and 1 against: three quarters of each are left. Green is all against.
    model = Linear([[1.0, 0, 0], [1.0, 0, 0], [1.0, 1.0, 0]], [3.0, 1.0, -1.0]).eval()
    result = CFCAM(model, "relu", config=Config(dominant_percentile=0.0))(blobs())
    (parts,) = components.evidence(result, blobs())
    expected = blobs()[0, 0].numpy() * 0.75 / 64
    np.testing.assert_allclose(parts, [3 * expected, expected, 0 * expected], atol=1e-8)
    (found,) = result.components(blobs())
    assert [component.channels.tolist() for component in found] == [[0, 1], [2]]
    assert found[0].share == pytest.approx(1.0)


def test_evidence_of_the_channels_is_what_the_map_is_the_sum_of():
    for config in CONFIGS.values():
        activations, gradients = (array.astype(np.float64) for array in draw("a layer"))
        labels = np.random.default_rng(0).integers(-3, 4, len(activations))
        channels = channel_evidence(activations, gradients, labels, config, PRIMITIVES)
        expected = weigh(activations, gradients, labels, config, PRIMITIVES).map
        np.testing.assert_allclose(np.maximum(channels.sum(axis=0), 0), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "config"),
    [
        (None, None),
        (LAST, Config()),
        (LAST, Config.paper()),
        (LAST, Config(combine="elementwise", boundary="zero", sigma=0)),
    ],
    ids=["two levels", "one level", "paper", "elementwise"],
)
def test_shares_add_to_one_and_maps_to_the_raw_map(images, layer, config):
    result = CFCAM(lite0(), layer, config=config)(images)
    for b, found in enumerate(result.components(images, top=3)):
        assert sum(component.share for component in found) == pytest.approx(1.0, abs=1e-12)
        total = sum(component.raw_map for component in found)
        torch.testing.assert_close(total, result.raw_maps[b], rtol=0, atol=1e-6 * float(result.raw_maps[b].max()))
        channels = torch.cat([component.channels for component in found])
        assert channels.sort().values.tolist() == list(range(result.labels.shape[1]))
        for component in found:
            share = float(component.raw_map.sum() / result.raw_maps[b].sum())
            assert component.share == pytest.approx(share, abs=1e-5)
            assert torch.equal(component.labels, result.labels[b, component.channels])


def test_components_are_ordered_and_drawn_as_maps_are(images, explained):
    result, found = explained
    assert [[component.name for component in one] for one in found] == [
        ["group 1", "group 2", "group 3", "group 4", "rest"]
    ] * len(images)
    for b, one in enumerate(found):
        shares = [component.share for component in one[:-1]]
        assert shares == sorted(shares, reverse=True)
        for component in one:
            assert component.raw_map.shape == result.raw_maps.shape[1:]
            shown = upsample(component.raw_map, (224, 224), saturation=result.config.saturation)
            assert torch.equal(component.map, shown)
            assert component.map.dtype == component.raw_map.dtype == torch.float32
            assert 0 <= component.map.min() <= component.map.max() == 1
            assert component.overlay.shape == (*result.maps.shape[1:], 3)
            assert component.overlay.dtype == torch.uint8
            assert torch.equal(component.image, images[b])


def test_the_same_call_gives_the_same_bytes(images, explained):
    _, found = explained
    again = CFCAM(lite0())(images).components(images)
    for one, other in zip(chain(*found), chain(*again), strict=True):
        assert one.share == other.share
        for name in ("channels", "labels", "raw_map", "map", "overlay"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_top_only_says_how_many_are_named(images, explained):
    result, found = explained
    every = result.components(images, top=10**6)
    for four, whole in zip(found, every):
        assert len(whole) > 5
        for one, other in zip(four[:4], whole):
            assert torch.equal(one.channels, other.channels)
        rest = four[4]
        assert rest.share == pytest.approx(sum(component.share for component in whole[4:]), abs=1e-12)
        assert whole[-1].name == "rest"
        assert whole[-1].share == 0.0
        assert not whole[-1].map.any()


def test_groups_are_the_fewest_that_are_alike(images, explained):
    result, _ = explained
    for parts in components.evidence(result, images):
        numbers = components.group(parts, result.config)
        patterns = PRIMITIVES.gaussian(parts[numbers >= 0], result.config.sigma, "zero").reshape(
            (numbers >= 0).sum(), -1
        )
        patterns /= np.linalg.norm(patterns, axis=1, keepdims=True)
        inside = [patterns[numbers[numbers >= 0] == k] for k in range(numbers.max() + 1)]
        # The mean over a group's pairs of members, each with itself included, over all groups by size.
        alike = sum((group @ group.T).mean() * len(group) for group in inside) / len(patterns)
        assert 0.7 <= alike < 0.8


def test_groups_that_are_as_alike_as_asked_are_one():
    # Unit vectors of halves, which share two of four: the pairs' mean similarity, each with itself, is exactly 3 / 4.
    parts = np.array([[1.0, 1, 1, 1, 0, 0], [1.0, 1, 0, 0, 1, 1]])[:, None]
    config = Config(sigma=0)
    assert components.group(parts, config, likeness=0.75).tolist() == [0, 0]
    assert components.group(parts, config, likeness=float(np.nextafter(0.75, 1))).tolist() == [0, 1]
    assert components.group(np.repeat(parts, 2, axis=0), config, likeness=1.0).tolist() == [0, 0, 1, 1]


def test_groups_of_equal_shares_are_in_the_order_of_their_first_channels():
    places = np.tile(np.random.default_rng(0).permutation(40), 2)
    parts = np.eye(40)[places].reshape(80, 5, 8)
    numbers = components.group(np.insert(parts, 0, 0, axis=0), Config(sigma=0), likeness=1.0)
    assert numbers.tolist() == [-1, *range(40), *range(40)]
    parts[7] *= 2  # now one is ahead of all
    numbers = components.group(parts, Config(sigma=0), likeness=1.0)
    assert numbers.tolist() == [*range(1, 8), 0, *range(8, 40)] * 2


def test_an_empty_map_is_all_rest():
    model = Linear([[1.0, 0, 0], [0, 1.0, 0]], [-1.0, -1.0]).eval()
    result = CFCAM(model, "relu")(blobs())
    assert bool(result.empty)
    (found,) = result.components(blobs())
    assert [(component.name, component.share) for component in found] == [("rest", 0.0)]
    assert found[0].channels.tolist() == [0, 1]
    assert not found[0].map.any()


def test_a_single_channel_is_a_group_of_its_own():
    result = CFCAM(Linear([[1.0, 0, 0]], [1.0]).eval(), "relu")(blobs())
    (found,) = result.components(blobs())
    assert [(component.name, component.channels.tolist()) for component in found] == [("group 1", [0]), ("rest", [])]


def test_the_explained_target_is_pinned(images):
    explain = CFCAM(lite0())
    chosen = torch.tensor([285, 967])
    by_index = explain(images[:2], chosen)
    expected = by_index.components(images[:2])
    chosen[:] = 0  # the caller's tensor is the caller's
    for other, result in (
        ("index", by_index),
        (
            "callables",
            explain(images[:2], [lambda row: row[285] - _rivals(row, 285), lambda row: row[967] - _rivals(row, 967)]),
        ),
    ):
        for one, same in zip(chain(*expected), chain(*result.components(images[:2])), strict=True):
            assert one.share == pytest.approx(same.share, abs=1e-4), other


def _rivals(row, index):
    return 0.75 * torch.cat([row[:index], row[index + 1 :]]).logsumexp(0)


def test_only_the_explained_images_are_taken(images, explained):
    result, _ = explained
    with pytest.raises(ValueError, match="images: expected those that were explained, prepared in the same way"):
        result.components(images.flip(0))
    with pytest.raises(ValueError, match="prepared in the same way"):
        result.components(images * 0.5)
    with pytest.raises(ValueError, match="prepared in the same way"):
        result.components(torch.full_like(images, torch.nan))
    with pytest.raises(ValueError, match=r"images: expected those that were explained, \(3, 3, 224, 224\); got \(2,"):
        result.components(images[:2])
    with pytest.raises(TypeError, match=r"images: expected a floating dtype.*got torch.uint8"):
        result.components((images * 127).to(torch.uint8))
    with pytest.raises(TypeError, match="images: expected a torch tensor"):
        result.components(images.numpy())
    with pytest.raises(ValueError, match="images: expected device 'cpu', as for the explanation; got 'meta'"):
        result.components(images.to("meta"))


def test_autocast_has_to_be_the_same(images):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = CFCAM(two_scales().eval())(images)
        assert len(result.components(images)) == 3
    with pytest.raises(ValueError, match="under the same autocast"):
        result.components(images)


def test_another_model_state_is_noticed():
    model = Linear([[1.0, 0, 0], [0, 1.0, 0]], [1.0, 2.0]).eval()
    result = CFCAM(model, "relu")(blobs())
    result.components(blobs())
    with torch.no_grad():
        model.head.weight[0, 0] = 1.5
    with pytest.raises(ValueError, match="or has changed since"):
        result.components(blobs())


def test_another_bias_of_the_head_is_noticed():
    """No gradient and no activation is another one: only the logits tell."""
    model = Linear([[1.0, 0, 0], [0, 1.0, 0]], [1.0, 2.0]).eval()
    model.head.bias = nn.Parameter(torch.zeros(1))
    result = CFCAM(model, "relu")(blobs())
    result.components(blobs())
    with torch.no_grad():
        model.head.bias += 1.0
    assert torch.equal(CFCAM(model, "relu")(blobs()).raw_maps, result.raw_maps)
    with pytest.raises(ValueError, match="or has changed since"):
        result.components(blobs())


def test_bad_arguments_are_named(images, explained):
    result, _ = explained
    for top in (0, -1):
        with pytest.raises(ValueError, match=f"top: expected at least 1; got {top}"):
            result.components(images, top=top)
    for top in (2.0, True, None):
        with pytest.raises(TypeError, match="top: expected an int"):
            result.components(images, top=top)
    several = CFCAM(lite0(), LAST)(images[:1], [[281, 285]])
    with pytest.raises(ValueError, match=r"one target an image; this explanation has 2. Explain each target in a call"):
        several.components(images[:1])


def test_an_explanation_holds_no_activations(explained):
    result, _ = explained
    assert result.origin[:2] == (lite0(), None)


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_command_line_draws_and_tells_components(album, tmp_path):
    plain, out = tmp_path / "plain", tmp_path / "out"
    arguments = ("explain", album, "--model", "tests.albums:small")
    assert run(*arguments, "--out", plain).exit_code == 0
    assert run(*arguments, "--out", out, "--components", 2).exit_code == 0
    names = ["x", "x-2", "y"]
    assert set(contents(out)) - set(contents(plain)) == {f"{name}.components.png" for name in names} | {
        "components.png"
    }
    for name, content in contents(plain).items():
        assert name == "explanations.jsonl" or contents(out)[name] == content
    before = [json.loads(line) for line in (plain / "explanations.jsonl").read_text().splitlines()]
    lines = [json.loads(line) for line in (out / "explanations.jsonl").read_text().splitlines()]
    for name, line, old in zip(names, lines, before, strict=True):
        found, file = line.pop("components"), line.pop("components_overlay")
        assert line == old
        assert file == f"{name}.components.png"
        assert found[-1]["name"] == "rest"
        assert all(part["probability"] == pytest.approx(line["probability"], rel=1e-4) for part in found)
        assert all(0 <= part["probability_without"] <= 1 for part in found)
        assert sum(part["share"] for part in found) == pytest.approx(0.0 if line["empty"] else 1.0)
        assert sorted(chain(*(part["channels"] for part in found))) == list(range(8))
        groups = len(found) - 1
        sheet = np.asarray(Image.open(out / file))
        assert sheet.shape[1] == (2 + groups) * (contact_sheet.TILE + contact_sheet.GAP) - contact_sheet.GAP + 72
        x = contact_sheet.SPACE + contact_sheet.TILE + contact_sheet.GAP
        y = len(sheet) - contact_sheet.SPACE // 2 - contact_sheet.GAP - contact_sheet.CAPTION - contact_sheet.TILE
        whole = sheet[y : y + contact_sheet.TILE, x : x + contact_sheet.TILE]
        np.testing.assert_array_equal(whole, np.asarray(Image.open(out / f"{name}.png")))


def test_pictures_of_components_are_not_written_over(album, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "y.components.png").write_text("mine")
    result = run("explain", album, "--model", "tests.albums:small", "--out", out, "--components", 2)
    assert result.exit_code == 2
    assert "y.components.png would be written over" in result.stderr
    assert contents(out) == {"y.components.png": b"mine"}


def test_photographs_called_like_pictures_of_components_stay_apart(album, tmp_path):
    photograph = (album / "a" / "x.png").read_bytes()
    for name in ("x.components.png", "components.png", "y.components.png"):
        (album / "a" / name).write_bytes(photograph)
    out = tmp_path / "out"
    assert run("explain", album, "--model", "tests.albums:small", "--out", out, "--components", 1).exit_code == 0
    lines = [json.loads(line) for line in (out / "explanations.jsonl").read_text().splitlines()]
    files = [line[kind] for line in lines for kind in ("map", "overlay", "components_overlay")]
    others = ["explanations.jsonl", "contact_sheet.png", "components.png"]
    assert len({*files, *others}) == 18 + 3
    assert set(contents(out)) == {*files, *others}
