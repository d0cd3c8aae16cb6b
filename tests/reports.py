"""Results of a small album and the pages of them, each made once a module."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cfcam_gpu.cli import app

MODEL = "tests.networks:two_scales"
METHODS = ["gradcam", "layercam-fine", "cfcam-one", "cfcam"]
HOSTILE = '</script><img src=x onerror="hacked=1"><b>\'&\u2028%{x}'


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


def report(*args):
    return run("report", "--trust-models", *args)


def latency(network, candidates):
    """A latency record: of each candidate milliseconds, and the ratio to the bare forward."""

    def spread(value):
        return {"median": value, "quartiles": [0.9 * value, 1.1 * value], "rounds": []}

    return {
        "benchmark": "latency",
        "date": "2026-01-02",
        "machine": {"cpu": "Abacus", "cores": 3},
        "versions": {"cfcam_gpu": "0.1.0"},
        "settings": {"batch": 8},
        "networks": {
            network: {
                "layer": "4",
                "candidates": [*candidates, "torch-cam"],
                "gates": {"torch-cam": [{"what": "maps", "difference": 1.0, "tolerance": 0.1, "passed": False}]},
                "latency_ms": {name: spread(value) for name, value in candidates.items()},
                "memory_mib": {name: spread(10 * value) for name, value in candidates.items()},
                "ratios": {
                    "latency_ms": {
                        f"{name} / forward": spread(value / candidates["forward"])
                        for name, value in candidates.items()
                        if name != "forward"
                    }
                },
            }
        },
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Results of a small album in ``results``, its photographs in ``album``."""
    root = tmp_path_factory.mktemp("report")
    noise = np.random.default_rng(0).integers(0, 256, (3, 56, 60, 3), np.uint8)
    for name, pixels in zip(["0/x.png", "1/y.png", "3/z.png"], noise):
        (root / "album" / name).parent.mkdir(parents=True)
        Image.fromarray(pixels).resize((240, 224)).save(root / "album" / name)
    chosen = ("--methods", ",".join(METHODS), "--metrics", "drop,insertion,deletion", "--step", 12_000)
    done = run("bench", "faithfulness", "--data", root / "album", "--model", MODEL, "--out", root / "results", *chosen)
    assert done.exit_code == 0, done.stderr
    candidates = {"forward": 10.0, "cfcam": 13.0, "two-level": 17.0, "pytorch-grad-cam": 45.0}
    (root / "results" / "abacus-latency.json").write_text(json.dumps(latency(MODEL, candidates)))
    (root / "results" / "other.json").write_text("[1]")
    return root


@pytest.fixture(scope="module")
def html(made):
    done = report(made / "results", "--gallery", made / "album", "--out", made / "page.html")
    assert (done.exit_code, done.stdout) == (0, f"look at {made}/page.html\n"), done.stderr
    return (made / "page.html").read_text()


@pytest.fixture
def summary(made):
    """The summary of the evaluation, to be changed."""
    return json.loads(next((made / "results").glob("faithfulness-*.json")).read_text())


@pytest.fixture(scope="module")
def hostile(made, tmp_path_factory):
    """A page whose every name would like to be a script."""
    folder = tmp_path_factory.mktemp("hostile")
    source = next((made / "results").glob("faithfulness-*.json"))
    content = json.loads(source.read_text())
    told = json.dumps(content).replace('"layercam-fine"', json.dumps(HOSTILE))
    told = told.replace('"average_drop"', json.dumps(HOSTILE + "m")).replace('"faithfulness"', json.dumps(HOSTILE))
    told = told.replace('"insertion_auc"', json.dumps(HOSTILE + "c"))
    (folder / "a.json").write_text(told)
    record = latency(MODEL, {"forward": 1.0, "cfcam": 2.0, HOSTILE: 3.0})
    record["machine"]["cpu"] = record["date"] = HOSTILE
    (folder / "b.json").write_text(json.dumps(record))
    photograph = folder / f"{HOSTILE.replace('/', '')}.png"
    photograph.write_bytes((made / "album" / "0" / "x.png").read_bytes())
    done = report(folder, "--gallery", photograph, "--out", folder / "page.html", "--title", HOSTILE)
    assert done.exit_code == 0, done.stderr
    return folder / "page.html"
