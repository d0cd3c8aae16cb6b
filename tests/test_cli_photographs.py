"""``cfcam-gpu explain``: several classes of a photograph, pages behind the first, and what is passed over."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cfcam_gpu.photographs import explain_command

from .albums import album, small
from .test_cli import contents, explain, lines

__all__ = ["album"]


def test_several_targets_are_explained_in_one_forward_and_named_by_their_classes(album, tmp_path):
    done = explain(album, "--out", tmp_path / "both", "--target", "0", "--target", "Class 2")
    assert done.exit_code == 0, done.stderr
    found = lines(tmp_path / "both")
    names = [f"{name}-{index}" for name in ("x", "x-2", "y") for index in (0, 2)]
    # The second x gets its number behind the class: x-0 and x-2 are taken by the first.
    names[2:4] = ["x-0-2", "x-2-2"]
    assert [line["map"] for line in found] == [f"{name}.npy" for name in names]
    assert [line["target"] for line in found] == [0, 2] * 3
    for index in (0, 2):
        alone = tmp_path / str(index)
        assert explain(album, "--out", alone, "--target", index).exit_code == 0
        for one, line in zip(lines(alone), (line for line in found if line["target"] == index), strict=True):
            np.testing.assert_allclose(np.load(alone / one["map"]), np.load(tmp_path / "both" / line["map"]), atol=1e-5)
            picture = np.asarray(Image.open(alone / one["overlay"])).astype(int)
            assert np.abs(picture - np.asarray(Image.open(tmp_path / "both" / line["overlay"]))).max() <= 1
            assert (one["class"], one["file"]) == (line["class"], line["file"])
            assert one["probability"] == pytest.approx(line["probability"], abs=1e-5)
    before = contents(tmp_path / "both")
    again = explain(album, "--out", tmp_path / "both", "--target", "0", "--target", "2")
    assert (again.exit_code, "x-0.npy" in again.stderr) == (2, True)
    assert contents(tmp_path / "both") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "2", "--target", "class 2"], "target: class 2 (class 2) is given twice"),
        (["--target", "2", "--target", "5"], "target: class 5 is out of range"),
        (["--target", "2", "--target", "1", "--components", "2"], "components: expected one target at most; got 2, 1"),
    ],
)
def test_targets_that_do_not_go_together_are_refused(album, tmp_path, options, message):
    done = explain(album, "--out", tmp_path / "out", *options)
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "out").exists()


class Unsure(nn.Module):
    """Logits that are no numbers, of a photograph that is white in its middle."""

    def __init__(self):
        super().__init__()
        self.inner = small()

    def forward(self, x):
        white = x[:, :, 100:124, 100:124].amin(dim=(1, 2, 3)) > 2
        return torch.where(white[:, None], torch.nan, self.inner(x))


def test_a_photograph_whose_logits_are_no_numbers_fails_alone(album, tmp_path):
    Image.new("RGB", (50, 50), "white").save(album / "a" / "white.png")
    done = explain(album, "--out", tmp_path / "out", model=f"{__name__}:Unsure")
    assert done.exit_code == 1
    assert re.search(f"failed: {album}/a/white.png: .*(NaN|finite)", done.stderr)
    assert [Path(line["file"]).name for line in lines(tmp_path / "out")] == ["x.png", "x.png", "y.jpg"]


def test_what_a_folder_has_besides_is_told(album, tmp_path):
    for name in ("scan.mha", "b/scan.mha", "notes", "x.svs"):
        (album / name).touch()
    Image.new("RGB", (30, 30)).save(album / "plain", "PNG")
    done = explain(album, "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert "\npassed over: 2 .mha, 1 .svs, 1 without a suffix\n" in done.stderr
    assert [Path(line["file"]).name for line in lines(tmp_path / "out")] == ["x.png", "x.png", "y.jpg", "plain"]
    assert "passed over" not in explain(album / "a", "--out", tmp_path / "other").stderr


def test_pages_behind_the_first_are_told(album, tmp_path, monkeypatch):
    pages = [Image.new("L", (30, 30), 10 * i) for i in range(4)]
    pages[0].save(album / "stack.tif", save_all=True, append_images=pages[1:])
    done = explain(album, "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert f"\n{album / 'stack.tif'}: page 1 of 4 was explained\n" in done.stderr
    assert {Path(line["file"]).name: line["pages"] for line in lines(tmp_path / "out")} == {
        "x.png": 1,
        "y.jpg": 1,
        "stack.tif": 4,
    }
    monkeypatch.setattr(explain_command, "TABLE", 0)
    done = explain(album, "--out", tmp_path / "out", "--overwrite")
    assert "of 1 more file of several pages the first was explained" in done.stderr
