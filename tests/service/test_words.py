"""Refusals are in the service's own words, whatever comes: none of pydantic, FastAPI, Starlette or a parser."""

import re

import pytest
from starlette.testclient import TestClient

from ..services import application, backend, picture

#: What these libraries say of input that they refuse.
FOREIGN = re.compile(
    r"Input should be|valid (integer|boolean|string)|unable to (parse|interpret)|greater than or equal|less than or"
    r"|Field required|type_error|pydantic|fastapi|starlette|Traceback|Not Found|Method Not Allowed|boundary character",
    re.IGNORECASE,
)
BAD = ["foo", "maybe", "abc", "-1", "0", "1.5", "9" * 30, "nan", "true,false", "猫", "a\nb", "[]", "{}", " "]
PARAMETERS = ["target", "method", "map", "overlay", "frame", "window"]


@pytest.fixture(scope="module")
def client():
    with TestClient(application(backend())) as found:
        yield found


def told(answer):
    assert (answer.status_code, list(answer.json())) == (422, ["error"]), answer.text
    reason = answer.json()["error"]
    assert not FOREIGN.search(reason), reason
    assert reason.isprintable()
    assert len(reason) < 600
    return reason


def test_every_parameter_is_among_those_tried(client):
    described = client.get("/openapi.json").json()["paths"]["/explain"]["post"]["parameters"]
    assert [one["name"] for one in described] == PARAMETERS


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("value", BAD)
def test_a_bad_value_is_refused_by_the_parameters_name_in_our_words(client, name, value):
    answer = client.post("/explain", content=picture(), params={name: value})
    if answer.status_code == 200:  # of some parameters it is no bad one
        assert (name, value.strip()) in {("target", ""), ("method", ""), ("target", "0"), ("overlay", "0")}
    else:
        assert name in told(answer).partition(":")[0]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("map=foo", "map: expected float16, png or none; got foo"),
        ("overlay=maybe", "overlay: expected true or false; got maybe"),
        ("frame=abc", "frame: expected a whole number from 1 to 2,147,483,647; got abc"),
        ("map=foo&frame=0", "map: expected float16, png or none; got foo; frame: expected a whole number from 1 to"),
        (f"frame={'9' * 5000}", "frame: expected a whole number from 1 to 2,147,483,647; got 9999"),
        (f"target={'9' * 5000}", "target: expected at most 256 letters; got 5,000"),
        (f"{'x' * 5000}=1", "parameter: expected at most 256 letters; got 5,000"),
        ("method=scorecamera", "method: expected cfcam, cfcam-one, "),
        ("method=scorecam", "got scorecam; only a service that is started with --method scorecam answers by it"),
        ("method=gradcam&method=cfcam", "method: expected once; got 2 times"),
        ("wind%1bow=1", "wind?ow: no such parameter; expected target, method, map, overlay, frame or window"),
    ],
)
def test_a_refusal_says_what_was_expected_and_what_came(client, query, reason):
    assert reason in told(client.post(f"/explain?{query}", content=picture()))


def test_forms_are_refused_in_our_words(client):
    image = {"image": ("a.png", picture())}
    assert told(client.post("/explain", files=image, data={"method": ["cfcam"] * 2})).startswith(
        "method: expected once"
    )
    both = client.post("/explain?method=cfcam", files=image, data={"method": "cfcam"})
    answer = client.post("/explain", files=image, data={"target": "x" * 5000})
    assert told(answer) == "target: expected at most 256 letters; got 5,000"
    assert told(both) == "method: expected in the query or in the form; got both"
    for boundary, where in (("x", "it is broken at byte 0"), ("x" * 999, "its boundary is too long")):
        headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
        answer = client.post("/explain", content=b"no boundary here", headers=headers)
        reason = f"form: expected parts between boundaries; {where}"
        assert (answer.status_code, answer.json()) == (400, {"error": reason})


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/nothing", 404, "path: expected one of /explain, /health, "),
        ("GET", "/explain", 405, "method of HTTP: expected POST for /explain; got GET"),
        ("DELETE", "/health", 405, "method of HTTP: expected GET for /health; got DELETE"),
    ],
)
def test_a_path_or_a_method_of_http_that_is_none_is_told(client, method, path, status, reason):
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(reason)
