"""Which layers are chosen of which architectures: ``python -m bench.architectures`` writes docs/architectures.md.

Random weights, seeded, and small images and variants: what is chosen depends on an architecture's modules, not on its
size or training.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from cfcam_gpu import CFCAM
from cfcam_gpu.hooks import layers
from cfcam_gpu.results import durable

from .tables import markdown
from .torchvision_shim import import_torchvision

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"
COLUMNS = ["library", "architecture", "image", "layer", "its shape", "layout", "why"]
HEAD = """# Architectures

This page lists the target layers that CF-CAM chooses if you name none: in each row the fine layer stands above the
coarse one. `cfcam-gpu layers MODEL` prints the same for any model, together with all other candidates.
`python -m bench.architectures` writes this page. It explains a random image with a small variant of each architecture
with random weights; `tests/hooks/test_architectures.py` checks that each map is finite, not empty, and of the image's
size.

The layout says how a layer's output is arranged: *channels first* is (B, C, h, w), *channels last* is (B, h, w, C), and
*tokens* is (B, N, C), given with the grid of the patches and the number of class, distillation and register tokens
before them. If the head reads only the class token, patches after the last attention have no gradient. The layer chosen
is then the norm whose output enters that attention. The input of that norm would not do: there a patch's activation and
its gradient are orthogonal, so that their product, summed over channels, is zero.
"""
CLASSES = 6
SEED = 0
#: The shape inside a reason; it has a column of its own.
_SIZE = re.compile(r", \d+( x \d+)+( \([^)]*\))?")


class Architecture(NamedTuple):
    """A model to build: `name` of a library's, its options, and the (H, W) of its images."""

    library: str
    name: str
    size: tuple[int, int] = (64, 64)
    options: dict[str, Any] = {}  # noqa: RUF012

    @property
    def id(self) -> str:
        return f"{self.library}:{self.name}"

    def build(self) -> nn.Module:
        """In eval mode, with seeded random weights, a classifier of zeros filled, too."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what libraries deprecate among themselves
            torch.manual_seed(SEED)
            model = BUILDERS[self.library](self.name, self.options)
            for module in model.modules():
                if isinstance(module, nn.Linear) and not module.weight.any():
                    nn.init.normal_(module.weight, std=0.05)
        return model.eval()


def _torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    import_torchvision()
    models = import_module("torchvision.models")
    return getattr(models, name)(num_classes=CLASSES, **options)


def _timm(name: str, options: dict[str, Any]) -> nn.Module:
    import_torchvision()
    return import_module("timm").create_model(name, num_classes=CLASSES, **options)


def _transformers(name: str, options: dict[str, Any]) -> nn.Module:
    kind = getattr(import_module("transformers"), name)
    return kind(kind.config_class(num_labels=CLASSES, **options))


def _monai(name: str, options: dict[str, Any]) -> nn.Module:
    import_torchvision()
    return getattr(import_module("monai.networks.nets"), name)(**options)


BUILDERS = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers, "monai": _monai}

_TOKENS = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 96}
_VIT = _TOKENS | {"image_size": 64, "patch_size": 16}
_SWIN = {"image_size": 64, "embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 2], "window_size": 2}
_TIMM_VIT = {"depth": 4, "embed_dim": 48, "num_heads": 3}
_TIMM_SWIN = {"img_size": (64, 96), "embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 2)}
_WIDE = (64, 96)

ARCHITECTURES = [
    Architecture("torchvision", "resnet18"),
    Architecture("torchvision", "densenet121"),
    Architecture("torchvision", "efficientnet_b0", _WIDE),
    Architecture("torchvision", "mobilenet_v3_small"),
    Architecture("torchvision", "shufflenet_v2_x0_5"),
    Architecture("torchvision", "squeezenet1_1"),
    Architecture("torchvision", "regnet_y_400mf"),
    Architecture("torchvision", "mnasnet0_5"),
    Architecture("torchvision", "googlenet", (64, 64), {"aux_logits": False, "init_weights": False}),
    Architecture("torchvision", "convnext_tiny", _WIDE),
    Architecture(
        "torchvision",
        "VisionTransformer",
        (64, 64),
        {"image_size": 64, "patch_size": 16, "num_layers": 4, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96},
    ),
    Architecture("torchvision", "swin_t", _WIDE),
    Architecture("torchvision", "swin_v2_t"),
    Architecture(
        "torchvision",
        "MaxVit",
        (64, 64),
        {
            "input_size": (64, 64),
            "stem_channels": 16,
            "partition_size": 2,
            "block_channels": [16, 32, 48, 64],
            "block_layers": [1, 1, 2, 1],
            "head_dim": 8,
            "stochastic_depth_prob": 0.0,
        },
    ),
    Architecture("timm", "resnet10t"),
    Architecture("timm", "efficientnet_lite0"),
    Architecture("timm", "mobilenetv4_conv_small"),
    Architecture("timm", "ghostnet_100"),
    Architecture("timm", "repvgg_a0"),
    Architecture("timm", "regnetx_002"),
    Architecture("timm", "hrnet_w18_small"),
    Architecture("timm", "convnext_atto", _WIDE),
    Architecture("timm", "convnextv2_atto"),
    Architecture("timm", "vit_tiny_patch16_224", _WIDE, _TIMM_VIT | {"img_size": _WIDE}),
    Architecture("timm", "vit_small_patch14_reg4_dinov2", (70, 56), _TIMM_VIT | {"img_size": (70, 56)}),
    Architecture("timm", "vit_base_patch16_clip_224", _WIDE, _TIMM_VIT | {"img_size": _WIDE}),
    Architecture("timm", "vit_base_patch16_siglip_224", _WIDE, _TIMM_VIT | {"img_size": _WIDE}),
    Architecture("timm", "vit_small_r26_s32_224", (128, 128), {"depth": 4, "img_size": 128}),
    Architecture("timm", "deit_tiny_distilled_patch16_224", _WIDE, _TIMM_VIT | {"img_size": _WIDE}),
    Architecture("timm", "beit_base_patch16_224", _WIDE, _TIMM_VIT | {"img_size": _WIDE}),
    Architecture("timm", "eva02_tiny_patch14_224", (70, 56), _TIMM_VIT | {"img_size": (70, 56)}),
    Architecture("timm", "cait_xxs24_224", _WIDE, {"depth": 4, "img_size": _WIDE}),
    Architecture("timm", "xcit_nano_12_p16_224", _WIDE, {"img_size": _WIDE}),
    Architecture("timm", "swin_tiny_patch4_window7_224", _WIDE, _TIMM_SWIN | {"window_size": 2}),
    Architecture("timm", "swinv2_tiny_window8_256", _WIDE, _TIMM_SWIN | {"window_size": 2}),
    Architecture("timm", "swinv2_cr_tiny_224", _WIDE, _TIMM_SWIN | {"window_size": (2, 3)}),
    Architecture("timm", "mixer_s32_224", (64, 64), {"img_size": 64}),
    Architecture("timm", "resmlp_12_224", (64, 64), {"img_size": 64}),
    Architecture("timm", "pvt_v2_b0", _WIDE),
    Architecture("timm", "twins_pcpvt_small", _WIDE, {"img_size": _WIDE}),
    Architecture("timm", "levit_128s", (224, 224)),
    Architecture("timm", "efficientformer_l1", (224, 224)),
    Architecture("timm", "efficientformerv2_s0", (224, 224)),
    Architecture("timm", "maxvit_nano_rw_256", (64, 64), {"img_size": 64}),
    Architecture("timm", "coatnet_nano_rw_224", (64, 64), {"img_size": 64}),
    Architecture("timm", "poolformer_s12", _WIDE),
    Architecture("timm", "edgenext_xx_small"),
    Architecture("timm", "mobilevit_xxs"),
    Architecture("timm", "fastvit_t8"),
    Architecture("timm", "tiny_vit_5m_224", (64, 64)),
    Architecture("timm", "gcvit_xxtiny", (224, 224)),
    Architecture("timm", "nest_tiny", (64, 64), {"img_size": 64}),
    Architecture("transformers", "ViTForImageClassification", (64, 64), _VIT),
    Architecture("transformers", "DeiTForImageClassificationWithTeacher", (64, 64), _VIT),
    Architecture("transformers", "BeitForImageClassification", (64, 64), _VIT),
    Architecture("transformers", "Dinov2ForImageClassification", (70, 56), _VIT | {"patch_size": 14}),
    Architecture("transformers", "Dinov2WithRegistersForImageClassification", (70, 56), _VIT | {"patch_size": 14}),
    Architecture("transformers", "CLIPForImageClassification", (64, 64), {"vision_config": _VIT}),
    Architecture("transformers", "SiglipForImageClassification", (64, 64), {"vision_config": _VIT}),
    Architecture("transformers", "SwinForImageClassification", _WIDE, _SWIN | {"image_size": _WIDE}),
    Architecture("transformers", "Swinv2ForImageClassification", _WIDE, _SWIN | {"image_size": _WIDE}),
    Architecture("transformers", "PvtForImageClassification", (64, 64), {"image_size": 64}),
    Architecture("transformers", "SegformerForImageClassification", _WIDE),
    Architecture("transformers", "ConvNextV2ForImageClassification", _WIDE, {"depths": [1, 1, 2, 1]}),
    Architecture("transformers", "ResNetForImageClassification", _WIDE, {"depths": [1, 1, 2, 1]}),
    Architecture("monai", "DenseNet121", _WIDE, {"spatial_dims": 2, "in_channels": 3, "out_channels": CLASSES}),
    Architecture(
        "monai",
        "EfficientNetBN",
        _WIDE,
        {"model_name": "efficientnet-b0", "pretrained": False, "spatial_dims": 2, "num_classes": CLASSES},
    ),
    Architecture(
        "monai",
        "ResNet",
        _WIDE,
        {
            "block": "basic",
            "layers": [1, 1, 1, 1],
            "block_inplanes": [16, 32, 64, 128],
            "spatial_dims": 2,
            "n_input_channels": 3,
            "num_classes": CLASSES,
        },
    ),
    Architecture(
        "monai",
        "ViT",
        _WIDE,
        {
            "in_channels": 3,
            "img_size": _WIDE,
            "patch_size": (16, 16),
            "hidden_size": 48,
            "mlp_dim": 96,
            "num_layers": 4,
            "num_heads": 3,
            "classification": True,
            "num_classes": CLASSES,
            "spatial_dims": 2,
            "post_activation": "",
        },
    ),
]

#: What is refused by name.
REFUSED = [Architecture("timm", "hiera_tiny_224", (224, 224))]


class Found(NamedTuple):
    """What came of an architecture: a row of the table, whether maps are finite, non-empty and of the image's size."""

    row: list[str]
    finite: bool
    empty: bool
    size: tuple[int, ...]


def explain(architecture: Architecture) -> Found:
    """All classes of one random image, with the layers that are chosen."""
    images = torch.randn(1, 3, *architecture.size, generator=torch.Generator().manual_seed(SEED))
    model = architecture.build()
    chosen = [candidate for candidate in layers.candidates(model, images) if candidate.chosen]
    result = CFCAM(model, [candidate.layer for candidate in chosen])(images, [list(range(CLASSES))])
    cells = [
        (
            f"`{candidate.layer.name}`",
            " x ".join(map(str, candidate.shape)),
            str(candidate.layer.layout),
            _SIZE.sub("", candidate.layer.reason),
        )
        for candidate in chosen
    ]
    size = " x ".join(map(str, architecture.size))
    row = [architecture.library, architecture.name, size, *("<br>".join(column) for column in zip(*cells))]
    # Random weights may speak against a class everywhere; not against all of them.
    return Found(row, bool(result.maps.isfinite().all()), bool(result.empty.all()), tuple(result.maps.shape[2:]))


def main(arguments: Sequence[str] | None = None) -> int:
    del arguments
    found = [explain(architecture) for architecture in ARCHITECTURES]
    text = "\n".join([HEAD, *markdown(COLUMNS, [one.row for one in found]), ""])
    with durable.replacing(DOCUMENT) as file:
        file.write(text.encode())
    print(f"written: {DOCUMENT.name}, {len(found)} architectures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
