"""Semantic segmentation: why pixels are of a class, those of a given mask or those where it is predicted.

DeepLabV3 of torchvision with random weights, so that the maps mean nothing: trained ones don't come by pip.
"""

import torch
from photographs import prepared, write
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

import cfcam_gpu
from cfcam_gpu import targets

torch.manual_seed(0)
model = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21).eval()
images = prepared("chelsea", 128)

with torch.no_grad():
    index = int(model(images)["out"].mean((2, 3)).argmax())  # the class of most evidence
mask = torch.zeros(128, 128, dtype=torch.bool)
mask[32:96, 32:96] = True

explain = cfcam_gpu.CFCAM(model, "backbone.16")
result = explain(images, [[targets.Segment(index), targets.Segment(index, mask)]])
write("segmentation", result, images)
