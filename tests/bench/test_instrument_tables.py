"""The tables of known evidence, from records written by hand."""

import json

import pytest

from bench import instrument_tables


def line(method, metric, mean, difference=None, better="high"):
    of = None if difference is None else dict(zip(("mean", "low", "high"), difference, strict=True))
    whole = {"mean": mean, "low": mean - 1, "high": mean + 1}
    return {"method": method, "metric": metric, "better": better, "mean": whole, "difference": of}


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(instrument_tables, "RESULTS", tmp_path)
    return lambda name, record: (tmp_path / f"{name}.json").write_text(json.dumps(record))


def test_what_was_not_measured_says_so(write):
    assert list(instrument_tables.exact()) == ["Not measured yet: `python -m bench.exact`."]


def test_a_method_that_refuses_a_network_has_an_empty_cell(write):
    metrics = ("energy_pointing_game", "wrong_energy", "pointing_game")
    first = [line("gradcam", metric, value) for metric, value in zip(metrics, (81.4, 0.2, 100.0), strict=True)]
    second = [line("legrad", metric, value) for metric, value in zip(metrics, (50.0, 10.0, 80.0), strict=True)]
    write(
        "exact",
        {
            "networks": {
                "a": {"methods": {"gradcam": []}, "table": first},
                "b": {"methods": {"legrad": []}, "table": second},
            }
        },
    )
    assert list(instrument_tables.exact())[2:] == ["| Grad-CAM | 81 / 0 |  | 100 |", "| LeGrad |  | 50 / 10 | 80 |"]


def test_gains_are_positive_where_ours_is_better(write):
    table = []
    for metric in instrument_tables.TITLES:
        low = metric in ("distractor_energy", "average_drop", "deletion_auc")
        table.append(line("gradcam", metric, 50.0, None, "low" if low else "high"))
        table.append(line("cfcam", metric, 52.0, (2.0, 1.0, 3.0), "low" if low else "high"))
    write("shapes-cnn", {"methods": {"gradcam": [], "cfcam": []}, "table": table})
    gains = list(instrument_tables.shapes("cnn"))[-1]
    assert gains.count("+2.0 [+1.0, +3.0]") == 5
    assert gains.count("-2.0 [-3.0, -1.0]") == 3


def test_a_row_is_of_a_method_that_the_library_has():
    record = ["cfcam+libragrad", "a method that is gone", "legrad", "cfcam", "gradcam+++libragrad", "layercam-fine"]
    assert instrument_tables.listed(record) == [
        *("cfcam", "cfcam+libragrad", "gradcam+++libragrad", "legrad", "layercam-fine"),
    ]
