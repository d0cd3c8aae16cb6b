"""What models say of their images is done: the pixels are those of the library whose description it is."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cfcam_gpu.image_files import photos
from cfcam_gpu.image_files.preparation import Preparation
from cfcam_gpu.named_models import descriptions, models
from cfcam_gpu.named_models.asked_input import AskedInput

#: Of 255: kernels of torchvision and of Pillow round apart, in each of two steps.
ROUNDING = 2.01
SIZES = [(451, 300), (300, 451), (301, 177), (97, 61), (500, 90)]


def apart(wants, theirs):
    """How far a preparation's pixels are from a library's, of 255, over photographs of many shapes."""
    picture = photos.read(photos.samples()[0])
    found = []
    for size in SIZES:
        image = picture.resize(size)
        ours = wants.normalize(wants.pixels(image)[None])[0]
        other = torch.as_tensor(np.asarray(theirs(image))).reshape(ours.shape)
        found.append(float(((ours - other) * 255 * torch.tensor(wants.std)[:, None, None]).abs().max()))
    return max(found)


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b1", "swin_v2_t"])
def test_torchvisions(peer, name):
    preset = peer("torchvision.models").get_model_weights(name).DEFAULT.transforms()
    assert apart(descriptions.read(preset, "it"), preset) < 1e-3


@pytest.mark.parametrize(
    "config",
    [
        {"input_size": (3, 176, 176), "crop_pct": 0.875, "interpolation": "bicubic"},
        {"input_size": (3, 96, 160), "crop_pct": 0.9, "interpolation": "bilinear"},
        {"input_size": (3, 64, 64), "crop_pct": 0.95, "crop_mode": "squash", "interpolation": "bicubic"},
    ],
    ids=["square", "wide", "squash"],
)
def test_timms(peer, config):
    config |= {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
    transform = peer("timm.data").create_transform(**config, is_training=False)
    assert apart(descriptions.read(config, "it"), transform) < 1e-3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ViT", {}),
        ("Siglip", {"size": {"height": 64, "width": 96}}),
        ("ConvNext", {"size": {"shortest_edge": 64}, "crop_pct": 0.9}),
        ("ConvNext", {}),
        ("CLIP", {"size": {"shortest_edge": 70}, "crop_size": {"height": 64, "width": 64}}),
        ("DeiT", {}),
        ("ViT", {"do_rescale": False, "do_normalize": False}),
        ("ViT", {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}),
    ],
)
def test_processors(peer, name, options):
    processor = getattr(peer("transformers"), f"{name}ImageProcessor")(**options)
    wants = descriptions.read(processor, "it")
    assert apart(wants, lambda image: processor(images=image, return_tensors="np")["pixel_values"]) <= ROUNDING


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("MobileViT", {}, "MobileViTImageProcessor does what is not done here: do_flip_channel_order"),
        ("ViT", {"do_resize": False}, "ViTImageProcessor resizes no image"),
        ("CLIP", {"do_center_crop": False}, "CLIPImageProcessor gives images of many shapes"),
        # It enlarges what it says to be the shorter side.
        ("Levit", {}, "LevitImageProcessor makes another input of an image than its settings say"),
    ],
)
def test_processors_of_something_else_are_refused(peer, name, options, message):
    processor = getattr(peer("transformers"), f"{name}ImageProcessor")(**options)
    with pytest.raises(ValueError, match=f"^model: {message}"):
        descriptions.read(processor, "it")


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({"input_size": (3, 8)}, ValueError, "it says input_size"),
        ({"input_size": (3, 8, 8), "crop_mode": "border"}, ValueError, "it crops by border"),
        ({"input_size": (4, 8, 8)}, ValueError, "it says 4 channels, and mean and std of 3"),
        (Image.Image(), TypeError, "expected it to describe its images by .*; got Image"),
    ],
)
def test_what_describes_nothing_is_refused(said, error, message):
    with pytest.raises(error, match=f"^model: .*{message}"):
        descriptions.read(said, "it")


def net(channels=3, **said):
    """Three classes of images of any size."""
    found = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    for name, value in said.items():
        setattr(found, name, value)
    return found


SQUASHED = Preparation(24, 24, Image.Resampling.BILINEAR, (0.1, 0.2), (0.3, 0.4), squash=True)
CONFIG = {"input_size": (3, 24, 40), "mean": (0.1, 0.2, 0.3), "std": (0.2, 0.2, 0.2), "crop_pct": 1.0}


def plain():
    return net()


def described():
    return net(2), SQUASHED


def of_timm():
    return net(pretrained_cfg=CONFIG)


def of_transformers():
    return net(config=SimpleNamespace(image_size=24, num_channels=3))


def twelve():
    return net(12)


@pytest.mark.parametrize(
    ("name", "size", "resize", "mean", "noted"),
    [
        ("plain", 224, 256, (0.485, 0.456, 0.406), True),
        ("described", 24, 24, (0.1, 0.2), False),
        ("of_timm", (24, 40), (24, 40), (0.1, 0.2, 0.3), False),
        ("of_transformers", 24, 24, (0.485, 0.456, 0.406), True),
    ],
)
def test_a_factorys_model_is_asked_for_its_input(name, size, resize, mean, noted):
    loaded = models.load(f"{__name__}:{name}")
    wants = loaded.preparation
    assert (wants.size, wants.resize, wants.mean) == (size, resize, mean)
    assert bool(loaded.notes) == noted


@pytest.mark.parametrize("given", [{}, {"channels": 12}, {"size": (32, 32)}])
def test_bands_are_not_guessed_at(given):
    with pytest.raises(ValueError, match=r"^mean and std: .*:twelve takes 12 channels.*give --mean and --std"):
        models.load(f"{__name__}:twelve", asked=AskedInput(**given))


def test_what_is_asked_for_comes_before_what_is_described():
    asked = AskedInput(size=(48, 64), mean=(0.5,), std=(0.1, 0.2, 0.3))
    wants = models.load(f"{__name__}:of_timm", asked=asked).preparation
    assert (wants.size, wants.resize, wants.rounding) == ((48, 64), (48, 64), "torchvision"), "as much of the image"
    assert (wants.mean, wants.std) == ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    wants = models.load(f"{__name__}:twelve", asked=AskedInput(mean=(0.5,), std=(0.1,))).preparation
    assert (wants.channels, wants.size) == (12, 224)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mean": (0.5,)}, "mean and std: expected both or neither; got mean alone"),
        ({"mean": (0.5,), "std": (0.1,) * 4, "channels": 12}, "std: expected one number, or 12"),
    ],
)
def test_what_is_asked_for_fits_together(given, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        models.load(f"{__name__}:twelve", asked=AskedInput(**given))


@pytest.fixture
def folder(peer, tmp_path):
    """A classifier of three classes, as transformers saves one."""
    transformers = peer("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        id2label={0: "square", 1: "circle", 2: "cross"},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_a_folder_of_transformers(folder):
    loaded = models.load(f"transformers:{folder}")
    assert (loaded.preparation.size, loaded.preparation.squash, loaded.preparation.mean) == (32, True, (0.5,) * 3)
    assert loaded.trained
    with torch.no_grad():
        assert loaded.module(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 3)


def test_a_folder_without_a_classifiers_weights_is_refused(peer, folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"^model: the weights in .* do not fit its classifier: \d+ are missing"):
        models.load(f"transformers:{folder}")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_folder_of_something_else_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"^model: expected .* to have {name}"):
        models.load(f"transformers:{folder}")


def test_a_folder_with_code_of_its_own_runs_none(folder):
    config = json.loads((folder / "config.json").read_text())
    code = {"auto_map": {"AutoModelForImageClassification": "own.Own"}, "model_type": "of-its-own"}
    (folder / "config.json").write_text(json.dumps(config | code))
    (folder / "own.py").write_text("raise SystemExit('run')")
    with pytest.raises(ValueError, match=r"^model: .* is no classifier of images that transformers can load"):
        models.load(f"transformers:{folder}")
