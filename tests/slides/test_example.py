"""The example of slides runs, and its map is where the stain is."""

import runpy
import sys
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

ROOT = Path(__file__).parents[2]


def test_brown_is_found_where_it_is(tmp_path, monkeypatch):
    script = str(ROOT / "examples" / "slides" / "tissue.py")
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path)])
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        sys.modules.pop("tissue", None)  # what it names as its model
    with Image.open(tmp_path / "slides.png") as picture:
        assert picture.width > 700
    pixels = tifffile.imread(tmp_path / "tissue.tif").astype(int)
    values = np.nan_to_num(tifffile.imread(tmp_path / "tissue" / "map-1.ome.tif")[0])
    height, width = (side // 8 for side in pixels.shape[:2])
    red, _, blue = np.moveaxis(
        pixels[: height * 8, : width * 8].reshape(height, 8, width, 8, 3).mean(axis=(1, 3)), -1, 0
    )
    strong = values[:height, :width] > 0.5 * values.max()
    assert (red - blue)[strong].mean() > 3 * (red - blue)[~strong].mean() > 0
