"""Layers whose tensors are tokens or have their channels last: found, explained, chosen, or refused by name."""

import copy
from dataclasses import replace
from threading import get_ident
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cfcam_gpu import CAM, CFCAM, Config, targets
from cfcam_gpu.explain.cuda_graph import GraphedCFCAM, explain_within_graph
from cfcam_gpu.hooks import layers
from cfcam_gpu.hooks.capture import capture
from cfcam_gpu.hooks.evidence import Evidence
from cfcam_gpu.hooks.layouts import Layout
from cfcam_gpu.methods.substituted_activations import substituted

from .. import recorder
from ..explain.test_no_host import OnDevice, launches_nothing
from ..small import assert_same
from ..threads import in_threads
from ..transformers_small import ChannelsLast, VisionTransformer, images


def take(model, layer, pictures, target=None):
    return capture(model, layers.find(model, layer), pictures, targets.read(target, len(pictures)))


def by_whole_backward(model, layer, pictures, classes):
    """A layer's own output and its gradient, from ordinary autograd over the whole network."""
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, args, output: (output.retain_grad(), kept.append(output))[0]
    )
    model(pictures)[torch.arange(len(pictures)), classes].sum().backward()
    handle.remove()
    return kept[0].detach(), kept[0].grad


# The value


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (Layout("channels first", (3, 4)), (2, 5, 3, 4)),
        (Layout("channels last", (3, 4)), (2, 3, 4, 5)),
        (Layout("tokens", (3, 4), 2), (2, 14, 5)),
        (Layout("tokens", (3, 4), (0, 5, 13)), (2, 15, 5)),
        (Layout("tokens", (4, 3), (0, 5, 13), order=(1, 0)), (2, 15, 5)),
        (Layout("channels first", (4, 3), order=(1, 0)), (2, 5, 4, 3)),
    ],
    ids=str,
)
def test_there_and_back(layout, shape):
    own = torch.randn(shape)
    maps = layout.to_maps(own)
    assert maps.shape == (2, 5, 3, 4)
    assert torch.equal(layout.from_maps(maps, own), own)
    several = maps.repeat(3, 1, 1, 1)[:5]
    assert torch.equal(layout.from_maps(several, own[:1])[0], own[0])
    assert layout.from_maps(several, own[:1]).shape == (5, *shape[1:])
    assert layout.from_maps(several, own[:1]).is_contiguous()  # for models that flatten with `view`
    layout.check(shape, "x")
    with pytest.raises(ValueError, match="target_layer: expected x to be"):
        layout.check((*shape[:2], shape[2] + 1, *shape[3:]) if len(shape) == 4 else (2, shape[1] - 1, 5), "x")


def test_frames_in_the_batch_there_and_back():
    """Tensors of two clips of three frames each: the frames of a clip are next to each other."""
    for layout, shape in (
        (Layout("channels first", (3, 4, 2), folded="image by image"), (6, 5, 4, 2)),
        (Layout("channels last", (3, 4, 2), folded="image by image"), (6, 4, 2, 5)),
        (Layout("tokens", (3, 4, 2), 1, folded="image by image"), (6, 9, 5)),
    ):
        own = torch.randn(shape)
        maps = layout.to_maps(own)
        assert maps.shape == (2, 5, 3, 4, 2)
        assert layout.batch_of(shape) == 2
        assert torch.equal(layout.from_maps(maps, own), own)
        one = {"channels first": own[4], "channels last": own[4].movedim(-1, 0)}.get(layout.kind)
        assert torch.equal(maps[1, :, 1], own[4, 1:].mT.reshape(5, 4, 2) if one is None else one)


# An explicit layer


@pytest.mark.parametrize("registers", [0, 4])
def test_tokens_are_maps_of_the_patches_grid(registers):
    model, pictures = VisionTransformer(registers=registers), images()
    own, gradient = by_whole_backward(model, "blocks.2.norm1", pictures, [1, 3])
    found = take(model, "blocks.2.norm1", pictures, [1, 3])
    assert str(found.layers[0].layout) == f"tokens, 4 x 6 and {1 + registers} more"
    for ours, whole in ((found.activations, own), (found.gradients[:, 0], gradient)):
        torch.testing.assert_close(ours, whole[:, 1 + registers :].mT.reshape(2, 24, 4, 6))
    result = CFCAM(model, "blocks.2.norm1")(pictures, [[0, 1, 2], [3, 4, 0]])
    assert result.raw_maps.shape == (2, 3, 4, 6)
    assert result.maps.shape == (2, 3, 16, 24)


@pytest.mark.parametrize("layer", ["fine", "coarse", "coarse.norm"])
def test_channels_last_are_maps(layer):
    model, pictures = ChannelsLast(), images()
    own, gradient = by_whole_backward(model, layer, pictures, [1, 3])
    found = take(model, layer, pictures, [1, 3])
    assert found.layers[0].layout.kind == "channels last"
    torch.testing.assert_close(found.activations, own.movedim(-1, 1))
    torch.testing.assert_close(found.gradients[:, 0], gradient.movedim(-1, 1))


def test_where_all_sides_are_alike_it_is_told_by_mixed_images():
    """(B, 4, 4, 4), from a convolution, and a norm works on it too."""
    pictures = images(size=(16, 16))
    assert take(ChannelsLast(channels=4), "fine", pictures).layers[0].layout.kind == "channels last"
    assert take(ChannelsLast(channels=4), "patch", pictures).layers[0].layout.kind == "channels first"
    model = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).eval()
    assert take(model, "1", pictures).layers[0].layout.kind == "channels first"


def test_channels_last_on_no_grid_of_the_model_is_refused():
    class Blocked(ChannelsLast):
        def forward(self, pictures):
            maps = self.patch(pictures).flatten(2).mT.unflatten(1, (3, 8))
            return self.head(self.norm(self.fine(maps)).mean(dim=(1, 2)))

    with pytest.raises(
        ValueError, match=r"neither \(8, 16\) nor \(3, 8\) is a grid that it cuts images of \(16, 24\) into"
    ):
        take(Blocked(), "fine", images())


def test_the_layout_is_found_once_for_a_size(monkeypatch):
    attached = []
    attach = Evidence.attach
    monkeypatch.setattr(Evidence, "attach", lambda self: (attached.append(self.size), attach(self))[1])
    explain = CFCAM(VisionTransformer(), "blocks.2.norm1")
    for size in ((16, 24), (16, 24), (24, 16), (24, 16)):
        result = explain(images(size=size))
        assert result.raw_maps.shape[1:] == (size[0] // 4, size[1] // 4)
    assert attached == [(16, 24), (24, 16)]
    assert explain.layers is result.layers


def test_a_layer_behind_which_the_patches_do_not_count_is_refused():
    """pytorch-grad-cam 363, 513: the gradients of the last block's patches are zero."""
    model, pictures = VisionTransformer(), images()
    for layer in ("blocks.3", "blocks.3.mlp", "norm"):
        with pytest.raises(ValueError, match=rf"at {layer} the gradient is zero at all patches.*before the last atten"):
            CFCAM(model, layer)(pictures)
    assert CFCAM(model, "blocks.3.norm1")(pictures).raw_maps.any()
    found = {candidate.layer.name: candidate.layer for candidate in layers.candidates(model, pictures)}
    for explain in (CFCAM(model, found["blocks.3.mlp"]), CAM(model, found["norm"])):  # their layouts are known
        for _ in range(2):
            with pytest.raises(ValueError, match="the gradient is zero at all patches"):
                explain(pictures)
    assert CFCAM(VisionTransformer(mean=True), "blocks.3")(pictures).raw_maps.any()


@pytest.mark.parametrize("method", ["eigencam", "scorecam", "randomcam"])
@pytest.mark.parametrize("target", [None, 2, [[0, 1, 2], [1, 2, 3]], lambda logits: logits[0]], ids=range(4))
def test_methods_without_gradients_take_the_last_block_too(method, target):
    model, pictures = VisionTransformer(), images()
    found = CAM(model, "blocks.3", method=method)(pictures, target)
    assert not found.empty.any()
    assert found.empty.shape == ((2, 3) if isinstance(target, list) else (2,))
    with torch.no_grad():
        assert torch.equal(found.logits, model(pictures))


def test_ablationcam_refuses_the_last_block_by_the_scores():
    model, pictures = VisionTransformer(registers=2), images()
    with pytest.raises(ValueError, match=r"at blocks\.3 the scores don't depend on the patches.*before the last atten"):
        CAM(model, "blocks.3", method="ablationcam")(pictures, [0, 1])
    assert CAM(model, "blocks.3.norm1", method="ablationcam")(pictures, [0, 1]).raw_maps.any()
    assert CAM(VisionTransformer(mean=True), "blocks.3", method="ablationcam")(pictures, [[0, 1]] * 2).raw_maps.any()


def test_a_sure_probability_is_no_sign_of_a_head_that_reads_the_class_token_alone():
    model, pictures = VisionTransformer(registers=2), images()
    with torch.no_grad():
        model.head.weight.mul_(1e5)
        least = model(pictures).argmin(dim=1)  # 0 with the patches and without
    found = CAM(model, "blocks.3.norm1", method="reciprocam")(pictures, least)
    assert found.raw_maps.isfinite().all()


class Dropping(VisionTransformer):
    """Works on without the last patch."""

    def forward(self, pictures):
        tokens = torch.cat([self.cls_token.expand(len(pictures), -1, -1), self.patch(pictures).flatten(2).mT], dim=1)
        return self.head(self.norm(self.blocks(tokens[:, :-2])).mean(dim=1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("token", (3, 4)), "kind: expected 'channels first', 'channels last', 'tokens'; got 'token'"),
        (("tokens", [3, 4]), r"grid: expected a tuple of positive ints, \(h, w\) of an image; got \[3, 4\]"),
        (("tokens", (3, 0)), "grid: expected"),
        (("channels last", (3, 4), 1), "extra: expected 0 where kind is not 'tokens'; got 1"),
        (("tokens", (3, 4), -1), "extra: expected 0, how many tokens come before the grid's, or a tuple of the places"),
        (("tokens", (3, 4), (3, 2)), "extra: expected 0, how many"),
        (("tokens", (3, 4), 0, None, (0, 2)), "order: expected each of the 2 axes of the grid once; got"),
        (("tokens", (3, 4), 0, None, None, (1,)), "axes: expected one for each of the 2 axes; got"),
    ],
)
def test_a_layout_that_can_not_be_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Layout(*given)


def test_tokens_without_a_grid_are_refused_or_told():
    model, pictures = Dropping(), images()
    with pytest.raises(
        ValueError, match=r"blocks\.1 gives 23 tokens for an image of \(16, 24\), and no grid fits"
    ) as told:
        CFCAM(model, "blocks.1")(pictures)
    assert "its convolutions gave (4, 6)" in str(told.value)
    with pytest.raises(ValueError, match=r"of which none can be chosen; .* gives 23 tokens"):
        CFCAM(model)(pictures)
    layer = replace(layers.find(model, "blocks.1"), layout=Layout("tokens", (2, 11), 1))
    assert CFCAM(model, layer)(pictures).raw_maps.shape == (2, 2, 11)
    layer = replace(layer, layout=Layout("tokens", (2, 11), 2))
    with pytest.raises(
        ValueError, match=r"expected blocks\.1 to be tokens, 2 x 11 and 2 more; got shape \(2, 23, 24\)"
    ):
        CFCAM(model, layer)(pictures)


class Unfolding(VisionTransformer):
    """Patches without a convolution."""

    def __init__(self, patch_size=None):
        super().__init__()
        self.patch = nn.Linear(48, 24)
        self.patch_size = patch_size

    def forward(self, pictures):
        patches = nn.functional.unfold(pictures, 4, stride=4).mT
        tokens = torch.cat([self.cls_token.expand(len(pictures), -1, -1), self.patch(patches)], dim=1)
        return self.head(self.norm(self.blocks(tokens))[:, 0])


@pytest.mark.parametrize("patch_size", [None, 4, (4, 4)])
def test_patches_without_a_convolution(patch_size):
    found = take(Unfolding(patch_size), "blocks.1", images())
    assert found.layers[0].layout == Layout("tokens", (4, 6), 1, (3, 16, 24))


# The automatic choice


@pytest.mark.parametrize("registers", [0, 4])
def test_with_a_class_token_what_enters_the_last_attention_is_chosen(registers):
    result = CFCAM(VisionTransformer(registers=registers))(images())
    assert [layer.name for layer in result.layers] == ["blocks.3.norm1"]
    assert "the head reads the class token alone" in result.layers[0].reason
    assert result.config == Config.gated()
    assert result.maps.shape == (2, 16, 24)
    assert result.maps.amax() > 0.9


def test_before_the_norm_activation_and_gradient_are_orthogonal():
    """A norm is blind to a token's length, so that the output of a block before is no choice."""
    model, pictures = VisionTransformer(), images()
    products = {}
    for layer in ("blocks.2", "blocks.3.norm1"):
        found = take(model, layer, pictures)
        product = found.activations * found.gradients[:, 0]
        products[layer] = float((product.sum(dim=1).abs() / product.abs().sum(dim=1)).max())
    assert products["blocks.2"] < 1e-3 < 0.1 < products["blocks.3.norm1"]


def test_a_classifier_of_zeros_changes_no_choice():
    model = VisionTransformer()
    nn.init.zeros_(model.head.weight)
    assert layers.choose(model, images()).name == "blocks.3.norm1"


def test_what_another_thread_runs_changes_no_choice():
    model = VisionTransformer()
    nn.init.zeros_(model.head.weight)
    owner, twin = get_ident(), copy.deepcopy(model)

    def run_beside(module, args, output):
        if get_ident() == owner:
            in_threads(lambda _: model(images()), 1)

    model.head.register_forward_hook(run_beside)
    assert layers.choose(model, images()).name == layers.choose(twin, images()).name


def test_with_a_mean_the_last_norm_is_chosen():
    chosen = layers.choose_two(VisionTransformer(mean=True), images())
    assert [layer.name for layer in chosen] == ["blocks.2.norm2", "norm"]


def test_channels_last_of_two_scales():
    chosen = layers.choose_two(ChannelsLast(), images())
    assert [layer.name for layer in chosen] == ["fine", "norm"]
    assert (
        chosen[0].reason == "returns the last activation of twice the last one's resolution, 4 x 6 x 16 (channels last)"
    )


def test_one_block_is_explained_at_one_level():
    result = CFCAM(VisionTransformer(depth=1))(images())
    assert [layer.name for layer in result.layers] == ["blocks.0.norm1"]
    assert result.layers[0].reason.endswith("there are not two layers like it before it, so one level")


def test_candidates_are_all_there_and_the_chosen_are_marked():
    found = layers.candidates(VisionTransformer(registers=1), images())
    assert [one.layer.name for one in found if one.chosen] == ["blocks.3.norm1"]
    by_name = {one.layer.name: one for one in found}
    assert by_name["patch"].shape == (24, 4, 6)
    assert by_name["blocks.2"].shape == (26, 24)
    assert by_name["blocks.2"].channels == 24
    assert by_name["blocks.2.mlp.1"].channels == 48
    assert len(by_name) == len(found)


# What works on the same capture


@pytest.mark.parametrize(("model", "layer"), [(VisionTransformer(registers=2), "blocks.1"), (ChannelsLast(), "fine")])
def test_activations_can_be_substituted(model, layer):
    pictures = images()
    found = take(model, layer, pictures)
    with substituted(found.layers[0], found.activations), torch.no_grad():
        torch.testing.assert_close(model(pictures), found.logits)
    with substituted(found.layers[0], found.activations.flip(0)), torch.no_grad():
        assert not torch.allclose(model(pictures), found.logits)


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "ablationcam"])
def test_methods_take_tokens(method):
    maps = CAM(VisionTransformer(registers=2, depth=2), "blocks.1.norm1", method=method)(images())
    assert maps.raw_maps.shape == (2, 4, 6)
    assert bool(maps.raw_maps.any())


def test_half_precision_autocast_and_frozen():
    pictures = images()
    reference = CFCAM(VisionTransformer(depth=2))(pictures)
    frozen = VisionTransformer(depth=2).requires_grad_(False)
    assert torch.equal(CFCAM(frozen)(pictures).maps, reference.maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert bool(CFCAM(frozen)(pictures).maps.isfinite().all())
    for dtype in (torch.bfloat16, torch.float16):
        result = CFCAM(VisionTransformer(depth=2).to(dtype))(pictures.to(dtype))
        assert [layer.name for layer in result.layers] == [layer.name for layer in reference.layers]
        assert bool(result.maps.isfinite().all())


# Graphs


@pytest.mark.parametrize("layer", ["blocks.3.norm1", ["blocks.1.norm1", "blocks.3.norm1"], None], ids=str)
def test_a_replay_gives_the_calls_bytes(monkeypatch, layer):
    recorder.install(monkeypatch)
    model = VisionTransformer()
    explain = CFCAM(model, layer)
    plan = explain._laid_out(images(), targets.Request())
    request, names = targets.read([1, 2], 2), targets.ClassNames(None, model)
    replay = GraphedCFCAM(model, plan, recorder.FUSED, images(), request, names, overlay=False)
    pictures = images().flip(-1)
    assert_same(replay(pictures), explain(pictures, [1, 2]))


def test_nothing_is_read_by_the_host_or_copied_from_it():
    model = VisionTransformer(registers=1)
    plan = CFCAM(model)._laid_out(images(), targets.Request())
    pictures = images().to("meta")
    model.to("meta")
    request = targets.Request(indices=torch.zeros(2, dtype=torch.int64, device="meta"), checked=True)

    engine, names = SimpleNamespace(run_checked=launches_nothing), targets.ClassNames(None, model)

    def work():
        return explain_within_graph(model, plan, engine, pictures, request, names, overlay=True)

    work()
    with OnDevice():
        found = work()
    assert found.maps.shape == (2, 16, 24)
