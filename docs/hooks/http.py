"""The page of the HTTP interface: what the application's OpenAPI says, and what the application answers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

MARKER = "<!-- http -->"
#: Entries of a list that an example shows.
LONG = 6
HERE = "http://127.0.0.1:8000"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the requests and answers in the place of the marker."""
    return markdown.replace(MARKER, "\n\n".join(described())) if MARKER in markdown else markdown


def described() -> Iterator[str]:
    """A section for each path, and one for what is refused, in Markdown."""
    service, examples = examined()
    api = service.openapi()
    reasons: dict[str, str] = {}
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            yield f"## {method.upper()} {path}"
            yield operation["description"]
            yield from _parameters(operation)
            yield from _answer(api, answers["200"])
            yield _example(examples[path])
            refused = {status: one["description"] for status, one in answers.items() if status != "200"}
            reasons |= refused
            yield "Refused with " + ", ".join(f"[{status}](#{status})" for status in refused) + "."
    yield "## Refusals"
    yield "An answer of another status is JSON with these fields:"
    yield _fields(api, api["components"]["schemas"]["Error"])
    for status in sorted(reasons):
        yield f"### {status}"
        yield reasons[status]
        yield _example(examples[status])


def _parameters(operation: Mapping[str, Any]) -> Iterator[str]:
    if parameters := operation.get("parameters"):
        rows = [f"| `{one['name']}` | {_kind(one['schema'])} | {one['description']} |" for one in parameters]
        yield "\n".join(["| in the query | type | meaning |", "|---|---|---|", *rows])
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        fields = content["schema"].get("properties", {})
        rows = [f"| `{name}` | {_kind(one)} | {one['description']} |" for name, one in fields.items()]
        table = "\n".join(["", "", "| field | type | meaning |", "|---|---|---|", *rows]) if rows else ""
        yield f"A body of `{kind}`" + (f", with these fields:{table}" if table else ".")


def _answer(api: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[str]:
    said = "" if answer["description"] == "Successful Response" else f" {answer['description']}"
    contents = answer["content"]
    yield f"**200**, {' or '.join(f'`{kind}`' for kind in contents)}.{said}"
    schema = contents.get("application/json", {}).get("schema", {})
    if schema:
        yield _fields(api, _resolved(api, schema))


def _fields(api: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    rows = [f"| `{name}` | {kind} | {meaning} |" for name, kind, meaning in _flat(api, schema)]
    return "\n".join(["| field | type | meaning |", "|---|---|---|", *rows])


def _flat(api: Mapping[str, Any], schema: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str, str]]:
    """Name, type and meaning of each field, those of objects inside by their path."""
    for name, field in schema["properties"].items():
        yield f"{within}{name}", _kind(field), field.get("description", "")
        for one in (field, *field.get("anyOf", ())):
            inner = _resolved(api, one.get("items", one))
            if "properties" in inner:
                yield from _flat(api, inner, f"{within}{name}{'[]' if 'items' in one else ''}.")


def _resolved(api: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return api["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _kind(schema: Mapping[str, Any]) -> str:
    """A type in words."""
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        kind = ", ".join(f"`{one}`" for one in schema["enum"])
    elif "$ref" in schema:
        kind = "object"
    elif schema.get("format") == "binary":
        kind = "file"
    else:
        kind = schema.get("type", "any")
    if "prefixItems" in schema:
        kind += f" of {len(schema['prefixItems'])} {_kind(schema['prefixItems'][0])}s"
    elif "items" in schema:
        kind += f" of {_kind(schema['items'])}s"
    if "minimum" in schema:
        kind += f", from {schema['minimum']}"
    default = schema.get("default")
    return (
        kind if default is None else f"{kind}; default `{json.dumps(default) if default != str(default) else default}`"
    )


def _example(found: tuple[str, str]) -> str:
    """A request and its answer."""
    request, answer = found
    return f"```\n{request}\n```\n\n```{'json' if answer.startswith('{') else ''}\n{answer}\n```"


def examined() -> tuple[Any, dict[str, tuple[str, str]]]:
    """The application with its default model, and a request and the answer to it by path and by status."""
    # Not above: sites without this page wait for no torch.
    from starlette.testclient import TestClient

    from cfcam_gpu.named_models.options import Settings
    from cfcam_gpu.photographs import samples
    from cfcam_gpu.service import app
    from cfcam_gpu.service.backend import Backend, InternalError, Limits
    from cfcam_gpu.service.traffic import Traffic

    backend = Backend(Settings(), Limits())

    async def explain(question: Any) -> Any:
        return backend.explain([question])[0]

    async def fail(_: Any) -> Any:
        return InternalError("no reason to be told")

    foreign, long = {"Host": "example.com"}, {"Content-Length": "999999999"}
    ours = {"hosts": {"127.0.0.1"}}
    service, photograph = app.build(backend, explain, **ours), samples()[0].read_bytes()
    ending, full = Traffic(), Traffic(places=64)
    ending.draining, full.under_way = True, 64
    here, photo = f"curl {HERE}", "curl --data-binary @cat.jpg"
    asked: dict[str, tuple[str, Any, str, str, dict[str, Any]]] = {
        path: (f"{here}{path}", service, "GET", path, {})
        for path, one in service.openapi()["paths"].items()
        if "get" in one
    }
    to = f"{HERE}/explain"
    asked |= {
        "/explain": (f"{photo} {to}", service, "POST", "/explain", {"content": photograph}),
        "400": (f"curl --data-binary '' {to}", service, "POST", "/explain", {}),
        "403": (f"{here}/health -H 'Host: example.com'", service, "GET", "/health", {"headers": foreign}),
        "411": (
            f"{photo} -H 'Transfer-Encoding: chunked' {to}", service, "POST", "/explain", {"content": iter([b""])},
        ),
        "413": (
            f"curl --data-binary @film.mov {to}", service, "POST", "/explain", {"headers": long},
        ),
        "422": (f"{photo} '{to}?target=unicorn'", service, "POST", "/explain?target=unicorn", {"content": photograph}),
        "429": (f"{photo} {to}", app.build(backend, explain, state=full, **ours), "POST", "/explain", {}),
        "431": (f"{here}/live -H @long.txt", service, "GET", "/live", {"headers": {"X-Long": "a" * 20_000}}),
        "500": (f"{photo} {to}", app.build(backend, fail, **ours), "POST", "/explain", {"content": photograph}),
        "503": (f"{here}/ready", app.build(backend, explain, state=ending, **ours), "GET", "/ready", {}),
    }  # fmt: skip
    found = {}
    log = logging.getLogger("cfcam_gpu.service")
    log.disabled = True  # the failure above is on purpose
    for name, (shown, asks, method, path, sent) in asked.items():
        answer = TestClient(asks, base_url=HERE).request(method, path, **sent)
        assert answer.status_code == (int(name) if name.isdigit() else 200), answer.text
        found[name] = shown, _shown(answer.text)
    log.disabled = False
    found["408"] = f"{photo} {to}", _shown(asyncio.run(_late(service)))
    return service, found


async def _late(service: Any) -> str:
    """The answer where the body has not come in time."""
    sent = []

    async def receive() -> Any:
        raise TimeoutError

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1")]
    scope = {"type": "http", "method": "POST", "path": "/explain", "query_string": b"", "headers": headers}
    await service(scope, receive, send)
    return sent[1]["body"].decode()


def _shown(answer: str) -> str:
    """An answer as the page has it: JSON indented, its base64 cut short, and the first lines of other text."""
    if not answer.startswith("{"):
        return "\n".join(answer.splitlines()[:6]) + "\n..."
    return json.dumps(_short(json.loads(answer)), indent=2, ensure_ascii=False)


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_short(one) for one in value[:LONG]] + ["..."] * (len(value) > LONG)
    return value[:32] + "..." if isinstance(value, str) and len(value) > 400 else value
