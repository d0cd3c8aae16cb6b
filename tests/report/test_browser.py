"""What headless Chromium draws of the page of ``cfcam-gpu report``."""

import re
from contextlib import contextmanager

import pytest

from ..browser import chromium
from ..needs import module
from ..reports import HOSTILE, METHODS, hostile, html, made, summary

__all__ = ["hostile", "html", "made", "summary"]


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@contextmanager
def watched(browser):
    """What opens a page, at a width; whatever it fetches, and every complaint, is an error at the end."""
    contexts, complaints, fetched = [], [], []

    def open_page(path, *, width=1280, scheme="light"):
        phone = width < 500
        contexts.append(
            browser.new_context(
                viewport={"width": width, "height": 844}, color_scheme=scheme, has_touch=phone, is_mobile=phone
            )
        )
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: complaints.append(dialog.message))
        tab.on("request", lambda request: fetched.append(request.url))
        tab.goto(path.as_uri())
        tab.wait_for_selector(".plot[data-kind=latency] .main-svg")
        return tab

    yield open_page
    assert complaints == []
    assert [url for url in fetched if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len([url for url in fetched if url.startswith("file:")]) == len(contexts)
    for context in contexts:
        context.close()


@pytest.fixture
def visit(browser):
    with watched(browser) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def screen(browser, made, html):
    """The page on a screen; it takes seconds to draw, so tests leave the plots as they were."""
    with watched(browser) as open_page:
        yield open_page(made / "page.html")


@pytest.fixture(scope="module")
def phone(browser, made, html):
    """The same on a phone."""
    with watched(browser) as open_page:
        yield open_page(made / "page.html", width=390)


def drawn(plot, selector):
    """How many elements of a plot have an extent on the screen."""
    return plot.locator(selector).evaluate_all(
        "all => all.filter(x => { const b = x.getBoundingClientRect(); return b.width > 1 || b.height > 1; }).length"
    )


@pytest.mark.parametrize(("device", "width"), [("screen", 1280), ("phone", 390)])
def test_a_browser_draws_it(request, device, width):
    tab = request.getfixturevalue(device)
    # A phone's innerWidth grows with what overflows.
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    parts = tab.locator(".parts figcaption").all_inner_texts()
    assert 3 <= len(parts) <= 3 * 4
    assert all(re.fullmatch(r"\d+% of it, \d+ channels", text) for text in parts)
    wide = "[...document.querySelectorAll('.tiles img')].map(x => x.naturalWidth)"
    assert tab.evaluate(wide) == [224] * (3 * (1 + len(METHODS)) + len(parts))
    scale = tab.locator(".scale img").bounding_box()
    assert (150 < scale["width"] <= 200, scale["height"]) == (True, 12)
    assert tab.locator(".scale").inner_text().split() == ["no", "evidence", "strongest"]
    curves, metrics, by_latency = tab.locator(".plot").all()
    assert drawn(curves, ".scatterlayer .js-line") == 2 * len(METHODS)
    assert (drawn(metrics, ".scatterlayer .point"), drawn(metrics, ".errorbar path")) == (4, 8)
    assert (drawn(by_latency, ".scatterlayer .point"), drawn(by_latency, ".errorbar path")) == (3, 6)
    for canvas in tab.locator(".canvas").all():
        box, svg = canvas.bounding_box(), canvas.locator(".main-svg").first.bounding_box()
        assert svg["width"] == pytest.approx(box["width"], abs=2)
        for title in canvas.locator(".xtitle, .ytitle").all():
            inside = title.bounding_box()
            assert box["x"] - 1 <= inside["x"]
            assert inside["x"] + inside["width"] <= box["x"] + box["width"] + 1
    sizes = tab.locator("button, select, summary").evaluate_all("all => all.map(x => x.getBoundingClientRect().height)")
    assert min(sizes) >= 36


def test_methods_are_hidden_and_shown_by_a_tap(phone):
    for plot, selector, before, after in zip(
        phone.locator(".plot").all(), [".js-line", ".point", ".point"], [8, 4, 3], [6, 3, 2]
    ):
        button = plot.get_by_role("button", name="CF-CAM", exact=True)
        for pressed, count in (("false", after), ("true", before)):
            button.tap()
            assert button.get_attribute("aria-pressed") == pressed
            assert drawn(plot, f".scatterlayer {selector}") == count


def test_the_choices_change_the_plots(screen, summary):
    values = {(line["metric"], line["method"]): line["mean"]["mean"] for line in summary["table"]}
    _, metrics, by_latency = screen.locator(".plot").all()
    choices = screen.locator("select[data-axis]").all()
    before = [choice.input_value() for choice in choices]
    corners = {}
    for across, up in (("deletion_auc", "average_drop"), ("average_increase", "insertion_auc")):
        metrics.locator("select[data-axis=across]").select_option(across)
        metrics.locator("select[data-axis=up]").select_option(up)
        data = metrics.locator(".canvas").evaluate("x => x.data.map(t => [t.x[0], t.y[0]])")
        assert data == [[values[across, method], values[up, method]] for method in METHODS]
        note = metrics.locator(".annotation-arrow-g").bounding_box()
        box = metrics.locator(".canvas").bounding_box()
        corners[across] = (note["x"] > box["x"] + box["width"] / 2, note["y"] < box["y"] + box["height"] / 2)
    assert corners == {"deletion_auc": (False, False), "average_increase": (True, True)}
    assert metrics.locator(".xtitle").text_content() == "Average Increase, % (higher is better)"
    by_latency.locator("select[data-axis=up]").select_option("average_gain")
    data = by_latency.locator(".canvas").evaluate("x => x.data.map(t => [t.name, t.x[0], t.y[0]])")
    assert data == [
        ["CF-CAM, one level", 1.3, values["average_gain", "cfcam-one"]],
        ["CF-CAM", 1.7, values["average_gain", "cfcam"]],
        ["Grad-CAM by pytorch-grad-cam", 4.5, values["average_gain", "gradcam"]],
    ]
    for choice, value in zip(choices, before, strict=True):
        choice.select_option(value)


def test_tables_are_sorted_by_a_tap_the_best_first(screen, summary):
    for title, metric, best in (("Average Drop", "average_drop", min), ("Insertion AUC", "insertion_auc", max)):
        means = {line["method"]: line["mean"]["mean"] for line in summary["table"] if line["metric"] == metric}
        wanted = sorted(means.values(), reverse=best is max)
        for order in (wanted, wanted[::-1]):
            screen.get_by_role("button", name=title).click()
            rows = screen.locator("table.sortable tbody tr").evaluate_all("all => all.map(x => x.dataset.method)")
            assert [means[row] for row in rows] == order


@pytest.mark.usefixtures("html")
@pytest.mark.long
def test_it_is_dark_where_that_is_preferred(visit, made):
    playwright = module("playwright.sync_api", "BROWSER")
    seen = {}
    for scheme in ("light", "dark"):
        tab = visit(made / "page.html", scheme=scheme)
        brightness = "x => getComputedStyle(x).%s.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0)"
        paper = tab.locator("body").evaluate(brightness % "backgroundColor")
        seen[scheme] = paper > tab.locator(".xtick text").first.evaluate(brightness % "fill")
    assert seen == {"light": True, "dark": False}
    tab.emulate_media(color_scheme="light")
    playwright.expect(tab.locator(".xtick text").first).to_have_css("fill", "rgb(28, 31, 35)")


def test_a_table_is_no_wider_than_what_it_holds(screen):
    widths = """all => all.map(box => {
        const of = (x) => x.getBoundingClientRect().width;
        return [of(box), of(box.firstElementChild), of(box.parentElement)];
    })"""
    tables = screen.locator(".scroll").evaluate_all(widths)
    assert tables
    assert all(box <= min(table + 3, whole) for box, table, whole in tables)
    assert any(table < 0.9 * whole for _, table, whole in tables)  # the latency's


@pytest.mark.long
@pytest.mark.usefixtures("html")
def test_it_is_printed_on_white_where_the_screen_is_dark(visit, made):
    tab = visit(made / "page.html", scheme="dark")
    label = tab.locator(".xtick text").first
    dark = label.evaluate("x => getComputedStyle(x).fill")
    ink = "getComputedStyle(document.querySelector('.xtick text')).fill"
    tab.evaluate(f"addEventListener('beforeprint', () => {{ window.ink = {ink}; }})")
    tab.pdf()
    assert tab.evaluate("window.ink") == "rgb(28, 31, 35)" != dark
    assert label.evaluate("x => getComputedStyle(x).fill") == dark  # as it was before


def test_a_browser_shows_hostile_names_as_text(visit, hostile):
    tab = visit(hostile, width=390)
    assert tab.evaluate("typeof hacked") == "undefined"
    assert tab.locator("h1").inner_text().startswith("</script><img src=x onerror")
    shown = tab.locator(".chips button").all_inner_texts()
    assert sum("</script><img src=x" in label for label in shown) == 2
    title = tab.locator(".plot[data-kind=curves] .gtitle").first.text_content()
    assert "".join(title.split()) == "".join((HOSTILE + "c").split())
    plot = tab.locator(".plot[data-kind=metrics]")
    plot.locator("select[data-axis=across]").select_option(HOSTILE + "m")
    assert "</script><img src=x" in plot.locator(".xtitle").text_content()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.locator(".tiles img").count() == 4 + tab.locator(".parts img").count()
