"""What an explanation shows of itself in a notebook, and that it shows no wrong picture."""

import base64
import gc
import io
import re
import weakref
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cfcam_gpu import CAM, CFCAM, Config
from cfcam_gpu.results import notebook

from ..browser import chromium
from ..networks import two_scales

LONE = "The images are gone, or may have changed"


def drawn(count=3, side=64):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def explain():
    names = ["cat & dog", "<script>alert(1)</script>", "the $3 bill", "x" * 90]
    return CFCAM(two_scales().eval(), ["2", "4"], class_names=names)


class Page(HTMLParser):
    """A page's pictures by what they say they are, its text, and whether every element ends."""

    VOID = ("img",)

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.images, self.tags = [], "", [], set()
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "img":
            attrs = dict(attrs)
            kind, _, data = attrs["src"].partition(",")
            assert kind == "data:image/png;base64"
            self.images.append((attrs["alt"], Image.open(io.BytesIO(base64.b64decode(data)))))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def called(self, start):
        return [image for name, image in self.images if name.startswith(start)]


def shown(result):
    return Page(result._repr_html_())


def test_each_map_is_shown_with_its_image_class_and_probability(explain):
    images = drawn(3, notebook.SIDE // 4)
    result = explain(images, [0, 1, 2])
    page = shown(result)
    assert "CF-CAM at 2, 4; 3 maps" in page.text
    assert page.tags <= {"div", "img", "b", "span"}
    for name, share in zip(result.classes, result.probability.tolist()):
        assert f"{name} {share:.1%}" in page.text
    assert page.text.index("no evidence") < page.text.index("strongest")
    assert LONE not in page.text
    assert len(page.called("Image")) == len(page.called("Map of")) == 3
    for image, expected in zip(page.called("Image"), images):
        np.testing.assert_allclose(np.asarray(image, dtype=float)[::4, ::4], expected.movedim(0, -1) * 255, atol=0.51)


def test_twelve_maps_are_shown_and_the_others_counted(explain):
    images = drawn(20, 32)
    page = shown(explain(images))
    assert "20 maps, of which 12 are shown" in page.text
    assert len(page.called("Map of")) == 12
    for targets in (4, 5, 15):
        several = shown(explain(images[:8], [[0] * targets] * 8))
        count = len(several.called("Map of"))
        assert f"{8 * targets} maps, of which {count} are shown" in several.text
        assert 10 <= count <= 12
    assert "0 maps" in shown(explain(images)[:0]).text


def test_an_empty_map_says_so(explain):
    images = drawn()
    result = explain(images, 0)
    result.raw_maps[1] = 0
    assert shown(result).text.count("Empty: no evidence for it was found.") == 1


def test_a_class_without_a_probability_has_none(explain):
    assert "%" not in shown(explain(drawn(), lambda logits: logits[0])).text
    assert "nan" not in shown(explain(drawn(), lambda logits: logits[0])).text


def in_place(images):
    images[0, 0, 5, 7] += 1


def by_numpy(images):
    images.numpy()[:] = 0.5


def one_pixel(images):
    images.numpy()[1, 0, 5, 7] += 1  # between those that are sampled


def resized(images):
    images.resize_(1, 3, 8, 8)


def replaced(images):
    images.data = torch.zeros(2)


def freed(images):
    images.untyped_storage().resize_(0)


@pytest.mark.parametrize("change", [in_place, by_numpy, one_pixel, resized, replaced, freed])
@pytest.mark.parametrize("as_view", [False, True], ids=["whole", "view"])
def test_images_that_have_changed_are_not_shown(explain, change, as_view):
    images = drawn()
    result = explain(images[:] if as_view else images)
    assert LONE not in shown(result).text
    change(images)
    page = shown(result)
    assert LONE in page.text
    assert not page.called("Image")
    assert len(page.called("Map of")) == 3


def test_what_a_model_writes_to_its_input_is_no_picture():
    class InPlace(nn.Sequential):
        def forward(self, x):
            return super().forward(x.mul_(0.5))

    assert LONE in shown(CFCAM(InPlace(*two_scales()).eval(), "4")(drawn())).text


def test_images_are_not_kept(explain):
    images = drawn()
    result, gone = explain(images), weakref.ref(images)
    del images
    gc.collect()
    assert gone() is None
    assert LONE in shown(result).text


def test_a_view_is_known_as_long_as_what_it_is_a_view_of(explain):
    images = drawn(4)
    result = explain(images[1:3])
    page = shown(result)
    assert LONE not in page.text
    part = np.asarray(shown(result[1:]).called("Image")[0])
    np.testing.assert_array_equal(part, np.asarray(page.called("Image")[1]))
    assert torch.equal(result.seen.images(), images[1:3])
    assert torch.equal(result[[1, 0]][0].seen.images(), images[2:3])
    images[0] = 0  # as torch counts, the view may have changed, too
    assert LONE in shown(result).text


def test_tensors_of_inference_mode_whose_changes_no_one_counts_are_not_shown(explain):
    with torch.inference_mode():
        images = drawn()
        assert LONE in shown(explain(images)).text


def test_a_single_method_and_several_looks_show_themselves():
    images = drawn()
    model = two_scales().eval()
    for result in (CAM(model, ["2", "4"], method="gradcam")(images), CFCAM(model, "4", augment="flip")(images)):
        assert len(shown(result).called("Image")) == 3


@pytest.mark.parametrize("known", [True, False], ids=["images known", "images gone"])
@pytest.mark.parametrize(("dims", "size"), [(1, (50,)), (3, (6, 8, 10))], ids=["signals", "volumes"])
def test_signals_and_volumes_are_shown(dims, size, known):
    convolution, pool = {1: (nn.Conv1d, nn.AdaptiveAvgPool1d), 3: (nn.Conv3d, nn.AdaptiveAvgPool3d)}[dims]
    layers = [convolution(2, 4, 3, padding=1), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(4, 3)]
    images = torch.rand(2, 2, *size, generator=torch.Generator().manual_seed(0))
    result = CFCAM(nn.Sequential(*layers).eval(), "1", config=Config())(images)
    result.raw_maps.zero_()
    peak = (4, 2, 9)[:dims] if dims == 3 else (30,)
    result.raw_maps[(slice(None), *peak)] = 1
    if not known:
        images = None
    page = shown(result)
    if dims == 3:
        assert re.findall(r"([DHW]) = (\d+)", page.text) == [("D", "4"), ("H", "2"), ("W", "9")] * 2
        assert len(page.called("Map of")) == 6
        assert len(page.called("Image")) == 6 * known
        shapes = [image.size[0] / image.size[1] for image in page.called("Map of")]
        assert shapes == pytest.approx([10 / 8, 10 / 6, 8 / 6] * 2, abs=0.02)
    else:
        assert len(page.called("Map of")) == 2
        assert (page.called("Map of")[0].size[0] == 1200) == known


def test_text_has_the_notebooks_colour(explain):
    assert not re.search(r"[;\"](color|background)", explain(drawn())._repr_html_())


@pytest.mark.long
def test_it_can_be_read_on_light_and_on_dark(explain):
    images = drawn()
    html = explain(images)._repr_html_()
    with chromium() as browser:
        page = browser.new_page()
        for paper, ink in (("rgb(255, 255, 255)", "rgb(0, 0, 0)"), ("rgb(17, 17, 17)", "rgb(221, 221, 221)")):
            page.set_content(f"<body style='background:{paper};color:{ink}'>{html}</body>")
            inks = page.evaluate("[...document.querySelectorAll('div,b,span')].map(e => getComputedStyle(e).color)")
            assert set(inks) == {ink}
            sizes = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.complete])")
            assert len(sizes) == 7
            assert all(width > 0 and done for width, done in sizes)


def test_a_large_image_is_made_small(explain):
    html = explain(drawn(1, 512))._repr_html_()
    assert max(image.size for _, image in Page(html).images) == (notebook.SIDE, notebook.SIDE)
    assert len(html) < 300_000
