"""Regions at scales between those of the levels."""

from contextlib import closing
from fractions import Fraction

import numpy as np
import pytest

from cfcam_gpu.slides import reading, tags
from cfcam_gpu.slides.region import Region

from . import files


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """Levels at 1 and 4."""
    path = files.pyramid(tmp_path_factory.mktemp("slide") / "slide.tif", files.levels(files.picture(), (1, 4)))
    with closing(reading.SlideReader(tags.read(str(path)))) as slide:
        yield slide


def test_a_whole_number_of_pixels_is_their_mean(slide):
    picture = files.picture()
    found = slide.read(Region(20, 30, 100, 90, Fraction(3)))
    expected = picture[90:360, 60:360].reshape(90, 3, 100, 3, 3).mean(axis=(1, 3))
    assert np.abs(found - expected).max() <= 0.6
    # Of the level at 4, by two of its pixels.
    found = slide.read(Region(10, 20, 50, 40, Fraction(8)))
    coarse = files.reduced(picture, 4)[40:120, 20:120].reshape(40, 2, 50, 2, 3).mean(axis=(1, 3))
    assert np.abs(found - coarse).max() <= 0.6


@pytest.mark.parametrize("scale", [Fraction(3, 2), Fraction(79, 64), Fraction(7), Fraction(9, 2)])
def test_neighbours_agree_where_they_overlap(slide, scale):
    whole = slide.read(Region(-3, -5, 200, 150, scale)).astype(int)
    for x, y in ((-3, -5), (0, 0), (31, 17), (101, 90)):
        part = slide.read(Region(x, y, 50, 40, scale))
        assert np.abs(part - whole[y + 5 : y + 45, x + 3 : x + 53]).max() <= 1


def test_a_scale_between_keeps_places(slide):
    # A ramp of brightness would move by what a region is shifted.
    found = slide.read(Region(100, 50, 200, 120, Fraction(5, 4))).astype(int)
    from PIL import Image

    box = (125, 62.5, 375, 212.5)
    expected = np.asarray(Image.fromarray(files.picture()).resize((200, 120), Image.Resampling.HAMMING, box=box))
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("scale", [Fraction(2), Fraction(3, 2)])
def test_large_regions_are_read_in_parts(slide, scale, monkeypatch):
    region = Region(-7, 11, 333, 227, scale)
    whole = slide.read(region).astype(int)
    asked = []
    read = slide.source.region
    monkeypatch.setattr(reading, "PART", 10_000)
    monkeypatch.setattr(slide.source, "region", lambda *place: asked.append(place) or read(*place))
    assert np.abs(slide.read(region) - whole).max() <= (scale.denominator > 1)
    assert len(asked) > 10
    assert max(width * height for *_, width, height in asked) < 12_000


def test_what_is_not_there_is_white(slide):
    assert (slide.read(Region(-500, -500, 64, 64)) == 255).all()
    assert (slide.read(Region(5000, 5000, 64, 64, Fraction(3, 2))) == 255).all()
