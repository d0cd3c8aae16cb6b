"""Commands on a model of one's own: its names, size, channels and units, from the options to the results."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from cfcam_gpu.cli import app
from cfcam_gpu.image_files import photos, reading
from cfcam_gpu.image_files.formats import TooLargeError, UnreadableError
from cfcam_gpu.image_files.preparation import Preparation
from cfcam_gpu.named_models import exported, loading
from cfcam_gpu.named_models.models import Model
from cfcam_gpu.named_models.options import Settings, numbers_of, size_of

from ..needs import module

tifffile = module("tifffile", "PEERS")

BILINEAR = Image.Resampling.BILINEAR
BANDS = Preparation(16, 16, BILINEAR, (0.0,) * 4, (10000.0,) * 4)
SHADES = Preparation(16, 16, BILINEAR, (0.5,) * 4, (0.5,) * 4)


class Bright(nn.Module):
    """Two classes: the brightness of the last channel's left half, and of its right half."""

    def __init__(self, channels, fixed=None):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2, 1, bias=False)
        self.fixed = fixed
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[:, -1] = 1.0

    def forward(self, images):
        if self.fixed is not None:
            torch._assert(images.shape[-1] == self.fixed, f"expected {self.fixed} pixels")
        found = self.conv(images).relu()
        half = images.shape[-1] // 2
        return torch.stack([found[:, 0, :, :half].mean((1, 2)), found[:, 1, :, half:].mean((1, 2))], dim=1)


def grey():
    return Bright(1)


def four():
    return Bright(4)


def fixed():
    return Bright(3, fixed=224)


def thousand():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1000))


def spec(name):
    return f"{__name__}:{name}"


@pytest.fixture
def names(tmp_path):
    (tmp_path / "names.txt").write_text("left\nright\n")
    return tmp_path / "names.txt"


def lines(folder):
    return [json.loads(line) for line in (folder / "explanations.jsonl").read_text().splitlines()]


def invoke(*args):
    result = CliRunner().invoke(app, list(map(str, args)))
    return result.exit_code, result.stderr


def field(height, width, channels=4, dtype=np.uint16, top=9000):
    """Dark but for the right half of the last band."""
    values = np.zeros((height, width, channels), dtype)
    values[:, width // 2 :, -1] = top
    return values


WAYS = {
    "last.npy": lambda path, values: np.save(path, values),
    "first.npy": lambda path, values: np.save(path, np.moveaxis(values, -1, 0)),
    "samples.tif": lambda path, values: tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig"),
    "planes.tif": lambda path, values: tifffile.imwrite(
        path, np.moveaxis(values, -1, 0), photometric="minisblack", planarconfig="separate"
    ),
    "pages.tif": lambda path, values: tifffile.imwrite(path, np.moveaxis(values, -1, 0), photometric="minisblack"),
    "tiles.tif": lambda path, values: tifffile.imwrite(
        path, values, photometric="rgb", extrasamples=["unspecified"], tile=(16, 16), compression="zlib"
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_bands_are_read_from_every_kind_of_file(tmp_path, way):
    values = np.random.default_rng(0).integers(0, 10000, (20, 30, 4)).astype(np.uint16)
    WAYS[way](tmp_path / way, values)
    page = reading.first_page(tmp_path / way, takes=BANDS)
    assert page.size == (30, 20)
    np.testing.assert_array_equal(page.image, values)
    with open(tmp_path / way, "rb") as file, pytest.raises(TooLargeError):
        reading.first_page(file, takes=BANDS, max_pixels=599)


@pytest.mark.parametrize(
    ("shape", "channels", "message"),
    [
        ((20, 30, 4), 3, r"an array of \(20, 30, 4\): expected \(H, W, 3\) or \(3, H, W\)"),
        ((4, 20, 4), 4, "nobody knows whether its first axis has the channels, or its last"),
        ((20, 30), 4, r"an array of \(20, 30\)"),
        ((2, 20, 30, 4), 4, r"an array of \(2, 20, 30, 4\)"),
        ((0, 30, 4), 4, "which is empty"),
    ],
)
def test_arrays_whose_channels_can_not_be_known_are_refused(shape, channels, message):
    file = io.BytesIO()
    np.save(file, np.zeros(shape, np.uint8))
    with pytest.raises(UnreadableError, match=message):
        reading.first_page(file, takes=Preparation(8, 8, BILINEAR, (0.5,) * channels, (0.5,) * channels))


def test_arrays_that_are_cut_off_or_of_objects_are_refused():
    file = io.BytesIO()
    np.save(file, np.zeros((20, 30, 4)))
    with pytest.raises(UnreadableError, match="cut off"):
        reading.first_page(io.BytesIO(file.getvalue()[:-1]), takes=BANDS)
    file = io.BytesIO()
    np.save(file, np.full((20, 30, 4), None), allow_pickle=True)
    with pytest.raises(UnreadableError, match="Python's objects"):
        reading.first_page(file, takes=BANDS)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.zeros((5, 20, 30), np.uint16), {}, "a TIFF of 5 bands; the model takes 4 channels"),
        (np.zeros((20, 30), np.uint16), {}, "a TIFF of 1 bands"),
        (np.zeros((4, 20, 30), np.uint16), {"metadata": {"axes": "ZYX"}, "imagej": True}, "of the axes ZYX"),
        (np.zeros((20, 30, 4), np.uint16), {"photometric": "miniswhite", "planarconfig": "contig"}, "MINISWHITE"),
        (np.full((4, 20, 30), -9999, np.float32), {"extratags": [(42113, "s", 6, "-9999", True)]}, "nodata -9999"),
    ],
)
def test_tiffs_of_something_else_are_refused(tmp_path, values, options, message):
    tifffile.imwrite(tmp_path / "a.tif", values, **{"photometric": "minisblack", **options})
    with pytest.raises(UnreadableError, match=message):
        reading.first_page(tmp_path / "a.tif", takes=BANDS)


def test_several_images_are_no_bands(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(np.zeros((4, 20, 30), np.uint16), photometric="minisblack")
        file.write(np.zeros((10, 10), np.uint16), photometric="minisblack")
    with pytest.raises(UnreadableError, match="2 images of other shapes"):
        reading.first_page(tmp_path / "a.tif", takes=BANDS)


def test_values_in_the_files_own_units_are_not_those_of_8_bits(tmp_path):
    own = Preparation(8, 8, BILINEAR, (30000.0,), (9000.0,))
    values = np.random.default_rng(0).integers(20000, 50000, (20, 30), np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    with pytest.raises(UnreadableError, match="more than 8 bits"):
        reading.first_page(tmp_path / "a.png", takes=own)
    tifffile.imwrite(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(reading.first_page(tmp_path / "a.tif", takes=own).image[..., 0], values)
    # With mean and std in [0, 1] a photograph of 16 bits is one.
    plain = Preparation(8, 8, BILINEAR, (0.5,), (0.5,))
    shades = [plain.pixels(reading.first_page(tmp_path / name, takes=plain).image) for name in ("a.png", "a.tif")]
    assert torch.equal(*shades)


@pytest.mark.parametrize("way", ["last.npy", "pages.tif"])
def test_bands_are_explained_by_name(tmp_path, names, way):
    WAYS[way](tmp_path / way, field(24, 40))
    out = tmp_path / "out"
    options = ["--size=16,24", "--channels=4", "--mean=0", "--std=10000", "--classes", names, "--layer=conv"]
    code, told = invoke("explain", tmp_path / way, "--model", spec("four"), *options, "--target=right", "--out", out)
    assert (code, "failed" in told) == (0, False), told
    [line] = lines(out)
    assert (line["class"], line["empty"]) == ("right", False)
    stem = line["overlay"].removesuffix(".png")
    values = np.load(out / f"{stem}.npy")
    assert values.shape == (16, 24)
    assert values[:, 14:].min() > 0.9
    assert values[:, :10].max() < 0.1
    with Image.open(out / line["overlay"]) as overlay:
        assert overlay.size == (24, 16)


@pytest.mark.parametrize("command", ["explain", "run"])
def test_a_folder_of_arrays_is_explained(tmp_path, names, command):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", field(24, 40))
    options = ["--size=16,24", "--channels=4", "--mean=0", "--std=10000", "--classes", names, "--layer=conv"]
    options += ["--workers=0"] * (command == "run")
    code, told = invoke(command, tmp_path / "in", "--model", spec("four"), *options, "--out", tmp_path / "out")
    assert (code, ".npy" in told) == (0, False), told


def test_grey_photographs_of_a_model_of_one_channel(tmp_path, names):
    Image.fromarray(field(32, 32, 1, np.uint8, 250)[..., 0]).save(tmp_path / "a.png")
    out = tmp_path / "out"
    options = ["--size=32", "--mean=0", "--std=1", "--classes", names, "--layer=conv"]
    code, told = invoke("explain", tmp_path / "a.png", "--model", spec("grey"), *options, "--out", out)
    assert (code, [line["class"] for line in lines(out)]) == (0, ["right"]), told


def test_a_job_of_another_input_or_other_names_is_another_job(tmp_path, names):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        tifffile.imwrite(
            tmp_path / "in" / f"{name}.tif", field(20, 20), photometric="minisblack", planarconfig="contig"
        )
    begin = ["run", tmp_path / "in", "--model", spec("four"), "--out", tmp_path / "out", "--layer=conv", "--workers=0"]
    asked = {"--size": "16", "--mean": "0", "--std": "10000", "--classes": names}
    given = [part for pair in asked.items() for part in pair]
    assert [invoke(*begin, *given)[0] for _ in range(2)] == [0, 0], "begun, and continued"
    manifest = module("pyarrow.parquet", "PEERS").read_table(tmp_path / "out" / "manifest.parquet").to_pydict()
    assert manifest["class"] == ["right", "right"]
    for name, value in {"--size": "24", "--std": "5000"}.items():
        code, told = invoke(*begin, *given, name, value)
        assert (code, "how they are prepared" in told) == (2, True), told
    names.write_text("l\nr\n")
    code, told = invoke(*begin, *given)
    assert (code, "names of the classes have changed" in told) == (2, True), told


def test_another_number_of_names_is_refused(names):
    names.write_text("a\nb\nc")
    with pytest.raises(ValueError, match=r"^classes: expected 2, .*; got 3 \(.*names.txt\); give --classes"):
        loading.load_explainer(
            Settings(model=spec("grey"), layers=("conv",), mean=(0.5,), std=(0.5,), size=(16, 16), classes=names)
        )


def test_a_size_that_the_model_does_not_take_is_refused():
    with pytest.raises(ValueError, match=r"^size: .*:fixed can't take images of 96 x 96 \(expected 224 pixels\)"):
        loading.load_explainer(Settings(model=spec("fixed"), layers=("conv",), size=(96, 96)))


def test_whose_the_names_are():
    def of(module, logits, given=None, *, imagenet=False):
        model = Model(name="it", takes=BANDS, trained=True, module=module, of_imagenet=imagenet)
        return loading.names_for(model, logits, given)

    own = nn.Linear(1, 2)
    own.class_names = ["a", "b"]
    assert of(own, 2) == (("a", "b"), "model", ())
    assert of(own, 2, ("c", "d")) == (("c", "d"), "file", ())
    assert of(own, 3) == (("class 0", "class 1", "class 2"), "none", ())
    found = of(nn.Linear(1, 1000), 1000)
    assert (found.names[0], found.source) == ("tench", "imagenet")
    assert "1000 classes and doesn't say their names: ImageNet's are taken; --classes" in found.notes[0]
    assert of(nn.Linear(1, 1000), 1000, imagenet=True).notes == ()


def test_that_imagenets_names_are_taken_is_told(tmp_path):
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    code, told = invoke("explain", tmp_path / "a.png", "--model", spec("thousand"), "--out", tmp_path / "out")
    assert code == 0
    assert told.count("doesn't say their names: ImageNet's are taken") == 1
    assert told.count("doesn't say mean and std of its images: ImageNet's are taken") == 1
    assert told.count("doesn't say the size of its images: 224 x 224 is taken; --size sets it") == 1


def test_more_or_fewer_numbers_than_the_model_has_channels_are_refused():
    said = r"^std: expected one number, or 1, one for each channel; got 2. .*--channels 2$"
    with pytest.raises(ValueError, match=said):
        loading.load_explainer(Settings(model=spec("grey"), mean=(0.5,), std=(0.5, 0.2)))


@pytest.mark.parametrize("kind", ["torchvision", "timm"])
def test_models_of_libraries_are_built_with_as_many_classes_as_names(peer, names, kind):
    peer(kind)
    name = {"torchvision": "squeezenet1_1", "timm": "test_resnet"}[kind]
    settings = Settings(model=f"{kind}:{name}", classes=names, size=(64, 64))
    found = loading.model_of(settings, loading.names_given(settings))
    with torch.no_grad():
        assert found.module(torch.zeros(1, 3, 64, 64)).shape == (1, 2)
    assert found.class_names is None


def test_models_of_timm_are_built_with_as_many_channels(peer):
    peer("timm")
    settings = Settings(model="timm:test_resnet", channels=4, mean=(0.0,), std=(10000.0,), size=(64, 64))
    found = loading.model_of(settings, None)
    assert found.preparation.channels == 4
    with torch.no_grad():
        assert found.module(torch.zeros(1, 4, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize(
    "wants",
    [
        SHADES,
        BANDS,
        Preparation((16, 24), (20, 30), Image.Resampling.LANCZOS, (0.1,), (0.2,), squash=True),
        Preparation(16, 20, BILINEAR, (0.1,) * 3, (0.2,) * 3, rounding="torchvision"),
    ],
)
def test_an_exported_file_keeps_the_preparation(wants):
    said = json.loads(json.dumps(exported.described(wants)))
    images = wants.channels, wants.height, wants.width
    description = type("Said", (), {"preparation": said, "images": images})()
    assert exported.preparation(description, "it.onnx") == wants


def test_a_preparation_of_before_is_described_as_before():
    plain = Preparation(224, 256, BILINEAR, (0.5,) * 3, (0.5,) * 3)
    assert list(exported.described(plain)) == ["size", "resize", "interpolation", "mean", "std"]


def test_layers_refuse_another_number_of_names(names):
    names.write_text("a\nb\nc")
    given = ("--mean", 0.5, "--std", 0.5, "--size", 16, "--classes", names)
    code, told = invoke("layers", spec("grey"), *given)
    assert (code, "classes: expected 2 names, one for each of the model's logits; " in told) == (2, True), told


def test_layers_are_those_of_the_input_that_is_asked_for():
    args = ["layers", spec("four"), "--size=16,24", "--mean=0", "--std=1", "--json"]
    result = CliRunner().invoke(app, args)
    found = json.loads(result.stdout)
    assert found["image"] == [4, 16, 24]
    assert found["layers"][0]["grid"] == [16, 24]


@pytest.mark.parametrize("command", ["explain", "layers"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--size=16,16,16", "size: expected N or H,W"),
        ("--size=0", "size: expected N or H,W"),
        ("--mean=a", "mean: expected a number or one for each channel"),
        ("--std=0", "std: expected a number above 0"),
        ("--std=nan", "std: expected a number above 0"),
        ("--mean=0.5", "mean and std: expected both or neither"),
        ("--classes=nowhere", "classes: nowhere is not a file"),
    ],
)
def test_options_that_can_not_be_meant_are_refused(tmp_path, command, given, message):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    start = (
        ["layers", spec("fixed")] if command == "layers" else ["explain", tmp_path / "a.png", "--model", spec("fixed")]
    )
    code, told = invoke(*start, given, *(["--out", tmp_path / "out"] if command == "explain" else []))
    assert code == 2
    assert f"error: {message}" in told


def test_numbers_of_options():
    assert (size_of("96"), size_of("64,96", 2), size_of("96", 3), size_of("1,2,3", 3)) == (
        (96, 96), (64, 96), (96, 96, 96), (1, 2, 3),
    )  # fmt: skip
    assert numbers_of("mean", "0.5, -2,1e3") == (0.5, -2.0, 1000.0)


def test_a_photograph_is_none_of_bands(tmp_path):
    Image.new("RGBA", (30, 30)).save(tmp_path / "a.png")
    with pytest.raises(UnreadableError, match="the model takes 4 bands"):
        SHADES.pixels(photos.first_page(tmp_path / "a.png", takes=SHADES).image)
