"""The contact sheet's size and text; what is on it is tested with the command line, which draws it."""

import numpy as np
import pytest

from cfcam_gpu.photographs import contact_sheet


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_a_sheet_stays_of_sane_size(count):
    tile = contact_sheet.thumbnail(np.zeros((384, 384, 3), np.uint8))
    entry = contact_sheet.Entry(tile, tile, "a class of a very long name " * 9, None, "猫\n\x1b[31m" + "x" * 300)
    sheet = contact_sheet.draw([entry] * count, title="t" * 200, subtitle="s" * 200, alarm="a" * 200)
    assert sheet.width <= 2000
    assert sheet.height <= 5200
