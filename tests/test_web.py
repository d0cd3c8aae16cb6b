"""examples/web in headless Chromium: a photograph dropped on the page is explained there as the library explains it."""

import base64
import functools
import hashlib
import http.server
import io
import os
import shutil
import subprocess
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from cfcam_gpu import CFCAM, deploy
from cfcam_gpu.image_files import photos
from cfcam_gpu.named_models import models

from .browser import chromium
from .deploy import files
from .needs import lacking, module
from .networks import lite0
from .pages import ROOT
from .pipeline_jobs import TINY

playwright = module("playwright.sync_api", "BROWSER")
pytestmark = pytest.mark.slow

#: The pixels and the map that a page's script makes of encoded photographs with a file.
_EXPLAINED = """async ([name, photographs, target]) => {
  const { load, explain } = await import("./explain.js");
  const model = await load(name), all = [];
  for (const data of photographs) {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const found = await explain(model, new Blob([bytes]), target);
    all.push({ ...found, map: Array.from(found.map), pixels: Array.from(found.pixels) });
  }
  return all;
}"""
_DROP = """([data, name]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), given = new DataTransfer();
  given.items.add(new File([bytes], name, { type: "image/png" }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true }));
}"""
_DRAWN = """() => {
  const canvas = document.getElementById("overlay");
  return Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The example's folder with what npm installs; the end of the test where that can't be had."""
    folder = tmp_path_factory.mktemp("site") / "web"
    shutil.copytree(ROOT / "examples" / "web", folder, ignore=shutil.ignore_patterns("node_modules", "model.onnx"))
    (folder / "node_modules").symlink_to(installed(folder))
    return folder


def installed(web):
    """The modules, which later runs of the tests find in build/."""
    asked = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(web.glob("package*.json")))).hexdigest()[:16]
    folder = ROOT / "build" / f"web-{asked}"
    if folder.exists():
        return folder / "node_modules"
    if shutil.which("npm") is None:
        lacking("there is no npm", "WEB")
    part = folder.with_name(f"{folder.name}.{os.getpid()}")
    part.mkdir(parents=True)
    for path in web.glob("package*.json"):
        shutil.copy(path, part)
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=1"]
    done = subprocess.run(command, cwd=part, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(part)
        lacking(f"npm can't install onnxruntime-web: {done.stderr.strip()[-200:]}", "WEB")
    part.rename(folder)
    return folder / "node_modules"


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *given):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@contextmanager
def watched(browser, address):
    """What opens the page; every complaint, and whatever it fetches from elsewhere or sends, is an error at the end."""
    complaints, asked = [], []
    context = browser.new_context()

    def open_page():
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: asked.append((request.method, request.url)))
        tab.goto(address)
        return tab

    yield open_page
    assert complaints == []
    assert [one for one in asked if one[0] != "GET" or not one[1].startswith((address, "data:"))] == []
    context.close()


@pytest.fixture
def visit(browser, address):
    with watched(browser, address) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def tab(site, browser, address):
    """The page, which takes a second or two to load, of a file whose class is an input."""
    files.write(site / "model.onnx", target="input")
    with watched(browser, address) as open_page:
        tab = open_page()
        playwright.expect(tab.locator("#about")).to_have_text("CF-CAM of small at features.3", timeout=60_000)
        yield tab


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, format=form, **options)
    return file.getvalue()


def noise(seed=0, size=(60, 40)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def explained(tab, name, images, target=None):
    """Of each image what the page's script finds, its map and its pixels."""
    for found in tab.evaluate(_EXPLAINED, [name, [base64.b64encode(encoded(one)).decode() for one in images], target]):
        size = found["size"]
        pixels = torch.tensor(found["pixels"], dtype=torch.uint8).reshape(size, size, 3).movedim(-1, 0)
        yield found, torch.tensor(found["map"]).reshape(size, size), pixels


@pytest.mark.parametrize(
    ("name", "fields", "target", "asked"),
    [
        ("plain", {}, None, None),
        ("batch", {"batch": 3, "class_names": None}, None, None),
        ("target", {"target": "input"}, 4, 4),
        ("targets", {"target": "input", "classes": 2, "batch": 2}, 1, [[1, 1]]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_map_is_the_librarys(site, tab, name, fields, target, asked):
    file = files.write(site / f"{name}.onnx", **fields)
    image = noise()
    ((found, map, pixels),) = explained(tab, file.name, [image], target)
    assert torch.equal(pixels, TINY.pixels(image))
    result = deploy.load(file)(TINY.normalize(pixels[None]), asked)
    torch.testing.assert_close(map, result.maps.flatten(0, -3)[0], atol=1e-6, rtol=0)
    k = int(result.target.flatten()[0])
    assert found["name"] == (f"class {k}" if "class_names" in fields else "abcde"[k])
    assert found["probability"] == pytest.approx(float(result.logits.softmax(1)[0, k]), abs=1e-6)
    assert (found["empty"], found["converged"]) == (False, True)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_photographs_are_resized_as_pillow_does(site, tab, interpolation):
    file = files.write(
        site / f"{interpolation}.onnx", preparation={**files.PREPARATION, "interpolation": interpolation}
    )
    wants = photos.Preparation(32, 36, Image.Resampling[interpolation.upper()], TINY.mean, TINY.std)
    images = [noise(1, size) for size in ((61, 47), (300, 40), (20, 90), (36, 36), (450, 350))]
    for image, (_, _, pixels) in zip(images, explained(tab, file.name, images), strict=True):
        assert torch.equal(pixels, wants.pixels(image)), image.size


def test_a_photograph_is_dropped_and_chosen(site, tab):
    file = files.write(site / "dropped.onnx", target="input")
    image = noise(2)
    tab.evaluate(_DROP, [base64.b64encode(encoded(image)).decode(), "a.png"])
    playwright.expect(tab.locator("#result")).to_be_visible()
    result = deploy.load(file)(TINY.normalize(TINY.pixels(image)[None]))
    k = int(result.target[0])
    playwright.expect(tab.locator("#name")).to_have_text("abcde"[k])
    playwright.expect(tab.locator("#probability")).to_have_text(f"{float(result.logits.softmax(1)[0, k]):.1%}")
    playwright.expect(tab.locator("#empty")).to_be_hidden()
    shown = torch.tensor(tab.evaluate(_DRAWN)).reshape(32, 32, 4)[..., :3].float()
    assert (shown - result.overlay(TINY.pixels(image)[None])[0].float()).abs().max() < 12
    tab.locator("#class").fill("c")
    tab.locator("#class").press("Enter")
    playwright.expect(tab.locator("#name")).to_have_text("c")
    tab.locator("#class").fill("z")
    tab.locator("#class").press("Enter")
    playwright.expect(tab.locator("#status")).to_have_text("a.png: no class is called z")
    playwright.expect(tab.locator("#result")).to_be_hidden()
    tab.locator("#class").fill("")
    black = {"name": "black.png", "mimeType": "image/png", "buffer": encoded(Image.new("RGB", (40, 40)))}
    tab.locator("#file").set_input_files(black)
    playwright.expect(tab.locator("#empty")).to_be_visible()
    tab.locator("#file").set_input_files({"name": "note.txt", "mimeType": "text/plain", "buffer": b"none"})
    playwright.expect(tab.locator("#status")).to_contain_text("note.txt: ")
    playwright.expect(tab.locator("#result")).to_be_hidden()


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"no model", "it is"), (b"\x08\x08", "it has no metadata of one"), (b"", "it has no metadata of one")],
)
def test_what_is_no_exported_file_is_said(site, visit, data, message):
    (site / "model.onnx").write_bytes(data)
    tab = visit()
    playwright.expect(tab.locator("#status")).to_contain_text(message)
    assert tab.locator("#file").is_disabled()


@pytest.mark.long
def test_a_trained_networks_maps_are_the_librarys(site, visit):
    wants = models.load("lite0").preparation
    images = [photos.read(path) for path in photos.samples()]
    inputs = wants.normalize(torch.stack([wants.pixels(image) for image in images]))
    preparation = {
        "size": wants.size, "resize": wants.resize, "interpolation": "bicubic", "mean": wants.mean, "std": wants.std,
    }  # fmt: skip
    names = models.class_names(1000)
    deploy.export(
        lite0(), site / "model.onnx", inputs, class_names=names, preparation=preparation, name="lite0", overwrite=True
    )
    library = CFCAM(lite0())(inputs)
    tab = visit()
    in_browser = explained(tab, "model.onnx", images)
    for (found, map, _), wanted, k in zip(in_browser, library.maps, library.target.tolist(), strict=True):
        assert (map - wanted).abs().max() <= 1e-3
        assert found["name"] == names[k]
    tab.evaluate(_DROP, [base64.b64encode(encoded(images[0], "JPEG", quality=95)).decode(), "cat.jpg"])
    playwright.expect(tab.locator("#name")).to_have_text(names[int(library.target[0])])
