"""The service's HTTP: what comes in is checked, what goes out is JSON or a picture."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from http import HTTPStatus
from importlib.resources import files
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware import Middleware
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ..image_files import photos
from ..methods import METHODS
from ..named_models.options import window_of
from ..photographs import contact_sheet
from ..targets.names import class_index
from . import forms, metrics, schema, traffic
from .access import Access
from .backend import FRAMES, Answer, Encoding, InternalError, Limits, MethodError, Picture, Question, UnavailableError
from .forms import Upload
from .traffic import RETRY_AFTER, Frame, Traffic

Result = TypeVar("Result")

#: The page fetches nothing but what this service has.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_SCALE = "/scale.png"
_PATHS = ("/explain", "/health", "/classes", "/live", "/ready", "/metrics", "/openapi.json", _SCALE, *_PAGE)
#: Parameters of /explain that may be given once.
_SINGLE = ("method", "map", "overlay", "frame", "window")
#: What each that FastAPI reads is expected to be: its own words, which are pydantic's, would be of another kind.
_EXPECTED = {
    "map": "float16, png or none",
    "overlay": "true or false",
    "frame": f"a whole number from 1 to {FRAMES:,}",
}
#: Letters that a parameter may have: more than a class's name has.
_LETTERS = 256


class Serves(Protocol):
    """What the application knows of a model: a Backend, or what one has said of itself."""

    @property
    def about(self) -> dict[str, Any]:
        """What is told of the model."""

    @property
    def limits(self) -> Limits:
        """What one request may bring."""

    @property
    def class_names(self) -> list[str]:
        """Of the model's classes."""


def build(
    backend: Serves,
    explain: Callable[[Question], Awaitable[Answer | Exception]],
    *,
    hosts: Collection[str] | None = None,
    origins: Collection[str] = (),
    state: Traffic | None = None,
    unready: Callable[[], Awaitable[str | None]] | None = None,
) -> FastAPI:
    """The application.

    Parameters
    ----------
    backend : Backend, or anything with ``about``, ``limits`` and ``class_names``
    explain : coroutine function
        The answer to one question, or why there is none. Which questions are explained together is its affair.
    hosts : collection of str, optional
        The names, without a port, by which the service may be addressed; see :class:`.access.Access`. Default: any.
    origins : collection of str
        The names of a proxy, whose pages may post, too.
    state : Traffic, optional
        Counts requests and knows how many there may be. Default: one that admits all.
    unready : coroutine function, optional
        Why no request should be sent here now, or None.

    Returns
    -------
    FastAPI
    """
    state = Traffic() if state is None else state
    # FastAPI's pages of documentation would fetch scripts from elsewhere; /openapi.json is there.
    app = FastAPI(
        title="cfcam_gpu",
        description=schema.DESCRIPTION,
        version=backend.about["version"],
        docs_url=None,
        redoc_url=None,
        middleware=[
            Middleware(Frame, traffic=state, paths=_PATHS, busy="/explain"),
            Middleware(Access, hosts=hosts, origins=origins),
        ],
    )
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    for path, (file, media_type) in _PAGE.items():
        app.add_api_route(path, _static(_file(file), media_type), include_in_schema=False)
    app.add_api_route(_SCALE, _static(_scale(), "image/png"), include_in_schema=False)

    @app.get("/health", responses=schema.refusals(403, 431), response_model=schema.Health)
    async def health() -> Any:
        """Which model there is, and the limits of a request."""
        return {"status": "ok", **backend.about, "limits": vars(backend.limits)}

    @app.get("/classes", responses=schema.refusals(403, 431), response_model=schema.Classes)
    async def classes() -> Any:
        """The names of the model's classes, in the order of their indices."""
        return {"classes": list(backend.class_names)}

    @app.get("/live", responses=schema.refusals(403, 431), response_model=schema.Status)
    async def live() -> Any:
        """Whether the process is there: what does not answer is to be started again."""
        return {"status": "live"}

    @app.get("/ready", responses=schema.refusals(403, 431, 503), response_model=schema.Status)
    async def ready() -> Any:
        """Whether requests should be sent here: a model is loaded, its device in order, and the service not ending."""
        why = "the service is ending" if state.draining else None if unready is None else await unready()
        if why is not None:
            raise HTTPException(503, f"not ready: {why}")
        return {"status": "ready"}

    @app.get("/metrics", responses=schema.METRICS | schema.refusals(403, 431), response_class=Response)
    async def measured() -> Response:
        """Counters and histograms in Prometheus' form, of all replicas together."""
        return Response(state.metrics.text(), media_type=metrics.MEDIA_TYPE)

    @app.post(
        "/explain",
        openapi_extra={"requestBody": schema.BODY},
        responses=schema.PICTURE | schema.refusals(400, 403, 408, 411, 413, 422, 429, 431, 500, 503),
        response_model=schema.Explanations,
    )
    async def explain_images(
        request: Request,
        target: Annotated[list[str] | None, Query(description=schema.TARGET)] = None,
        method: Annotated[str | None, Query(description=schema.METHOD)] = None,
        encoding: Annotated[Encoding, Query(alias="map", description="How JSON has the map.")] = "float16",
        overlay: Annotated[bool, Query(description="Whether JSON has the overlay, too, as PNG.")] = False,
        frame: Annotated[int, Query(ge=1, le=FRAMES, description="Of a multi-frame file of DICOM, from 1.")] = 1,
        window: Annotated[str | None, Query(description=schema.WINDOW)] = None,
    ) -> Response:
        """Explain an image, or several in a form; the overlay of one as PNG where the client accepts image/png."""
        _check_query(request)
        picture, began = _wants_picture(request), time.perf_counter()
        body = await forms.read(request, backend.limits)
        state.metrics.stages.labels("read").observe(time.perf_counter() - began)
        if picture and len(body.images) > 1:
            raise HTTPException(422, f"Accept: image/png is for one image; got {len(body.images)}")
        for name, values in (("target", body.targets), ("method", body.methods)):
            for value in values:
                _check_letters(name, value)
        targets = _targets(backend.class_names, target or [], body.targets, len(body.images))
        if backend.about["target"] == "predicted" and any(one is not None for one in targets):
            raise HTTPException(422, "target: expected none: this model explains each image's predicted class alone")
        wanted: Encoding = "none" if picture else encoding
        shown, by = _window(window), _method(backend.about, method, body.methods)
        questions = [
            Question(one.data, at, wanted, picture or overlay, frame - 1, shown, by)
            for one, at in zip(body.images, targets)
        ]
        answers = await _unless_gone(request, _all(explain, questions))
        if answers is None:
            return Response(status_code=499)  # for the count: nobody reads it
        found = [_answered(answer, body.images, i) for i, answer in enumerate(answers)]
        for answer in found:
            state.metrics.explained(answer.seconds, answer.batch)
        if picture:
            assert found[0].overlay is not None  # asked for in the question
            return Response(found[0].overlay.data, media_type="image/png")
        return JSONResponse({"explanations": [_described(answer, one) for answer, one in zip(found, body.images)]})

    return app


async def _all(
    explain: Callable[[Question], Awaitable[Answer | Exception]], questions: Sequence[Question]
) -> list[Answer | Exception]:
    return await asyncio.gather(*(explain(question) for question in questions))


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """What `work` returns; None, and the work is dropped, where the client has gone before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()


def _check_query(request: Request) -> None:
    """Refuse what is no parameter, and what of a parameter would be passed over."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name, value in request.query_params.multi_items():
        _check_letters("parameter", name)
        if name != "target" and name not in _SINGLE:
            known = f"target, {', '.join(_SINGLE[:-1])} or {_SINGLE[-1]}"
            raise HTTPException(422, f"{name}: no such parameter; expected {known}")
        if name in _SINGLE and names.count(name) > 1:
            raise HTTPException(422, f"{name}: expected once; got {names.count(name)} times")
        _check_letters(name, value)


def _check_letters(name: str, value: str) -> None:
    """Refuse what is longer than anything that is meant, before it is read or repeated."""
    if len(value) > _LETTERS:
        raise HTTPException(422, f"{name}: expected at most {_LETTERS} letters; got {len(value):,}")


def _window(said: str | None) -> tuple[float, float] | None:
    try:
        return None if said is None else window_of(said)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


def _method(about: Mapping[str, Any], in_query: str | None, in_form: Sequence[str]) -> str:
    """The method of a request: the service's own where none is named."""
    if in_query and in_form:
        raise HTTPException(422, "method: expected in the query or in the form; got both")
    text = (in_form[0] if in_form else in_query or "").strip()
    if not text:
        return str(about["method"])
    if text not in about["methods"]:
        got = text
        if len(about["methods"]) == 1:
            got += "; an exported file explains by its own method alone"
        elif text in METHODS:
            got += f"; only a service that is started with --method {text} answers by it"
        raise HTTPException(422, f"method: expected {', '.join(about['methods'])}; got {got}")
    return text


def _targets(
    class_names: Sequence[str], in_query: Sequence[str], in_form: Sequence[str], count: int
) -> list[int | None]:
    """The class of each image, None for the predicted one."""
    if in_query and in_form:
        raise HTTPException(422, "target: expected in the query or in the form; got both")
    texts = [text.strip() for text in in_form or in_query or [""]]
    try:
        found = [class_index(text, class_names) if text else None for text in texts]
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    if len(found) not in (1, count):
        raise HTTPException(422, f"target: expected one, or one for each of the {count} images; got {len(found)}")
    return found * count if len(found) == 1 else found


def _answered(answer: Answer | Exception, uploads: Sequence[Upload], i: int) -> Answer:
    """The answer; what of it is not the client's affair goes no further than the log."""
    if isinstance(answer, Answer):
        return answer
    if isinstance(answer, photos.TooLargeError):
        raise HTTPException(413, f"{_called(uploads, i)}: {answer}")
    if isinstance(answer, MethodError):
        raise HTTPException(422, str(answer))
    if isinstance(answer, UnavailableError):
        raise HTTPException(503, "no model can answer now; a replica is put in its place", {"Retry-After": RETRY_AFTER})
    if isinstance(answer, (TypeError, ValueError)):
        raise HTTPException(422, f"{_called(uploads, i)}: {str(answer) or type(answer).__name__}")
    raise answer if isinstance(answer, InternalError) else InternalError(repr(answer)) from answer


def _called(uploads: Sequence[Upload], i: int) -> str:
    """An image, for people."""
    number = f" {i + 1}" if len(uploads) > 1 else ""
    name = uploads[i].name
    return f"image{number}" + (f" ({name})" if name else "")


def _described(answer: Answer, upload: Upload) -> dict[str, Any]:
    pictures = {"map": answer.map, "overlay": answer.overlay}
    there = {name: _in_json(picture) for name, picture in pictures.items() if picture is not None}
    return {"name": upload.name, **answer.record, **there}


def _in_json(picture: Picture) -> dict[str, Any]:
    data = base64.b64encode(picture.data).decode("ascii")
    return {"encoding": picture.encoding, "shape": picture.shape, "data": data}


def _wants_picture(request: Request) -> bool:
    accepted = {part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")}
    return "image/png" in accepted and "application/json" not in accepted


async def _refused(request: Request, error: Exception) -> Response:
    """A refusal in the service's own words: neither Starlette's, nor FastAPI's and pydantic's."""
    if isinstance(error, HTTPException):
        if error.detail == HTTPStatus(error.status_code).phrase:
            error = HTTPException(error.status_code, _address(request, error.status_code), error.headers)
        return traffic.refusal(error)
    assert isinstance(error, RequestValidationError)
    # loc is ("query", name).
    wrong = {str(found["loc"][1]): found["input"] for found in error.errors()}
    reasons = [f"{name}: expected {_EXPECTED[name]}; got {got:.{_LETTERS}}" for name, got in wrong.items()]
    return traffic.refusal(HTTPException(422, "; ".join(reasons)))


def _address(request: Request, status: int) -> str:
    """What is wrong with a request that is for no path, or for a path that does not take its method."""
    path = request.url.path
    if status == 404:
        return f"path: expected one of {', '.join(_PATHS)}; got {path}"
    return f"method of HTTP: expected {'POST' if path == '/explain' else 'GET'} for {path}; got {request.method}"


def _file(name: str) -> bytes:
    return files(__package__).joinpath(name).read_bytes()


def _scale() -> bytes:
    file = io.BytesIO()
    contact_sheet.color_scale().save(file, format="PNG")
    return file.getvalue()


def _static(content: bytes, media_type: str) -> Callable[[], Response]:
    headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return lambda: Response(content, headers=headers, media_type=media_type)
