"""Heads without a softmax: several labels at once, and a single logit of either sign.

Networks of timm with random weights, so that the maps mean nothing: trained ones don't come by pip.
"""

import timm
import torch
from photographs import prepared, write

import cfcam_gpu
from cfcam_gpu import targets

torch.manual_seed(0)
images = prepared("coffee", 96)

many = timm.create_model("resnet18", pretrained=False, num_classes=20).eval()
# Labels don't compete: an index would be explained against its rivals, a Label is taken as it is.
labels = cfcam_gpu.CFCAM(many)(images, [[targets.Label(3), targets.Label(7), targets.Label(3, present=False)]])
write("labels", labels, images)

one = timm.create_model("resnet18", pretrained=False, num_classes=1).eval()
result = cfcam_gpu.CFCAM(one, "layer4")(images, [[targets.Binary(), targets.Binary(positive=False)]])
write("binary", result, images)
