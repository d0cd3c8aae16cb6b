"""The service's HTTP: what comes in is checked, what goes out is JSON or a picture."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from importlib.resources import files
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ..explain.attempts import reason
from ..photographs import photos
from .backend import Answer, Backend, Question

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
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_FORM = {"image": _FILES, "target": {"type": "array", "items": {"type": "string"}}}
_BODY = {
    "image/*": {"schema": {"type": "string", "format": "binary"}},
    "multipart/form-data": {"schema": {"type": "object", "properties": _FORM, "required": ["image"]}},
}


#: Seconds that a body may take to come: meanwhile its request has one of the replica's places.
PATIENCE = 60.0


class _Upload(NamedTuple):
    name: str | None
    data: bytes


def build(
    backend: Backend,
    explain: Callable[[Question], Awaitable[Answer | Exception]],
    *,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """The application.

    Parameters
    ----------
    backend : Backend
        Decodes, and knows the classes.
    explain : coroutine function
        The answer to one question, or why there is none. Which questions are explained together is its affair.
    hosts : collection of str, optional
        The names, without a port, by which the service may be addressed. On loopback these keep out a page whose name
        has been made to mean this machine (DNS rebinding). Default: any.

    Returns
    -------
    FastAPI
    """
    # FastAPI's pages of documentation would fetch scripts from elsewhere; /openapi.json is there.
    app = FastAPI(
        title="cfcam_gpu",
        version=backend.about["version"],
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(_addressed(hosts))],
    )
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    for path, (file, media_type) in _PAGE.items():
        app.add_api_route(path, _static(file, media_type), include_in_schema=False)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether there is a model, and which."""
        return {"status": "ok", **backend.about, "limits": vars(backend.limits)}

    @app.post("/explain", openapi_extra={"requestBody": {"required": True, "content": _BODY}})
    async def explain_images(
        request: Request,
        target: Annotated[
            list[str] | None,
            Query(description="Class to explain, by index or name: one for all images, or one each; empty: predicted."),
        ] = None,
        encoding: Annotated[
            Literal["float16", "png", "none"], Query(alias="map", description="How JSON has the map.")
        ] = "float16",
        overlay: Annotated[bool, Query(description="Whether JSON has the overlay, too, as PNG.")] = False,
    ) -> Response:
        """Explain an image, or several in a form; the overlay of one as PNG where the client accepts image/png."""
        picture = _wants_picture(request)
        try:
            async with asyncio.timeout(PATIENCE):
                uploads, fields = await _uploads(request, backend)
        except TimeoutError:
            raise HTTPException(408, f"body: not there after {PATIENCE:g} seconds") from None
        except ClientDisconnect:
            raise HTTPException(400, "body: cut off") from None
        if picture and len(uploads) > 1:
            raise HTTPException(422, f"Accept: image/png is for one image; got {len(uploads)}")
        targets = _targets(backend, fields or target or [""], len(uploads))
        questions = [
            Question(await asyncio.to_thread(_decode, backend, uploads, i), targets[i], picture or overlay)
            for i in range(len(uploads))
        ]
        answers = await asyncio.gather(*(explain(question) for question in questions))
        found = [_answered(answer, uploads, i) for i, answer in enumerate(answers)]
        if picture:
            return Response(await asyncio.to_thread(_png, found[0].overlay), media_type="image/png")
        described = await asyncio.to_thread(_describe, found, uploads, encoding)
        return JSONResponse({"explanations": described})

    return app


def _addressed(hosts: Collection[str] | None) -> Callable[[Request], Awaitable[None]]:
    """Refuses what a browser sends for other pages than ours: by another name of this machine, or across sites."""

    async def check(request: Request) -> None:
        # Without the port; the address of IPv6 has colons and is in brackets.
        host = re.sub(r":\d*$", "", request.headers.get("host", "")).lower()
        if hosts is not None and host not in hosts:
            raise HTTPException(403, f"Host: expected {', '.join(sorted(hosts))}; got {host!r}")
        site = request.headers.get("sec-fetch-site", "none")
        if request.method == "POST" and site not in ("same-origin", "none"):
            raise HTTPException(403, f"Sec-Fetch-Site: expected a request of this service's own page; got {site!r}")

    return check


async def _uploads(request: Request, backend: Backend) -> tuple[list[_Upload], list[str]]:
    """The images of a request, and the targets of its form."""
    limits = backend.limits
    _check_length(request, limits.body)
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        data = await request.body()
        if not data:
            raise HTTPException(400, "body: expected an image, or a form with images; got nothing")
        return [_Upload(None, data)], []
    async with request.form(max_files=limits.images, max_fields=limits.images) as form:
        images, targets = [], []
        for name, value in form.multi_items():
            if name == "image" and isinstance(value, UploadFile):
                images.append(_Upload(value.filename, await value.read()))
            elif name == "target" and isinstance(value, str):
                targets.append(value)
            else:
                kind = "field" if isinstance(value, str) else "file"
                raise HTTPException(
                    422,
                    f"form: expected files named image and fields named target; got a {kind} named {name!r}",
                )
    if not images:
        raise HTTPException(400, "form: expected a file named image; got none")
    return images, targets


def _check_length(request: Request, limit: int) -> None:
    """Refuse a body of more than `limit` bytes, or of no known length, before any of it is read.

    Of one that comes in chunks Ray Serve's proxy would hold in memory what comes faster than the replica reads it. The
    server sees to it that no body is longer than it says.
    """
    if "transfer-encoding" in request.headers:
        raise HTTPException(411, "body: expected a Content-Length; got chunks")
    if int(request.headers.get("content-length", "0")) > limit:
        raise HTTPException(413, f"body: more than the limit of {limit:,} bytes")


def _targets(backend: Backend, texts: Sequence[str], count: int) -> list[int | None]:
    try:
        found = [backend.target(text.strip()) for text in texts]
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    if len(found) not in (1, count):
        raise HTTPException(
            422,
            f"target: expected one, or one for each of the {count} images; got {len(found)}",
        )
    return found * count if len(found) == 1 else found


def _decode(backend: Backend, uploads: Sequence[_Upload], i: int) -> Any:
    try:
        return backend.decode(uploads[i].data)
    except photos.UnreadableError as error:
        large = isinstance(error, photos.TooLargeError)
        status = 413 if large else 422
        raise HTTPException(status, f"{_called(uploads, i)}: {error}") from None


def _answered(answer: Answer | Exception, uploads: Sequence[_Upload], i: int) -> Answer:
    """The answer; what the explainer refuses is the client's affair, whatever else it fails with ours."""
    if isinstance(answer, Answer):
        return answer
    refused = isinstance(answer, (TypeError, ValueError))
    status = 422 if refused else 500
    raise HTTPException(status, f"{_called(uploads, i)}: {reason(answer)}")


def _called(uploads: Sequence[_Upload], i: int) -> str:
    """An image, for people."""
    number = f" {i + 1}" if len(uploads) > 1 else ""
    name = uploads[i].name
    return f"image{number}" + (f" ({name})" if name else "")


def _describe(answers: Sequence[Answer], uploads: Sequence[_Upload], encoding: str) -> list[dict[str, Any]]:
    found = []
    for answer, upload in zip(answers, uploads):
        record = {"name": upload.name, **answer.record}
        if encoding != "none":
            values = answer.map.astype("<f2").tobytes() if encoding == "float16" else _png(_grey(answer.map))
            record["map"] = {"encoding": encoding, "shape": answer.map.shape, "data": _base64(values)}
        if answer.overlay is not None:
            record["overlay"] = {
                "encoding": "png",
                "shape": answer.overlay.shape,
                "data": _base64(_png(answer.overlay)),
            }
        found.append(record)
    return found


def _grey(values: NDArray[np.float16]) -> NDArray[np.uint8]:
    return (values.astype(np.float32) * 255).round().astype(np.uint8)


def _png(pixels: NDArray[np.uint8] | None) -> bytes:
    assert pixels is not None  # asked for in the question
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _wants_picture(request: Request) -> bool:
    accepted = {part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")}
    return "image/png" in accepted and "application/json" not in accepted


async def _refused(request: Request, error: Exception) -> Response:
    """Every refusal is JSON: ``{"error": reason}``."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    assert isinstance(error, RequestValidationError)
    reasons = [f"{'.'.join(map(str, found['loc'][1:]))}: {found['msg']}" for found in error.errors()]
    return JSONResponse({"error": "; ".join(reasons)}, 422)


def _static(file: str, media_type: str) -> Callable[[], Response]:
    content = files(__package__).joinpath(file).read_bytes()
    headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return lambda: Response(content, headers=headers, media_type=media_type)
