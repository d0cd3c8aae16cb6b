"""Names in scripts that matplotlib's own font lacks: drawn by another font of the machine, or told once."""

import io
import warnings
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image
from typer.testing import CliRunner

from cfcam_gpu import CFCAM, compare
from cfcam_gpu.cli import app
from cfcam_gpu.photographs import contact_sheet
from cfcam_gpu.results import fonts

from ..networks import two_scales

#: No font that matplotlib brings along has them.
CAT, DOG = "猫", "犬"


def written(path, letters):
    """A font whose every letter is a black square."""
    pen = TTGlyphPen(None)
    for step, corner in enumerate([(0, 0), (0, 800), (800, 800), (800, 0)]):
        (pen.lineTo if step else pen.moveTo)(corner)
    pen.closePath()
    names = [".notdef", *(f"u{ord(letter):04X}" for letter in letters)]
    made = FontBuilder(1000, isTTF=True)
    made.setupGlyphOrder(names)
    made.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:])})
    made.setupGlyf(dict.fromkeys(names, pen.glyph()))
    made.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    made.setupHorizontalHeader(ascent=800, descent=-200)
    made.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    made.setupOS2(sTypoAscender=800, sTypoDescender=-200, usWinAscent=800, usWinDescent=200)
    made.setupPost()
    made.save(path)
    return path


@pytest.fixture
def installed(tmp_path):
    """Installs fonts for one test."""
    before = list(font_manager.fontManager.ttflist)

    def install(name, letters):
        font_manager.fontManager.addfont(written(tmp_path / f"{name}.ttf", letters))

    yield install
    font_manager.fontManager.ttflist[:] = before
    fonts._search.cache_clear()


@pytest.fixture(autouse=True)
def without_others(monkeypatch):
    """Only what matplotlib brings along, whatever the machine has."""
    own = [one for one in font_manager.fontManager.ttflist if one.fname.startswith(matplotlib.get_data_path())]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    fonts._search.cache_clear()
    yield
    fonts._search.cache_clear()


@pytest.fixture(scope="module")
def result():
    names = [f"{CAT} cat", f"{DOG} dog", "fox", "bee"]
    return CFCAM(two_scales().eval(), ["2", "4"], class_names=names)(torch.rand(2, 3, 32, 32), [0, 1])


def saved(figure, form):
    file = io.BytesIO()
    figure.savefig(file, format=form, bbox_inches="tight")
    return file.getvalue()


def test_another_font_has_the_letters_in_figures(installed, result):
    installed("Seal Script", CAT + DOG)
    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (result.figure(), compare([result])):
            assert {tuple(text.get_fontfamily()) for text in figure.texts} == {("sans-serif", "Seal Script")}
            assert CAT in saved(figure, "svg").decode()
            assert [len(saved(figure, form)) > 0 for form in ("png", "pdf")] == [True] * 2
    assert dict(matplotlib.rcParams) == before


def test_wide_letters_have_room_beside_their_row(installed, result):
    installed("Seal Script", CAT)
    figure = replace(result, class_names=(CAT * 40,) * 4)[:1].figure()
    (label,) = (text for text in figure.texts if CAT in text.get_text())
    row = figure.axes[0].get_window_extent()
    assert label.get_window_extent().height < 1.05 * row.height
    assert label.get_text().endswith("…")


def test_letters_that_no_font_has_are_told_once(result):
    said = f"^names: no font that matplotlib knows has {DOG}, {CAT}; boxes are drawn for them. Install"
    with pytest.warns(UserWarning, match=said) as told:
        figure = result.figure()
    assert [one.filename for one in told] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [len(saved(figure, form)) > 0 for form in ("png", "pdf", "svg")] == [True] * 3
        assert figure._repr_png_()


def test_names_of_usual_letters_want_no_other_font(installed):
    installed("Seal Script", "señ" + CAT)
    assert fonts.families(["señorita", "кошка", "γάτα", "قط"]) == ([], "")
    assert fonts.file_for("señorita") == fonts._usual(False)


def test_as_few_fonts_as_may_be(installed):
    installed("A One", CAT)
    installed("B Two", CAT + DOG)
    own = matplotlib.rcParams["font.family"]
    assert fonts.families([CAT + DOG]) == ([*own, "B Two"], "")
    assert fonts.families([CAT]) == ([*own, "A One"], "")
    assert fonts.families([CAT + "\U00012000"]) == ([*own, "A One"], "\U00012000")
    assert fonts.lacking([CAT, "\U00012000"]) == "\U00012000"


def test_one_font_for_all_of_a_text_is_better_than_one_for_a_part(installed):
    installed("A One", CAT)
    installed("B Two", CAT + "cat")
    assert fonts.file_for(CAT).endswith("A One.ttf")
    assert fonts.file_for(f"{CAT} cat").endswith("B Two.ttf")


def test_damaged_fonts_and_those_of_boxes_are_passed_over(installed, tmp_path):
    installed("Gone", CAT)
    (tmp_path / "Gone.ttf").unlink()
    installed("Last Resort Two", CAT)
    assert fonts.families([CAT]) == ([], CAT)


def test_a_contact_sheet_is_drawn_in_the_font_that_has_the_letters(installed):
    picture = contact_sheet.thumbnail(np.full((8, 8, 3), 255, np.uint8))

    def drawn():
        entry = contact_sheet.Entry(picture, picture, CAT, None, "a.png")
        return np.asarray(contact_sheet.draw([entry], title="t", subtitle="s"))

    boxes = drawn()
    installed("Seal Script", CAT)
    squares = drawn()
    assert (boxes != squares).any()
    assert fonts.file_for(f"{CAT} cat").endswith("Seal Script.ttf")
    assert FT2Font(fonts.file_for(CAT)).get_char_index(ord(CAT))


def test_the_command_tells_at_its_end_what_letters_no_font_has(tmp_path):
    Image.new("RGB", (40, 40), "teal").save(tmp_path / "a.png")
    (tmp_path / "names.txt").write_text("\n".join([CAT] * 5))
    args = [
        "--model",
        "tests.albums:small",
        "--classes",
        tmp_path / "names.txt",
        "--out",
        tmp_path / "out",
        "--evidence",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = CliRunner().invoke(app, list(map(str, ["explain", tmp_path / "a.png", *args, "--expected", "1"])))
    assert (done.exit_code, done.stderr.count(f"no font that matplotlib knows has {CAT};")) == (0, 1), done.stderr
