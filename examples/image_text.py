"""Image and text: why this caption rather than those.

CLIP of transformers, small and with random weights and tokens, so that the maps mean nothing: trained ones don't come
by pip.
"""

import torch
from photographs import prepared, write
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

import cfcam_gpu
from cfcam_gpu import targets

torch.manual_seed(0)
SIZE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
vision = CLIPVisionModelWithProjection(
    CLIPVisionConfig(**SIZE, image_size=224, patch_size=16, projection_dim=32)
).eval()
text = CLIPTextModelWithProjection(CLIPTextConfig(**SIZE, vocab_size=1000, projection_dim=32)).eval()

captions = torch.randint(1, 990, (3, 8))  # from a tokenizer, in earnest
with torch.no_grad():
    texts = text(captions).text_embeds

images = prepared("chelsea", 224)
explain = cfcam_gpu.CFCAM(vision, "vision_model.embeddings.patch_embedding")
result = explain(images, [[targets.ImageText(texts, k, key="image_embeds") for k in range(len(texts))]])
write("image_text", result, images)
