"""Architectures of transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from cfcam_gpu.targets import Segment

from .architectures_build import CLASSES, SIDE, SIZE, Architecture

_SQUARE = ((3, 64, 64),)
_LARGER = ((3, 192, 256), (3, 192, 192))
_SEGMENTS = [Segment(index) for index in range(CLASSES)]
_TOKENS = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 96}
_VIT = _TOKENS | {"image_size": SIZE, "patch_size": 16}
_SQUARE_VIT = _TOKENS | {"image_size": SIDE, "patch_size": 16}
_SWIN = {"image_size": SIZE, "embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 2], "window_size": 2}
_DEPTHS = {"depths": [1, 1, 2, 1]}
_MOBILEVIT = {"hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 96], "aspp_out_channels": 32}
#: Of waveforms.
_WAVES = _TOKENS | {
    "conv_dim": [32] * 3,
    "conv_kernel": [10, 4, 4],
    "conv_stride": [5, 4, 4],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 32,
}
_DETR = {
    "backbone_config": {
        "model_type": "resnet",
        "depths": [1, 1, 1, 1],
        "embedding_size": 16,
        "hidden_sizes": [16, 32, 48, 64],
        "layer_type": "basic",
        "out_features": ["stage4"],
    },
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "num_queries": 5,
}


class WithoutChannel(nn.Module):
    """Gives a model that takes (B, L) or (B, H, W) its images (B, 1, ...)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> object:
        return self.model(images.squeeze(1))


def _of_boxes(logits: torch.Tensor, index: int) -> torch.Tensor:
    """How much all boxes (N, K) together are of a class."""
    return logits[..., index].logsumexp(dim=0)


_BOXES: list[Callable[[torch.Tensor], torch.Tensor]] = [partial(_of_boxes, index=k) for k in range(CLASSES)]

_VITS = """
    BeitForImageClassification Data2VecVisionForImageClassification DeiTForImageClassification
    DeiTForImageClassificationWithTeacher IJepaForImageClassification ViTForImageClassification
    ViTMSNForImageClassification
"""
_VITS_OF_14 = "Dinov2ForImageClassification Dinov2WithRegistersForImageClassification"
_TOWERS = "CLIPForImageClassification MetaClip2ForImageClassification SiglipForImageClassification"
_SWINS = "DonutSwinForImageClassification SwinForImageClassification Swinv2ForImageClassification"
_OF_DEPTHS = """
    BitForImageClassification ConvNextForImageClassification ConvNextV2ForImageClassification
    PoolFormerForImageClassification ResNetForImageClassification SwiftFormerForImageClassification
"""
_PLAIN = """
    HGNetV2ForImageClassification MobileNetV1ForImageClassification MobileNetV2ForImageClassification
    SegformerForImageClassification TextNetForImageClassification
"""
_OF_WAVES = """
    HubertForSequenceClassification SEWForSequenceClassification UniSpeechForSequenceClassification
    Wav2Vec2ForSequenceClassification WavLMForSequenceClassification
"""


def _of(name: str, *rest: object, **options: object) -> Architecture:
    return Architecture("transformers", name, *rest, **options)  # type: ignore[arg-type]


TRANSFORMERS = [
    *(_of(name, _VIT) for name in _VITS.split()),
    *(_of(name, _SQUARE_VIT | {"patch_size": 14}, ((3, 70, 56), (3, 70, 70))) for name in _VITS_OF_14.split()),
    *(_of(name, {"vision_config": _SQUARE_VIT}, _SQUARE) for name in _TOWERS.split()),
    *(_of(name, _SWIN) for name in _SWINS.split()),
    *(_of(name, _DEPTHS) for name in _OF_DEPTHS.split()),
    *(_of(name) for name in _PLAIN.split()),
    _of(
        "EfficientNetForImageClassification",
        {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
        calibrated=True,
    ),
    _of("FocalNetForImageClassification", {"image_size": SIZE, "embed_dim": 24, "depths": [1, 1, 2, 1]}),
    _of("LevitForImageClassification", {"image_size": SIDE}, ((3, 128, 128),)),
    _of("LevitForImageClassificationWithTeacher", {"image_size": SIDE}, ((3, 128, 128),)),
    _of("MobileViTForImageClassification", _MOBILEVIT, calibrated=True),
    _of("MobileViTV2ForImageClassification", {"width_multiplier": 0.5}),
    _of("PvtForImageClassification", {"image_size": SIDE}, _SQUARE),
    _of("PvtV2ForImageClassification", {"image_size": SIZE}),
    _of(
        "RegNetForImageClassification",
        {"depths": [1, 1, 2, 1], "hidden_sizes": [32, 64, 96, 128], "groups_width": 16, "embedding_size": 16},
    ),
    _of("HieraForImageClassification", {"image_size": SIZE, "embed_dim": 24, "depths": [1, 1, 2, 1]}),
    _of("BeitForSemanticSegmentation", _VIT | {"out_indices": [1, 2, 3, 4]}, targets=_SEGMENTS),
    _of("Data2VecVisionForSemanticSegmentation", _SQUARE_VIT | {"out_indices": [0, 1, 2, 3]}, _SQUARE, _SEGMENTS),
    _of(
        "DPTForSemanticSegmentation",
        _SQUARE_VIT
        | {
            "image_size": 128,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 24, 32, 32],
            "fusion_hidden_size": 24,
        },
        ((3, 128, 128),),
        _SEGMENTS,
    ),
    _of("MobileNetV2ForSemanticSegmentation", targets=_SEGMENTS),
    _of("MobileViTForSemanticSegmentation", _MOBILEVIT, _LARGER, _SEGMENTS, calibrated=True),
    _of("MobileViTV2ForSemanticSegmentation", {"width_multiplier": 0.5}, targets=_SEGMENTS),
    _of("SegformerForSemanticSegmentation", {"decoder_hidden_size": 64}, targets=_SEGMENTS),
    _of(
        "UperNetForSemanticSegmentation",
        {
            "backbone_config": {
                "model_type": "convnext",
                "hidden_sizes": [16, 24, 32, 48],
                "depths": [1, 1, 2, 1],
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
            "hidden_size": 32,
            "auxiliary_in_channels": 32,
            "auxiliary_channels": 16,
        },
        ((3, 128, 192), (3, 128, 128)),
        _SEGMENTS,
    ),
    _of("DetrForObjectDetection", _DETR, targets=_BOXES),
    _of("ConditionalDetrForObjectDetection", _DETR, targets=_BOXES),
    _of("TableTransformerForObjectDetection", _DETR, targets=_BOXES),
    _of("YolosForObjectDetection", _VIT | {"num_detection_tokens": 5}, targets=_BOXES),
    _of(
        "VideoMAEForVideoClassification",
        _SQUARE_VIT | {"num_frames": 4, "tubelet_size": 2},
        ((4, 3, 64, 64),),
        frames_first=True,
    ),
    _of(
        "VivitForVideoClassification",
        _SQUARE_VIT | {"num_frames": 4, "tubelet_size": [2, 16, 16]},
        ((4, 3, 64, 64),),
        frames_first=True,
    ),
    _of("TimesformerForVideoClassification", _SQUARE_VIT | {"num_frames": 4}, ((4, 3, 64, 64),), frames_first=True),
    _of(
        "VJEPA2ForVideoClassification",
        {
            "crop_size": SIDE,
            "patch_size": 16,
            "frames_per_clip": 4,
            "hidden_size": 48,
            "num_attention_heads": 3,
            "num_hidden_layers": 2,
            "mlp_ratio": 2,
            "num_pooler_layers": 1,
            "pred_hidden_size": 48,
            "pred_num_attention_heads": 3,
            "pred_num_hidden_layers": 1,
        },
        ((4, 3, 64, 64),),
        frames_first=True,
    ),
    _of(
        "ASTForAudioClassification",
        _TOKENS | {"max_length": 64, "num_mel_bins": 48, "frequency_stride": 16, "time_stride": 16},
        ((1, 64, 48),),
        wrap=WithoutChannel,
    ),
    *(_of(name, _WAVES, ((1, 2000),), wrap=WithoutChannel) for name in _OF_WAVES.split()),
]
REFUSED_TRANSFORMERS = [
    _of(
        "PerceiverForImageClassificationConvProcessing",
        {
            "num_latents": 8,
            "d_latents": 48,
            "num_self_attends_per_block": 1,
            "num_self_attention_heads": 2,
            "num_cross_attention_heads": 1,
        },
        _SQUARE,
    ),
    _of("DeformableDetrForObjectDetection", _DETR | {"d_model": 96}, ((3, 128, 128),), _BOXES),
]
