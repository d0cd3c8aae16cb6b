"""Object detection: why this object was found.

SSDlite of torchvision with random weights, so that the maps mean nothing: trained ones don't come by pip.
"""

import torch
import torchvision
from photographs import prepared, write
from plain_nms import nms
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import cfcam_gpu
from cfcam_gpu import targets

if not torchvision.extension._has_ops():  # where its compiled part is for another torch
    torchvision.ops.boxes.nms = nms

torch.manual_seed(0)
model = ssdlite320_mobilenet_v3_large(
    weights=None, weights_backbone=None, num_classes=5, score_thresh=0.0, topk_candidates=20, detections_per_img=5
).eval()
images = prepared("astronaut", 320, ((0.0,) * 3, (1.0,) * 3))  # it normalises by itself

with torch.no_grad():
    found = model(images)[0]
print(f"class {int(found['labels'][0])} at {found['boxes'][0].tolist()}, score {float(found['scores'][0]):.3f}")

target = targets.Detection(found["boxes"][0], int(found["labels"][0]))
result = cfcam_gpu.CFCAM(model, "backbone.features.0")(images, target)
write("detection", result, images)
