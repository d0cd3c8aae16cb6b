"""LeGrad: against its paper's equation, however a model writes its attention, and against torch-cam."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cfcam_gpu import CAM

from ..transformers import WAYS, pictures, transformer


def rest(block, tokens, matrix):
    """What a block makes of tokens (N, C) with this attention (..., heads, N, N), and the one that it has itself."""
    query, key, value = block.attn.qkv(block.norm1(tokens)).unflatten(-1, (3, 2, -1)).permute(1, 2, 0, 3)
    own = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)
    mixed = ((own if matrix is None else matrix) @ value).transpose(-3, -2).flatten(-2)
    tokens = tokens + block.attn.proj(mixed)
    return tokens + block.mlp(block.norm2(tokens)), own


@torch.no_grad()
def derived(model, image, target, blocks=(0, 1), step=1e-4):
    """The mean over blocks, heads and queries of ReLU of the difference quotient of a block's own score, by key.

    That score is of the mean over all tokens, whichever the model reads.
    """
    model, total = model.double(), 0
    tokens = model.tokens(image[None].double())[0]
    for number, block in enumerate(model.blocks):
        after, matrix = rest(block, tokens, None)
        heads, count, _ = matrix.shape
        found = torch.zeros(count, dtype=torch.float64)
        for h in range(heads):
            for i in range(count):
                up, down = (matrix.repeat(count, 1, 1, 1) for _ in range(2))
                for j in range(count):  # in the j-th of them
                    up[j, h, i, j] += step
                    down[j, h, i, j] -= step
                means = [rest(block, tokens, moved)[0].mean(dim=1) for moved in (up, down)]
                scores = [model.head(torch.tanh(model.norm(mean)))[:, target] for mean in means]
                for j in range(count):
                    slope = float(scores[0][j] - scores[1][j]) / (2 * step)
                    found[j] += max(slope, 0.0) / (heads * count)
        if number in blocks:
            total = total + found / len(blocks)
        tokens = after
    return total[model.extra.shape[1] :].reshape(2, 3).numpy()


@pytest.mark.parametrize("extra", [1, 0, 3], ids=["class token", "mean of all", "registers, too"])
def test_legrad_is_its_papers_equation(extra):
    model, images = transformer("plain", extra=extra), pictures()
    found = CAM(model, method="legrad")(images, [[1, 0], [2, 1]])
    assert found.raw_maps.shape == (2, 2, 2, 3)
    assert found.raw_maps.dtype == torch.float32
    for b, classes in enumerate([[1, 0], [2, 1]]):
        for t, target in enumerate(classes):
            expected = derived(transformer("plain", extra=extra), images[b], target)
            np.testing.assert_allclose(found.raw_maps[b, t], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_however_the_attention_is_written_the_map_is_the_same_and_nothing_is_changed(way):
    model, images = transformer(way).requires_grad_(requires_grad=False), pictures()
    expected = CAM(transformer("plain"), method="legrad")(images, [[1, 0], [2, 1]])
    explain = CAM(model, method="legrad")
    found = explain(images, [[1, 0], [2, 1]])
    torch.testing.assert_close(found.raw_maps, expected.raw_maps, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.logits, model(images), rtol=1e-5, atol=1e-6)
    assert [layer.name for layer in explain.layers] == ["blocks.0", "blocks.1"]
    assert torch.equal(explain(images, [[1, 0], [2, 1]]).raw_maps, found.raw_maps), "the same bytes"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_predicted_class_and_callables_are_those_of_the_models_own_logits():
    model, images = transformer(), pictures(12)
    explain = CAM(model, method="legrad")
    with torch.no_grad():
        model.head.bias -= model(images).mean(dim=0)
    predicted = model(images).argmax(dim=1)
    assert predicted.unique().numel() > 1
    expected = explain(images, predicted)
    found = explain(images)
    assert torch.equal(found.target, predicted)
    assert torch.equal(found.raw_maps, expected.raw_maps)
    called = explain(images, [lambda logits, k=int(k): logits[k] for k in predicted])
    torch.testing.assert_close(called.raw_maps, expected.raw_maps)
    assert called.target is None


def test_half_precision_is_taken_and_other_sizes():
    model, images = transformer(), pictures()
    explain, halved = CAM(model, method="legrad"), CAM(transformer().to(torch.bfloat16), method="legrad")
    expected, found = explain(images, 1), halved(images.to(torch.bfloat16), 1)
    assert found.raw_maps.dtype == torch.float32
    torch.testing.assert_close(found.maps, expected.maps, rtol=0, atol=0.1)
    assert explain(torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0)), 1).raw_maps.shape == (1, 3, 3)


def test_named_blocks_are_those_that_count():
    model, images = transformer("plain"), pictures()
    for layer in ("blocks.0", model.blocks[0], "blocks.0.norm1", ["blocks.0.attn.input"]):
        explain = CAM(model, layer, method="legrad")
        found = explain(images, 1).raw_maps
        assert [one.name for one in explain.layers] == ["blocks.0"]
        expected = derived(transformer("plain"), images[0], 1, blocks=(0,))
        np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match=r"target_layer: legrad takes blocks .* norm is none of blocks.0, blocks.1"):
        CAM(model, "norm", method="legrad")(images)


def test_a_layout_that_is_told_is_taken_and_not_looked_for():
    model, images, forwards = transformer(), pictures(), []
    expected = CAM(model, method="legrad")(images, 1)
    one = expected.layers[1]
    other = replace(one, layout=replace(one.layout, grid=one.layout.grid[::-1]))
    explain = CAM(model, ["blocks.0", other], method="legrad")
    model.register_forward_hook(lambda *_: forwards.append(1))
    torch.testing.assert_close(explain(images, 1).raw_maps, expected.raw_maps.reshape(2, 3, 2))
    assert len(forwards) == 2  # the other one shows the blocks


def test_an_image_without_a_structure_is_explained():
    """Deep blocks tell little of places in an image that is dark: the first one does."""
    model = transformer()
    with torch.no_grad():
        for block in model.blocks[1:]:
            for parameter in block.parameters():
                parameter.mul_(30)
    assert CAM(model, method="legrad")(torch.zeros_like(pictures()), 1).raw_maps.isfinite().all()


def test_another_thread_that_runs_the_model_meanwhile_gets_what_it_gets_alone():
    model, images = transformer(), pictures()
    expected, logits, met = CAM(model, method="legrad")(images, 1).raw_maps, model(images), []

    class Meanwhile(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            tokens = model.blocks[0](model.tokens(images))
            with ThreadPoolExecutor(1) as pool:
                met.append(pool.submit(model, pictures()).result())
            return model.read(model.blocks[1](tokens))

    found = CAM(Meanwhile(), method="legrad")(images, 1).raw_maps
    torch.testing.assert_close(found, expected)
    assert met
    assert all(torch.equal(one, logits) for one in met)


class Windows(nn.Module):
    """Attends within rows of patches alone."""

    def __init__(self):
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 3)
        self.attn = nn.ModuleList([nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2)])

    def forward(self, images):
        rows = self.patches(images).permute(0, 2, 3, 1)
        for attention in self.attn:
            flat = rows.flatten(0, 1)
            rows = rows + attention(flat, flat, flat)[0].reshape(rows.shape)
        return self.head(rows.mean(dim=(1, 2)))


class Keeping(nn.Module):
    """Writes the size of its batch into its logits."""

    def __init__(self):
        super().__init__()
        self.model = transformer()

    def forward(self, images):
        return self.model(images).reshape(len(images), -1)


def test_what_it_is_not_for_is_refused_by_name():
    images = pictures()
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="method: legrad needs the self-attention of a transformer"):
        CAM(plain, method="legrad")(images)
    with pytest.raises(ValueError, match=r"method: legrad needs blocks .*no windows.*; in attn.0, which .* to 3"):
        CAM(Windows(), method="legrad")(images)
    with pytest.raises(ValueError, match=r"model: legrad scores .* for 6 images; got shape \(2, 9\).*another method"):
        CAM(Keeping(), method="legrad")(images)
    with pytest.raises(ValueError, match=r"libragrad: .* legrad takes gradients of attention"):
        CAM(transformer(), method="legrad", libragrad=True)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="image 1 has NaN"):
        CAM(transformer(), method="legrad")(images)


@pytest.mark.filterwarnings("ignore")
def test_torch_cam_agrees_on_torchvisions_transformer(peer):
    peers, vision_transformer = peer("torchcam.methods"), peer("torchvision.models.vision_transformer")
    torch.manual_seed(0)
    model = vision_transformer.VisionTransformer(16, 4, 3, 2, 8, 16, num_classes=3).eval()
    nn.init.normal_(model.heads.head.weight)  # which it begins with at zero
    images = torch.randn(2, 3, 16, 16)
    found = CAM(model, method="legrad")(images, [1, 2])
    with peers.LeGrad(model, list(model.encoder.layers)) as cam:
        expected = cam([1, 2], model(images), normalized=False)[0]
    assert (found.raw_maps.amax(dim=(1, 2)) > 1e-5).all()
    torch.testing.assert_close(found.raw_maps, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found.logits, model(images).detach())
