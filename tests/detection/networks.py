"""Small detectors with random weights, of each family, and one that is planted: its first box sees one region alone."""

import importlib
from collections import OrderedDict

import torch
from torch import nn

from bench.architectures_transformers import _DETR

from ..needs import module


def plain_nms(boxes, scores, overlap):
    """torchvision's operator, which its compiled part may lack here."""
    from torchvision.ops import box_iou

    order = scores.argsort(descending=True)
    overlaps = box_iou(boxes[order], boxes[order]) > overlap
    kept = []
    for i in range(len(order)):
        if not overlaps[i, kept].any():
            kept.append(i)
    return order[torch.tensor(kept, dtype=torch.int64)]


def torchvision_detection(monkeypatch):
    """``torchvision.models.detection``, with its operators."""
    detection = module("torchvision.models.detection", "PEERS")
    import torchvision

    if not torchvision.extension._has_ops():
        monkeypatch.setattr(torchvision.ops.boxes, "nms", plain_nms)
        align = importlib.import_module("torchvision.ops.roi_align")  # the package has the function under its name
        # In the place of the operator it would compile this, for a minute.
        monkeypatch.setattr(align, "_roi_align", getattr(align._roi_align, "__wrapped__", align._roi_align))
    return detection


class Pyramid(nn.Module):
    """Two levels of strides 4 and 8."""

    def __init__(self, channels=8):
        super().__init__()
        self.out_channels = channels
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, stride=4, padding=1), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(channels, channels, 3, stride=2, padding=1), nn.ReLU())

    def forward(self, images):
        fine = self.stem(images)
        return OrderedDict([("0", fine), ("1", self.late(fine))])


def spread(model, seed=0):
    """Weights that make scores differ from place to place, as those at birth do not."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                scale = 1.2 / parameter[0].numel() ** 0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
            elif name.endswith("bias"):
                parameter.zero_()
    return model.eval()


def of_torchvision(monkeypatch, kind):
    """RetinaNet, FCOS, SSD, Faster, Mask or Keypoint R-CNN on a pyramid."""
    detection = torchvision_detection(monkeypatch)
    from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD
    from torchvision.ops import MultiScaleRoIAlign

    sizes = {"min_size": 64, "max_size": 96}
    if kind == "retinanet":
        anchors = AnchorGenerator(((12,), (24,)), ((0.5, 1.0),) * 2)
        return spread(detection.RetinaNet(Pyramid(), 3, anchor_generator=anchors, **sizes))
    if kind == "fcos":
        anchors = AnchorGenerator(((4,), (8,)), ((1.0,),) * 2)
        return spread(detection.FCOS(Pyramid(32), 3, anchor_generator=anchors, **sizes))
    if kind == "ssd":
        boxes = DefaultBoxGenerator([[2], [2]], scales=[0.1, 0.3, 0.6])
        pyramid = Pyramid()
        pyramid.out_channels = [8, 8]
        return spread(SSD(pyramid, boxes, (64, 64), 3))
    few = {"rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_test": 20, "box_detections_per_img": 5}
    anchors = AnchorGenerator(((12,), (24,)), ((0.5, 1.0),) * 2)
    pool = MultiScaleRoIAlign(["0", "1"], 5, 2, canonical_scale=24, canonical_level=3)
    fine = MultiScaleRoIAlign(["0", "1"], 14, 2)
    build, more = {
        "faster": (detection.FasterRCNN, {}),
        "mask": (detection.MaskRCNN, {"mask_roi_pool": fine}),
        "keypoint": (detection.KeypointRCNN, {"keypoint_roi_pool": fine, "num_keypoints": 4}),
    }[kind]
    return spread(build(Pyramid(), 3, rpn_anchor_generator=anchors, box_roi_pool=pool, **sizes, **few, **more))


def of_transformers(kind):
    """DETR, Conditional, DAB-, RT- or Deformable DETR (also of two stages, of four levels) or YOLOS; three classes."""
    transformers = module("transformers", "PEERS")
    rt_backbone = _DETR["backbone_config"] | {
        "model_type": "rt_detr_resnet",
        "out_features": ["stage2", "stage3", "stage4"],
    }
    deformable = _DETR | {
        "backbone_config": _DETR["backbone_config"] | {"out_features": ["stage3", "stage4"]},
        "d_model": 64,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "num_feature_levels": 2,
        "num_queries": 20,
    }
    options = {
        "DabDetr": {name: value for name, value in _DETR.items() if name != "d_model"} | {"hidden_size": 48},
        "DeformableDetr": deformable,
        "DeformableDetr two": deformable | {"two_stage": True, "with_box_refine": True, "two_stage_num_proposals": 20},
        "DeformableDetr four": deformable
        | {
            "backbone_config": _DETR["backbone_config"] | {"out_features": ["stage2", "stage3", "stage4"]},
            "num_feature_levels": 4,
            "num_queries": 7,
            "with_box_refine": True,
        },
        "Detr": _DETR,
        "ConditionalDetr": _DETR,
        "Yolos": {
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "intermediate_size": 96,
            "image_size": [96, 96],
            "patch_size": 16,
            "num_detection_tokens": 5,
        },
        "RTDetr": {
            "backbone_config": rt_backbone,
            "backbone": None,
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
            "encoder_hidden_dim": 32,
            "encoder_in_channels": [32, 48, 64],
            "d_model": 32,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "decoder_in_channels": [32, 32, 32],
            "decoder_layers": 2,
            "num_queries": 20,
            "decoder_attention_heads": 4,
            "encoder_attention_heads": 4,
        },
    }[kind]
    kind = kind.partition(" ")[0]
    torch.manual_seed(0)
    names = {0: "cat", 1: "dog", 2: "horse"}
    config = getattr(transformers, f"{kind}Config")(
        **options, id2label=names, label2id={v: k for k, v in names.items()}
    )
    model = getattr(transformers, f"{kind}ForObjectDetection")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    return model


class Yolo(nn.Module):
    """YOLO's form: two scales, a neck, and a head that parts into classes and boxes, with `form` of the output."""

    def __init__(self, form="v8", classes=3):
        super().__init__()
        self.form, self.nc = form, classes
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.SiLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.SiLU())
        self.neck = nn.Sequential(nn.Conv2d(24, 16, 3, padding=1), nn.SiLU())
        self.down = nn.Sequential(nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.SiLU())
        self.out = nn.Sequential(nn.Conv2d(32, 16, 3, padding=1), nn.SiLU())
        self.up = nn.Upsample(scale_factor=2)
        self.of_boxes = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 4, 1)) for _ in "ab"
        )
        more = classes + (form == "v5")
        self.of_classes = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, more, 1)) for _ in "ab"
        )

    def forward(self, images):
        fine = self.stem(images)
        deep = self.deep(fine)
        near = self.neck(torch.cat([self.up(deep), fine], dim=1))
        far = self.out(torch.cat([self.down(near), deep], dim=1))
        parts = []
        for features, boxes, classes, stride in zip((near, far), self.of_boxes, self.of_classes, (4, 8)):
            rows, columns = features.shape[-2:]
            places = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
            centres = torch.stack([places[1], places[0]])[None] * stride
            sides = boxes(features).clamp(-3, 3).exp() * 2 * stride
            low, high = sides[:, :2], sides[:, 2:]
            box = torch.cat([centres + (high - low) / 2, low + high], dim=1)
            parts.append(torch.cat([box, classes(features).sigmoid()], dim=1).flatten(2))
        output = torch.cat(parts, dim=2)
        return output if self.form == "v8" else output.mT


class OneConvolution(nn.Module):
    """YOLO's oldest form of a head: boxes and classes of each of some scales from one 1 x 1 convolution.

    `raw` has what it returns: levels that are not decoded.
    """

    def __init__(self, scales=2, raw=False, in_place=False):
        super().__init__()
        self.nc, self.raw, self.in_place = 2, raw, in_place
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.SiLU())
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.SiLU()) for _ in range(scales)
        )
        self.heads = nn.ModuleList(nn.Conv2d(8, 7, 1) for _ in range(scales))

    def forward(self, images):
        features, levels = self.stem(images), []
        for stage, head in zip(self.stages, self.heads):
            features = stage(features)
            levels.append(head(features))
        return levels if self.raw else torch.cat([self.decoded(level) for level in levels], dim=1)

    def decoded(self, level):
        """Rows (B, N, 5 + K) of a level whose stride is told by its size in images of 64 x 64."""
        rows, columns = level.shape[-2:]
        values = level.sigmoid()
        values = values.flatten(2).mT if self.in_place else values.flatten(2).mT.clone()
        places = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        centres, stride = torch.stack([places[1].flatten(), places[0].flatten()], dim=1), 64 / rows
        values[..., :2] = (values[..., :2] - 0.5 + centres) * stride
        values[..., 2:4] = values[..., 2:4] * 4 * stride
        return values


class Planted(nn.Module):
    """Finds what is bright in the left half as class 0 there, and in the right half as class 1."""

    class_names = ("left", "right")

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 4, 5, stride=4, padding=2)
        with torch.no_grad():
            self.features.weight.fill_(1 / 75)
            self.features.bias.zero_()

    def forward(self, images):
        bright = self.features(images).relu()
        middle = bright.shape[-1] // 2
        sums = [half.mean(dim=(1, 2, 3)) for half in (bright[..., :middle], bright[..., middle:])]
        scores = torch.stack(sums, dim=1).mul(6).sigmoid()
        height, width = images.shape[-2:]
        boxes = images.new_tensor([[0, 0, width / 2, height], [width / 2, 0, width, height]])
        labels = torch.tensor([0, 1])
        return [{"boxes": boxes, "labels": labels, "scores": row} for row in scores]
