"""What headless Chromium makes of the service's page, and of pages of other sites, without Ray."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu import CAM
from cfcam_gpu.service import access
from cfcam_gpu.service.traffic import Traffic

from ..browser import chromium
from ..needs import module
from ..services import backend, encoded, expected, picture, serving

playwright = module("playwright.sync_api", "BROWSER")
module("uvicorn", "BROWSER")


@pytest.fixture(scope="module")
def answering():
    return backend()


@pytest.fixture(scope="module")
def url(answering):
    with serving(answering) as address:
        yield f"http://{address}/"


@pytest.fixture(scope="module")
def browser():
    """To which every name is this machine."""
    with chromium("--host-resolver-rules=MAP * 127.0.0.1") as found:
        yield found


@pytest.fixture
def tab(browser, url):
    """The page on a phone; whatever it fetches from elsewhere, and every complaint, fails the test."""
    complaints, fetched = [], []
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    found = context.new_page()
    found.on("console", lambda message: complaints.append(message.text))
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("request", lambda request: fetched.append(request.url))
    found.goto(url)
    yield found
    context.close()
    # The browser itself reports a status of 4xx.
    assert [text for text in complaints if "status of 4" not in text] == []
    assert [one for one in fetched if not one.startswith((url, "data:", "blob:"))] == []


def file(name, data, kind="image/png"):
    return {"name": name, "mimeType": kind, "buffer": data}


def test_a_photograph_shows_the_overlays_of_the_top_classes(tab, answering):
    data = picture(3)
    playwright.expect(tab.locator("#about")).to_contain_text("CF-CAM of tests.albums:small on cpu")
    tab.locator("#file").set_input_files(file("<i>noise.png", data))
    cards = tab.locator("#results figure")
    playwright.expect(cards).to_have_count(6)
    playwright.expect(tab.locator("#status")).to_have_text("")
    wanted, pixels = expected(answering, data)
    order = wanted.logits[0].argsort(descending=True).tolist()
    shares = wanted.logits.softmax(1)[0, order].tolist()
    names = tab.locator("#results b").all_inner_texts()
    assert names == ["<i>noise.png", *(f"class {k}" for k in order)]
    notes = tab.locator("#results span").all_inner_texts()[1:]
    assert [note.partition(",")[0] for note in notes] == [f"{100 * share:.1f}%" for share in shares]
    drawn = tab.locator("#results img").evaluate_all("all => all.map(x => [x.naturalWidth, x.naturalHeight])")
    assert drawn == [[60, 40]] + [[224, 224]] * 5
    sources = tab.locator("#results img").evaluate_all("all => all.slice(1).map(x => x.src)")
    for k, source in zip(order, sources):
        image = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert np.array_equal(image, expected(answering, data, k)[0].overlay(pixels)[0])
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def overlay_of(card):
    return Image.open(io.BytesIO(base64.b64decode(card.locator("img").get_attribute("src").partition(",")[2])))


def test_another_class_and_another_method_stand_beside_the_others(tab, answering):
    data = picture(3)
    tab.get_by_label("Class").fill("Class 2")
    tab.locator("#file").set_input_files(file("noise.png", data))
    cards = tab.locator("#results figure")
    playwright.expect(cards).to_have_count(2)  # the photograph, and the class that was asked for
    playwright.expect(tab.locator("#status")).to_have_text("")
    tab.get_by_label("Method").select_option(label="Grad-CAM")
    tab.get_by_label("Class").press("Enter")
    playwright.expect(cards).to_have_count(3)
    tab.get_by_label("Class").fill("4")
    tab.get_by_role("button", name="Add to the comparison").click()
    playwright.expect(cards).to_have_count(4)
    playwright.expect(tab.locator("#status")).to_have_text("")
    told = [(card.locator("b").inner_text(), card.locator("small").inner_text()) for card in cards.all()[1:]]
    assert told == [("class 2", "CF-CAM"), ("class 2", "Grad-CAM"), ("class 4", "Grad-CAM")]
    pixels = answering.decode(data)[None]
    for card, (method, target) in zip(cards.all()[1:], [("cfcam", 2), ("gradcam", 2), ("gradcam", 4)]):
        wanted = CAM(answering.model.module, method=method)(answering.model.preparation.normalize(pixels), target)
        assert np.array_equal(overlay_of(card), wanted.overlay(pixels)[0])
    tab.get_by_role("button", name="Add to the comparison").click()
    playwright.expect(tab.locator("#status")).to_have_text("")
    playwright.expect(cards).to_have_count(4)  # it is there already
    tab.get_by_label("Class").fill("cat")
    tab.get_by_label("Class").press("Enter")
    playwright.expect(tab.locator("#status")).to_contain_text("target: no class is called 'cat'")
    playwright.expect(cards).to_have_count(4)


def test_the_fields_offer_what_the_service_has(tab):
    options = "all => all.map(x => x.value)"
    playwright.expect(tab.locator("#classes option")).to_have_count(5)  # asked for once the page is there
    assert tab.locator("#classes option").evaluate_all(options) == [f"class {k}" for k in range(5)]
    methods = tab.locator("#method option").evaluate_all(options)
    assert (methods[0], "gradcam" in methods, "scorecam" in methods) == ("cfcam", True, False)
    playwright.expect(tab.get_by_role("button", name="Add to the comparison")).to_be_disabled()  # no photograph yet
    scale = tab.locator("#scale img")
    assert scale.evaluate("x => [x.naturalWidth, x.naturalHeight]") == [200, 12]
    sizes = tab.locator("#choices input, select, button").evaluate_all("all => all.map(x => x.offsetHeight)")
    assert min(sizes) >= 44


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_to_be_read_in_either_scheme(tab, scheme):
    tab.emulate_media(color_scheme=scheme)
    brightness = "x => getComputedStyle(x).%s.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0)"
    for part in ("body", "#class", "#method", "#add"):
        ink, paper = (tab.locator(part).evaluate(brightness % name) for name in ("color", "backgroundColor"))
        assert (ink > paper + 200) if scheme == "dark" else (paper > ink + 200)


def test_dropping_works_and_the_next_photograph_takes_its_place(tab):
    drop = """async ([bytes, name]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
        document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
    }"""
    for seed, name in ((1, "first.png"), (2, "second.png")):
        tab.evaluate(drop, [list(picture(seed)), name])
    playwright.expect(tab.locator("#results figure")).to_have_count(6)
    assert tab.locator("#results b").first.inner_text() == "second.png"


def test_what_is_refused_is_said(tab):
    tab.locator("#file").set_input_files(file("text.png", b"hello"))
    playwright.expect(tab.locator("#status")).to_contain_text("image: not an image in a format of")
    tab.locator("#file").set_input_files(file("large.png", encoded(Image.new("1", (101, 100)))))
    playwright.expect(tab.locator("#status")).to_contain_text("more than the limit of 10,000 pixels")
    playwright.expect(tab.locator("#results figure")).to_have_count(0)
    tab.locator("#file").set_input_files(file("good.png", picture()))
    playwright.expect(tab.locator("#results figure")).to_have_count(6)


@pytest.fixture(scope="module")
def named():
    """The URLs of a service beyond loopback and of another site on the same machine, and what the service counts."""
    traffic = Traffic()
    hosts = access.names_of("0.0.0.0", ["gpu.example"])
    with serving(backend(), hosts=hosts, state=traffic) as address:
        port = address.rpartition(":")[2]
        yield f"http://gpu.example:{port}", f"http://evil.example:{port}", traffic.metrics


def explained(metrics):
    return metrics.registry.get_sample_value("cfcam_images_total")


POST = """async ([url, bytes, mode]) => {
    const options = { method: "POST", mode, body: new Uint8Array(bytes) };
    try { return (await fetch(url, options)).status; } catch { return null; }
}"""


def test_no_page_of_another_name_gets_anything_explained(browser, named):
    service, other, metrics = named
    tab, sent = browser.new_page(), []
    # A page of another site that has nothing to do with the service.
    tab.route(f"{other}/**", lambda route: route.fulfill(body="<title>elsewhere</title>", content_type="text/html"))
    tab.on("request", lambda request: sent.append(request))
    tab.goto(f"{other}/page")
    for mode in ("cors", "no-cors"):
        tab.evaluate(POST, [f"{service}/explain", list(picture()), mode])
        headers = sent[-1].all_headers()
        assert (headers["origin"], "sec-fetch-site" in headers) == (other, False)  # what the check by the latter misses
    assert explained(metrics) == 0
    tab.set_content(
        f"<form method=post enctype=multipart/form-data action='{service}/explain'><input name=target></form>"
    )
    with tab.expect_navigation():
        tab.evaluate("document.forms[0].submit()")
    assert "Origin: expected a page of gpu.example" in tab.locator("body").inner_text()
    assert explained(metrics) == 0
    tab.close()


def test_a_name_that_is_made_to_mean_this_machine_is_not_the_services(browser, named):
    _, other, _ = named
    tab = browser.new_page()
    tab.goto(other)
    assert "Host: expected" in tab.locator("body").inner_text()
    tab.close()


def test_its_own_page_works_by_a_name_beyond_loopback(browser, named):
    service, _, metrics = named
    tab = browser.new_page()
    tab.goto(service)
    tab.locator("#file").set_input_files(file("noise.png", picture()))
    playwright.expect(tab.locator("#results figure")).to_have_count(6)
    assert explained(metrics) == 5
    assert tab.evaluate(POST, [f"{service}/explain", list(picture()), "cors"]) == 200
    tab.close()
