"""Overlays and files of volumes and signals."""

import json

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from cfcam_gpu import CFCAM
from cfcam_gpu.results import overlays

from .ranks import network, noise


def test_a_volumes_overlay_is_that_of_each_slice():
    volumes = torch.rand(2, 3, 4, 6, 5)
    volumes[0, 0, 0, 0, 0], volumes[1, 0, 0, 0, 0] = 0, 1
    maps = torch.rand(2, 4, 6, 5)
    found = overlays.overlay(maps, volumes)
    assert (found.shape, found.dtype) == ((2, 4, 6, 5, 3), torch.uint8)
    for d in range(4):
        assert torch.equal(found[:, d], overlays.overlay(maps[:, d], volumes[:, :, d]))
    several = overlays.overlay(torch.stack([maps, maps * 0], dim=1), volumes)
    assert torch.equal(several[:, 0], found)
    assert torch.equal(several[:, 1], volumes.movedim(1, -1).mul(255).round().to(torch.uint8))


@pytest.mark.parametrize("size", [(6, 5), (3, 6, 5)], ids=["image", "volume"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_of_other_numbers_of_channels_the_mean_is_shown_in_gray(size, dtype):
    images = torch.rand(2, 4, *size) if dtype.is_floating_point else torch.randint(256, (2, 4, *size), dtype=dtype)
    found = overlays.overlay(torch.zeros(2, *size), images).float()
    mean = images.float().mean(dim=1) * (255 if dtype.is_floating_point else 1)
    torch.testing.assert_close(found, mean[..., None].expand(*mean.shape, 3), atol=0.51, rtol=0)


def test_signals_are_drawn_over_their_maps():
    signals = torch.stack([torch.linspace(-3, 5, 100), torch.zeros(100)])[None].repeat(2, 1, 1)
    maps = torch.zeros(2, 100)
    maps[0, 50:] = 1.0
    found = overlays.overlay(maps, signals, alpha=1.0)
    assert (found.dtype, found.ndim, found.shape[0], found.shape[-1]) == (torch.uint8, 4, 2, 3)
    dark = (found < 100).all(dim=-1)
    first, second = dark[0, 16:200, 100:1150].chunk(2)  # the channels, without the frame
    columns = first.any(dim=0).nonzero()[:, 0]
    heights = first.float().argmax(dim=0)[columns]
    assert len(columns) > 1000
    assert (heights.diff() <= 0).all()  # a rising line
    assert heights[0] - heights[-1] > 50
    assert second.any(dim=1).sum() <= 3  # a level one
    # The second half in the last colour of the map, the first half and the other signal white.
    last = torch.tensor(colormaps["turbo"](1.0)[:3]).mul(255).round()
    assert torch.equal(found[0, 100, 800].float(), last.float())
    assert found[0, 100, 300].tolist() == found[1, 100, 800].tolist() == [255, 255, 255]
    several = overlays.overlay(maps[:, None].repeat(1, 3, 1), signals, alpha=1.0)
    assert torch.equal(several, found[:, None].repeat(1, 3, 1, 1, 1))


@pytest.mark.parametrize("several", [False, True])
def test_a_volume_is_saved_with_a_page_for_each_slice(tmp_path, several):
    volumes = noise(2, 4, 6, 9, 8)
    result = CFCAM(network(3, channels=4))(volumes, [[0, 3], [1, 2]] if several else [0, 1])
    files = result.save(tmp_path, images=volumes, names=["a", "b"])
    stems = ["a-0", "a-3", "b-1", "b-2"] if several else ["a", "b"]
    assert [file.name for file in files[:-1]] == [f"{stem}{end}" for stem in stems for end in (".npy", ".tif")]
    assert set(files) == set(tmp_path.iterdir())
    maps, overlays = result.maps.reshape(-1, 6, 9, 8), result.overlay(volumes).reshape(-1, 6, 9, 8, 3)
    for i, stem in enumerate(stems):
        np.testing.assert_array_equal(np.load(tmp_path / f"{stem}.npy"), maps[i])
        with Image.open(tmp_path / f"{stem}.tif") as pages:
            assert pages.n_frames == 6
            for d in range(6):
                pages.seek(d)
                np.testing.assert_array_equal(np.asarray(pages), overlays[i, d])
    lines = [json.loads(line) for line in files[-1].read_text().splitlines()]
    assert [line["overlay"] for line in lines] == [f"{stem}.tif" for stem in stems]
    with pytest.raises(FileExistsError, match=r"\.tif"):
        result.save(tmp_path, images=volumes, names=["a", "b"])


def test_a_signal_is_saved_as_its_drawing(tmp_path):
    signals = noise(2, 2, 40)
    result = CFCAM(network(1))(signals)
    result.save(tmp_path, images=signals)
    np.testing.assert_array_equal(np.load(tmp_path / "0001.npy"), result.maps[1])
    with Image.open(tmp_path / "0001.png") as drawing:
        np.testing.assert_array_equal(np.asarray(drawing), result.overlay(signals)[1])
