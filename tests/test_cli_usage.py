"""What ``cfcam-gpu`` says of itself, and of command lines that can't be meant."""

import subprocess
import sys

import pytest
import rich.text
import typer
from typer.testing import CliRunner

import cfcam_gpu
from cfcam_gpu.cli import app
from cfcam_gpu.photographs.usage import EXAMPLES

#: Of the libraries that read values.
FOREIGN = (
    "Input should",
    "Value error",
    "type=",
    "pydantic",
    "Usage:",
    "Invalid value",
    "Missing argument",
    "Traceback",
)


MODEL = (
    "model: expected lite0, lite1, lite2, torchvision:NAME, timm:NAME, transformers:FOLDER or package.module:factory; "
)


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


def commands(group=None, path=()):
    """Every command by how it is called."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("explain", "PHOTO_OR_FOLDER: expected one or more; got none. Type, for example: cfcam-gpu explain holiday/"),
        ("explain nowhere.jpg", "nowhere.jpg does not exist; give a photograph or a folder that is there"),
        ("explain phto.jpg", "phto.jpg does not exist; nearest: photo.jpg"),
        ("explain trip/a/x.jpg", "trip/a/x.jpg does not exist: in {here} there is no trip"),
        ("explain nothing", "no photographs in nothing (looked for "),
        ("explain photo.jpg --taget 3", "--taget: there is no such option; nearest: --target"),
        ("explain photo.jpg --out", "--out: expected a value behind it; got none"),
        ("explain photo.jpg --overwrite=3", "--overwrite: expected no value with it, as it is on or off"),
        ("explain photo.jpg --batch-size many", "--batch-size: expected a whole number; got many. Type, for example"),
        ("explain photo.jpg --batch-size 0", "--batch-size: expected a number of at least 1; got 0"),
        ("explain photo.jpg --segment-above a", "--segment-above: expected a number; got a"),
        ("explain photo.jpg --preset best", "--preset: expected one of default, broad, tight, paper; got best"),
        ("explain -x.jpg", "-x: there is no such option"),
        ("explain photo.jpg --model lte0", "{model}got 'lte0'; nearest: lite0"),
        ("layers resnet50", "{model}got 'resnet50'; if it is theirs, torchvision:resnet50 or timm:resnet50"),
        ("photo.jpg", "photo.jpg: expected a command in front of it. Type, for example: cfcam-gpu explain photo.jpg"),
        ("nothing", "nothing: expected a command in front of it. Type, for example: cfcam-gpu explain nothing"),
        ("explan photo.jpg", "explan: expected a command, one of explain, methods, "),
        ("--versio", "--versio: there is no such option; nearest: --version"),
        ("detect photo.jpg", "--model: expected a value; got none. Type, for example: cfcam-gpu detect street.jpg"),
        ("detect photo.jpg --threshold 2", "--threshold: expected a number of at most 1"),
        ("run", "SOURCE: expected one; got none. Type, for example: cfcam-gpu run photos/"),
        ("run photos", "--out: expected DIR; got none. Type, for example: cfcam-gpu run photos/"),
        ("layers", "MODEL: expected one; got none. Type, for example: cfcam-gpu layers lite0"),
        ("layers lite0 lite1", "expected no more arguments; got lite1. Type, for example: cfcam-gpu layers lite0"),
        ("slide", "SLIDE: expected one or more; got none. Type, for example: cfcam-gpu slide biopsy.svs"),
        ("export", "out: expected a file"),
        ("report", "RESULTS: expected one or more; got none. Type, for example: cfcam-gpu report measured/"),
        ("report nowhere", "nowhere does not exist"),
        ("serve --port many", "--port: expected a whole number; got many. Type, for example: cfcam-gpu serve"),
        ("serve --port 70000", "--port: expected a number of at most 65535; got 70000"),
        ("explain net.onnx", "photographs: expected images or folders; got net.onnx, an exported file, which"),
        ("info nowhere.onnx", "path: nowhere.onnx is not a file"),
        ("bench", "SUITE: expected one of faithfulness, localisation, robustness, sanity; got none"),
        ("bench honesty", "SUITE: expected one of faithfulness, localisation, robustness, sanity; got honesty"),
        ("bench sanity", "--data: expected DIR; got none. Type, for example: cfcam-gpu bench faithfulness --data"),
        ("bench latency --batch 3", "--batch: there is no such option"),
        ("bench latency extra", "expected no more arguments; got extra. Type, for example: cfcam-gpu bench latency"),
    ],
)
def test_what_can_not_be_meant_is_told_in_one_line_with_what_to_type(tmp_path, monkeypatch, line, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "nothing").mkdir()
    result = run(*line.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    said = said.replace("{here}", str(tmp_path)).replace("{model}", MODEL)
    assert result.stderr.startswith(f"error: {said}"), result.stderr
    assert result.stderr.count("\n") == 1
    assert not any(word in result.stderr for word in FOREIGN)
    assert {path.name for path in tmp_path.iterdir()} == {"photo.jpg", "nothing"}


def test_the_examples_are_command_lines():
    known = dict(commands())
    assert {path[-1] for path in known} == set(EXAMPLES)
    for path, command in known.items():
        called, rest = EXAMPLES[path[-1]]
        assert called.split() == [part for part in path if part != "SUITE"]
        assert command.make_context(called, rest.split()) is not None


def test_nothing_typed_lists_the_commands_and_a_bad_line_imports_no_torch():
    assert "explain" in run().output
    code = (
        "import sys, cfcam_gpu.cli as c\ntry: c.app(['explain', '--taget'])\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, "AssertionError" in done.stderr) == (2, False), done.stderr


@pytest.mark.parametrize("command", [(), ("explain",), ("demo",), ("info",)])
def test_help(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_help_is_shown_as_it_is_written():
    # rich would draw a picture for what it takes for the name of one, and drop what it takes for markup.
    commands = typer.main.get_command(app).commands.values()
    said = [text for c in commands for text in (c.help, c.epilog, *(p.help for p in c.params)) if text]
    assert len(said) > 50
    for text in said:
        assert rich.text.Text.from_markup(text).plain == text


def test_the_version():
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"cfcam-gpu {cfcam_gpu.__version__}\n")
