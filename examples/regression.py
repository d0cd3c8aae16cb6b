"""A regression: what makes the value larger, and what moves it toward 10.

A ResNet-18 of torchvision with random weights, so that the maps mean nothing: trained ones don't come by pip.
"""

import torch
from photographs import prepared, write
from torchvision.models import resnet18

import cfcam_gpu
from cfcam_gpu import targets

torch.manual_seed(0)
model = resnet18(weights=None, num_classes=1).eval()
images = prepared("astronaut", 96)

result = cfcam_gpu.CFCAM(model, "layer4")(
    images, [[targets.Value(), targets.Value(larger=False), targets.Toward(10.0)]]
)
print(f"the value is {float(result.logits):.2f}")
write("regression", result, images)
