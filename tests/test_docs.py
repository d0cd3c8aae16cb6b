"""Every Python block of the documentation runs, in the order of its page, and every command that it shows is there."""

import copy
import re
import shlex

import pytest
import torch
import typer

from cfcam_gpu import cli

from .networks import lite0, photographs
from .pages import PAGES, blocks


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page) and page.stem != "migration"], ids=lambda page: page.stem
)
def test_the_code_of_a_page_runs(page, peer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What a page takes for granted: a model, and two photographs as it wants them.
    names = {"torch": torch, "model": copy.deepcopy(lite0()), "images": photographs()[1][:2] * 2 - 1}
    names |= {"activations": torch.rand(2, 6, 4, 4), "gradients": torch.rand(2, 6, 4, 4), "loader": [names["images"]]}
    for block in blocks(page):
        block.run(names)


def test_a_block_that_fails_is_seen_with_the_line_of_its_page(tmp_path, monkeypatch):
    monkeypatch.delenv("CFCAM_REQUIRE_PEERS", raising=False)
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n```python\nx = 1\n```\n\n<!-- needs no.such -->\n```python\nx = 2\n```\n\n```python\n1 / 0\n```\n"
    )
    one, two, three = blocks(page)
    assert [one.heading, two.needs, three.line] == ["Page", "no.such", 12]
    names = {}
    one.run(names)
    two.run(names)
    assert names["x"] == 1
    with pytest.raises(ZeroDivisionError) as error:
        three.run(names)
    assert error.traceback[-1].lineno == 12  # counted from 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_their_options_are_there(page):
    commands = typer.main.get_command(cli.app).commands
    for line in re.findall(r"(?:^|`)cfcam-gpu ([a-z][^`\n]*)", page.read_text(encoding="utf-8"), re.MULTILINE):
        name, *arguments = shlex.split(line, comments=True)
        for command in name.split("|"):
            known = {option for parameter in commands[command].params for option in (*parameter.opts, "--help")}
            assert {argument for argument in arguments if argument.startswith("--")} <= known, line
