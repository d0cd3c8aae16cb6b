"""Image and text: why this caption rather than those.

CLIP of open_clip, small and with random weights, so that the maps mean nothing: trained ones don't come by pip. Yours
is ``model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32", pretrained=...)`` with
``open_clip.get_tokenizer("ViT-B-32")``.
"""

import open_clip
import skimage.data
import torch
from photographs import write
from PIL import Image

import cfcam_gpu

torch.manual_seed(0)
vision = {"image_size": 224, "patch_size": 16, "layers": 2, "width": 64, "head_width": 16}
text = {"context_length": 77, "vocab_size": 49408, "layers": 2, "width": 64, "heads": 4}
model = open_clip.CLIP(32, vision, text).eval()
preprocess, tokenizer = open_clip.image_transform(224, is_train=False), open_clip.SimpleTokenizer()

photograph = Image.fromarray(skimage.data.chelsea())
captions = ["a photo of a cat", "a photo of a dog", "a cup of coffee"]
result = cfcam_gpu.explain_text(model, (preprocess, tokenizer), photograph, captions)
print(dict(zip(captions, result.probability[0].tolist())))
write("image_text", result, result.images)
