"""Architectures of MONAI, of signals, images and volumes."""

from __future__ import annotations

from typing import Any

from cfcam_gpu.targets import Segment

from .architectures_build import CLASSES, SIZE, Architecture

_SIGNAL = ((3, 256),)
_IMAGES = ((3, 96, 160), (3, 96, 96))
_SMALL = ((3, 64, 96), (3, 64, 64))
_VOLUME = ((1, 32, 32, 48), (1, 32, 32, 32))
_SMALL_VOLUME = ((1, 16, 16, 24), (1, 16, 16, 16))
_SEGMENTS = [Segment(index) for index in range(CLASSES)]
_UNET = {"channels": (8, 16, 24, 32), "strides": (2, 2, 2)}
_RESNET = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [16, 32, 64, 128]}
_VIT = {
    "img_size": SIZE,
    "hidden_size": 48,
    "mlp_dim": 96,
    "num_layers": 4,
    "num_heads": 3,
    "classification": True,
    "post_activation": "",
}


def _classifier(name: str, images: tuple[tuple[int, ...], ...], **options: Any) -> Architecture:
    """One whose options are called as DenseNet's."""
    channels, *spatial = images[0]
    told = {"spatial_dims": len(spatial), "in_channels": channels}
    return Architecture("monai", name, told | options, images)


def _segmentation(name: str, images: tuple[tuple[int, ...], ...], **options: Any) -> Architecture:
    channels, *spatial = images[0]
    told = {"spatial_dims": len(spatial), "in_channels": channels, "out_channels": CLASSES}
    return Architecture("monai", name, told | options, images, _SEGMENTS)


MONAI = [
    _classifier("DenseNet121", _IMAGES, out_channels=CLASSES),
    _classifier("DenseNet121", _VOLUME, out_channels=CLASSES),
    _classifier("DenseNet121", _SIGNAL, out_channels=CLASSES),
    _classifier("SEResNet50", _IMAGES, num_classes=CLASSES),
    _classifier("SEResNet50", _VOLUME, num_classes=CLASSES, layers=(1, 1, 1, 1)),
    _classifier("SEResNext50", _IMAGES, num_classes=CLASSES, layers=(1, 1, 1, 1)),
    _classifier("EfficientNetBN", _IMAGES, num_classes=CLASSES, model_name="efficientnet-b0", pretrained=False),
    _classifier("EfficientNetBN", _SIGNAL, num_classes=CLASSES, model_name="efficientnet-b0", pretrained=False),
    Architecture(
        "monai", "ResNet", _RESNET | {"spatial_dims": 1, "n_input_channels": 3, "num_classes": CLASSES}, _SIGNAL
    ),
    Architecture(
        "monai", "ResNet", _RESNET | {"spatial_dims": 2, "n_input_channels": 3, "num_classes": CLASSES}, _IMAGES
    ),
    Architecture(
        "monai", "ResNet", _RESNET | {"spatial_dims": 3, "n_input_channels": 1, "num_classes": CLASSES}, _VOLUME
    ),
    _classifier("ViT", _IMAGES, num_classes=CLASSES, patch_size=(16, 16), **_VIT),
    _classifier("ViT", _VOLUME, num_classes=CLASSES, patch_size=(16, 16, 16), **_VIT),
    _classifier("ViT", _SIGNAL, num_classes=CLASSES, patch_size=(16,), **_VIT),
    Architecture(
        "monai",
        "TorchVisionFCModel",
        {"model_name": "resnet18", "num_classes": CLASSES, "pool": ("adaptiveavg", {"output_size": (1, 1)})},
        _IMAGES,
    ),
    Architecture(
        "monai",
        "Classifier",
        {"in_shape": (3, 64, 96), "classes": CLASSES, "channels": (8, 16, 24), "strides": (2, 2, 2)},
        ((3, 64, 96),),
    ),
    _segmentation("UNet", _SMALL, **_UNET),
    _segmentation("UNet", _SMALL_VOLUME, **_UNET),
    _segmentation("UNet", _SIGNAL, **_UNET),
    _segmentation("AttentionUnet", _SMALL, **_UNET),
    _segmentation("BasicUNet", ((1, 32, 32, 48),), features=(4, 4, 8, 8, 8, 4)),
    _segmentation("BasicUNetPlusPlus", _SMALL, features=(8, 8, 16, 24, 32, 8)),
    _segmentation(
        "DynUNet",
        _SMALL_VOLUME,
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[8, 16, 24],
    ),
    _segmentation("SegResNet", _SMALL_VOLUME),
    _segmentation("SegResNetDS", _SMALL, init_filters=8),
    _segmentation("VNet", ((1, 16, 16, 32),)),
    _segmentation("AHNet", ((3, 64, 96),), layers=(1, 1, 1, 1), psp_block_num=0),
    _segmentation("HighResNet", _SMALL),
    _segmentation("MedNeXt", _SMALL, init_filters=8, kernel_size=3),
    _segmentation(
        "SwinUNETR", ((1, 32, 32, 64),), feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2), window_size=2
    ),
    _segmentation("UNETR", ((1, 32, 32, 48),), img_size=SIZE, feature_size=8, hidden_size=48, mlp_dim=96, num_heads=3),
    _segmentation("FlexibleUNet", _SMALL, backbone="efficientnet-b0"),
    Architecture(
        "monai", "Quicknat", {"num_classes": CLASSES, "num_channels": 3, "num_filters": 8}, _IMAGES, _SEGMENTS
    ),
]
