"""The service without Ray: what is asked and answered over HTTP, and a batch of it."""

import asyncio
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.service import app, forms
from cfcam_gpu.service.backend import Answer, DeviceError, InternalError, Question

from ..services import LIMITS, application, array, backend, encoded, expected, picture, values


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


FILE = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
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
        {"content": b"--x--\r\n", "headers": {"content-type": "Multipart/Form-Data; boundary=x"}},
    ),
    "too many images": (400, "form: more than the limit of 3 images", form(*[("a", picture())] * 4)),
    "too many targets": (400, "form: more than the limit of 3 targets", form(("a", picture()), target=["1"] * 4)),
    "two sources of targets": (
        422,
        "target: expected in the query or in the form; got both",
        {**form(("a", picture()), target="1"), "params": {"target": "2"}},
    ),
    "another parameter": (422, "targets: no such parameter", {"content": picture(), "params": {"targets": "1"}}),
    "a parameter twice": (
        422,
        "map: expected once; got 2 times",
        {"content": picture(), "params": {"map": ["png"] * 2}},
    ),
    "long headers": (431, "got 20,", {"content": picture(), "headers": {"x-long": "a" * 20_000}}),
    "many headers": (431, "and 1", {"content": picture(), "headers": {f"x-{i}": "" for i in range(110)}}),
    "no such class": (422, "target: no class is called 'cat'", {"content": picture(), "params": {"target": "cat"}}),
    "out of range": (422, "target: class 5 is out of range", {"content": picture(), "params": {"target": "5"}}),
    "two targets": (
        422,
        "target: expected one, or one for each of the 1 images; got 2",
        {"content": picture(), "params": {"target": ["1", "2"]}},
    ),
    "no such encoding": (
        422,
        "map: expected float16, png or none; got tiff",
        {"content": picture(), "params": {"map": "tiff"}},
    ),
    "one of two is broken": (422, "image 2 (b.png): not an image", form(("a.png", picture()), ("b.png", b"hello"))),
    "no file": (400, "form: expected a file named image", {"files": [("target", (None, "1"))]}),
    "another field": (422, "got a field named 'layer'", form(("a.png", picture()), layer="1")),
    "another file": (422, "got a file named 'photo'", {"files": [("photo", ("a.png", picture()))]}),
    "a broken form": (400, "", {"content": b"--", "headers": {"content-type": "multipart/form-data; boundary=x"}}),
    "a form without its end": (
        400,
        "form: expected a boundary with -- at its end",
        {"content": FILE + picture() + b"\r\n--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}},
    ),
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


def test_health_tells_what_nobody_said_of_the_model():
    said = {
        note.partition(" doesn't say ")[2] for note in backend(Settings(model="tests.services:imagenet")).about["notes"]
    }
    assert {note.partition(":")[0] for note in said} == {
        "the size of its images",
        "mean and std of its images",
        "their names",
    }


def test_an_image_that_the_model_cant_take_costs_no_other_its_answer():
    answering = backend(Settings(model="tests.services:picky"))
    white = encoded(Image.new("RGB", (40, 40), "white"))
    good, bad = answering.explain([Question(picture(0), 1), Question(white)])
    assert isinstance(good, Answer)
    assert good.record["target"] == 1
    assert isinstance(bad, ValueError)
    with TestClient(application(answering)) as client:
        answer = client.post("/explain", files=[("image", ("white.png", white))])
    assert answer.status_code == 422
    assert answer.json()["error"] == f"image (white.png): {bad}"


@pytest.mark.parametrize("target", ["", "1"])
def test_classes_without_an_order_are_not_listed(target):
    answering = backend(Settings(model="tests.services:unsure"))
    white = encoded(Image.new("RGB", (40, 40), "white"))
    with TestClient(application(answering)) as client:
        assert client.post("/explain", content=picture()).status_code == 200
        answer = client.post("/explain", content=white, params={"target": target})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("image: logits: expected finite numbers")


@pytest.mark.parametrize(
    ("rest", "status", "reason"),
    [("slow", 408, "body: not there after 0.1 seconds"), ("gone", 400, "body: cut off")],
)
def test_a_body_that_does_not_come_keeps_no_place(answering, monkeypatch, rest, status, reason):
    monkeypatch.setattr(forms, "PATIENCE", 0.1)
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


def failing(error, *, raised=False):
    """The application where every image ends with an error."""

    async def explain(question):
        if raised:
            raise error
        return error

    return TestClient(app.build(backend(), explain))


@pytest.mark.parametrize("raised", [False, True])
def test_what_the_model_fails_with_is_for_the_log_alone(caplog, raised):
    with failing(RuntimeError("/home/secret"), raised=raised) as client:
        answer = client.post("/explain", content=picture())
    assert (answer.status_code, set(answer.json())) == (500, {"error", "request"})
    assert (answer.json()["error"], answer.json()["request"]) == ("internal error", answer.headers["x-request-id"])
    (record,) = caplog.records
    assert answer.json()["request"] in record.getMessage()
    assert "/home/secret" in caplog.text


def test_a_device_out_of_order_is_no_refusal_for_ever():
    with failing(DeviceError("CUDA error: an illegal memory access was encountered")) as client:
        answer = client.post("/explain", content=picture())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "CUDA" not in answer.text


@pytest.mark.parametrize("model", ["raising", "raising_values"])
def test_the_models_own_words_stay_inside(caplog, model):
    answering = backend(Settings(model=f"tests.services:{model}"))
    white = encoded(Image.new("RGB", (40, 40), "white"))
    good, bad = answering.explain([Question(picture(0)), Question(white)])
    assert isinstance(good, Answer)
    assert isinstance(bad, InternalError)
    with TestClient(application(answering)) as client:
        answer = client.post("/explain", content=white)
    assert (answer.status_code, answer.json()["error"]) == (500, "internal error")
    assert "secret" not in answer.text
    assert "in forward" in caplog.text  # the traceback


def test_a_dead_device_answers_no_more():
    answering = backend(Settings(model="tests.services:dying"))
    white = encoded(Image.new("RGB", (40, 40), "white"))
    assert isinstance(answering.explain([Question(picture())])[0], Answer)
    answering.check()
    for data in (white, picture()):
        (found,) = answering.explain([Question(data)])
        assert isinstance(found, DeviceError)
    with pytest.raises(DeviceError, match="device cpu: CUDA error"):
        answering.check()


def test_a_batch_has_targets_of_its_own(answering):
    images = [picture(seed) for seed in range(4)]
    targets = [None, 2, None, 4]
    questions = [Question(d, t, overlay=i == 1) for i, (d, t) in enumerate(zip(images, targets))]
    for answer, data, target, i in zip(answering.explain(questions), images, targets, range(4)):
        wanted, pixels = expected(answering, data, target)
        assert answer.record["target"] == wanted.target.item()
        assert (array(answer.map).float() - wanted.maps[0]).abs().max() < 1e-3
        assert (answer.overlay is not None) == (i == 1)
        if i == 1:
            assert (array(answer.overlay).int() - wanted.overlay(pixels)[0].int()).abs().max() <= 1


def test_a_name_that_is_not_ascii_may_come_alone_as_rfc_5987_has_it(client):
    head = b"--x\r\nContent-Disposition: form-data; name=\"image\"; filename*=utf-8''%E7%8C%AB.png\r\n\r\n"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = client.post("/explain?map=none", content=head + picture() + b"\r\n--x--\r\n", headers=headers)
    assert answer.json()["explanations"][0]["name"] == "猫.png"
    answer = client.post(
        "/explain", content=b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n', headers=headers
    )
    assert (answer.status_code, answer.json()["error"][-44:]) == (422, "got a field named 'image' without a filename")


@pytest.mark.parametrize("path", ["/", "/page.js", "/health", "/live", "/ready", "/metrics", "/openapi.json"])
def test_head_is_get_without_the_body(client, path):
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert get.content


def test_groups_of_channels_are_named_where_asked_for(answering):
    data = picture(1)
    answer = backend(components=2).explain([Question(data)])[0]
    result, pixels = expected(answering, data)
    parts = result.components(answering.model.preparation.normalize(pixels), 2)[0]
    assert answer.record["components"] == [
        {"name": part.name, "share": part.share, "channels": part.channels.tolist()} for part in parts
    ]
    with pytest.raises(ValueError, match="components: only one look by the method cfcam"):
        backend(Settings(model="tests.albums:small", method="gradcam"), components=2)


def test_of_several_pages_the_first_is_explained_and_all_are_counted(client, answering):
    file = io.BytesIO()
    pages = [Image.open(io.BytesIO(picture(seed))) for seed in range(3)]
    pages[0].save(file, format="TIFF", save_all=True, append_images=pages[1:])
    (found,) = client.post("/explain", content=file.getvalue()).json()["explanations"]
    (alone,) = client.post("/explain", content=picture(0)).json()["explanations"]
    assert (found.pop("pages"), alone.pop("pages")) == (3, 1)
    assert found == alone


def test_another_method_is_explained_by(answering):
    looking = backend(Settings(model="tests.albums:small", method="gradcam", augment=("flip",)))
    assert looking.about["method"] == "gradcam"
    data = picture(1)
    (answer,) = looking.explain([Question(data)])
    assert answer.record["method"] == "gradcam"
    assert torch.equal(array(answer.map), expected(looking, data)[0].maps[0].half())
    assert not torch.equal(array(answer.map), expected(answering, data)[0].maps[0].half())


def test_the_page_fetches_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in ("/page.css", "/page.js"):
        assert client.get(path).status_code == 200
    assert client.get("/docs").status_code == 404
