"""What holds for every request: its headers' size, a place, an id, an answer in JSON when something is wrong."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..photographs.terminal import plain
from .metrics import Metrics

#: Bytes that a request's line and headers may have, and headers.
HEADER_BYTES, HEADERS = 16 * 1024, 100
#: Seconds after which a client may try again that was refused for want of a place, or of a replica.
RETRY_AFTER = "1"
INTERNAL = "internal error"

log = logging.getLogger("cfcam_gpu.service")


class Traffic:
    """How many requests are under way, how many may be, and whether the service is about to end.

    Parameters
    ----------
    places : int, optional
        Requests to ``/explain`` that may be under way. Default: any number.
    """

    def __init__(self, places: int | None = None) -> None:
        self.places, self.under_way = places, 0
        #: Whether the service is about to end, and how many requests it has ended without an answer.
        self.draining, self.cut_off = False, 0
        self.metrics = Metrics()


class Frame:
    """ASGI middleware around all the others: what every request must keep to, and what every answer has.

    Parameters
    ----------
    app : ASGI application
    traffic : Traffic
    paths : collection of str
        Those that are counted by their name.
    busy : str
        The path whose requests need a place.
    """

    def __init__(self, app: ASGIApp, traffic: Traffic, paths: Collection[str], busy: str) -> None:
        self.app, self.traffic, self.paths, self.busy = app, traffic, frozenset(paths), busy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, answer = time.perf_counter(), _Answer(send, scope["method"] == "HEAD", uuid4().hex, self.traffic)
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        try:
            await self._checked({**scope, "cfcam.request_id": answer.id}, receive, answer)
        except asyncio.CancelledError:
            # The service ends, and waits no longer.
            self.traffic.cut_off += 1
            await refusal(HTTPException(503, "the service has ended"))(scope, receive, answer)
        except HTTPException as error:
            await refusal(error)(scope, receive, answer)
        except Exception as error:
            self.traffic.metrics.errors.labels("internal").inc()
            log.error("request %s: %s", answer.id, INTERNAL, exc_info=error)
            await failure(answer.id)(scope, receive, answer)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.traffic.metrics.requests.labels(path, answer.status).inc()
            self.traffic.metrics.seconds.labels(path).observe(time.perf_counter() - began)

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        _check_headers(scope)
        if scope["path"] != self.busy or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        traffic = self.traffic
        if traffic.places is not None and traffic.under_way >= traffic.places:
            raise HTTPException(
                429, f"busy: {traffic.under_way} requests are under way already", {"Retry-After": RETRY_AFTER}
            )
        traffic.under_way += 1
        traffic.metrics.under_way.set(traffic.under_way)
        try:
            await self.app(scope, receive, send)
        finally:
            traffic.under_way -= 1
            traffic.metrics.under_way.set(traffic.under_way)


class _Answer:
    """ASGI's send, which adds what every answer has and leaves out the body where only the headers are asked for."""

    def __init__(self, send: Send, headers_alone: bool, identity: str, traffic: Traffic) -> None:
        self._send, self._headers_alone, self._traffic = send, headers_alone, traffic
        self.id = identity
        #: 499, as other servers say, where the client has gone before there was an answer.
        self.status = "499"

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = str(message["status"])
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.id
            if self._traffic.draining:
                headers["Connection"] = "close"
        elif message["type"] == "http.response.body" and self._headers_alone:
            message = {**message, "body": b""}
        await self._send(message)


def _check_headers(scope: Scope) -> None:
    """Refuse what is longer than requests are; far longer ones the server breaks off before they are here."""
    headers = Headers(scope=scope).raw
    size = sum(len(name) + len(value) + 4 for name, value in headers) + len(scope["path"]) + len(scope["query_string"])
    if size > HEADER_BYTES or len(headers) > HEADERS:
        expected = f"at most {HEADER_BYTES:,} bytes and {HEADERS} headers"
        raise HTTPException(431, f"headers: expected {expected}; got {size:,} bytes and {len(headers)} headers")


def refusal(error: HTTPException) -> JSONResponse:
    """Every refusal is JSON: ``{"error": reason}``, the reason on one line, whatever it repeats."""
    return JSONResponse({"error": plain(error.detail)}, error.status_code, error.headers)


def failure(identity: str) -> JSONResponse:
    """What a client is told when it is not to blame: no more than the id by which the log has the rest."""
    content: dict[str, Any] = {"error": INTERNAL, "request": identity}
    return JSONResponse(content, 500)
