"""The contact sheet's size and text; what is on it is tested with the command line, which draws it."""

import warnings

import numpy as np
import pytest

from cfcam_gpu.photographs import contact_sheet

TILE = contact_sheet.thumbnail(np.full((384, 384, 3), 128, np.uint8))
HOSTILE = ["猫\n\x1b[31m" + "x" * 300, "قطة 🐈‍⬛ 한국어.png", "\udcff" * 3, ""]


def entry(label="a class of a very long name " * 9, caption=HOSTILE[0]):
    return contact_sheet.Entry(TILE, TILE, label, None, caption)


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_a_sheet_stays_of_sane_size(count):
    sheet = contact_sheet.draw([entry()] * count, title="t" * 200, subtitle="s" * 200, alarm="a" * 200)
    assert sheet.width <= 2000
    assert sheet.height <= 5400


@pytest.mark.parametrize("caption", HOSTILE)
def test_any_name_of_a_file_is_drawn_without_a_warning(caption):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = contact_sheet.draw([entry(caption, caption)], title=caption, subtitle=caption)
    blank = contact_sheet.draw([entry("", "")], title="", subtitle="")
    assert (drawn.tobytes() != blank.tobytes()) == bool(caption)


def test_what_is_no_square_keeps_its_shape():
    pixels = np.zeros((100, 200, 3), np.uint8)
    tile = np.asarray(contact_sheet.thumbnail(pixels)).max(axis=2)
    assert tile.shape == (contact_sheet.TILE, contact_sheet.TILE)
    rows = np.flatnonzero((tile == 0).all(axis=1))
    assert (rows[0], rows[-1] + 1) == (contact_sheet.TILE // 4, contact_sheet.TILE * 3 // 4)


SHEETS = {
    "one photograph": lambda **said: contact_sheet.draw([entry()], **said),
    "two": lambda **said: contact_sheet.draw([entry()] * 2, **said),
    "no components": lambda **said: contact_sheet.draw_components([contact_sheet.Row(entry(), [])], **said),
}


@pytest.mark.parametrize("sheet", SHEETS)
@pytest.mark.parametrize("field", ["title", "subtitle", "alarm"])
@pytest.mark.parametrize("words", ["layers.block_of_them and ", "x"])
def test_no_text_at_the_head_is_cut(monkeypatch, sheet, field, words):
    text = (words * 300).strip()
    drawn, pens = [], contact_sheet.ImageDraw.Draw

    def recording(image):
        pen = pens(image)
        write = pen.text
        pen.text = lambda at, line, *rest, **more: (
            drawn.append((at, line, pen.textlength(line, rest[1]))) or write(at, line, *rest, **more)
        )
        return pen

    monkeypatch.setattr(contact_sheet.ImageDraw, "Draw", recording)
    made = SHEETS[sheet](**{"title": "t", "subtitle": "s", "alarm": "a", field: text})
    lines = [(x, y, line, wide) for (x, y), line, wide in drawn if line in text and len(line) > 1]
    assert "".join(line for _, _, line, _ in lines).replace(" ", "") == text.replace(" ", "")
    assert max(x + wide for x, _, _, wide in lines) <= made.width - contact_sheet.SPACE
    first = next(y for y in range(made.height) if made.getpixel((contact_sheet.SPACE + 5, y)) == (128, 128, 128))
    assert max(y for _, y, _, _ in lines) + 15 < first


@pytest.mark.parametrize("sheet", SHEETS)
def test_the_head_has_the_colour_scale(sheet):
    made = np.asarray(SHEETS[sheet](title="t", subtitle="s"))
    scale = np.asarray(contact_sheet.color_scale())[0]
    rows = [row[x : x + len(scale)] for row in made[:200] for x in (contact_sheet.SPACE, len(row) - 36 - len(scale))]
    assert any(np.array_equal(row, scale) for row in rows)


def test_a_label_is_shortened_only_where_its_tile_is_too_narrow(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        contact_sheet.ImageDraw.ImageDraw, "text", lambda pen, at, line, *rest, **more: drawn.append(line)
    )
    contact_sheet.draw([entry("tabby", "cat.png"), entry("n" * 99, "m" * 99)], title="t", subtitle="s")
    assert {"tabby", "cat.png"} <= set(drawn)
    assert sorted(line[0] for line in drawn if line.endswith("…")) == ["m", "n"]
