"""The documentation's notebook runs, and is committed without what it showed."""

import json

import pytest
import torch

from cfcam_gpu import Explanation

from .notebooks import displayed, run
from .pages import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_cell_by_cell(tmp_path, monkeypatch, peer):
    peer("efficientnet_lite_pytorch")
    monkeypatch.chdir(tmp_path)
    names = {}
    shown = run(NOTEBOOK, names)
    results = [value for value in shown if isinstance(value, Explanation)]
    assert len(results) == 3
    assert all("<img" in displayed(result) and "may have changed" not in displayed(result) for result in results[:2])
    assert names["result"].classes == ["tiger cat", "espresso", "missile", "palace", "daisy"]
    pictures = [displayed(value) for value in shown if hasattr(value, "_repr_png_")]
    assert len(pictures) == 2
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert {path.name for path in tmp_path.iterdir()} == {"methods.pdf", "maps.svg", "explained"}


def test_the_notebook_has_no_outputs_and_every_cell_an_id():
    book = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    cells = book["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)


def test_what_ends_a_cell_is_shown_and_what_fails_is_seen(tmp_path):
    path = tmp_path / "book.ipynb"
    sources = [["x = 1\n", "x + 1"], ["y = x"], ["1 / 0"]]
    cells = [{"cell_type": "markdown", "source": ["# x"]}]
    cells += [{"cell_type": "code", "source": source} for source in sources]
    path.write_text(json.dumps({"cells": cells[:-1]}))
    assert run(path, {}) == [2, None]
    path.write_text(json.dumps({"cells": cells}))
    with pytest.raises(ZeroDivisionError) as error:
        run(path, {})
    assert "cell 3" in str(error.traceback[-1].path)
    assert displayed(torch.ones(1)) == "tensor([1.])"
