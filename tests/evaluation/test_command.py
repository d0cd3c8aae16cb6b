"""``cfcam-gpu bench`` as a command, and where the device fails on the way."""

import json
import re

import pytest
from typer.testing import CliRunner

from cfcam_gpu.cli import app
from cfcam_gpu.evaluation import evaluate, suites

from .test_evaluation import MODEL, bench, folder

__all__ = ["folder"]


def test_what_was_measured_before_a_device_failed_is_written(folder, tmp_path, monkeypatch):
    measure = evaluate.Run._measure

    def fails_late(run, candidate, batch, samples):
        if candidate.name == "layercam":
            raise RuntimeError("the device is out of order")
        return measure(run, candidate, batch, samples)

    monkeypatch.setattr(evaluate.Run, "_measure", fails_late)
    done = bench("localisation", folder, tmp_path / "out", "--methods", "gradcam,layercam", "--metrics", "energy")
    assert done.exit_code == 1
    assert "the device is out of order" in done.stderr
    (file,) = (tmp_path / "out").glob("localisation-*.json")
    images = {line["method"]: line["images"] for line in json.loads(file.read_text())["table"]}
    assert images["gradcam"] == 4


def test_a_suite_needs_no_command_before_it_wherever_it_stands(folder, tmp_path):
    options = ["--data", str(folder), "--model", MODEL, "--methods", "gradcam", "--metrics", "energy"]
    for out, given in (("a", ["localisation", *options]), ("b", [*options, "localisation"])):
        done = CliRunner().invoke(app, ["bench", *given, "--out", str(tmp_path / out)])
        assert done.exit_code == 0, done.output
    assert (tmp_path / "a" / "localisation-tests.networks_two_scales.parquet").is_file()
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in (tmp_path / "b").iterdir()}


def test_what_is_no_suite_is_refused_with_those_there_are():
    for given in (["nonsense", "--data", "x"], ["--data", "x"], []):
        done = CliRunner().invoke(app, ["bench", *given])
        assert (done.exit_code, done.stdout) == (2, "")
        assert "localisation" in done.stderr


def test_help_names_both_kinds_of_bench():
    said = CliRunner().invoke(app, ["bench", "--help"]).stdout
    assert "SUITE" in said
    assert "latency" in said
    assert "--metrics" in CliRunner().invoke(app, ["bench", "sanity", "--help"]).stdout


@pytest.mark.parametrize("suite", suites.SUITES)
def test_help_names_every_measure_and_what_it_gives(suite):
    # In narrow columns old releases of rich break long words.
    said = CliRunner().invoke(app, ["bench", suite, "--help"], env={"COLUMNS": "200"}).stdout
    words = set(re.findall(r"[\w+-]+", said))
    for name, measure in suites.SUITES[suite].items():
        assert {name, *measure.metrics} <= words
    assert {"METHOD+libragrad", "cfcam+plain"} <= words


@pytest.mark.parametrize("option", ["--methods", "--reference"])
def test_a_method_that_the_model_has_no_layers_for_is_refused_with_the_reason(option, folder, tmp_path):
    done = bench("localisation", folder, tmp_path / "out", option, "legrad")
    assert done.exit_code == 2
    assert f"{option[2:]}: expected one of gradcam, " in done.stderr
    reason = "this model has no layers for legrad (method: legrad needs the self-attention of a transformer; "
    assert f"; got 'legrad': {reason}" in done.stderr
