"""Architectures of torchvision."""

from __future__ import annotations

from torch import nn

from cfcam_gpu.targets import Segment

from .architectures_build import CLASSES, SIDE, SIZE, Architecture

_SQUARE = ((3, 64, 64),)
_SMALL = ((3, 64, 96), (3, 64, 64))
_VIDEO = ((3, 4, 64, 96), (3, 4, 64, 64))
_SEGMENTS = [Segment(index) for index in range(CLASSES)]
_UNTRAINED = {"weights_backbone": None}


def _pooled(model: nn.Module) -> nn.Module:
    """S3D whose pooling, made for frames of 224 x 224, takes smaller ones."""
    model.avgpool = nn.AdaptiveAvgPool3d(1)
    return model


_PLAIN = """
    alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s mobilenet_v2 mobilenet_v3_small
    regnet_x_400mf regnet_y_400mf resnet18 resnext50_32x4d squeezenet1_1
"""

TORCHVISION = [
    *(Architecture("torchvision", name) for name in _PLAIN.split()),
    *(
        Architecture("torchvision", name, {}, ((3, 160, 256), (3, 192, 192)))
        for name in ("mnasnet0_5", "shufflenet_v2_x0_5")
    ),
    Architecture("torchvision", "googlenet", {"aux_logits": False, "init_weights": False}),
    Architecture(
        "torchvision", "inception_v3", {"aux_logits": False, "init_weights": False}, ((3, 160, 224), (3, 192, 192))
    ),
    Architecture(
        "torchvision",
        "VisionTransformer",
        {"image_size": SIDE, "patch_size": 16, "num_layers": 4, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96},
        _SQUARE,
    ),
    Architecture(
        "torchvision",
        "MaxVit",
        {
            "input_size": SIZE,
            "stem_channels": 16,
            "partition_size": 2,
            "block_channels": [16, 32, 48, 64],
            "block_layers": [1, 1, 2, 1],
            "head_dim": 8,
            "stochastic_depth_prob": 0.0,
        },
        ((3, 128, 128),),
    ),
    *(Architecture("torchvision", name, {}, _SMALL) for name in ("swin_t", "swin_v2_t", "vgg11")),
    Architecture("torchvision", "segmentation.fcn_resnet50", _UNTRAINED | {"aux_loss": True}, targets=_SEGMENTS),
    Architecture(
        "torchvision",
        "segmentation.deeplabv3_mobilenet_v3_large",
        _UNTRAINED | {"aux_loss": True},
        ((3, 192, 320), (3, 256, 256)),
        targets=_SEGMENTS,
    ),
    Architecture("torchvision", "segmentation.lraspp_mobilenet_v3_large", _UNTRAINED, targets=_SEGMENTS),
    *(Architecture("torchvision", f"video.{name}", {}, _VIDEO) for name in ("r3d_18", "mc3_18", "r2plus1d_18")),
    Architecture("torchvision", "video.s3d", {}, ((3, 16, 64, 96), (3, 16, 64, 64)), wrap=_pooled),
    Architecture(
        "torchvision",
        "video.swin_transformer.SwinTransformer3d",
        {
            "patch_size": [2, 4, 4],
            "embed_dim": 24,
            "depths": [1, 1, 2, 1],
            "num_heads": [1, 2, 2, 2],
            "window_size": [2, 2, 2],
        },
        ((3, 8, 64, 96), (3, 8, 64, 64)),
    ),
]
