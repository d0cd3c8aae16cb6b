"""The service without Ray: what is asked and answered over HTTP, and a batch of it."""

import asyncio
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from cfcam_gpu.photographs.options import Settings
from cfcam_gpu.service import app
from cfcam_gpu.service.backend import Answer, Question

from ..services import LIMITS, application, backend, encoded, expected, picture, values


@pytest.fixture(scope="module")
def answering():
    return backend()


@pytest.fixture(scope="module")
def client(answering):
    with TestClient(application(answering)) as found:
        yield found


@pytest.mark.parametrize(
    ("query", "target"), [({}, None), ({"target": "3"}, 3), ({"target": "Class 1"}, 1), ({"target": ""}, None)]
)
def test_an_image_is_answered_with_the_librarys_map(client, answering, query, target):
    data = picture(1)
    answer = client.post("/explain", content=data, params=query)
    assert answer.status_code == 200
    (found,) = answer.json()["explanations"]
    wanted, _ = expected(answering, data, target)
    index = wanted.target.item()
    assert (found["target"], found["class"], found["name"]) == (index, f"class {index}", None)
    assert found["probability"] == pytest.approx(wanted.logits.softmax(1)[0, index].item(), rel=1e-5)
    assert found["empty"] == wanted.empty.item()
    assert [one["target"] for one in found["top"]] == wanted.logits[0].argsort(descending=True).tolist()
    assert (found["map"]["encoding"], found["map"]["shape"]) == ("float16", [224, 224])
    assert torch.equal(values(found["map"]), wanted.maps[0].half())
    assert "overlay" not in found


def test_map_and_overlay_come_as_asked(client, answering):
    data = picture(2, form="JPEG")
    wanted, pixels = expected(answering, data)
    (found,) = client.post("/explain?map=png&overlay=1", content=data).json()["explanations"]
    assert torch.equal(values(found["map"]), (wanted.maps[0].half().float() * 255).round().to(torch.uint8))
    assert torch.equal(values(found["overlay"]), wanted.overlay(pixels)[0])
    (found,) = client.post("/explain?map=none", content=data).json()["explanations"]
    assert "map" not in found
    answer = client.post("/explain?target=2", content=data, headers={"Accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    overlay = expected(answering, data, 2)[0].overlay(pixels)[0]
    assert np.array_equal(Image.open(io.BytesIO(answer.content)), overlay)


@pytest.mark.parametrize(
    ("targets", "wanted"), [([], [None] * 3), (["4"], [4] * 3), (["4", "", "class 0"], [4, None, 0])]
)
def test_several_images_in_a_form(client, answering, targets, wanted):
    images = [picture(seed) for seed in range(3)]
    files = [("image", (f"{i}.png", data)) for i, data in enumerate(images)]
    answer = client.post("/explain", files=files, data={"target": targets})
    found = answer.json()["explanations"]
    assert [one["name"] for one in found] == ["0.png", "1.png", "2.png"]
    for one, data, target in zip(found, images, wanted):
        result, _ = expected(answering, data, target)
        assert one["target"] == result.target.item()
        assert torch.equal(values(one["map"]), result.maps[0].half())


def form(*files, **fields):
    return {"files": [("image", (name, data)) for name, data in files], "data": fields}


REFUSED = {
    "nothing": (400, "body: expected an image, or a form with images; got nothing", {"content": b""}),
    "no image": (422, "image: not an image in a format of JPEG", {"content": b"hello"}),
    "truncated": (422, "image: ", {"content": picture(form="JPEG")[:-900]}),
    "too many bytes": (413, "body: more than the limit of 60,000 bytes", {"content": bytes(60_001)}),
    "no length": (411, "body: expected a Content-Length; got chunks", {"content": iter([picture()])}),
    "too many bytes in a form": (413, "body: more than the limit", form(("a", bytes(50_000)), ("b", bytes(50_000)))),
    "too many pixels": (
        413,
        "image: 101 x 100, more than the limit of 10,000 pixels",
        {"content": encoded(Image.new("1", (101, 100)))},
    ),
    "a form in capitals": (
        400,
        "form: expected a file named image",
        {"content": b"--", "headers": {"content-type": "Multipart/Form-Data; boundary=x"}},
    ),
    "too many images": (400, "Too many files", form(*[("a", picture())] * 4)),
    "no such class": (422, "target: no class is called 'cat'", {"content": picture(), "params": {"target": "cat"}}),
    "out of range": (422, "target: class 5 is out of range", {"content": picture(), "params": {"target": "5"}}),
    "two targets": (
        422,
        "target: expected one, or one for each of the 1 images; got 2",
        {"content": picture(), "params": {"target": ["1", "2"]}},
    ),
    "no such encoding": (422, "map: Input should be 'float16', ", {"content": picture(), "params": {"map": "tiff"}}),
    "one of two is broken": (422, "image 2 (b.png): not an image", form(("a.png", picture()), ("b.png", b"hello"))),
    "no file": (400, "form: expected a file named image", {"files": [("target", (None, "1"))]}),
    "another field": (422, "got a field named 'layer'", form(("a.png", picture()), layer="1")),
    "another file": (422, "got a file named 'photo'", {"files": [("photo", ("a.png", picture()))]}),
    "a broken form": (400, "", {"content": b"--", "headers": {"content-type": "multipart/form-data; boundary=x"}}),
    "no boundary": (400, "", {"content": b"--", "headers": {"content-type": "multipart/form-data"}}),
    "a picture of two": (
        422,
        "Accept: image/png is for one image; got 2",
        {**form(("a", picture()), ("b", picture())), "headers": {"accept": "image/png"}},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_the_reason(client, case):
    status, reason, request = REFUSED[case]
    answer = client.post("/explain", **request)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert reason in answer.json()["error"]


def test_other_addresses_and_methods(client):
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/explain", 405), ("POST", "/", 405)):
        answer = client.request(method, path)
        assert answer.status_code == status
        assert list(answer.json()) == ["error"]


def test_health_tells_the_model(client):
    found = client.get("/health").json()
    assert (found["status"], found["model"], found["classes"], found["size"]) == ("ok", "tests.albums:small", 5, 224)
    assert found["limits"] == vars(LIMITS)


def test_an_image_that_the_model_cant_take_costs_no_other_its_answer():
    answering = backend(Settings(model="tests.services:picky"))
    white = encoded(Image.new("RGB", (40, 40), "white"))
    questions = [Question(answering.decode(data), t, False) for data, t in ((picture(0), 1), (white, None))]
    good, bad = answering.explain(questions)
    assert isinstance(good, Answer)
    assert good.record["target"] == 1
    assert isinstance(bad, ValueError)
    with TestClient(application(answering)) as client:
        answer = client.post("/explain", files=[("image", ("white.png", white))])
    assert answer.status_code == 422
    assert answer.json()["error"] == f"image (white.png): {bad}"


@pytest.mark.parametrize(
    ("rest", "status", "reason"),
    [("slow", 408, "body: not there after 0.1 seconds"), ("gone", 400, "body: cut off")],
)
def test_a_body_that_does_not_come_keeps_no_place(answering, monkeypatch, rest, status, reason):
    monkeypatch.setattr(app, "PATIENCE", 0.1)
    pieces = [{"type": "http.request", "body": picture()[:100], "more_body": True}]

    async def receive():
        if pieces:
            return pieces.pop()
        if rest == "slow":
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    answers = []

    async def send(message):
        answers.append(message)

    scope = {"type": "http", "method": "POST", "path": "/explain", "query_string": b"", "headers": []}
    asyncio.run(application(answering)(scope, receive, send))
    assert answers[0]["status"] == status
    assert json.loads(answers[1]["body"]) == {"error": reason}


def test_what_the_model_fails_with_is_no_fault_of_the_client():
    answering = backend()

    async def explain(question):
        return RuntimeError("out of memory")

    with TestClient(app.build(answering, explain)) as client:
        answer = client.post("/explain", content=picture())
    assert (answer.status_code, answer.json()) == (500, {"error": "image: out of memory"})


def test_a_batch_has_targets_of_its_own(answering):
    images = [picture(seed) for seed in range(4)]
    targets = [None, 2, None, 4]
    questions = [Question(answering.decode(d), t, i == 1) for i, (d, t) in enumerate(zip(images, targets))]
    for answer, data, target, i in zip(answering.explain(questions), images, targets, range(4)):
        wanted, pixels = expected(answering, data, target)
        assert answer.record["target"] == wanted.target.item()
        assert (torch.from_numpy(answer.map).float() - wanted.maps[0]).abs().max() < 1e-3
        assert (answer.overlay is not None) == (i == 1)
        if i == 1:
            assert abs(answer.overlay.astype(int) - wanted.overlay(pixels)[0].numpy()).max() <= 1


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:8000", 200), ("LOCALHOST", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200)]
    + [(host, 403) for host in ("evil.example:8000", "127.0.0.1.evil.example", "[::1", "")],
)
def test_on_loopback_no_other_name_is_answered(answering, host, status):
    names = frozenset({"localhost", "127.0.0.1", "[::1]"})
    with TestClient(application(answering, names)) as client:
        for method, path in (("GET", "/"), ("GET", "/health"), ("POST", "/explain?map=none")):
            answer = client.request(method, path, content=picture(), headers={"Host": host})
            assert answer.status_code == status
            if status == 403:
                assert answer.json()["error"].startswith("Host: expected 127.0.0.1, [::1], localhost; got")


@pytest.mark.parametrize(
    ("site", "status"), [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)]
)
def test_a_page_of_another_site_gets_nothing_explained(client, site, status):
    headers = {"Sec-Fetch-Site": site}
    answer = client.post("/explain?map=none", content=picture(), headers=headers)
    assert answer.status_code == status
    assert client.get("/", headers=headers).status_code == 200  # a link to it


def test_the_page_fetches_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in ("/page.css", "/page.js"):
        assert client.get(path).status_code == 200
    assert client.get("/docs").status_code == 404
