"""Data sets explained by an exported file, in Python."""

import warnings

import numpy as np
import pytest
import torch

from cfcam_gpu import deploy
from cfcam_gpu.pipelines import BatchExplainer, ChangedError, run

from ..deploy import files
from ..pipeline_jobs import contents, errors, images, maps, rows


@pytest.fixture
def file(tmp_path):
    return lambda name="some.onnx", **fields: deploy.load(files.write(tmp_path / name, **fields))


def test_a_loader_is_explained_and_gone_on_with(tmp_path, file):
    given = images(10)
    given[3, 0, 0, 0] = torch.nan
    explain, out = file(batch=3), tmp_path / "out"
    summary = run(explain, list(given.split(5)), out, batch_size=5, shard_size=5, dtype="float32")
    assert (summary.images, summary.failed) == (10, 1)
    good = [b for b in range(10) if b != 3]
    np.testing.assert_array_equal(maps(out)[:][good], explain(given[good]).maps)
    assert np.isnan(maps(out)[3]).all()
    (message,) = [error for error in errors(out).values() if error]
    assert "image 0 has NaN or infinity" in message
    assert {row["clusters"] for row in rows(out)} == {None}
    before = contents(out)
    run(explain, list(given.split(5)), out, batch_size=5, shard_size=5, dtype="float32")
    assert contents(out) == before
    other = file("other.onnx", batch=3, model="another")
    with pytest.raises(ChangedError, match="the model or its weights have changed"):
        run(other, list(given.split(5)), out, batch_size=5, shard_size=5, dtype="float32")


@pytest.mark.filterwarnings("ignore:some.onnx. the clusters of image:UserWarning")
def test_a_data_set_without_finite_values_still_has_its_rows(tmp_path, file):
    given = torch.full((2, 3, 32, 32), torch.nan)
    summary = run(file(), [given], tmp_path / "out", batch_size=2)
    assert (summary.images, summary.failed) == (2, 2)


def test_classes_of_a_data_set_are_refused_at_once_by_a_file_of_the_predicted_one(tmp_path, file):
    labelled = [(images(4), torch.tensor([0, 1, 2, 3]))]
    with pytest.raises(ValueError, match=r"target: expected 'predicted'.*got class 0"):
        run(file(), labelled, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(file(), labelled, tmp_path / "out", target="predicted")
    run(file("input.onnx", target="input"), labelled, tmp_path / "named")
    assert [row["target"] for row in rows(tmp_path / "named")] == [0, 1, 2, 3]


def test_images_of_another_size_are_refused(tmp_path, file):
    with pytest.raises(ValueError, match=r"expected shape \(B, 3, H, W\), \(B, 3, 32, 32\)"):
        run(file(), [torch.rand(2, 3, 31, 32)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_batch_that_does_not_fit_the_memory_is_halved(file, monkeypatch):
    explain, given = file(), images(8)
    play = explain._player.play

    def little(some, target):
        if len(some) > 2:
            raise MemoryError("some.onnx: bad allocation")
        return play(some, target)

    wanted = explain(given).maps
    monkeypatch.setattr(explain._player, "play", little)
    found = BatchExplainer(explain, dtype=torch.float32)(given)
    assert torch.equal(found.maps, wanted)
    assert found.errors == [None] * 8


def test_the_channels_groups_are_not_known(file):
    with pytest.raises(ValueError, match="components: only one look by the method cfcam"):
        BatchExplainer(file(), components=2)


def test_what_did_not_converge_is_told(tmp_path, file):
    with pytest.warns(UserWarning, match=r"the clusters of image 0.* were not complete"):
        run(file(), [images(2) + 20], tmp_path / "out", batch_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(file(), [images(2)], tmp_path / "quiet", batch_size=2)
