"""The body of a request: one image, or a form with images and the classes to explain."""

from __future__ import annotations

import asyncio
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import TYPE_CHECKING, NamedTuple

from python_multipart.exceptions import FormParserError, ParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from .backend import Limits

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

#: Seconds that a body may take to come: meanwhile its request has one of the service's places.
PATIENCE = 60.0


class Upload(NamedTuple):
    """An encoded image, and what its file was called."""

    name: str | None
    data: bytes


class Body(NamedTuple):
    """The images of a request, and the targets and the method of its form, at most one."""

    images: list[Upload]
    targets: list[str]
    methods: list[str]


async def read(request: Request, limits: Limits) -> Body:
    """The body of a request.

    Raises
    ------
    starlette.exceptions.HTTPException
        If it is too long, of no known length, late, cut off, empty, or a form of something else.
    starlette.requests.ClientDisconnect
        If the client has gone before its end.
    """
    _check_length(request, limits.body)
    try:
        async with asyncio.timeout(PATIENCE):
            data = await request.body()
    except TimeoutError:
        raise HTTPException(408, f"body: not there after {PATIENCE:g} seconds", {"Connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "body: cut off") from None
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        if not data:
            raise HTTPException(400, "body: expected an image, or a form with images; got nothing")
        return Body([Upload(None, data)], [], [])
    if b"boundary" not in options:
        raise HTTPException(400, "Content-Type: expected a boundary with multipart/form-data; got none")
    # In a thread: of some data the parser looks at each byte.
    body = await asyncio.to_thread(_parse, data, options[b"boundary"], limits.images)
    if not body.images:
        raise HTTPException(400, "form: expected a file named image; got none")
    return body


def _parse(data: bytes, boundary: bytes, count: int) -> Body:
    form = _Form(count)
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(data)
        parser.finalize()
    except FormParserError as error:
        # Its own words are python_multipart's.
        where = f"it is broken at byte {error.offset}" if isinstance(error, ParseError) else "its boundary is too long"
        raise HTTPException(400, f"form: expected parts between boundaries; {where}") from None
    if not form.ended:
        raise HTTPException(400, "form: expected a boundary with -- at its end; got none")
    return form.body


def _check_length(request: Request, limit: int) -> None:
    """Refuse a body of more than `limit` bytes, or of no known length, before any of it is read.

    The server sees to it that no body is longer than it says.
    """
    if "transfer-encoding" in request.headers:
        raise HTTPException(411, "body: expected a Content-Length; got chunks")
    if int(request.headers.get("content-length", "0")) > limit:
        raise HTTPException(413, f"body: more than the limit of {limit:,} bytes")


class _Form:
    """Gathers the parts of a form; none of them goes to a disk."""

    def __init__(self, count: int) -> None:
        self.body, self.ended = Body([], [], []), False
        self._count = count
        self._header, self._value, self._disposition = bytearray(), bytearray(), b""
        self._name, self._data = "", bytearray()
        self._file: str | None = None

    def callbacks(self) -> MultipartCallbacks:
        """What the parser is to call."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": lambda data, start, end: self._data.extend(data[start:end]),
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._disposition = b""
        self._data.clear()

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _headers_end(self) -> None:
        """Refuse a part that is nothing of ours before its data is gathered."""
        header = Message()
        # Names are UTF-8, as browsers send them; of RFC 5987 some clients send filename* alone, which is decoded here.
        header["content-disposition"] = self._disposition.decode("utf-8", "replace")
        self._name = collapse_rfc2231_value(header.get_param("name", "", "content-disposition"))
        self._file = header.get_filename()
        is_file = self._file is not None
        if (self._name, is_file) not in (("image", True), ("target", False), ("method", False)):
            kind = "file" if is_file else "field"
            raise HTTPException(
                422,
                f"form: expected files named image, and fields named target and method; got a {kind} named "
                f"{self._name!r}" + (" without a filename" if self._name == "image" else ""),
            )
        if self._name == "method" and self.body.methods:
            raise HTTPException(422, "method: expected once; got another in the form")
        there = len(self.body.images if is_file else self.body.targets)
        if self._name != "method" and there == self._count:
            raise HTTPException(400, f"form: more than the limit of {self._count} {self._name}s")

    def _part_end(self) -> None:
        if self._name == "image":
            self.body.images.append(Upload(self._file, bytes(self._data)))
        else:
            fields = self.body.targets if self._name == "target" else self.body.methods
            fields.append(self._data.decode("utf-8", "replace"))

    def _end(self) -> None:
        self.ended = True
