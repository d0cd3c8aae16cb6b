"""The page of a slide, in headless Chromium: it fetches nothing, zooms, and jumps to the strongest tiles."""

import html

import numpy as np
import pytest
from PIL import Image

from ..browser import chromium
from .jobs import DISC, SIDES, explain, phantom

#: Of the slide's file, in which there can be no slash.
NAME = "<script>hacked=1</script>& {{ data }} {{ script }}.tif".replace("/", "\N{DIVISION SLASH}")
#: Moves take no time, other than for people.
QUICK = """() => {
    const { centerSpringX, centerSpringY, zoomSpring } = OpenSeadragon.getViewer("viewer").viewport;
    for (const spring of [centerSpringX, centerSpringY, zoomSpring]) spring.animationTime = 0.01;
}"""
#: All images are there, those that are seen are loaded, nothing moves, and what is seen is drawn.
SETTLED = """() => {
    const { viewport, world } = OpenSeadragon.getViewer("viewer");
    const springs = [viewport.centerSpringX, viewport.centerSpringY, viewport.zoomSpring];
    const images = Array.from({ length: world.getItemCount() }, (_, number) => world.getItemAt(number));
    const { classes } = JSON.parse(document.getElementById("data").textContent);
    const count = classes.reduce((sum, of) => sum + of.maps.length + of.strongest.length, 1);
    return images.length === count && springs.every((spring) => spring.isAtTargetValue()) &&
        images.every((image) => !image.getOpacity() || image.getFullyLoaded()) && !world.needsDraw();
}"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    source = phantom(folder / NAME)
    (outcome,) = explain([source], folder / "out", classes=["1", "0"])
    assert outcome.error is None
    return outcome.folder / "page.html"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def visit(browser, page):
    """Open the page, at a width; whatever it fetches, and every complaint, fails the test."""
    contexts, complaints, fetched = [], [], []

    def open_page(width=1280):
        contexts.append(browser.new_context(viewport={"width": width, "height": 844}))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: fetched.append(request.url))
        tab.goto(page.as_uri())
        tab.wait_for_selector("body[data-ready='4']")
        tab.evaluate(QUICK)
        settle(tab)
        return tab

    yield open_page
    assert complaints == []
    assert [url for url in fetched if not url.startswith(("data:", "blob:"))] == [page.as_uri()] * len(contexts)
    for context in contexts:
        context.close()


def settle(tab):
    """Wait until the viewer has moved and drawn."""
    tab.wait_for_function(SETTLED)


def seen(tab, tmp_path):
    """What the viewer shows, (h, w, 3)."""
    tab.locator("#viewer").screenshot(path=tmp_path / "seen.png")
    with Image.open(tmp_path / "seen.png") as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def greenish(pixels):
    """Where the disc is seen."""
    return (pixels[..., 1] - pixels[..., 0] > 80) & (pixels[..., 1] - pixels[..., 2] > 60)


def test_the_slide_is_seen_where_it_is_and_the_map_over_it(visit, tmp_path):
    tab = visit()
    assert tab.evaluate("typeof hacked") == "undefined"
    assert tab.locator("h1").inner_text().startswith("<script>hacked=1<")
    tab.locator("#opacity").fill("0")
    settle(tab)
    bare = seen(tab, tmp_path)
    y, x = np.nonzero(greenish(bare))
    box = tab.locator("#viewer").bounding_box()
    scale = min(box["width"] / SIDES[0], box["height"] / SIDES[1])
    left, top = (box["width"] - SIDES[0] * scale) / 2, (box["height"] - SIDES[1] * scale) / 2
    assert x.mean() == pytest.approx(left + DISC[0] * scale, abs=4)
    assert y.mean() == pytest.approx(top + DISC[1] * scale, abs=4)
    assert len(x) == pytest.approx(np.pi * (DISC[2] * scale) ** 2, rel=0.1)
    tab.locator("#opacity").fill("100")
    settle(tab)
    changed = np.abs(seen(tab, tmp_path) - bare).sum(axis=-1)
    rows, columns = np.nonzero(changed > 100)
    assert columns.mean() == pytest.approx(x.mean(), abs=25)
    assert rows.mean() == pytest.approx(y.mean(), abs=25)


def test_the_class_changes_the_map_and_the_tiles(visit, tmp_path):
    tab = visit()
    first, rows = seen(tab, tmp_path), tab.locator("#strongest tr").all_inner_texts()
    tab.locator("#class").select_option(label="class 0")
    settle(tab)
    assert np.abs(seen(tab, tmp_path) - first).max() > 60
    assert tab.locator("#strongest tr").all_inner_texts() != rows
    assert tab.evaluate("[...document.images].every(x => x.naturalWidth === 224)")


@pytest.mark.long
def test_probability_is_shown_in_the_place_of_evidence(visit, tmp_path):
    tab = visit()
    assert tab.locator("#map option").all_inner_texts() == ["evidence", "probability"]
    tab.locator("#opacity").fill("100")
    settle(tab)
    first = seen(tab, tmp_path)
    tab.locator("#map").select_option(label="probability")
    settle(tab)
    assert tab.locator("#maximum").inner_text() == "1.0"
    # The whole of a tile is as probable as its disc.
    changed = np.abs(seen(tab, tmp_path) - first).sum(axis=-1) > 60
    assert changed.mean() > 0.01
    tab.locator("#map").select_option(label="evidence")
    settle(tab)
    assert np.abs(seen(tab, tmp_path) - first).max() < 10


def test_a_strong_tile_is_jumped_to(visit, tmp_path):
    tab = visit()
    tab.locator("#opacity").fill("0")
    settle(tab)
    before = greenish(seen(tab, tmp_path)).mean()
    tab.get_by_role("button", name="Show tile 1 on the slide").click()
    settle(tab)
    after = greenish(seen(tab, tmp_path))
    assert after.mean() > 1.5 * before
    tab.get_by_role("button", name="Whole slide").click()
    settle(tab)
    assert greenish(seen(tab, tmp_path)).mean() == pytest.approx(before, rel=0.05)
    tab.get_by_role("button", name="Zoom in").click()
    settle(tab)
    assert greenish(seen(tab, tmp_path)).mean() > 1.5 * before


def test_it_fits_a_phone(visit):
    tab = visit(390)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    sizes = tab.locator("button, select").evaluate_all("all => all.map(x => x.getBoundingClientRect().height)")
    assert min(sizes) >= 36


def test_a_name_that_looks_like_a_mark_of_the_template_is_a_name(page):
    assert f"<title>{html.escape(NAME)}" in page.read_text(encoding="utf-8")
