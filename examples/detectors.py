"""Detectors in one line: each object that is found, and where its score comes from.

With pytorch-grad-cam it takes a wrapper of the model's output, a target for the boxes, a reshape of the layers, and a
call for each box. SSDlite of torchvision has random weights here, so that the maps mean nothing: trained ones don't
come by pip.
"""

import sys

import torch
import torchvision
from photographs import prepared
from plain_nms import nms
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import cfcam_gpu

if not torchvision.extension._has_ops():  # where its compiled part is for another torch
    torchvision.ops.boxes.nms = nms

torch.manual_seed(0)
model = ssdlite320_mobilenet_v3_large(
    weights=None, weights_backbone=None, num_classes=3, score_thresh=0.0, topk_candidates=20, detections_per_img=5
).eval()
images = prepared("astronaut", 320, ((0.0,) * 3, (1.0,) * 3))  # it normalises by itself

(result,) = cfcam_gpu.explain_detections(
    model, images, threshold=0.3, top=3, class_names=["background", "person", "rocket"]
)
for name, score, box, share in zip(result.names, result.scores, result.boxes, result.share_in_box):
    print(f"{name} {score:.2f} at {box.int().tolist()}: {share:.0%} of its map is in its box")
result.save(sys.argv[1] if len(sys.argv) > 1 else "out/examples", image=images[0], name="detectors", overwrite=True)
