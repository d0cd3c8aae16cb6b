"""Options that several commands share: one name, one type, one help; and what they become in a job."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from cfcam_gpu import cli
from cfcam_gpu.cli import app
from cfcam_gpu.named_models import options
from cfcam_gpu.named_models.options import Device, Preset, Settings
from cfcam_gpu.photographs import export_job, job
from cfcam_gpu.pipelines import job as pipelines_job
from cfcam_gpu.pipelines import ray_session
from cfcam_gpu.pipelines.command import run
from cfcam_gpu.service.command import serve

#: Arguments of each command that asks for a model, but for those of the model.
COMMANDS = {"explain": ("a.png",), "run": ("a", "--out", "out"), "serve": ()}
GIVEN = {
    "model": "timm:some",
    "weights": Path("weights.pth"),
    "layers": ("fine", "coarse"),
    "engine": "cpu",
    "preset": "paper",
    "device": "cpu",
    "method": "gradcam",
    "augment": ("flip", "rotate90"),
    "smooth": 3,
    "libragrad": True,
    "window": (40.0, 400.0),
    "size": (16, 24),
    "channels": 2,
    "mean": (0.5, 0.25),
    "std": (0.5, 2.0),
    "classes": Path("classes.txt"),
}
#: The same of volumes, which a service has none of.
OF_VOLUMES = {"spatial_dims": 3, "size": (8, 16, 24)}
#: Files, which the processes of a service are told from the root.
FILES = ("weights", "classes")
#: Options that may be given several times, and what they fill.
SEVERAL = {"layer": "layers", "augment": "augment"}


def settings_of(command, args, monkeypatch):
    """Those of the job that a command makes."""
    seen = []

    def keep(given, **rest):
        seen.append(given)
        raise ValueError("enough")

    if command == "serve":
        # Ray's own settings are read from the environment when it is imported, which is other tests' affair.
        monkeypatch.setattr(ray_session, "prepare", lambda: None)
        deployment = SimpleNamespace(Options=lambda **options: SimpleNamespace(**options), running=keep)
        monkeypatch.setitem(sys.modules, "cfcam_gpu.service.deployment", deployment)
    else:
        monkeypatch.setattr(job if command == "explain" else pipelines_job, "check", keep)
    result = CliRunner().invoke(app, [command, *COMMANDS[command], *args])
    assert (result.exit_code, result.stderr) == (2, "error: enough\n")
    return seen[0].settings


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_the_model_is_in_the_job(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert settings_of(command, [], monkeypatch) == Settings()
    expected = GIVEN | (OF_VOLUMES if command != "serve" else {})
    given = [
        "--libragrad"
        if value is True
        else f"--{name.replace('_', '-')}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in expected.items()
        if name not in SEVERAL.values()
    ]
    given += [f"--{name}={value}" for name, field in SEVERAL.items() for value in GIVEN[field]]
    found = settings_of(command, given, monkeypatch)
    # What other processes read is named from the root.
    where = tmp_path if command == "serve" else Path()
    assert found == Settings(**expected | {name: where / GIVEN[name] for name in FILES})
    assert type(found.preset) is type(found.device) is str
    assert (GIVEN | OF_VOLUMES).keys() == {field.name for field in fields(Settings)}


def test_an_export_has_the_options_of_what_a_file_holds(monkeypatch):
    jobs = []

    def keep(asked, untrained):
        jobs.append(asked)
        raise ValueError("enough")

    monkeypatch.setattr(export_job, "write", keep)
    names = ("model", "weights", "preset")
    options = [*(f"--{name}={GIVEN[name]}" for name in names), *(f"--layer={name}" for name in GIVEN["layers"])]
    asked = [
        "--no-libragrad",
        "--size=16,24",
        "--channels=2",
        "--mean=0.5,0.25",
        "--std=0.5,2",
        "--class-names=classes.txt",
    ]
    CliRunner().invoke(app, ["export", "some.onnx", *options, *asked])
    of_input = ("size", "channels", "mean", "std", "classes")
    expected = {name: GIVEN[name] for name in (*names, "layers", *of_input)} | {"libragrad": False}
    assert [each.settings for each in jobs] == [Settings(**expected)]


SHARED = {
    "engine": options.EngineOption,
    "preset": options.PresetOption,
    "device": options.DeviceOption,
    "method": options.MethodOption,
    "augment": options.AugmentOption,
    "smooth": options.SmoothOption,
    "libragrad": options.LibragradOption,
    "size": options.SizeOption,
    "channels": options.ChannelsOption,
    "mean": options.MeanOption,
    "std": options.StdOption,
    "classes": options.ClassesOption,
}


@pytest.mark.parametrize("command", [cli.explain, run, serve])
def test_commands_declare_what_they_share_in_one_place(command):
    found = get_type_hints(command, include_extras=True)
    assert {name: found[name] for name in SHARED} == SHARED
    assert found["weights"] in (options.WeightsOption, options.WeightsAsExplained)


def test_no_job_repeats_what_names_a_model():
    names = {field.name for field in fields(Settings)} | {"layer"}
    for kind in (job.Job, pipelines_job.Job):
        found = {field.name for field in fields(kind)}
        assert "settings" in found
        assert not found & names


def test_choices_are_those_of_the_settings():
    assert (Settings().preset, Settings().device) == (Preset.default, Device.auto)


_HELP = """
import contextlib, io, json, sys
from cfcam_gpu.cli import app

told = {}
for command in sys.argv[1:]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = app([*command.split(), "--help"], standalone_mode=False)
    told[command] = [status, sorted({"torch", "ray", "numpy", "PIL"} & sys.modules.keys()), out.getvalue()]
print(json.dumps(told))
"""


def test_help_waits_for_no_torch():
    commands = ["", *typer.main.get_command(app).commands]
    done = subprocess.run([sys.executable, "-c", _HELP, *commands], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    for command, (status, imported, told) in json.loads(done.stdout).items():
        assert (status, imported) == (0, []), command
        assert f"Usage: -c {command}".strip() in told
