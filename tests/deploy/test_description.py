"""A file's metadata, read again; what no export writes is refused by its field."""

import json

import pytest

from cfcam_gpu.core.config import Config
from cfcam_gpu.deploy.description import FORMAT, Description

from .files import description


def test_what_is_written_is_read():
    said = description(config=Config.gated(), libragrad=True)
    assert Description.read(said.metadata() | {"other": "x", "cfcam.later": "{"}, "a file") == said


def test_a_file_of_the_first_format_has_the_models_own_gradients():
    said = description(format=1)
    metadata = said.metadata()
    del metadata["cfcam.libragrad"]
    assert Description.read(metadata, "a file") == said
    with pytest.raises(ValueError, match=r"its metadata is damaged \(KeyError: 'cfcam.libragrad'\)"):
        Description.read(metadata | {"cfcam.format": str(FORMAT)}, "a file")


def test_what_is_no_exported_file():
    with pytest.raises(ValueError, match=r"a file: expected a file that cfcam-gpu export wrote"):
        Description.read({"producer": "torch"}, "a file")


def test_a_newer_format_names_its_library():
    metadata = description().metadata() | {"cfcam.format": str(FORMAT + 1), "cfcam.library": '"9.9"'}
    with pytest.raises(ValueError, match=rf"format {FORMAT + 1} is newer .* cfcam-gpu \"9.9\""):
        Description.read(metadata, "a file")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("format", value) for value in ("x", 0, None, True)),
        *(("images", value) for value in (5, "abc", [], [3, 0, 4], [3, 4.5, 4], [True, 4, 4])),
        *(("size", value) for value in (None, [0, 10], "ab")),
        *(("batch", value) for value in (0, -1, "any", 1.5)),
        *(("classes", value) for value in (0, [3])),
        *(("logits", value) for value in (None, [], 5, [0])),
        *(("class_names", value) for value in (5, ["a"], "abcde", [1, 2, 3, 4, 5])),
        *(("layers", value) for value in ([], None, [5])),
        *(("inside", value) for value in ([[0, 5]], 5)),
        *(("config", value) for value in ({"sigma": -5}, None, {"other": 1})),
        *(
            ("trained", 5),
            ("libragrad", 1),
            ("target", "given"),
            ("runtime", "x"),
            ("preparation", [1]),
            ("check", {"worst": 1, "x": 2}),
        ),
    ],
)
def test_damaged_metadata(field, value):
    metadata = description().metadata() | {f"cfcam.{field}": json.dumps(value)}
    with pytest.raises(ValueError, match=r"^a file: its metadata is damaged"):
        Description.read(metadata, "a file")


def test_damaged_json():
    for text in ("{", "[" * 100_000):
        with pytest.raises(ValueError, match=r"^a file: its metadata is damaged"):
            Description.read(description().metadata() | {"cfcam.images": text}, "a file")
