"""Tissue and ground."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from cfcam_gpu.scans.errors import UnreadableError
from cfcam_gpu.slides import tissue
from cfcam_gpu.slides.info import inspect
from cfcam_gpu.slides.workers import TileReaders

from . import files

pytest.importorskip("imagecodecs")


def ground(height, width, level=244, seed=0):
    """White ground with a scanner's noise."""
    noise = np.random.default_rng(seed).normal(level, 2, (height, width, 3))
    return noise.clip(0, 255).astype(np.uint8)


def island(stained, level=244):
    """Stained tissue in an ellipse on white ground, and where it is."""
    height, width = 700, 900
    down, across = np.ogrid[:height, :width]
    inside = ((down - 330) / 220) ** 2 + ((across - 480) / 240) ** 2 < 1
    whole = ground(height, width, level)
    whole[inside] = np.tile(stained, (2, 2, 1))[:height, :width][inside]
    return whole, inside


def overlap(found, meant):
    return (found & meant).sum() / (found | meant).sum()


@pytest.mark.parametrize("level", [250, 244])
def test_stained_tissue_on_white_ground(level):
    # Its pale stroma, too.
    whole, inside = island(files.tissue(), level)
    assert overlap(tissue.mask(whole), inside) > 0.95


def test_glass_within_tissue_is_ground():
    # As bright as the ground: 236 in this picture.
    whole, inside = island(files.tissue(), 236)
    found = tissue.mask(whole)
    assert (found & ~inside).sum() < 0.01 * inside.sum()
    assert 0.8 < overlap(found, inside) < 0.95


def test_pale_pink_and_dark_grey_are_tissue():
    # Little colour, and none at all.
    pale = np.broadcast_to(np.uint8([236, 205, 222]), (512, 512, 3))
    dark = np.broadcast_to(np.uint8([90, 90, 90]), (512, 512, 3))
    for stained in (pale, dark):
        whole, inside = island(stained)
        assert overlap(tissue.mask(whole), inside) > 0.97


def test_nothing_but_ground_and_nothing_but_tissue():
    for level in (255, 244, 230):
        assert not tissue.mask(ground(300, 400, level)).any()
    assert tissue.mask(files.picture(300, 400)).mean() > 0.85  # there is glass at its edge
    # Of one colour, a threshold between nothing and nothing.
    assert tissue.mask(np.full((64, 64, 3), (180, 90, 150), np.uint8)).all()
    assert not tissue.mask(np.full((64, 64, 3), 255, np.uint8)).any()


def test_black_where_nothing_was_scanned_is_ground():
    whole, inside = island(files.tissue())
    whole[:, 800:] = 0
    found = tissue.mask(whole)
    assert overlap(found, inside) > 0.95
    assert not found[:, 802:].any()
    assert not tissue.mask(np.zeros((64, 64, 3), np.uint8)).any()


def test_specks_go_and_small_holes_are_filled():
    whole = ground(300, 400)
    whole[50:250, 50:350] = (150, 60, 120)
    whole[100:105, 100:105] = 244  # a vessel
    whole[150:190, 150:190] = 244  # a lumen
    whole[10:12, 10:13] = (150, 60, 120)  # dust
    found = tissue.mask(whole)
    assert found[102, 102]
    assert not found[170, 170]
    assert not found[:20, :20].any()


def test_the_same_by_every_reader_and_layout(tmp_path, monkeypatch):
    monkeypatch.setattr(tissue, "LONGEST", 500)
    whole, inside = island(files.tissue())
    found = []
    for name, steps in (("one", (1,)), ("three", (1, 2, 8))):
        info = inspect(files.pyramid(tmp_path / f"{name}.tif", files.levels(whole, steps), compression="lzw"))
        for reader in {info.reader, "tifffile", "openslide"}:
            if reader == "openslide":
                pytest.importorskip("openslide")
            with TileReaders(replace(info, reader=reader), 1) as readers:
                found.append(tissue.find(readers))
    for each in found:
        assert each.scale == Fraction(2)
        assert each.mask.shape == each.thumbnail.shape[:2] == (350, 450)
        assert (each.mask != found[0].mask).mean() < 0.001  # where means are rounded twice
        assert np.abs(each.thumbnail.astype(int) - found[0].thumbnail).max() <= 1
    assert overlap(found[0].mask, inside[::2, ::2]) > 0.95


def fluorescent(color, background, noise=0):
    """Round signals of a colour on a dark ground."""
    rng = np.random.default_rng(0)
    whole = np.clip(rng.normal(background, noise, (600, 800, 1)), 0, 255) * np.ones(3)
    down, across = np.mgrid[:600, :800]
    whole[np.hypot(down % 200 - 100, across % 200 - 100) < 60] = color
    return whole.astype(np.uint8)


FLUORESCENT = [((5, 190, 20), 5, 3), ((220, 220, 220), 30, 6), ((0, 0, 200), 0, 0), ((250, 60, 0), 12, 2)]


@pytest.mark.parametrize("signals", FLUORESCENT)
def test_a_dark_ground(signals):
    assert tissue.is_dark(fluorescent(*signals))


@pytest.mark.parametrize(
    "signals", [FLUORESCENT[0], *(pytest.param(signals, marks=pytest.mark.long) for signals in FLUORESCENT[1:])]
)
def test_a_dark_ground_is_refused(signals, tmp_path):
    info = inspect(files.pyramid(tmp_path / "s.tif", [fluorescent(*signals)], compression="lzw"))
    with TileReaders(info, 1) as readers, pytest.raises(UnreadableError, match="dark ground"):
        tissue.find(readers)


def test_dark_tissue_and_black_where_nothing_was_scanned_are_no_dark_ground():
    brown = np.broadcast_to(np.uint8([90, 50, 24]), (300, 400, 3))
    assert not tissue.is_dark(brown)
    assert not tissue.is_dark((files.picture(300, 400) * 0.4).astype(np.uint8))
    assert not tissue.is_dark(np.zeros((64, 64, 3), np.uint8))
    for stained in (island(files.tissue())[0], files.picture(700, 900), np.tile(brown, (3, 3, 1))):
        whole = stained.copy()
        whole[:, 100:] = 0
        assert not tissue.is_dark(whole)
