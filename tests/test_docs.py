"""Every Python block of the documentation runs, in the order of its page, and every command that it shows is there."""

import codeop
import copy
import importlib
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
import typer
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from cfcam_gpu import cli
from cfcam_gpu.image_files import photos
from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.service.backend import Limits

from .networks import lite0, photographs
from .pages import PAGES, ROOT, blocks
from .services import backend, picture, serving

FOLDERS = (
    "core",
    "deploy",
    "detection",
    "engines",
    "explain",
    "hooks",
    "methods",
    "metrics",
    "photographs",
    "pipelines",
    "results",
    "scans",
    "slides",
    "targets",
)
FACES = ["cfcam_gpu", *(f"cfcam_gpu.{folder}" for folder in FOLDERS)]


API = ROOT / "docs" / "api"


def documented():
    """What the pages of docs/api/ show, by its dotted name."""
    for page in sorted(API.glob("*.md")):
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            module, _, attribute = name.rpartition(".")
            yield name, getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("face", FACES)
def test_what_a_face_names_is_there_and_documented(face):
    module = importlib.import_module(face)
    shown = [value for _, value in documented()]
    for name in module.__all__:
        value = getattr(module, name)
        known = inspect.ismodule(value) or name == "__version__" or any(value is one for one in shown)
        assert known, f"docs/api/ lacks {face}.{name}"


def test_what_is_documented_is_named_by_a_face_and_stands_on_its_page():
    # Of modules in the place of a folder's face, and a function that is called as its module is.
    homes = {"cfcam_gpu.pipelines.ray", "cfcam_gpu.deploy.triton", "cfcam_gpu.environment", "cfcam_gpu.metrics.road"}
    shown = [name for name, _ in documented()]
    assert len(set(shown)) == len(shown)
    for name in shown:
        path, _, attribute = name.rpartition(".")
        assert path in homes or attribute in importlib.import_module(path).__all__, name


def test_every_face_has_its_page():
    pages = {page.stem for page in API.glob("*.md")} - {"index", "environment"}
    assert pages == set(FOLDERS)
    index = (API / "index.md").read_text(encoding="utf-8")
    assert {page for page in pages if f"| [{page}]({page}.md) |" not in index} == set()


def test_what_a_face_does_not_need_is_not_imported():
    code = (
        "import sys, cfcam_gpu.core, cfcam_gpu.photographs, cfcam_gpu.pipelines; print('torch' in sys.modules)\n"
        "import cfcam_gpu.explain, cfcam_gpu.results; print({'scipy', 'sklearn'} & sys.modules.keys())\n"
        "import cfcam_gpu.image_files.photos; print({'pillow_heif', 'pillow_jxl'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("False\nset()\nset()\n", "")


#: Pages that name layers of EfficientNet-Lite0, or explain at two.
OF_LITE0 = ("choosing", "index")
#: Pages that take nothing for granted.
COMPLETE = ("README", "llms")


def quick():
    """ImageNet's classes, and one channel: without channels to cluster an export is a short graph."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 1, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1000)
        return nn.Sequential(*layers).eval()


#: Pages that build a vision transformer, or export: ten seconds each. What they show has tests of its own.
LONG = ("deploying", "models")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.long] * (page.stem in LONG))
        for page in PAGES
        if blocks(page) and page.stem not in (*COMPLETE, "migration")
    ],
    ids=lambda page: page.stem,
)
def test_the_code_of_a_page_runs(page, peer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What a page takes for granted: a model, and two photographs as it wants them.
    model = copy.deepcopy(lite0()) if page.stem in OF_LITE0 else quick()
    names = {"model": model, "images": photographs()[1][:2] * 2 - 1}
    names |= {"activations": torch.rand(2, 6, 4, 4), "gradients": torch.rand(2, 6, 4, 4), "loader": [names["images"]]}
    for block in blocks(page):
        block.run(names)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.stem in COMPLETE], ids=lambda page: page.stem)
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_newcomer_can_paste_a_page_line_after_line_and_again(page, peer, tmp_path, monkeypatch, whole):
    peer("efficientnet_lite_pytorch")
    monkeypatch.chdir(tmp_path)
    names, again = {}, []
    for block in blocks(page):
        before = changes(tmp_path)
        block.run(names)
        if whole or changes(tmp_path) != before:
            again.append(block)
    # The second time in the folder of the first: what wrote something there, or, in a new session, everything.
    names = {} if whole else names
    for block in again:
        block.run(names)


def changes(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem in COMPLETE], ids=lambda page: page.stem)
def test_an_interpreter_takes_a_page_line_after_line(page):
    for block in blocks(page):
        compiler, lines = codeop.CommandCompiler(), []
        for line in [*block.code.splitlines(), ""]:  # a loop ends at an empty line there, and nowhere else
            lines.append(line)
            if compiler("\n".join(lines), str(page)) is not None:
                lines.clear()
        assert lines == []


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
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")  # lines that go on
    for line in re.findall(r"(?:^|`)cfcam-gpu ([a-z][^`\n]*)", text, re.MULTILINE):
        name, *arguments = shlex.split(line, comments=True)
        for command in name.split("|"):
            found = commands[command]
            if command == "bench":  # a suite needs no command of its own
                found = found.commands.get(arguments[0] if arguments else "SUITE", found.commands["SUITE"])
            known = {option for parameter in found.params for option in (*parameter.opts, "--help")}
            assert {argument for argument in arguments if argument.startswith("--")} <= known, line


@pytest.fixture(scope="module")
def address():
    """Of the service without Ray, on a network with ImageNet's classes."""
    with serving(backend(Settings(model="tests.services:imagenet"), Limits())) as found:
        yield found


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("page", ["README.md", "docs/service.md"])
def test_the_requests_of_a_page_are_answered(address, page, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / f"{name}.jpg").write_bytes(picture(form="JPEG"))
    lines = re.findall(r"^curl .*", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        sent = line.replace("curl ", "curl -sS ", 1).replace("127.0.0.1:8000", address)
        done = subprocess.run(sent, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), line
        if "image/png" in line:
            (file,) = tmp_path.glob("*.png")
            assert photos.read(file).size == (224, 224)
            continue
        answer = json.loads(done.stdout)
        if "/health" in line:
            assert answer["status"] == "ok"
            continue
        found = answer["explanations"]
        assert len(found) == line.count("image=@") or (len(found) == 1 and "--data-binary" in line)
        if "target=tiger+cat" in line:
            assert found[0]["class"] == "tiger cat"
        if "target=207" in line:
            assert found[1]["target"] == 207


def test_the_readmes_photographs_are_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lite0()  # its packages warn when they are first imported
    (tmp_path / "holiday").mkdir()
    for name in ("cat.jpg", "holiday/a.jpg"):
        Image.new("RGB", (60, 40), "red").save(name)
    lines = re.findall(r"^cfcam-gpu (explain .*)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    ours = [line for line in lines if "--weights" not in line and "mine.nets" not in line]  # files of the reader's
    assert len(ours) >= 3
    for line in ours:
        # All but the first write to the default folder.
        result = CliRunner().invoke(cli.app, [*shlex.split(line, comments=True), "--overwrite"])
        assert result.exit_code == 0, (line, result.stderr)
