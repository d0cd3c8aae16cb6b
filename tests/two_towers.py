"""Small models of images and texts, with what makes their inputs, and one in which it is known what a text looks at."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from .needs import module

TEXTS = ["a cat", "photo of two dog", "a dog"]
WORDS = ["[PAD]", "[EOS]", "a", "cat", "dog", "photo", "of", "two"]
SIDE, PATCH, LENGTH = 64, 16, 16
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT = {"vocab_size": 99, "max_position_embeddings": LENGTH, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1}


def tokenizer():
    """Of transformers, a token for each word and one for the end."""
    tokenizers = module("tokenizers", "PEERS")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A [EOS]", special_tokens=[("[EOS]", 1)])
    fast = module("transformers", "PEERS").PreTrainedTokenizerFast
    return fast(tokenizer_object=made, pad_token="[PAD]", eos_token="[EOS]", model_max_length=LENGTH)


def preprocess(kind):
    transformers = module("transformers", "PEERS")
    if kind == "Siglip":
        return transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    return transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def of_transformers(kind):
    """A model with random weights: CLIP, Siglip, MetaClip2, ChineseCLIP, AltCLIP or VisionTextDualEncoder."""
    transformers = module("transformers", "PEERS")
    vision = {**SIZES, "image_size": SIDE, "patch_size": PATCH}
    torch.manual_seed(0)
    if kind == "VisionTextDualEncoder":
        parts = transformers.ViTConfig(**vision), transformers.BertConfig(**SIZES, **TEXT)
        config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(*parts, projection_dim=24)
    else:
        text = {**SIZES, **TEXT} | (
            {"project_dim": 24, "max_position_embeddings": LENGTH + 2} if kind == "AltCLIP" else {}
        )
        sizes = {} if kind == "Siglip" else {"projection_dim": 24}
        config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision, **sizes)
    kinds = {"Siglip": "SiglipModel", "VisionTextDualEncoder": "VisionTextDualEncoderModel"}
    model = getattr(transformers, kinds.get(kind, f"{kind}Model"))(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # they are born with so small ones that all embeddings are nearly the same
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
        if kind == "Siglip":
            model.logit_bias.fill_(-2.0)
    return model


def photographs():
    random = np.random.default_rng(0)
    shapes = [(50, 90, 3), (100, 70)]
    return [Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


def pictures(count=2):
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


COLOURS = ["red", "green", "blue"]


class Regions(nn.Module):
    """With the interface of OpenAI's clip: a text names a colour, and the score is how much of it is in one quarter.

    Red counts in the quarter at the top left alone, green at the top right, blue at the bottom left.
    """

    def __init__(self):
        super().__init__()
        self.visual = nn.Sequential(nn.Conv2d(3, 3, 4, stride=4, bias=False), nn.ReLU())
        with torch.no_grad():
            self.visual[0].weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 4, 4) / 16)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_image(self, images):
        quarters = nn.functional.adaptive_avg_pool2d(self.visual(images), 2).flatten(2)
        return torch.stack([quarters[:, k, k] for k in range(3)], dim=1)

    def encode_text(self, tokens):
        return torch.eye(3)[tokens[:, 0]]


def tokens_of(texts):
    """A tokenizer of colours, as clip's."""
    return torch.tensor([[COLOURS.index(text)] for text in texts])


def coloured(count=2):
    """Each quarter in the colour that counts there, and some of each everywhere."""
    images = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 0.2
    half = SIDE // 2
    for k, (rows, columns) in enumerate(
        [(slice(half), slice(half)), (slice(half), slice(half, None)), (slice(half, None), slice(half))]
    ):
        images[:, k, rows, columns] += 0.8
    return images


class Block(nn.Module):
    """As OpenAI's clip has it."""

    def __init__(self, width):
        super().__init__()
        self.attn, self.ln_1, self.ln_2 = nn.MultiheadAttention(width, 2), nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Blocks(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width) for _ in range(3)))

    def forward(self, x):
        return self.resblocks(x)


class Tower(nn.Module):
    """A vision transformer whose blocks take tokens (N, B, C); its embedding is read from the class token."""

    def __init__(self, width=16):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, PATCH, stride=PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(1 + (SIDE // PATCH) ** 2, width))
        self.transformer, self.ln_post, self.proj = Blocks(width), nn.LayerNorm(width), nn.Linear(width, 8)

    def forward(self, x):
        patches = self.conv1(x).flatten(2).mT
        tokens = torch.cat([self.class_embedding.expand(len(x), 1, -1), patches], dim=1) + self.positional_embedding
        tokens = self.transformer(tokens.transpose(0, 1)).transpose(0, 1)
        return self.proj(self.ln_post(tokens[:, 0]))


class TokensFirst(nn.Module):
    """With the interface and the towers of OpenAI's clip."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.visual, self.embedding = Tower(), nn.Embedding(4, 8)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.eval()

    def encode_image(self, images):
        return self.visual(images)

    def encode_text(self, tokens):
        return self.embedding(tokens).mean(dim=1)
