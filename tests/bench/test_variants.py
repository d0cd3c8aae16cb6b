"""The variants of the default: the default among them is the library's, and what is recorded of them."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench import variants
from bench.variant_maps import DEFAULT, FINE, LAST, Form, Variant
from bench.variant_maps import variants as every
from cfcam_gpu import CFCAM
from cfcam_gpu.evaluation.table import Row, summarise

from ..networks import lite0, photographs


@pytest.fixture(scope="module")
def images():
    return photographs()[1] * 2 - 1


def maps(variant, images, classes):
    return variant.maps(lite0(), images, torch.tensor(classes), (224, 224))


def test_the_unchanged_form_is_the_librarys_default(images):
    unchanged = Variant("", (FINE, LAST), Form(), DEFAULT.contrast)
    expected = CFCAM(lite0())(images[:2], [[281, 207], [967, 1]]).maps
    torch.testing.assert_close(maps(unchanged, images[:2], [[281, 207], [967, 1]]), expected, atol=1e-5, rtol=0)


def test_each_variant_has_a_name_and_maps_of_its_own(images):
    tried = every()
    assert len({one.name for one in tried}) == len(tried) > 40
    default = maps(Variant("", (FINE, LAST), Form(), DEFAULT.contrast), images[:1], [[282]])[0, 0]
    for one in tried:
        found = maps(one, images[:1], [[282]])[0, 0]
        assert found.shape == (224, 224), one.name
        assert 0 <= found.min() <= found.max() <= 1 + 1e-6, one.name
        # Far beyond arithmetic in another order: an option that does nothing is found.
        assert (found - default).abs().max() > 1e-4, one.name


def test_a_randomised_model_is_captured_anew(images):
    variant = Variant("", (FINE, LAST), Form(), 0.5)
    model = copy.deepcopy(lite0())
    before = variant.maps(model, images[:1], torch.tensor([[282]]), (224, 224))
    with torch.no_grad():
        model._fc.weight.neg_()
    after = variant.maps(model, images[:1], torch.tensor([[282]]), (224, 224))
    assert not torch.equal(before, after)


def test_what_is_recorded_and_drawn(tmp_path):
    tried = [replace(every()[0], name="other", what="something else")]
    measured = dict.fromkeys(variants.COLUMNS, "high")
    names = ["gradcam", "cfcam", "other"]
    rows = [
        Row.of(name, f"{i}.png", metric, 10.0 * k + i)
        for metric in measured
        for k, name in enumerate(names)
        for i in range(4)
    ]
    first, second = (summarise(rows, measured, names, reference) for reference in variants.REFERENCES)
    record = variants.record((first, second), tried)
    assert json.loads(json.dumps(record)) == record
    other = record["variants"]["other"]
    assert other["what"] == "something else"
    assert other["metrics"]["best_iou"]["mean"][0] == 21.5
    assert other["metrics"]["best_iou"]["minus gradcam"] == [20, 20, 20]
    assert other["metrics"]["best_iou"]["minus cfcam"] == [10, 10, 10]
    variants.draw(record, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    (column,) = [column for column in variants.show(record).columns if column.header == "IoU"]
    assert np.array_equal(list(column.cells), ["1.5", "11.5", "21.5"])


def test_an_unknown_variant_is_refused(capsys, tmp_path):
    with pytest.raises(SystemExit):
        variants.main(["--data", str(tmp_path), "--only", "gate 7"])
    assert "no variant gate 7; there are contrast 0" in capsys.readouterr().err
