"""Names of classes from files and folders: each form gives the same names, and what can't be meant is refused."""

import json
import sys

import pytest

from cfcam_gpu.named_models import class_file

NAMES = ("cat", "dog", "señorita, the 3rd")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "\n".join(NAMES)),
        ("a.txt", "\r\n".join((*NAMES, "", ""))),
        ("a.names", "\ufeff" + "\n".join(NAMES) + "\n"),
        ("a.json", json.dumps(NAMES)),
        ("a.JSON", "\ufeff" + json.dumps({2: NAMES[2], 0: "cat", 1: "dog"})),
        ("a.json", json.dumps({name: index for index, name in reversed(list(enumerate(NAMES)))})),
        ("data.yaml", "path: coco\nnc: 3\nnames: [cat, 'dog', \"señorita, the 3rd\"]  # YOLOv5\n"),
        ("data.YML", "train: images\nnames:\n  1: dog\n  0: cat\n  2: señorita, the 3rd\n"),
    ],
    ids=["lines", "windows", "bom", "list", "id2label", "class_to_idx", "yolo list", "yolo mapping"],
)
def test_every_form_gives_the_names_by_index(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    assert class_file.read(tmp_path / name) == NAMES


def test_names_that_are_numbers_are_names(tmp_path):
    (tmp_path / "a.json").write_text('{"0": "7", "1": "3"}')
    assert class_file.read(tmp_path / "a.json") == ("7", "3")
    (tmp_path / "a.json").write_text('{"7": 0, "3": 1}')
    assert class_file.read(tmp_path / "a.json") == ("7", "3")


def test_names_of_yaml_are_text_whatever_yaml_takes_them_for(tmp_path):
    (tmp_path / "a.yaml").write_text("names:\n- no\n- 7\n- 1e3\n- null\n- 2020-01-01\n")
    assert class_file.read(tmp_path / "a.yaml") == ("no", "7", "1e3", "null", "2020-01-01")


def test_without_pyyaml_the_way_out_is_told(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text("names: [cat]")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ModuleNotFoundError, match=r"PyYAML, which reads .*a\.yaml, .*pip install pyyaml, or .*\.txt"):
        class_file.read(tmp_path / "a.yaml")


def test_a_folder_is_read_as_image_folder_does(tmp_path):
    for name in ("dog", "Bee", "cat", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "about.txt").write_text("no class")
    assert class_file.read(tmp_path) == ("Bee", "cat", "dog")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "expected names in .*a.txt; got none"),
        ("a.txt", "cat\n\ndog", "a name for class 1 in .*; got an empty one"),
        ("a.csv", "cat,0", "a text file with a name a line, .json, .yaml, or a folder; got .*a.csv"),
        ("a.yaml", "names:", "to have names, a list such as"),
        ("a.yaml", "names: cat", "to have names, a list such as"),
        ("a.yaml", "[cat, dog]", "to have names, a list such as"),
        ("a.yaml", "names: {cat: 0}", "to have names, a list such as"),
        ("a.yaml", "names: [cat, [dog]]", "to have names, a list such as"),
        ("a.yaml", "names: [a]\nnames: [b]", "to have names, a list such as"),
        ("a.yaml", "names: [a", "is no YAML"),
        ("a.yaml", "names: {0: a, 0: b}", "one name for class 0 in .*; got several"),
        ("a.yaml", "names: {1: a}", "the indices from 0 on in .*; 0 is missing"),
        ("a.yaml", "names: {0: }", "a name for class 0 in .*; got an empty one"),
        ("a.txt", '{"0": "cat"}', "begins as JSON does; call it .json"),
        ("a.txt", b"\xff\xfe\0", "text in UTF-8"),
        ("a.json", "{", "is no JSON"),
        ("a.json", "[1, 2]", "a list of names, or an object"),
        ("a.json", '{"cat": "dog"}', "a list of names, or an object"),
        ("a.json", '{"cat": true}', "a list of names, or an object"),
        ("a.json", '{"0": "cat", "2": "dog"}', "the indices from 0 on in .*; 1 is missing"),
        ("a.json", '{"cat": 0, "dog": 0}', "one name for class 0 in .*; got several"),
        ("a.json", '{"0": "cat", "0": "dog"}', "has a key twice"),
    ],
)
def test_what_can_not_be_meant_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"^classes: .*{message}"):
        class_file.read(tmp_path / name)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^classes: .*nowhere.txt is not a file"):
        class_file.read(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match=r"^classes: expected sub-folders, one for each class"):
        class_file.read(tmp_path)
