"""What /openapi.json says of requests and answers; docs/service.md has the same parameters and answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

DESCRIPTION = "Class activation maps of images: which places of an image speak for a class."
TARGET = "Class to explain, by index or name: one for all images, or one each; empty: predicted."

WINDOW = "Of DICOM: CENTER,WIDTH of the values that are shown, in its units; default: serve's, or the file's own."

_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_FORM = {
    "image": {**_FILES, "description": "Images, each as a file."},
    "target": {"type": "array", "items": {"type": "string"}, "description": TARGET},
}
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {"schema": {"type": "object", "properties": _FORM, "required": ["image"]}},
    },
}
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The explanations; or, where the client accepts image/png and not JSON, the overlay of one.",
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
    }
}
METRICS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}
_REASONS = {
    400: "The body is empty, cut off, or no form of images.",
    403: "The request comes from a page of another site, or is for a name that the service does not have.",
    408: "The body did not come in time.",
    411: "The body has no Content-Length.",
    413: "The body or an image is larger than the limit.",
    422: "A parameter, a target or an image is not what is expected.",
    429: "As many requests as may wait are waiting; Retry-After says when to come back.",
    431: "The headers are longer than the limit.",
    500: "The service failed. The log has the cause, with the id that the answer has.",
    503: "No model can answer now: the service is ending, or its device is out of order.",
}


class Error(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="The reason.")
    request: str | None = Field(None, description="Of an internal error, the id by which the log has its cause.")


class Status(BaseModel):
    """How the service is."""

    status: str


class Health(Status):
    """The model, and the limits of a request."""

    model: str
    trained: bool = Field(description="Whether its weights are trained; maps of random ones mean nothing.")
    classes: int
    size: int = Field(description="Side of the model's square input, in pixels.")
    method: str
    layers: list[str]
    target: Literal["any", "predicted"] = Field(
        description="Which classes may be asked for: an exported file may explain each image's predicted class alone."
    )
    preset: str | None = Field(description="None where an exported file has a configuration of its own.")
    engine: str
    device: str
    version: str
    limits: dict[str, int]


class Class(BaseModel):
    """A class, and its probability."""

    target: int
    class_: str = Field(alias="class")
    probability: float | None


class Encoded(BaseModel):
    """An array in base64."""

    encoding: Literal["float16", "png"] = Field(description="float16: little-endian values in [0, 1], row by row.")
    shape: list[int]
    data: str


class Group(BaseModel):
    """A group of channels that see the evidence in the same places."""

    name: str
    share: float = Field(description="Of the evidence, in [0, 1].")
    channels: list[int]


class Explanation(BaseModel):
    """One image's map, and what is known of it; null where the method has no such thing."""

    name: str | None = Field(description="What the image's file was called, in a form.")
    target: int | None = Field(description="The explained class.")
    class_: str | None = Field(alias="class")
    probability: float | None
    top: list[Class] | None = Field(description="The likeliest classes, five at most.")
    empty: bool = Field(description="Whether nothing speaks for the class, and the map is all zeros.")
    method: str
    layers: list[str]
    channels: int | None = Field(description="Of the target layer, of which there are")
    clusters: int | None = Field(description="so many clusters,")
    noise: int | None = Field(description="channels that are noise,")
    dominant: int | None = Field(description="dominant ones,")
    dead: int | None = Field(description="and ones that are zero everywhere.")
    eps: float | None = Field(description="DBSCAN's radius.")
    pages: int = Field(description="Of the image's file, or its frames; the first is explained, or the one asked for.")
    study_uid: str | None = Field(description="Of an image of DICOM, as the next three.")
    series_uid: str | None
    sop_instance_uid: str | None
    frame: int | None = Field(description="Of a multi-frame file, from 1.")
    components: list[Group] | None = Field(None, description="With serve --components.")
    map: Encoded | None = Field(None, description="(H, W), unless map is none.")
    overlay: Encoded | None = Field(None, description="(H, W, 3), with overlay.")


class Explanations(BaseModel):
    """In the order of the images."""

    explanations: list[Explanation]


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers of these statuses, as FastAPI wants them described."""
    return {status: {"model": Error, "description": _REASONS[status]} for status in statuses}
