"""``cfcam-gpu report``: what stands in the page, and what is refused."""

import base64
import io
import json
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from cfcam_gpu import CFCAM, Explanation
from cfcam_gpu.evaluation.table import Summary
from cfcam_gpu.image_files import photos
from cfcam_gpu.metrics import Interval
from cfcam_gpu.named_models import models
from cfcam_gpu.report import page, results, words

from ..networks import two_scales
from ..reports import METHODS, MODEL, hostile, html, latency, made, report, run, summary

#: How the alternative text of a group of channels begins.
PART = "Group "

__all__ = ["hostile", "html", "made", "summary"]


@pytest.fixture
def refused(made, tmp_path):
    """A call that must be refused with nothing written; what it says."""

    def call(*args):
        out = tmp_path / "never" / "page.html"
        done = report(*args, "--out", out)
        assert done.exit_code == 2, done.stdout
        assert not out.parent.exists()
        return done.stderr

    return call


def embedded(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html)[1])


def text(html):
    """What stands in the page, without tags and white space in a row."""
    return " ".join(unescape(re.sub(r"<script.*?</script>|<[^>]+>", " ", html, flags=re.DOTALL)).split())


def test_the_tables_are_those_of_the_files(html, summary):
    metrics = list(dict.fromkeys(line["metric"] for line in summary["table"]))
    assert len(metrics) == 5
    for method in METHODS:
        row = re.search(rf'<tr[^>]* data-method="{method}">(.*?)</tr>', html, re.DOTALL)[1]
        lines = {line["metric"]: line for line in summary["table"] if line["method"] == method}
        assert [float(value) for value in re.findall(r'data-value="([^"]*)"', row)] == [
            lines[metric]["mean"]["mean"] for metric in metrics
        ]
        for metric in metrics:
            mean = lines[metric]["mean"]
            assert f"{mean['mean']:.1f} [{mean['low']:.1f}, {mean['high']:.1f}]" in text(row)
    told = text(html).replace("\N{NO-BREAK SPACE}", " ").replace("&nbsp;", " ")
    assert "n = 3" in told
    better = {line["metric"]: 1 if line["better"] == "low" else -1 for line in summary["table"]}
    of = {(line["metric"], line["method"]): better[line["metric"]] * line["mean"]["mean"] for line in summary["table"]}
    ranks = np.array([stats.rankdata([of[metric, method] for method in METHODS]) for metric in metrics]).mean(axis=0)
    printed = [f"{words.NAMES[METHODS[i]]} {ranks[i]:.1f}" for i in np.argsort(ranks, kind="stable")]
    assert f"Mean rank over these metrics, 1 the best: {', '.join(printed)}. Kendall's W of the metrics is " in told


def test_a_cell_by_hand():
    def found(better, mean, difference, *, errors=0, images=4):
        return page.cell(Summary("average_drop", better, "x", images, errors, mean, difference))

    mean = Interval(12.34, -1.0, 20.0)
    up, down, level = Interval(1.25, 0.5, 2.0), Interval(-1.26, -2.0, -0.5), Interval(0.3, -0.1, 1.0)
    assert found("high", mean, up)[1:5] == ("12.3", "[−1.0, 20.0]", "+1.2 [+0.5, +2.0]", "better")
    assert [found(*given).verdict for given in (("low", mean, up), ("low", mean, down), ("high", mean, down))] == [
        "worse", "better", "worse",
    ]  # fmt: skip
    assert found("high", mean, level).verdict == ""
    nothing = found("high", mean, Interval(1e-6, 1e-7, 1e-5))
    assert (nothing.difference, nothing.verdict) == ("0.0 [0.0, 0.0]", "")
    failed = found("high", None, None, errors=3)
    assert (failed.mean, failed.value, failed.failed) == ("3 of 4 failed", None, True)
    assert found("high", None, None, images=0).mean == "does not apply"


def test_the_plots_are_those_of_the_files(html, summary):
    (drawn,) = embedded(html).values()
    assert list(drawn["styles"]) == METHODS
    assert [curve["title"] for curve in drawn["curves"]] == ["Insertion", "Deletion"]
    for curve in drawn["curves"]:
        assert curve["fractions"] == pytest.approx([100 * x for x in summary["fractions"]])
        assert curve["scores"] == summary["curves"][curve["metric"]]
        assert list(curve["scores"]) == METHODS
    for line in summary["table"]:
        metric = next(one for one in drawn["metrics"] if one["name"] == line["metric"])
        assert metric["values"][line["method"]] == list(line["mean"].values())
        assert metric["better"] == line["better"]
    (record,) = drawn["latencies"]
    assert [(one["method"], one["ratio"][0], one["milliseconds"]) for one in record["points"]] == [
        ("cfcam-one", 1.3, 13.0), ("cfcam", 1.7, 17.0), ("gradcam", 4.5, 45.0),
    ]  # fmt: skip
    assert record["axis"] == f"x bare forward of {MODEL}"


def test_the_latency_table_is_that_of_the_record(html):
    found = text(html)
    assert "Abacus, 3 cores, batch of 8, layer 4" in found
    assert "Grad-CAM by pytorch-grad-cam 45 [40, 50] 4.50 [4.05, 4.95] 450" in found
    assert "Grad-CAM by torch-cam its maps failed their check" in found


def test_latency_of_another_network_is_set_against_nothing(made, tmp_path):
    (tmp_path / "other-latency.json").write_text(json.dumps(latency("resnet50", {"forward": 1.0, "cfcam": 2.0})))
    summary = next((made / "results").glob("faithfulness-*.json"))
    done = report(summary, tmp_path, "--gallery", made / "album" / "0", "--out", tmp_path / "page.html")
    assert done.exit_code == 0, done.stderr
    html = (tmp_path / "page.html").read_text()
    assert next(iter(embedded(html).values()))["latencies"] == []
    assert f"No latency record given is of {MODEL}" in text(html)
    assert "ResNet-50 Abacus" in text(html)


def test_the_gallery_has_the_maps_of_the_library(html, made):
    preparation = models.load(MODEL).preparation
    explain = CFCAM(two_scales().eval())
    found = [list(part) for part in re.findall(r'<img src="data:image/webp;base64,([^"]+)" alt="([^"]*)"', html)]
    parts = [one for one in found if one[1].startswith(PART)]
    found = [one for one in found if one not in parts]
    assert len(found) == 3 * (1 + len(METHODS))
    for i, name in enumerate(["0/x.png", "1/y.png", "3/z.png"]):
        pixels = preparation.pixels(photos.read(made / "album" / name))[None]
        result = explain(preparation.normalize(pixels))
        share = result.logits.softmax(dim=1).amax()
        assert f"class {int(result.target[0])} {share:.1%}" in text(html)
        of_photograph = found[i * 5 : i * 5 + 5]
        assert of_photograph[0][1] == name.partition("/")[2]
        shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), float) for data, _ in of_photograph]
        distances = [np.abs(one - result.overlay(pixels)[0].numpy()).mean() for one in shown]
        # The last is CF-CAM's. WebP changes pixels by a little, another map by more.
        assert np.argmin(distances) == 4
        assert distances[4] < 8
        groups = result.components(preparation.normalize(pixels))[0][:-1]
        of_photograph, parts = parts[: len(groups)], parts[len(groups) :]
        told = re.findall(r"(\d+)% of it, (\d+) channels", html)[: len(groups)]
        if i == 0:
            assert told == [(f"{100 * one.share:.0f}", str(len(one.channels))) for one in groups]
        assert len(of_photograph) == len(groups)
    assert not parts


def test_the_demonstration_s_photographs_are_the_default(made, tmp_path):
    done = report(made / "results", "--out", tmp_path / "page.html", "--title", "Five & more")
    assert done.exit_code == 0, done.stderr
    html = (tmp_path / "page.html").read_text()
    assert re.findall(r'alt="(\w+\.\w+)"', html) == [
        "chelsea.png",
        "coffee.png",
        "rocket.jpg",
        "china.jpg",
        "flower.jpg",
    ]
    assert "<h1>Five &amp; more</h1>" in html


def test_results_of_latency_alone_need_no_model(made, tmp_path):
    done = report(made / "results" / "abacus-latency.json", "--out", tmp_path / "page.html")
    assert done.exit_code == 0, done.stderr
    html = (tmp_path / "page.html").read_text()
    assert "<img" not in html
    assert len(html) < 50_000


def test_failures_and_unknown_methods_are_shown(made, summary, tmp_path):
    for line in summary["table"]:
        if (line["method"], line["metric"]) == ("cfcam", "insertion_auc"):
            line |= {"errors": 2, "mean": None, "difference": None}
    summary["curves"]["insertion_auc"]["cfcam"] = None
    summary["trained"] = False
    text_of = json.dumps(summary).replace("layercam-fine", "variant-9")
    (tmp_path / "changed.json").write_text(text_of)
    done = report(tmp_path / "changed.json", "--gallery", made / "album" / "0", "--out", tmp_path / "page.html")
    assert done.exit_code == 0, done.stderr
    html = (tmp_path / "page.html").read_text()
    for said in ("2 of 3 failed", "changed.parquet has the reasons", "No maps of variant-9", "The weights are random"):
        assert said in text(html)
    (drawn,) = embedded(html).values()
    assert list(drawn["curves"][0]["scores"]) == ["gradcam", "variant-9", "cfcam-one"]
    assert "cfcam" not in next(one for one in drawn["metrics"] if one["name"] == "insertion_auc")["values"]


def test_a_map_that_fails_is_named_and_the_rest_go_on(made, summary, tmp_path):
    (tmp_path / "spoilt.json").write_text(json.dumps(summary | {"model": "tests.networks:spoilt"}))
    Image.new("RGB", (224, 224), "white").save(tmp_path / "white.png")
    photographs = ("--gallery", made / "album" / "0", "--gallery", tmp_path / "white.png")
    done = report(tmp_path / "spoilt.json", *photographs, "--out", tmp_path / "page.html")
    assert done.exit_code == 1
    assert "failed: white.png: cfcam: " in done.stderr
    html = (tmp_path / "page.html").read_text()
    assert html.count('<p class="missing">') == len(METHODS)
    assert len(re.findall(rf'<img (?!.*"{PART})', html)) == 1 + len(METHODS) + 1 + 1
    assert html.count(f'alt="{PART}') == html.count(" of it, ") > 0


def test_groups_of_channels_that_fail_are_named_beside_the_map(made, summary, tmp_path, monkeypatch):
    def fails(explanation, images, top):
        raise RuntimeError("no room for <groups>")

    monkeypatch.setattr(Explanation, "components", fails)
    (tmp_path / "a.json").write_text(json.dumps(summary))
    done = report(tmp_path / "a.json", "--gallery", made / "album" / "0", "--out", tmp_path / "page.html")
    assert done.exit_code == 1
    assert done.stderr.strip() == "failed: x.png: groups of channels: no room for <groups>"
    html = (tmp_path / "page.html").read_text()
    assert "No groups of channels: no room for <groups>" in text(html)
    assert "<groups>" not in html
    assert html.count("<img ") == 1 + len(METHODS) + 1


def changed(summary, *keys, value):
    *way, last = keys
    target = summary
    for key in way:
        target = target[key]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return summary


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("model",), None, "it is another kind of JSON"),
        (("reference",), None, "'reference' is not there"),
        (("table", 0, "mean", "low"), float("nan"), "expected a finite number; got nan"),
        (("table", 0, "mean", "low"), "3", "expected a finite number; got '3'"),
        (("table", 0, "better"), "up", "expected high or low; got 'up'"),
        (("table", 0, "method"), "who", "not one line for each metric and method"),
        (("table",), [], "its methods or its table are empty"),
        (("table",), 3, "not iterable"),
        (("curves", "insertion_auc", "cfcam"), [1.0], "the curve of 'cfcam' in 'insertion_auc' fits neither"),
    ],
)
def test_a_wrong_summary_is_refused(refused, summary, tmp_path, keys, value, message):
    (tmp_path / "wrong.json").write_text(json.dumps(changed(summary, *keys, value=value)))
    said = refused(tmp_path / "wrong.json")
    assert f"{tmp_path}/wrong.json: expected a summary that 'cfcam-gpu bench' wrote" in said
    assert message in said


def test_other_files_are_refused(refused, made, tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("{}")
    record = latency("x", {"forward": 1.0})
    del record["machine"]["cores"]
    (tmp_path / "c-latency.json").write_text(json.dumps(record))
    assert "a.json: expected a summary that 'cfcam-gpu bench' wrote" in refused(tmp_path / "a.json")
    assert "it is no JSON" in refused(tmp_path / "a.json")
    assert "it is no JSON" in refused(tmp_path)
    assert "b.json: expected a summary" in refused(tmp_path / "b.json")
    assert "'cores' is not there" in refused(tmp_path / "c-latency.json")
    assert "d.json does not exist" in refused(tmp_path / "d.json")
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    (tmp_path / "empty" / ".hidden" / "a.json").write_text("{")
    assert "empty: no results in this folder; expected" in refused(tmp_path / "empty")
    (parquet,) = (made / "results").glob("*.parquet")
    assert "it is no JSON" in refused(parquet)


def test_a_metric_of_a_model_comes_from_one_file(refused, made, summary, tmp_path):
    (tmp_path / "again.json").write_text(json.dumps(summary))
    assert f"both have average_drop of {MODEL}" in refused(made / "results", tmp_path / "again.json")
    # The same file twice is one.
    folder = made / "results"
    assert len(results.read([folder, *folder.glob("*faith*.json")]).evaluations) == 1


def test_wrong_galleries_are_refused(refused, made, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    folder, record = made / "results", made / "results" / "abacus-latency.json"
    assert f"gallery: {tmp_path}/broken.png: not an image" in refused(folder, "--gallery", tmp_path / "broken.png")
    assert "nowhere.png does not exist" in refused(folder, "--gallery", tmp_path / "nowhere.png")
    assert "gallery: the results are of latency only" in refused(record, "--gallery", made / "album")
    (tmp_path / "many").mkdir()
    for i in range(61):
        Image.new("1", (1, 1)).save(tmp_path / "many" / f"{i}.png")
    assert "gallery: expected at most 60 photographs; got 61" in refused(folder, "--gallery", tmp_path / "many")


def test_a_page_is_not_written_over(made, tmp_path):
    out, record = tmp_path / "page.html", made / "results" / "abacus-latency.json"
    out.write_text("mine")
    done = report(record, "--out", out)
    assert (done.exit_code, "would be written over" in done.stderr, out.read_text()) == (2, True, "mine")
    assert report(record, "--out", out, "--overwrite").exit_code == 0
    assert out.read_text().startswith("<!doctype html>")
    done = report(record, "--out", tmp_path, "--overwrite")
    assert (done.exit_code, "is a folder" in done.stderr) == (2, True)


@pytest.mark.parametrize("package", ["jinja2", "plotly"])
def test_a_missing_extra_is_named(refused, made, monkeypatch, package):
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == package else True)
    assert f"{package} is not installed; pip install 'cfcam-gpu[report]'" in refused(made / "results")


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_hostile_names_are_text(hostile, html):
    def tags(html):
        parser = Tags()
        parser.feed(html)
        return parser.found

    found = tags(hostile.read_text())
    assert [tag for tag, _ in found if tag == "script"] == ["script"] * 3
    assert {tag for tag, _ in found} <= {tag for tag, _ in tags(html)}
    assert not any("onerror" in attributes for _, attributes in found)
    scale, *images = (a["src"].partition(",")[0] for tag, a in found if tag == "img")
    assert scale == "data:image/png;base64"
    assert images == ["data:image/webp;base64"] * (4 + hostile.read_text().count(f'alt="{PART}'))


def test_code_that_results_name_is_run_only_on_request(summary, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(summary | {"model": "no.such.module:factory"}))
    done = run("report", tmp_path / "a.json", "--out", tmp_path / "page.html")
    assert done.exit_code == 2
    assert "no.such.module:factory is code that would be imported and run" in done.stderr
    assert "--trust-models" in done.stderr
    trusted = run("report", "--trust-models", tmp_path / "a.json", "--out", tmp_path / "page.html")
    assert trusted.exit_code == 2
    assert "no.such" in trusted.stderr
    assert "--trust-models" not in trusted.stderr
    assert not (tmp_path / "page.html").exists()
