"""What /openapi.json says of requests and answers; docs/service.md has the same parameters and answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

DESCRIPTION = "Class activation maps of images: which places of an image speak for a class."
TARGET = "Class to explain, by index or name: one for all images, or one each; empty: predicted."
METHOD = "Method to explain all images by, one of those that /health has; default: the one that it has as method."

WINDOW = "Of DICOM: CENTER,WIDTH of the values that are shown, in its units; default: serve's, or the file's own."

_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_FORM = {
    "image": {**_FILES, "description": "Images, each as a file."},
    "target": {"type": "array", "items": {"type": "string"}, "description": TARGET},
    "method": {"type": "string", "description": METHOD},
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

    status: str = Field(description="ok, if nothing is wrong.")


class Limits(BaseModel):
    """The limits of a request."""

    body: int = Field(description="Bytes of a request, at most.")
    pixels: int = Field(description="Pixels of an image, at most.")
    images: int = Field(description="Images of a request, at most.")


class Health(Status):
    """The model, and the limits of a request."""

    model: str = Field(description="As serve --model names it.")
    trained: bool = Field(description="Whether its weights are trained; maps of random ones mean nothing.")
    classes: int = Field(description="How many the model has.")
    size: int | tuple[int, int] = Field(
        description="Side of the model's square input, or its height and width, in pixels."
    )
    channels: int = Field(description="Of the model's input.")
    class_names: str = Field(description="Whose names the classes have: file, model, imagenet or none.")
    notes: list[str] = Field(
        description="What nobody said of the model's input and classes, and what was taken instead; none mostly."
    )
    method: str = Field(description="Of requests that name none.")
    methods: dict[str, str] = Field(
        description="Those that may be asked for, and their names in print. An exported file has its own alone; a "
        "model those that suit it, but for some that take a forward for each channel, position or sample."
    )
    layers: list[str] = Field(description="Of the method of requests that name none.")
    target: Literal["any", "predicted"] = Field(
        description="Which classes may be asked for: an exported file may explain each image's predicted class alone."
    )
    preset: str | None = Field(description="None where an exported file has a configuration of its own.")
    engine: str = Field(description="Where the method runs.")
    device: str = Field(description="Where the model runs.")
    version: str = Field(description="Of cfcam_gpu.")
    limits: Limits = Field(description="How much a request may have.")


class Classes(BaseModel):
    """The model's classes."""

    classes: list[str] = Field(description="Their names, in the order of their indices.")


class Class(BaseModel):
    """A class, and its probability."""

    target: int = Field(description="Its index.")
    class_: str = Field(alias="class", description="Its name.")
    probability: float | None = Field(description="In [0, 1].")


class Encoded(BaseModel):
    """An array in base64."""

    encoding: Literal["float16", "png"] = Field(description="float16: little-endian values in [0, 1], row by row.")
    shape: list[int] = Field(description="Of the array.")
    data: str = Field(description="Its values, or the picture's file, in base64.")


class Group(BaseModel):
    """A group of channels that see the evidence in the same places."""

    name: str = Field(description="What the group is called.")
    share: float = Field(description="Of the evidence, in [0, 1].")
    channels: list[int] = Field(description="Their indices in the target layer.")


class Explanation(BaseModel):
    """One image's map, and what is known of it; null where the method has no such thing."""

    name: str | None = Field(description="What the image's file was called, in a form.")
    target: int | None = Field(description="The explained class, by its index.")
    class_: str | None = Field(alias="class", description="Its name.")
    probability: float | None = Field(description="Its probability, in [0, 1].")
    top: list[Class] | None = Field(description="The likeliest classes, five at most.")
    empty: bool = Field(description="Whether nothing speaks for the class, and the map is all zeros.")
    method: str = Field(description="By which the image is explained.")
    layers: list[str] = Field(description="The target layers, the finer first.")
    channels: int | None = Field(description="How many the target layer has.")
    clusters: int | None = Field(description="How many clusters of them there are.")
    noise: int | None = Field(description="How many of them are noise.")
    dominant: int | None = Field(description="How many of them are dominant.")
    dead: int | None = Field(description="How many of them are zero everywhere.")
    eps: float | None = Field(description="DBSCAN's radius.")
    pages: int = Field(description="Of the image's file, or its frames; the first is explained, or the one asked for.")
    study_uid: str | None = Field(description="Of an image of DICOM.")
    series_uid: str | None = Field(description="Of an image of DICOM.")
    sop_instance_uid: str | None = Field(description="Of an image of DICOM.")
    frame: int | None = Field(description="Of a multi-frame file of DICOM, from 1.")
    components: list[Group] | None = Field(None, description="With serve --components, by its own method.")
    map: Encoded | None = Field(None, description="(H, W), unless map is none.")
    overlay: Encoded | None = Field(None, description="(H, W, 3), with overlay.")


class Explanations(BaseModel):
    """In the order of the images."""

    explanations: list[Explanation] = Field(description="One for each image.")


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers of these statuses, as FastAPI wants them described."""
    return {status: {"model": Error, "description": _REASONS[status]} for status in statuses}
