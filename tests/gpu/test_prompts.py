"""Models of images and texts, and of points, on a GPU."""

import pytest
import torch

from cfcam_gpu import CFCAM, explain_point, explain_text
from cfcam_gpu.explain import ZeroShot

from ..explain.test_points import sam
from ..two_towers import TEXTS, TokensFirst, of_transformers, photographs, pictures, preprocess, tokenizer
from .beside import close, double, same

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact")]


def tokens_of(texts):
    """On the host, as tokenizers give them."""
    return torch.tensor([[len(text) % 4] for text in texts])


def test_texts_are_explained_as_on_the_cpu(running, device):
    texts, given = ["a", "bc", "def"], pictures().double()
    expected = explain_text(double(TokensFirst()), tokens_of, given, texts)
    model, on_device = double(TokensFirst()).to(device), given.to(device)
    found = explain_text(model, tokens_of, on_device, texts, engine=running)
    same(found, expected, device)
    close(found.images, expected.images, device, atol=1 / 255)
    assert found.overlay().device == device
    assert found[1].cpu().classes == [texts]
    alone = CFCAM(ZeroShot(model, tokens_of, texts), found.layers[0], engine=running)(on_device, target="bc")
    assert alone.classes == ["bc", "bc"]
    assert alone.maps.device == device


def test_photographs_go_to_where_the_model_is(device):
    processor = preprocess("CLIP"), tokenizer()
    expected = explain_text(of_transformers("CLIP").double(), processor, photographs(), TEXTS)
    found = explain_text(of_transformers("CLIP").double().to(device), processor, photographs(), TEXTS)
    same(found, expected, device)


def test_the_mask_of_a_point_is_explained_as_on_the_cpu(device):
    points = [[(10, 20), (80, 40)], [(60, 30), (3, 4)]]
    model, processor = sam()
    expected = explain_point(model, processor, photographs(), points, method="layercam")
    model = model.to(device)
    found = explain_point(model, processor, photographs(), points, method="layercam")
    assert found.masks.device == found.points.device == found.overlay().device == device
    assert (found.masks.cpu() != expected.masks).float().mean() < 1e-3
    close(found.maps, expected.maps, device, atol=2e-3)
    prepared = explain_point(
        model, None, found.images[:1].to(device).float() / 255, [[(10.0, 20.0)]], method="layercam"
    )
    assert prepared.maps.device == device
