"""What /openapi.json and docs/service.md say of the service, compared with what it does."""

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.main import get_command

from cfcam_gpu import cli

from ..services import application, backend, picture

PAGE = (Path(__file__).parents[2] / "docs" / "service.md").read_text()


@pytest.fixture(scope="module")
def client():
    with TestClient(application(backend(components=1))) as found:
        yield found


@pytest.fixture(scope="module")
def described(client):
    return client.get("/openapi.json").json()


def schema(described, operation, status):
    (content,) = [
        one["schema"] for kind, one in operation["responses"][status]["content"].items() if kind == "application/json"
    ]
    return described["components"]["schemas"][content["$ref"].rpartition("/")[2]]


def test_every_path_and_parameter_is_described_in_both(described):
    assert set(described["paths"]) == {"/health", "/classes", "/live", "/ready", "/metrics", "/explain"}
    for path, operations in described["paths"].items():
        assert f"`{path}`" in PAGE or f" {path}`" in PAGE
        for operation in operations.values():
            assert operation["description"]
            for parameter in operation.get("parameters", ()):
                assert parameter["description"]
                assert f"| `{parameter['name']}` |" in PAGE
    form = described["paths"]["/explain"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"image", "target", "method"}
    assert all(one["description"] for one in form["properties"].values())
    assert {one["name"] for one in described["paths"]["/explain"]["post"]["parameters"]} == {
        *("target", "method", "map", "overlay", "frame", "window"),
    }


def test_every_field_of_an_answer_is_described(described):
    schemas = described["components"]["schemas"]
    lacking = {
        f"{name}.{field}"
        for name in set(schemas) - {"HTTPValidationError", "ValidationError"}
        for field, one in schemas[name]["properties"].items()
        if not one.get("description")
    }
    assert lacking == set()


def test_every_status_is_on_the_page(described):
    statuses = {status for one in described["paths"].values() for each in one.values() for status in each["responses"]}
    assert statuses == {"200", "400", "403", "408", "411", "413", "422", "429", "431", "500", "503"}
    for status in statuses - {"200"}:
        assert re.search(rf"^\| {status} \|", PAGE, re.MULTILINE), status


def test_every_option_of_serve_is_on_the_page():
    options = [option.opts[0] for option in get_command(cli.app).commands["serve"].params]
    assert [option for option in options if f"`{option}`" not in PAGE] == ["--help"] * ("--help" in options)


def test_answers_have_what_they_are_described_with(client, described):
    operation = described["paths"]["/explain"]["post"]
    (found,) = client.post("/explain?overlay=1", content=picture()).json()["explanations"]
    schemas = described["components"]["schemas"]
    assert set(found) == set(schemas["Explanation"]["properties"])
    assert set(found["map"]) == set(found["overlay"]) == set(schemas["Encoded"]["properties"])
    assert set(found["top"][0]) == set(schemas["Class"]["properties"])
    assert set(found["components"][0]) == set(schemas["Group"]["properties"])
    assert set(schema(described, operation, "200")["properties"]) == {"explanations"}
    assert set(client.post("/explain").json()) <= set(schema(described, operation, "400")["properties"])
    health = schema(described, described["paths"]["/health"]["get"], "200")
    assert set(client.get("/health").json()) == set(health["properties"])
    assert client.get("/classes").json() == {"classes": [f"class {i}" for i in range(5)]}


def test_every_metric_is_on_the_page(client):
    client.post("/explain", content=picture())
    text = client.get("/metrics").text
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert {name.removesuffix("_created") for name in names if f"`{name.removesuffix('_created')}" not in PAGE} == set()
