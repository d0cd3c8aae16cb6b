"""LibraGrad is complete on the vision transformers and ConvNeXts of timm, transformers and torchvision."""

import pytest
import torch

from bench.torchvision_shim import import_torchvision
from cfcam_gpu.hooks.libragrad import LibraGrad
from tests.needs import lacking, module

SIZE, PATCH, WIDTH = 32, 8, 16


def torchvision():
    """torchvision, which timm and transformers import, too."""
    try:
        import_torchvision()
    except ModuleNotFoundError as error:
        lacking(str(error), "PEERS")
    return module("torchvision", "PEERS")


def from_timm(name, layer, **options):
    def make():
        torchvision()
        return module("timm", "PEERS").create_model(name, num_classes=5, **options), layer

    return make


def of_timm(name, layer="blocks.0", **options):
    sizes = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": 2}
    return from_timm(name, layer, **sizes | options)


def unfused(make):
    def without():
        model, layer = make()
        for part in model.modules():
            if hasattr(part, "fused_attn"):
                part.fused_attn = False
        return model, layer

    return without


def of_transformers(kind, layer, attention, **options):
    def make():
        torchvision()
        transformers = module("transformers", "PEERS")
        sizes = {
            "hidden_size": WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 2 * WIDTH,
            "image_size": SIZE,
            "patch_size": PATCH,
        }
        if kind == "Siglip":
            sizes = {"vision_config": sizes}
        if kind == "Swin":
            sizes = {"image_size": SIZE, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2]}
            sizes["window_size"] = 4
        config = getattr(transformers, f"{kind}Config")(num_labels=5, attn_implementation=attention, **sizes, **options)
        return getattr(transformers, f"{kind}ForImageClassification")(config), layer

    return make


def of_torchvision(kind, layer):
    def make():
        models = torchvision().models
        if kind == "vit":
            return models.VisionTransformer(SIZE, PATCH, 2, 2, WIDTH, 2 * WIDTH, num_classes=5), layer
        if kind == "swin":
            return models.SwinTransformer([4, 4], 8, [2, 2], [1, 2], [4, 4], num_classes=5), layer
        setting = models.convnext.CNBlockConfig
        return models.ConvNeXt([setting(8, 12, 1), setting(12, None, 1)], num_classes=5), layer

    return make


SWIN = {"img_size": SIZE, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
NETWORKS = {
    "timm vit": of_timm("vit_tiny_patch16_224"),
    "timm deit3": of_timm("deit3_small_patch16_224"),
    "timm attention pool": of_timm("vit_base_patch16_siglip_224"),
    "timm swiglu": of_timm("vit_giant_patch14_dinov2", embed_dim=24),
    "timm eva": of_timm("eva02_tiny_patch14_224"),
    "timm differential attention": of_timm("vit_tiny_patch16_224", attn_layer="diff", embed_dim=24),
    "timm differential attention, unfused": unfused(of_timm("vit_tiny_patch16_224", attn_layer="diff", embed_dim=24)),
    "timm convit": of_timm("convit_tiny", embed_dim=8),
    "timm swin": from_timm("swin_tiny_patch4_window7_224", "layers.0.blocks.0", **SWIN),
    "timm swin v2": from_timm("swinv2_tiny_window8_256", "layers.0.blocks.0", **SWIN),
    "timm convnext": from_timm("convnext_tiny", "stem", **CONVNEXT),
    "timm convnext v2": from_timm("convnextv2_tiny", "stem", **CONVNEXT),
    "transformers vit": of_transformers("ViT", "vit.layers.0", "sdpa"),
    "transformers vit, eager": of_transformers("ViT", "vit.layers.0", "eager"),
    "transformers dinov2": of_transformers("Dinov2", "dinov2.encoder.layer.0", "sdpa"),
    "transformers dinov2 swiglu": of_transformers("Dinov2", "dinov2.encoder.layer.0", "eager", use_swiglu_ffn=True),
    "transformers siglip": of_transformers("Siglip", "vision_model.encoder.layers.0", "sdpa"),
    "transformers swin": of_transformers("Swin", "swin.encoder.layers.0.blocks.0", "eager"),
    "torchvision vit": of_torchvision("vit", "encoder.layers.encoder_layer_0"),
    "torchvision swin": of_torchvision("swin", "features.1.0"),
    "torchvision convnext": of_torchvision("convnext", "features.0"),
}


def randomised(model):
    """Its parameters, biases and layer scales too, such that each matters."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            parameter.copy_(noise * 0.3 if parameter.ndim < 2 else noise / parameter[0].numel() ** 0.5)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    return model.double().eval()


def looked(model, layer, images, *, libragrad):
    """Logits, a score, and what its gradients account for: by the layer's whole activation, and by all biases."""
    mode, leaves = LibraGrad(), []

    def cut(module, args, output):
        first = output[0] if isinstance(output, tuple) else output
        leaves.append(first.detach().requires_grad_())
        torch.set_grad_enabled(True)
        replaced = leaves[0].clone()
        if libragrad:
            mode.begin(leaves[0])
        return (replaced, *output[1:]) if isinstance(output, tuple) else replaced

    handle = model.get_submodule(layer).register_forward_hook(cut)
    with torch.no_grad(), mode.forward():
        output = model(images)
    handle.remove()
    logits = output if isinstance(output, torch.Tensor) else output.logits
    if libragrad:
        mode.check([logits], model, layer)
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    gradients = torch.autograd.grad(logits[0, 1], [leaves[0], *biases], allow_unused=True)
    pairs = zip(gradients, [leaves[0], *biases])
    return logits.detach(), logits[0, 1].item(), sum((g * value).sum().item() for g, value in pairs if g is not None)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_score_is_the_evidence_of_all_positions_and_biases(name):
    model, layer = NETWORKS[name]()
    model = randomised(model)
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits, score, accounted = looked(model, layer, images, libragrad=True)
    plain, same, by_gradients = looked(model, layer, images, libragrad=False)
    assert torch.equal(logits, plain)
    assert score == same
    assert accounted == pytest.approx(score, rel=1e-9)
    assert by_gradients != pytest.approx(score, rel=1e-2)
