"""Figures for papers: what is where, and what comes into a file."""

import io
import re
import zlib

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import cfcam_gpu
from cfcam_gpu import CAM, CFCAM
from cfcam_gpu.results import sheet

from ..networks import two_scales

NAMES = ["cat & dog", "_the $3 bill, $4_", "dog", "soft-coated wheaten terrier"]
SIDE = 64


def drawn(count=3, seed=0):
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return two_scales().eval()


@pytest.fixture(scope="module")
def images():
    return drawn()


@pytest.fixture(scope="module")
def result(model, images):
    return CFCAM(model, ["2", "4"], class_names=NAMES)(images, [0, 1, 3])


def words(figure):
    inside = [text.get_text() for axes in figure.axes for text in axes.texts]
    return [text.get_text() for text in figure.texts if text.get_text()] + inside


def pictures(figure):
    """All but the bar of colours, which comes last."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes[:-1]]


def test_a_row_has_the_image_the_map_and_the_overlay(result, images):
    figure = result.figure()
    assert type(figure).__mro__[1] is Figure
    found = pictures(figure)
    assert len(found) == 9
    overlays = result.overlay(images)
    turbo = matplotlib.colormaps["turbo"](np.arange(256), bytes=True)[:, :3]
    for b in range(3):
        image, map_, overlay = found[3 * b : 3 * b + 3]
        np.testing.assert_allclose(image, images[b].movedim(0, -1) * 255, atol=0.51)
        expected = turbo[(result.maps[b] * 255).round().long()]
        np.testing.assert_allclose(map_.astype(int), expected, atol=1)
        np.testing.assert_array_equal(overlay, overlays[b])
    shares = [f"{share:.1%}" for share in result.probability.tolist()]
    labels = [text.replace("\n", " ") for text in words(figure)]
    assert labels[:3] == ["image", "map", "overlay"]
    for name, share in zip(result.classes, shares):
        assert f"{name}, {share}" in labels
    bar = figure.axes[-1]
    assert [label.get_text() for label in bar.get_xticklabels()] == ["no evidence", "strongest"]


@pytest.mark.parametrize("width", [2.0, 3.3, 6.9])
def test_a_figure_is_as_wide_as_asked_and_nothing_lies_outside(result, images, width):
    figure = result.figure(images, components=result.components(images), width=width)
    assert 0 < figure.get_figwidth() <= width + 1e-9
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 1 and box.y1 <= 1 for box in boxes)
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            apart = one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0
            assert apart
    for axes in figure.axes[:-1]:
        pixels, box = axes.images[0].get_array(), axes.get_position()
        shape = box.height * figure.get_figheight() / (box.width * figure.get_figwidth())
        assert shape == pytest.approx(pixels.shape[0] / pixels.shape[1])


def test_a_picture_is_never_wider_than_a_column(result):
    figure = result[:1].figure()
    assert figure.get_figwidth() == pytest.approx(6.9)
    del figure
    gone = result.to("cpu")[:1]
    lone = CFCAM(two_scales().eval(), "4")(drawn()).figure()  # its images are gone
    assert lone.get_figwidth() < sheet.WIDEST + 0.5
    assert len(pictures(lone)) == 3
    assert gone.figure().get_figwidth() == pytest.approx(6.9)


def test_photographs_are_drawn_in_the_place_of_what_the_model_got(result):
    photographs = (drawn(3, seed=1) * 255).to(torch.uint8)
    found = pictures(result.figure(photographs))
    for b in range(3):
        np.testing.assert_array_equal(found[3 * b], photographs[b].movedim(0, -1))
        np.testing.assert_array_equal(found[3 * b + 2], result.overlay(photographs)[b])


def test_components_follow_their_map(model, images, result):
    components = result.components(images, top=2, measured=True)
    figure = result.figure(images, components=components)
    groups = [[one for one in of_image if one.name != "rest"] for of_image in components]
    found, said = pictures(figure), words(figure)
    assert len(found) == 6 + sum(map(len, groups))
    assert said[:3] == ["image", "overlay", "group 1"]
    place = 0
    for of_image in groups:
        for k, one in enumerate(of_image):
            np.testing.assert_array_equal(found[place + 2 + k], one.overlay)
            assert f"{one.share:.0%}; {one.probability_without:.1%} without" in said
        place += 2 + len(of_image)
        share = sum(one.share for one in of_image)
        assert f"{share:.0%} in {len(of_image)} group{'s' * (len(of_image) != 1)}" in said
    for wrong in (components[:2], components[0], [1, 2, 3]):
        with pytest.raises((TypeError, ValueError), match="components: expected 3 lists of components"):
            result.figure(images, components=wrong)


def test_components_of_another_explanation_are_refused(model, images, result):
    components = result.components(images)
    result.figure(images, components=[of_image[:1] for of_image in components])
    explain = CFCAM(model, ["2", "4"], class_names=NAMES)
    others = {
        "targets": explain(images, [2, 2, 2]).components(images),
        "images": components[::-1],
        "layers": CFCAM(model, "4")(images, [0, 1, 3]).components(images),
    }
    for of_other in others.values():
        with pytest.raises(ValueError, match="components: expected those of this explanation"):
            result.figure(images, components=of_other)
    with pytest.raises(ValueError, match="components: expected those of this explanation"):
        explain(images, [[0, 1]] * 3).figure(images, components=components)


def test_an_empty_map_says_so(model, images):
    result = CFCAM(model, ["2", "4"])(images, 0)
    result.raw_maps[1] = 0
    assert words(result.figure(images)).count("no evidence") == 2
    assert words(cfcam_gpu.compare({"a": result, "b": result}, images)).count("no evidence") == 2


def test_several_targets_have_a_row_each(model, images):
    result = CFCAM(model, ["2", "4"], class_names=NAMES)(images[:2], [[0, 1], [2, 3]])
    found = pictures(result.figure(images[:2]))
    assert len(found) == 12
    for i in range(4):
        np.testing.assert_allclose(found[3 * i], images[i // 2].movedim(0, -1) * 255, atol=0.51)
        np.testing.assert_array_equal(found[3 * i + 2], result.overlay(images[:2])[i // 2, i % 2])


SETTINGS = {
    "image.origin": "lower",
    "figure.autolayout": True,
    "figure.constrained_layout.use": True,
    "text.usetex": True,
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_the_users_move_and_turn_nothing(result, setting):
    expected = result.figure()._repr_png_()
    with matplotlib.rc_context({setting: SETTINGS[setting]}):
        assert result.figure()._repr_png_() == expected


def saved(figure, kind):
    file = io.BytesIO()
    figure.savefig(file, format=kind)
    return file.getvalue()


@pytest.mark.parametrize("dpi", [None, 50])
def test_files_have_text_as_text_and_pictures_in_their_own_resolution(result, dpi):
    figure = result.figure()
    if dpi:
        figure.set_dpi(dpi)
    before = dict(matplotlib.rcParams)
    svg = saved(figure, "svg").decode()
    for word in ("image", "overlay", "cat &amp; dog", "_the $3 bill, $4_", "no evidence"):
        assert re.search(rf"<text[^>]*>[^<]*{re.escape(word)}", svg), word
    assert re.findall(r'<image[^>]*?width="(\d+)', svg.replace("\n", " ")).count(str(SIDE)) >= 9
    pdf = saved(figure, "pdf")
    assert b"/Type3" not in pdf.replace(b" ", b"")
    assert len(re.findall(rb"/Width 64\b", pdf)) == 9
    fonts = [zlib.decompress(part) for part in re.findall(rb"stream\r?\n(x.*?)endstream", pdf, re.DOTALL)]
    assert any(part.startswith((b"\x00\x01\x00\x00", b"true")) for part in fonts)  # a TrueType font
    assert dict(matplotlib.rcParams) == before


def test_it_shows_itself_and_pyplot_does_not_know_it(result):
    known = set(Gcf.figs)
    picture = Image.open(io.BytesIO(result.figure()._repr_png_()))
    assert picture.size[0] == pytest.approx(6.9 * sheet.DPI, abs=1)
    assert Gcf.figs.keys() == known


def test_a_dataset_is_too_much_for_a_figure(model):
    result = CFCAM(model, "4")(drawn(61))
    with pytest.raises(ValueError, match=r"a figure has room for 1 to 60 maps; got 61\. Give a part, such as result"):
        result.figure()
    with pytest.raises(ValueError, match="got 0"):
        result[:0].figure()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.5}, r"width: expected a number of inches in \[2, 100\]; got 0.5"),
        ({"width": "wide"}, "width: expected a number of inches"),
        ({"alpha": 2.0}, r"alpha: expected a number in \[0, 1\]; got 2.0"),
        ({"colormap": "no such"}, "colormap: matplotlib has none called 'no such'"),
        ({"images": torch.rand(2, 3, SIDE, SIDE)}, r"images: expected \(B, 3, H, W\) with B, H, W = \(3, 64, 64\)"),
        ({"images": torch.rand(3, 1, 3, SIDE, SIDE)}, r"images: expected \(B, 3, H, W\), as those explained"),
    ],
)
def test_what_can_not_be_drawn_is_refused(result, options, message):
    with pytest.raises(ValueError, match=message):
        result.figure(**options)
    with pytest.raises(ValueError, match=message):
        cfcam_gpu.compare([result], **options)


def methods(model, images, target, names=("cfcam", "gradcam", "layercam")):
    return [CAM(model, ["2", "4"], method=name, class_names=NAMES)(images, target) for name in names]


def test_methods_are_compared_in_columns(model, images):
    results = methods(model, images, [0, 1, 3])
    figure = cfcam_gpu.compare(results)
    found = pictures(figure)
    assert len(found) == 12
    assert [word for word in words(figure) if "CAM" in word] == ["CF-CAM", "Grad-CAM", "LayerCAM"]
    for b in range(3):
        np.testing.assert_allclose(found[4 * b], images[b].movedim(0, -1) * 255, atol=0.51)
        for column, result in enumerate(results):
            np.testing.assert_array_equal(found[4 * b + 1 + column], result.overlay(images)[b])
    by_name = cfcam_gpu.compare({"one": results[0], "two": results[0]}, images, alpha=0.3, colormap="viridis")
    assert "two" in words(by_name)
    expected = results[0].overlay(images, alpha=0.3, colormap="viridis")
    np.testing.assert_array_equal(pictures(by_name)[1], expected[0])


def test_only_what_explains_the_same_is_compared(model, images):
    compare = cfcam_gpu.compare
    first, second = methods(model, images, [0, 1, 2], ("cfcam", "gradcam"))
    with pytest.raises(
        ValueError, match=r"results: expected one batch of images; 'a' is of \(3, 64, 64\), 'b' of \(2,"
    ):
        compare({"a": first, "b": second[:2]})
    (other,) = methods(model, images, [0, 1, 3], ("gradcam",))
    message = (
        "expected the same targets; 'a' explains 'dog' of image 2, 'b' 'soft-coated wheaten terrier'. Explain both"
    )
    with pytest.raises(ValueError, match=message):
        compare({"a": first, "b": other})
    (flipped,) = methods(model, images.flip(0), [0, 1, 2], ("gradcam",))
    with pytest.raises(ValueError, match="results: expected the same images; the model says something else of those"):
        compare([first, flipped])
    with pytest.raises(ValueError, match="results: two of CF-CAM, CF-CAM have the same name; give a dict"):
        compare([first, first])
    for wrong in (first, [], {}, [1], {"a": None}, "ab", None):
        with pytest.raises(TypeError, match="results: expected explanations"):
            compare(wrong)
    with pytest.raises(ValueError, match=r"results: two of 1, '1' are the same as text"):
        compare({1: first, "1": second})
    (scored,) = methods(model, images, lambda logits: logits[0], ("gradcam",))
    (scored_again,) = methods(model, images, lambda logits: logits[1], ("layercam",))
    for pair in ([first, scored], [scored, scored_again]):
        with pytest.raises(ValueError, match="results: expected the same targets"):
            compare(pair)
    compare({"a": scored, "b": scored})


@pytest.mark.parametrize(
    ("names", "target", "refused"),
    [
        (None, 1, None),  # of a model without names the number is all there is
        (["a", "cat & dog", "b", "c"], "cat & dog", None),  # which numbers its classes otherwise
        (
            ["a", "b", "c", "d"],
            0,
            r"'cat & dog' of image 0, 'y' 'a', of the same number\. If these are the same classes",
        ),
        (None, 2, r"'y' 'class 2'\. Explain both with the same target="),
    ],
    ids=["no names", "other numbers", "other names", "another class"],
)
def test_models_are_compared_by_the_names_of_classes(model, images, names, target, refused):
    first = CAM(model, "4", class_names=NAMES)(images, 1 if names is None else 0)
    other = CAM(two_scales().eval(), "4", class_names=names)(images, target)
    if refused is None:
        assert words(cfcam_gpu.compare({"x": first, "y": other}, images))
        return
    with pytest.raises(ValueError, match=refused):
        cfcam_gpu.compare({"x": first, "y": other}, images)


def test_volumes_are_compared_in_one_slice_and_signals_as_lines():
    for size, convolution, pool in (
        ((50,), nn.Conv1d, nn.AdaptiveAvgPool1d),
        ((6, 8, 9), nn.Conv3d, nn.AdaptiveAvgPool3d),
    ):
        model = nn.Sequential(convolution(2, 4, 3, padding=1), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(4, 3)).eval()
        inputs = torch.rand(1, 2, *size, generator=torch.Generator().manual_seed(0))
        first, second = (CAM(model, "1", method=name)(inputs, 1) for name in ("gradcam", "layercam"))
        first.raw_maps.zero_()[(0, *(side - 1 for side in size))] = 1
        second.raw_maps.zero_()[(0, *(0 for _ in size))] = 1
        figure = cfcam_gpu.compare([first, second], inputs)
        found = pictures(figure)
        if len(size) == 1:
            assert [len(axes.lines) for axes in figure.axes] == [2, 2, 0]
            assert found[0].shape == (1, 50, 3)
        else:
            assert "D = 5" in words(figure)
            np.testing.assert_array_equal(found[2], second.overlay(inputs)[0, 5])
